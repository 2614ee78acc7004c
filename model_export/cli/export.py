"""The `vitascope export` command: a checkpoint or a public model as a bundle."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from model_export.cli.optimize import add_budget, optimize_bundle, show_optimize
from model_export.cli.options import (
    PRECISIONS,
    add_name,
    add_parity_seed,
    cleanup_on_sigterm,
    log_progress,
)
from vitascope.cli.main import Commands
from vitascope.cli.output import print_mapping

if TYPE_CHECKING:
    from model_export.weights import Precision

DESCRIPTION = """\
Export a checkpoint or a public model as a bundle: a folder with ONNX graphs, tokenizer, answers, model card and parity
report, which runs without torch.

Before the bundle is written, the outputs of every graph are compared with the torch model's on random inputs, and with
--data also on real ones: in float32 they may differ by at most 1e-4, and Recall@1 must be equal. With reduced weights
embeddings must have a cosine of at least 0.999, and Recall@1 may change by one point. If a check fails, the weights of
a checkpoint are rounded less, unless --precision is given; else the error names the output and the difference, nothing
is written, and an existing bundle is unchanged.

A public model is a folder of transformers (CLIP, SigLIP, X-CLIP, BLIP, ViLT, EmbeddingGemma 2, CLAP, PE-AV) or
open_clip, the name of such a model on the Hugging Face Hub, which is downloaded, or a folder with a released file of
CLIP-ViP, HD-VILA or SOHO and its tokenizer. In addition, the bundle's results for texts, image files and sounds are
compared with those of the model's own library: embeddings must have a cosine of at least 0.99999. Settings that the
model does not state, such as the frames of a clip, are printed and kept in the manifest.

A compact checkpoint, from which training can continue, is written to FOLDER-checkpoint beside the bundle FOLDER. The
bundle does not need it.

If MODEL is a bundle, one of these options changes it in place:

  --metrics         adds metrics of an evaluation to the model card; other metrics stay
  --checkpoint      adds the checkpoint from which the bundle was exported; its outputs must equal the bundle's
  --part            adds a part that a run has trained alone from this model, or replaces it, also in the checkpoint;
                    with --out another bundle is written instead
  --moments         adds the head of a run of `vitascope train-moments`
  --caption-scores  fits the matrix for CLIPScore to captions that people wrote, and adds it

New graphs are compared with torch. Other graphs, their weights and the fingerprint do not change, so nothing has to be
indexed again. With --budget, a checkpoint, public model or bundle is optimized as by `vitascope optimize`.
"""
EPILOG = """\
precision of the stored weights (arithmetic is float32, at the same speed):
  float32           as trained
  float16-weights   half the size
  int8-weights      about a third of the size: int8 per output channel where that is accurate, else float16

examples:
  vitascope export runs/hd-vila-tiny/checkpoint --out bundles/hd-vila-tiny --data data/packed
  vitascope export runs/mine/checkpoint --out /srv/models/mine --precision float32 --version 2.1.0

  vitascope export models/clip-vit-base-patch32 --out bundles/clip --licence MIT     a folder of transformers
  vitascope export openai/clip-vit-base-patch32 --out bundles/clip --licence MIT     the same, downloaded

  vitascope evaluate bundles/hd-vila-tiny --data data/packed --out metrics.json
  vitascope export bundles/hd-vila-tiny --metrics metrics.json     update the model card

  vitascope finetune hd-vila-tiny-grounding --start-from bundles/hd-vila-tiny
  vitascope export bundles/hd-vila-tiny --part runs/hd-vila-tiny-grounding     add a grounding head

  vitascope export bundles/mine --moments runs/moments-spans       find moments by sentences (docs/moments.md)

  vitascope export bundles/mine --caption-scores flickr8k --data data/packed     score captions as people do

  vitascope export runs/mine/checkpoint --out bundles/mine-int8 --data data/packed --budget recall=0.5
"""


OPTIONS_OF_ADDITION = {
    "metrics": set(),
    "checkpoint": set(),
    "moments": {"version", "seed"},
    "caption_scores": {"version", "data"},
    "part": {"version", "seed", "data"},
}
"""For each option that changes a bundle, the further options that are used."""
OPTIONS_OF_PUBLIC = {"name", "version", "precision", "licence", "answers", "frames", "allow_pickle", "seed", "budget"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "model",
        type=Path,
        metavar="MODEL",
        help="checkpoint folder of `vitascope train`, public model (folder or name), or bundle",
    )
    add("--out", type=Path, metavar="FOLDER", help="output bundle; an existing bundle is replaced")
    add_name(parser)
    add("--version", help="version of the bundle (default: 1.0.0, or that of a bundle that gets parts)")
    add(
        "--precision",
        choices=PRECISIONS,
        help="storage of weights (default: int8-weights, or a larger one if rounding changes the outputs too much; "
        "float32 for a public model)",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of packed corpora; their validation splits are used for checks and calibration",
    )
    add("--licence", help="terms of use (default: from the training data's terms, or from the model's README.md)")
    _add_checkpoint_options(parser)
    _add_bundle_options(parser)
    _add_public_model_options(parser)
    add_parity_seed(parser)
    add_budget(parser, required=False)


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--start-from",
        type=Path,
        metavar="BUNDLE",
        help="bundle from which training started; its calibration is used if validation splits are small",
    )
    add(
        "--no-checkpoint",
        action="store_true",
        help="do not write a checkpoint to FOLDER-checkpoint beside the bundle",
    )


def _add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a bundle."""
    add = parser.add_argument
    add("--metrics", type=Path, metavar="FILE", help="JSON of `vitascope evaluate --out`, for the model card")
    add(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="write this checkpoint beside a bundle that was exported from it without a checkpoint",
    )
    add(
        "--part",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="add the caption decoder, grounding head, entailment head or pooled answer head that this run (or "
        "checkpoint) has trained alone, from the same model as MODEL; repeatable",
    )
    add(
        "--moments",
        type=Path,
        metavar="RUN",
        help="add the moment head of this run of `vitascope train-moments` to a bundle",
    )
    add(
        "--caption-scores",
        metavar="CORPUS",
        help="packed corpus of --data with captions by people, such as flickr8k; the matrix for CLIPScore is fitted to "
        "its training split, so that scores agree better with people's grades",
    )


def _add_public_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--answers",
        type=Path,
        metavar="FILE",
        help="JSON list of default answers, for public models that score any answer (BLIP)",
    )
    add("--frames", type=int, metavar="N", help="frames per clip, for public image models (default: 8)")
    add(
        "--allow-pickle",
        action="store_true",
        help="read a public model's pickled weights, with a reader that runs no code",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.caption_scores import add_caption_scores
    from model_export.moments import add_moments
    from model_export.parts import add_parts
    from model_export.update import add_checkpoint, update_metrics
    from vitascope.bundle.bundle import Bundle
    from vitascope.bundle.manifest import MANIFEST_NAME
    from vitascope.errors import InvalidInput

    is_bundle = (args.model / MANIFEST_NAME).is_file()
    if args.budget is not None:
        with cleanup_on_sigterm():
            return _export_optimized(args, is_bundle)
    options = {"version": args.version, "seed": args.seed, "log": log_progress}
    if is_bundle and args.model.samefile(Path()):  # relative paths become invalid when the current folder is replaced
        args.model = args.model.resolve()
        args.out = args.out and args.out.resolve()
    if is_bundle:
        additions = [name for name in OPTIONS_OF_ADDITION if getattr(args, name)]
        if len(additions) != 1 or (args.out not in (None, args.model) and not args.part):
            raise InvalidInput(
                f"{args.model} is a bundle: one of --metrics, --checkpoint, --moments, --part, --caption-scores was "
                "expected, and another --out with --part alone"
            )
        (addition,) = additions
        _check_options(
            args, {addition, *OPTIONS_OF_ADDITION[addition]}, f"a bundle that gets --{addition.replace('_', '-')}"
        )
        with cleanup_on_sigterm():
            if args.metrics is not None:
                bundle = Bundle.open(update_metrics(args.model, args.metrics))
            elif args.checkpoint is not None:
                bundle = Bundle.open(add_checkpoint(args.model, args.checkpoint))
            elif args.caption_scores is not None:
                if args.data is None:
                    raise InvalidInput("data: missing; the folder of packed corpora was expected with --caption-scores")
                matrix = add_caption_scores(
                    args.model, args.data, args.caption_scores, version=args.version, log=log_progress
                )
                bundle = Bundle.open(matrix)
            elif args.moments is not None:
                bundle = Bundle.open(add_moments(args.model, args.moments, **options))
            else:
                bundle = Bundle.open(add_parts(args.model, args.part, out=args.out, data=args.data, **options))
    else:
        _require_out(args)
        with cleanup_on_sigterm():
            bundle = Bundle.open(_export(args, args.out))
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


def show(result: dict[str, Any], console: Console) -> None:
    (show_optimize if "variant" in result else print_mapping)(result, console)


def _export_optimized(args: argparse.Namespace, is_bundle: bool) -> dict[str, Any]:
    """Optimize a bundle, or a model after exporting it."""
    from vitascope.errors import InvalidInput

    _require_out(args)
    if args.metrics is not None:
        raise InvalidInput("metrics: not available for a variant before it is evaluated; no --metrics was expected")
    options = args.out, args.budget, args.data, args.name or args.out.name
    if is_bundle:
        _check_options(args, {"budget", "data", "name"}, "a bundle that gets --budget")
        return optimize_bundle(args.model, *options)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{args.out.name}.", dir=args.out.parent) as folder:
        return optimize_bundle(_export(args, Path(folder) / args.out.name), *options)


def _check_options(args: argparse.Namespace, used: set[str], kind: str) -> None:
    """Raise InvalidInput for an option that is set and not used."""
    from vitascope.errors import InvalidInput

    for name, value in vars(args).items():
        is_set = value is not None and value is not False and value != []
        if is_set and name not in used | {"model", "out", "json", "command", "run_command"}:
            raise InvalidInput(f"{args.model} is {kind}; no --{name.replace('_', '-')} was expected")


def _require_out(args: argparse.Namespace) -> None:
    from vitascope.errors import InvalidInput

    if args.out is None:
        raise InvalidInput("out: missing; the output bundle was expected (--out FOLDER)")


def _export(args: argparse.Namespace, out: Path) -> Path:
    """Export a public model or a checkpoint to `out`."""
    from model_export.calibrate import MIN_CAPTIONED
    from model_export.export import InitialModel, export_checkpoint
    from model_export.parity.checks import export_with_fallback
    from model_export.public.export import export_public
    from model_export.public.families import find_model, is_public, read_answers
    from vitascope.bundle.bundle import Bundle
    from vitascope.errors import InvalidInput

    options: dict[str, Any] = {
        "name": args.name,
        "version": args.version or "1.0.0",
        "licence": args.licence,
        "seed": args.seed,
        "log": log_progress,
    }
    source = find_model(args.model, allow_pickle=args.allow_pickle)
    if source is not None and is_public(source.folder):
        used = OPTIONS_OF_PUBLIC if args.budget is None else OPTIONS_OF_PUBLIC | {"data"}
        _check_options(args, used, "a public model")
        return export_public(
            source,
            out,
            precision=args.precision or "float32",
            frames=args.frames,
            allow_pickle=args.allow_pickle,
            answers=None if args.answers is None else read_answers(args.answers),
            **options,
        )
    if args.checkpoint is not None:
        raise InvalidInput(f"{args.model} is not a bundle; --checkpoint is for bundles, exports write their own")
    for option in ("moments", "caption_scores"):
        if getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise InvalidInput(f"{args.model} is not a bundle; --{name} is for bundles: export it first")
    if args.frames is not None or args.allow_pickle or args.answers is not None:
        raise InvalidInput(
            f"{args.model} is not a public model; --frames, --answers and --allow-pickle are for public models"
        )
    folder = args.model if source is None else source.folder
    initial = None
    if args.start_from is not None:
        start = Bundle.open(args.start_from).manifest
        initial = InitialModel((), start.calibration, start.reranking, min_captioned=MIN_CAPTIONED)

    def export(precision: Precision) -> Path:
        return export_checkpoint(
            folder,
            out,
            precision=precision,
            data=args.data,
            metrics=args.metrics,
            initial=initial,
            keep_checkpoint=not args.no_checkpoint and args.budget is None,
            parts=args.part,
            **options,
        )

    return export(args.precision) if args.precision else export_with_fallback("int8-weights", export, log_progress)


COMMANDS: Commands = {"export": (add_arguments, run, show)}
