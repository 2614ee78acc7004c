"""The `export` subcommand of `vitascope`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from model_export.cli import optimize
from model_export.cli.termination import cleaned_up_when_terminated
from vitascope.cli.output import print_mapping

Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], dict[str, Any]]
Show = Callable[[dict[str, Any], Console], None]

DESCRIPTION = """\
Turn a checkpoint, or a public model, into a bundle: a folder with ONNX graphs, tokenizer, answers, card and parity
report, which the serving half opens without torch.

Before the bundle appears, every graph is run beside the trained model on fresh random inputs, and with --data also
on real ones: float32 outputs may differ by 1e-4 at most and must find the same videos first (Recall@1). With
smaller weights a vector must keep a cosine of 0.999 and Recall@1 may move by one point. If a check fails, the
output and the difference are named, nothing is written, and a bundle that is already there stays.

A public model is a folder of transformers (CLIP, SigLIP, X-CLIP, BLIP, ViLT) or of open_clip, or the name of such a
model on the Hugging Face hub, which is fetched first; or a folder of one released file of CLIP-ViP, HD-VILA or SOHO
and the tokenizer it was trained with. Beside random inputs, the bundle is compared with the
model in its own library, from texts and picture files on: a vector must keep a cosine of 0.99999. What was chosen
here and is not stated by the model (such as frames of a clip) is said, and kept in the manifest.

MODEL may also be a bundle: then --metrics renews its card and stated metrics, and nothing else. With --budget, a
checkpoint, public model or bundle becomes the fastest variant within it, as by `vitascope optimize`.
"""
EPILOG = """\
precision of the stored weights (arithmetic is always float32, and as fast):
  float32           as trained
  float16-weights   half the size
  int8-weights      about a third of the size: int8 per output channel where that is accurate, else float16

examples:
  vitascope export runs/hd-vila-tiny/checkpoint --out bundles/hd-vila-tiny --data data/packed
  vitascope export runs/mine/checkpoint --out /srv/models/mine --precision float32 --version 2.1.0

  vitascope export models/clip-vit-base-patch32 --out bundles/clip --licence MIT     a folder of transformers
  vitascope export openai/clip-vit-base-patch32 --out bundles/clip --licence MIT     the same, fetched by name

  vitascope evaluate bundles/hd-vila-tiny --data data/packed --out metrics.json
  vitascope export bundles/hd-vila-tiny --metrics metrics.json     put the numbers into the card

  vitascope export runs/mine/checkpoint --out bundles/mine-int8 --data data/packed --budget recall=0.5
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="checkpoint folder of `train`, public model (a folder or a name), or a bundle",
    )
    parser.add_argument("--out", type=Path, help="bundle folder to write (a bundle there is replaced at the end)")
    parser.add_argument("--name", help="the bundle's name: lower case letters, digits, . _ - (default: of the folder)")
    parser.add_argument("--version", default="1.0.0", help="the bundle's version (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16-weights", "int8-weights"),
        help="how weights are stored (default: int8-weights; float32 for a public model)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of packed corpora; their validation splits serve for real inputs, Recall@1 and calibration",
    )
    parser.add_argument("--metrics", type=Path, help="JSON file of `vitascope evaluate --out`, for the card")
    parser.add_argument(
        "--licence",
        help="terms of use (default: what the training data's terms leave, or what the model's README.md states)",
    )
    parser.add_argument(
        "--answers",
        type=Path,
        help="JSON list of answers, for public models that weigh any (BLIP), where a question brings none",
    )
    parser.add_argument("--frames", type=int, help="of a clip, for public models that know pictures only (default: 8)")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read a public model's weights from pickles, where it has no others, by a reader that runs no code",
    )
    parser.add_argument("--seed", type=int, help="of the random inputs of the checks (default: a fresh one)")
    optimize.add_budget(parser, required=False)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.export import restate_bundle
    from vitascope.bundle.bundle import Bundle
    from vitascope.bundle.manifest import MANIFEST_NAME
    from vitascope.errors import InvalidInput

    if args.budget is not None:
        with cleaned_up_when_terminated():
            return _variant(args)
    if (args.model / MANIFEST_NAME).is_file():
        if args.metrics is None or args.out not in (None, args.model):
            raise InvalidInput(f"{args.model} is a bundle: --metrics was expected, and no other --out")
        bundle = Bundle.open(restate_bundle(args.model, args.metrics))
    else:
        _require_out(args)
        with cleaned_up_when_terminated():
            bundle = Bundle.open(_exported(args))
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.folder),
        "tasks": list(manifest.tasks),
        "precision": manifest.precision,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "card": str(bundle.folder / manifest.model_card),
        "parity": str(bundle.folder / manifest.parity_report),
        "fingerprint": bundle.fingerprint,
    }


def _variant(args: argparse.Namespace) -> dict[str, Any]:
    """The fastest bundle within a budget, of a bundle as it is or of what is exported first."""
    from vitascope.bundle.manifest import MANIFEST_NAME
    from vitascope.errors import InvalidInput

    _require_out(args)
    if args.metrics is not None:
        raise InvalidInput("metrics: a variant is not what they were measured on; no --metrics was expected")
    made = args.out, args.budget, args.data, args.name or args.out.name
    if (args.model / MANIFEST_NAME).is_file():
        return optimize.write_variant(args.model, *made)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{args.out.name}.", dir=args.out.parent) as folder:
        whole = Path(folder) / args.out.name
        return optimize.write_variant(_exported(argparse.Namespace(**vars(args) | {"out": whole})), *made)


def _require_out(args: argparse.Namespace) -> None:
    from vitascope.errors import InvalidInput

    if args.out is None:
        raise InvalidInput("out: missing; the bundle folder to write was expected (--out FOLDER)")


def _exported(args: argparse.Namespace) -> Path:
    """The bundle's folder, from a public model or a checkpoint of this project."""
    from model_export.export import export_checkpoint
    from model_export.public.answers import read_answers
    from model_export.public.export import export_public
    from model_export.public.families import is_public
    from model_export.public.hub import find_model
    from vitascope.errors import InvalidInput

    stated: dict[str, Any] = {
        "name": args.name,
        "version": args.version,
        "licence": args.licence,
        "seed": args.seed,
        "say": optimize.say,
    }
    found = find_model(args.model, allow_pickle=args.allow_pickle)
    if found is not None and is_public(found.folder):
        if (args.data is not None and args.budget is None) or args.metrics is not None:
            raise InvalidInput(f"{args.model} is a public model; neither --data nor --metrics was expected")
        answers = None if args.answers is None else read_answers(args.answers)
        more = {"frames": args.frames, "allow_pickle": args.allow_pickle, "answers": answers}
        return export_public(found, args.out, precision=args.precision or "float32", **more, **stated)
    if args.frames is not None or args.allow_pickle or args.answers is not None:
        raise InvalidInput(f"{args.model} is no public model; --frames, --answers and --allow-pickle are for those")
    model = args.model if found is None else found.folder
    stated |= {"precision": args.precision or "int8-weights", "data": args.data, "metrics": args.metrics}
    return export_checkpoint(model, args.out, **stated)


def _show(result: dict[str, Any], console: Console) -> None:
    show = optimize.show if "variant" in result else print_mapping
    show(result, console)


COMMANDS: dict[str, tuple[Add, Run, Show]] = {"export": (_arguments, _export, _show)}
