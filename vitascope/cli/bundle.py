"""`vitascope bundle`: inspect, verify and sign model bundles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table

MAX_OPERATORS = 5
MAX_NOTES = 20
EPILOG = """\
examples:
  vitascope bundle inspect                          the default bundle
  vitascope bundle inspect bundles/hd-vila-tiny --json
  vitascope bundle verify /srv/models/mine          exit status 1 if there is a problem
  vitascope bundle keygen ~/keys/releases           writes releases.key and releases.pub
  vitascope bundle sign bundles/mine --key ~/keys/releases.key
  vitascope bundle verify bundles/mine --key ~/keys/releases.pub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="show tasks, streams, graphs, metrics and licence of a bundle",
        description="Show tasks, streams, graphs, metrics and licence of a bundle.",
    )
    verify = actions.add_parser(
        "verify",
        help="check all files, run all graphs, check signatures",
        description="Check size and SHA-256 of every file, links, external weights, and the graphs against the "
        "manifest; run each graph on random inputs; check the bounds of the parity report and, with --key, the "
        "signature.",
    )
    verify.add_argument(
        "--key",
        type=Path,
        action="append",
        metavar="FILE",
        help="public key, or folder of public keys (*.pub), one of which must have signed; may be repeated",
    )
    verify.add_argument("--threads", type=int, default=0, metavar="N", help="threads (default: one per core)")
    verify.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto", help="device (default: auto)"
    )
    keygen = actions.add_parser(
        "keygen",
        help="generate a key pair for signatures",
        description="Generate a key pair for signatures: NAME.key, the secret key, readable only by you, and "
        "NAME.pub, the public key.",
    )
    keygen.add_argument("name", type=Path, metavar="NAME", help="path of the files, without .key and .pub")
    sign = actions.add_parser(
        "sign",
        help="check all files of a bundle and sign it",
        description="Check every file of a bundle and sign its manifest, which lists them with their SHA-256. "
        "Signatures by other keys are kept; an earlier one by this key is replaced.",
    )
    for action in (inspect, verify, sign):
        action.add_argument(
            "bundle",
            type=Path,
            nargs="?",
            default=default_bundle(),
            metavar="FOLDER",
            help="bundle (VITASCOPE_BUNDLE; default: %(default)s)",
        )
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="secret key written by keygen")
    sign.add_argument("--comment", metavar="TEXT", help="signed comment, one line (default: the time)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    actions = {"inspect": _inspect, "verify": _verify, "keygen": _keygen, "sign": _sign}
    return {"action": args.action, **actions[args.action](args)}


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle
    from vitascope.bundle.describe import describe

    return {"bundle": str(args.bundle), **describe(Bundle.open(args.bundle))}


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.signing import read_public_keys
    from vitascope.bundle.verify import verify

    keys = None if args.key is None else read_public_keys(args.key)
    report = verify(args.bundle, keys, threads=args.threads, device=args.device)
    manifest = report.manifest
    return {
        "bundle": str(args.bundle),
        "verified": not report.problems,
        "passed": dict(report.passed),
        "problems": [{"part": part, "file": file, "problem": problem} for part, file, problem in report.problems],
        "notes": [{"file": file, "note": note} for file, note in report.notes],
        "signatures": report.signatures,
        "files": 0 if manifest is None else len(manifest.files),
        "bytes": 0 if manifest is None else sum(entry.bytes for entry in manifest.files.values()),
        "graphs": [] if manifest is None else sorted(manifest.graphs),
        "fingerprint": None if manifest is None else manifest.fingerprint(),
    }


def _keygen(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.signing import generate_key, write_key

    key = generate_key()
    secret, public = (args.name.with_name(f"{args.name.name}.{suffix}") for suffix in ("key", "pub"))
    write_key(key, secret, public)
    return {
        "key_id": key.public.key_id_hex,
        "secret_key": str(secret),
        "public_key": str(public),
        "public_key_text": key.public.serialized,
    }


def _sign(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle, manifest_bytes
    from vitascope.bundle.manifest import SIGNATURE_NAME
    from vitascope.bundle.signing import add_signature, read_secret_key, read_signatures, sign

    key = read_secret_key(args.key)
    Bundle.open(args.bundle)
    signature = sign(manifest_bytes(args.bundle), key, args.comment)
    add_signature(args.bundle, signature)
    # Verify the result: the manifest may have changed meanwhile.
    bundle = Bundle.open(args.bundle, [key.public])
    return {
        "bundle": str(args.bundle),
        "signature": str(args.bundle / SIGNATURE_NAME),
        "key_id": signature.key_id_hex,
        "comment": signature.comment,
        "signed_by": [each.key_id_hex for each in read_signatures(args.bundle)],
        "fingerprint": bundle.fingerprint,
    }


def show(result: dict[str, Any], console: Console) -> None:
    {"inspect": _show_bundle, "verify": _show_report, "keygen": _show_key, "sign": _show_signature}[result["action"]](
        result, console
    )


def _show_bundle(result: dict[str, Any], console: Console) -> None:
    table = plain_table()
    for label, value in _facts(result):
        table.add_row(f"[bold]{label}[/bold]", escape(value))
    console.print(table)
    graphs = plain_table("graph", "file", "opset", ">nodes", ">parameters", "weights", "operators")
    for name, contents in result["contents"].items():
        graphs.add_row(
            name,
            escape(contents["file"]),
            ", ".join(f"{domain} {version}".strip() for domain, version in contents["opsets"].items()),
            str(contents["nodes"]),
            f"{contents['parameters']:,}",
            ", ".join(f"{dtype} {decimal(size)}" for dtype, size in contents["weight_bytes"].items() if size),
            escape(_format_operators(contents["operators"])),
        )
    console.print()
    console.print(graphs)


def _format_operators(counts: dict[str, int]) -> str:
    text = ", ".join(f"{count} {name}" for name, count in list(counts.items())[:MAX_OPERATORS])
    more = len(counts) - MAX_OPERATORS
    return f"{text} and {more} other kinds" if more > 0 else text


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    streams = "\n".join(
        f"{s['name']}: {s['frames']} frames of {s['width']}x{s['height']}, {s['placement']}, {s['fit']}"
        f"{', video track ' + str(s['track']) if s.get('track') else ''}"
        for s in info["streams"]
    )
    audio = _format_audio(info["audio"]) if info.get("audio") else "none: no sound"
    metrics = "\n".join(f"{name}: {value:g}" for name, value in info["metrics"].items())
    signatures = ", ".join(f"{key} (not checked)" for key in info["signed_by"])
    return [
        ("name", f"{info['name']} {info['version']}"),
        ("folder", info["bundle"]),
        ("architecture", info["architecture"]),
        ("tasks", ", ".join(info["tasks"])),
        ("frame streams", streams or "none: no video"),
        ("audio stream", audio),
        ("embedding dim", _format_dimensions(info)),
        ("prompts", "\n".join(f"{kind}: {prompt!r}" for kind, prompt in info.get("prompts", {}).items()) or "none"),
        ("languages", ", ".join(info.get("languages") or ["not stated"])),
        ("text length", f"{info['text_length']} tokens, vocabulary of {info['vocabulary']:,}"),
        ("answers", f"{info['answer_count']}{', or free-form candidates' if info.get('answer_length') else ''}"),
        ("precision", info["precision"]),
        ("parameters", f"{info['parameters']:,}"),
        ("size", f"{decimal(info['bytes'])} in {len(info['files'])} files"),
        ("fidelity", "\n".join([*map(_format_fidelity, info["fidelity"] or []), *info["variant"]]) or "unknown"),
        ("calibration", "\n".join(info["calibration_summary"]) or "unknown"),
        ("reranking", info["reranking_summary"]),
        ("training data", "\n".join(info["training_data"]) or "unknown"),
        ("metrics", metrics or "unknown"),
        ("licence", info["licence"]),
        ("signed by", signatures or "not signed"),
        ("fingerprint", info["fingerprint"]),
    ]


def _format_audio(stream: dict[str, Any]) -> str:
    tokens = f", {stream['tokens']} tokens of {stream['width']} values" if stream["tokens"] else ""
    return f"windows of {stream['seconds']:g} s at {stream['sample_rate']:,} Hz, filled with {stream['fill']}{tokens}"


def _format_dimensions(info: dict[str, Any]) -> str:
    if not info["vector_width"]:
        return "none: no embeddings"
    return " or ".join(map(str, [info["vector_width"], *info.get("matryoshka_dimensions", ())]))


def _format_fidelity(fidelity: dict[str, Any]) -> str:
    parts = [] if fidelity["cosine"] is None else [f"cosine at least {fidelity['cosine']:.6f}"]
    if fidelity["probability_difference"] is not None:
        parts.append(f"probabilities differ by at most {fidelity['probability_difference']:.2g}")
    return f"{fidelity['precision']}: {', '.join(parts)}"


def _show_report(result: dict[str, Any], console: Console) -> None:
    name = escape(result["bundle"])
    if result["verified"]:
        console.print(
            f"{name}: [bold]verified[/bold], {result['files']} files, {decimal(result['bytes'])}, "
            f"graphs {', '.join(result['graphs'])}"
        )
        console.print(f"fingerprint {result['fingerprint']}")
    else:
        count = len(result["problems"])
        console.print(f"{name}: [bold red]not verified[/bold red], {count} problem{'' if count == 1 else 's'}")
        table = plain_table("part", "file", "problem")
        for problem in result["problems"]:
            table.add_row(problem["part"], escape(problem["file"]), escape(problem["problem"]))
        console.print(table)
    for signature in result["signatures"]:
        valid = {True: "valid", False: "[red]invalid[/red]", None: "not checked (--key)"}[signature["valid"]]
        console.print(f"signature by {signature['key']}: {valid}, {escape(signature['comment'])}")
    for note in result["notes"][:MAX_NOTES]:
        console.print(f"note: {escape(note['file'])}: {escape(note['note'])}")
    if (more := len(result["notes"]) - MAX_NOTES) > 0:
        console.print(f"and {more} more notes; --json lists all")


def _show_key(result: dict[str, Any], console: Console) -> None:
    console.print(f"{escape(result['secret_key'])}: secret key; keep it private")
    console.print(f"{escape(result['public_key'])}: public key {result['key_id']}")
    console.print(result["public_key_text"], markup=False, soft_wrap=True)


def _show_signature(result: dict[str, Any], console: Console) -> None:
    console.print(f"{escape(result['signature'])}: signed by {result['key_id']}, {escape(result['comment'])}")
    others = [key for key in result["signed_by"] if key != result["key_id"]]
    if others:
        console.print(f"signatures by {', '.join(others)} were kept")


COMMANDS = {"bundle": (add_arguments, run, show)}
