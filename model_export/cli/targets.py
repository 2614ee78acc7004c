"""The commands for other runtimes: `vitascope tensorrt` and `vitascope triton`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from model_export.cli.options import add_parity_seed, cleanup_on_sigterm, log_progress
from vitascope.cli.main import Commands
from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput

TENSORRT_DESCRIPTION = """\
Make a float16 or int8 variant of a bundle for TensorRT, and build engines ahead of time.

TensorRT takes types from the graph, so a variant is a bundle with its own fingerprint, and collections have to be
indexed again. Before it is written, its graphs are checked against TensorRT's published list of supported operators,
and their outputs are compared with the original's by ONNX Runtime. That needs no GPU.

Any bundle runs on TensorRT in float32 without conversion: `--device tensorrt`. Missing or stale engines are built on
first use, which takes minutes; --build builds them now, on the machine with the GPU.
"""
TENSORRT_EPILOG = """\
examples:
  vitascope tensorrt bundles/hd-vila-tiny --build                                  engines of the bundle as it is
  vitascope tensorrt bundles/hd-vila-tiny --out bundles/tiny-f16 --types float16
  vitascope tensorrt bundles/hd-vila-tiny --out bundles/tiny-int8 --types int8 --data data/packed --build
"""
TRITON_EPILOG = """\
examples:
  vitascope triton bundles/hd-vila-tiny --out models                          write a model repository, then:
  tritonserver --model-repository=models --http-port=8003
  vitascope serve --engine kserve:http://127.0.0.1:8003                       run the graphs on Triton

  vitascope triton bundles/hd-vila-tiny --check kserve:http://127.0.0.1:8003  compare its outputs

Other servers (MLServer, KServe) serve the graphs under the names that --out prints; see docs/triton.md.
"""


def add_tensorrt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = TENSORRT_DESCRIPTION
    parser.epilog = TENSORRT_EPILOG
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="bundle folder")
    add("--out", type=Path, metavar="FOLDER", help="output bundle; an existing bundle is replaced")
    add("--types", choices=("float16", "int8"), default="float16", help="types to compute in (default: %(default)s)")
    add("--name", help="name of the variant (default: the bundle's name and the types)")
    add("--data", type=Path, metavar="DIR", help="packed corpora whose validation splits give int8 calibration ranges")
    add_parity_seed(parser)
    add("--build", action="store_true", help="build engines now; requires a GPU and TensorRT")


def run_tensorrt(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle
    from vitascope.model import Model

    if args.out is None and not args.build:
        raise InvalidInput("out: missing; --out FOLDER, --build or both were expected")
    folder, types = args.bundle, {}
    if args.out is not None:
        from model_export.targets.tensorrt import make_variant  # needs torch, which --build alone does not

        with cleanup_on_sigterm():
            types = make_variant(
                args.bundle, args.out, args.types, data=args.data, name=args.name, seed=args.seed, log=log_progress
            )
        folder = args.out
    bundle = Bundle.open(folder)
    engines: dict[str, Any] = {}
    if args.build:
        model = Model(bundle, device="tensorrt")
        model.warm_up()
        engines = {graph: placement._asdict() for graph, placement in model.placements.items()}
    return {"bundle": str(folder), "fingerprint": bundle.fingerprint, "types": types, "engines": engines}


def show_tensorrt(result: dict[str, Any], console: Console) -> None:
    console.print(f"{escape(result['bundle'])}: fingerprint {result['fingerprint']}")
    table = plain_table("graph", "types", "engine", "GPU", "")
    for graph in sorted({*result["types"], *result["engines"]}):
        engine = result["engines"].get(graph, {})
        table.add_row(
            graph,
            result["types"].get(graph, "unchanged"),
            escape(engine.get("engine") or "not built"),
            escape(engine.get("gpu_name") or "-"),
            escape(engine.get("fallback") or ""),
        )
    console.print(table)


def add_triton_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = TRITON_EPILOG
    add = parser.add_argument
    add(
        "bundle",
        type=Path,
        nargs="?",
        default=default_bundle(),
        metavar="BUNDLE",
        help="bundle folder (VITASCOPE_BUNDLE; default: %(default)s)",
    )
    add("--out", type=Path, metavar="FOLDER", help="model repository to write to; its other models are kept")
    add("--max-batch", type=int, default=32, metavar="N", help="maximum batch size (default: %(default)s)")
    add(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto: every GPU, or the CPU if there is none (default: %(default)s)",
    )
    add("--instances", type=int, default=1, metavar="N", help="instances of a graph per GPU or CPU (default: 1)")
    add("--threads", type=int, default=0, metavar="N", help="threads of a CPU instance (default: one per core)")
    add("--copy", action="store_true", help="copy files instead of hard-linking those of the bundle")
    add("--check", metavar="ENGINE", help="compare the outputs of a server that has the graphs with this process")


def run_triton(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle

    if args.out is None and args.check is None:
        raise InvalidInput("out: missing; --out FOLDER, or --check with a server's URL, was expected")
    bundle = Bundle.open(args.bundle)
    result: dict[str, Any] = {"bundle": str(args.bundle), "fingerprint": bundle.fingerprint}
    if args.out is not None:
        from model_export.targets.triton import TritonOptions, write_repository

        options = TritonOptions(args.max_batch, args.device, args.instances, args.threads)
        models = write_repository(bundle, args.out, options, copy=args.copy)
        result |= {"out": str(args.out), "models": [asdict(model) for model in models]}
        result["left_out"] = sorted({*bundle.manifest.graphs} - {model.graph for model in models})
    if args.check is not None:
        from vitascope.integrations.kserve.engine import check_server

        outputs = check_server(bundle, args.check)
        result |= {"server": args.check, "outputs": [output._asdict() for output in outputs]}
    return result


def show_triton(result: dict[str, Any], console: Console) -> None:
    if "models" in result:
        table = plain_table("graph", "model", ">size", "files")
        for model in result["models"]:
            files = "linked" if model["linked"] else "copied"
            table.add_row(model["graph"], escape(model["name"]), decimal(model["bytes"]), files)
        console.print(table)
        if result["left_out"]:
            console.print(f"\nleft out, as they run where the server is used: {', '.join(result['left_out'])}")
        console.print(f"\nwritten to {escape(result['out'])}, fingerprint {result['fingerprint']}")
    if "outputs" in result:
        table = plain_table("graph", "output", ">min cosine", ">max difference")
        for output in result["outputs"]:
            table.add_row(
                output["graph"], output["output"], f"{output['cosine']:.7f}", f"{output['max_difference']:.2g}"
            )
        console.print(table)
        console.print(f"\n{escape(result['server'])}: outputs equal those of this process within the tolerance")


COMMANDS: Commands = {
    "tensorrt": (add_tensorrt_arguments, run_tensorrt, show_tensorrt),
    "triton": (add_triton_arguments, run_triton, show_triton),
}
