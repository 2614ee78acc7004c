"""Faster variants of a bundle without training: fewer frames, smaller images, merged tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_export.assemble import Log, check_target
from model_export.export import MAX_EXAMPLES
from model_export.optimize.replace_video import VideoReplacement, export_with_video
from model_export.weights import Precision
from training.data.packed import PACK_NAME, open_packed
from training.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from training.initialization import load_initial_model
from training.models.hd_vila import HdVila
from training.models.hd_vila.reduction import ReducedVideo, reduced_config
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.parity_report import SourceBundle
from vitascope.errors import InvalidInput
from vitascope.model import Model


@dataclass(frozen=True)
class ReduceOptions:
    """Options of a reduction; None leaves a size unchanged.

    Attributes:
        bundle: Bundle to reduce.
        out, name: Folder and name of the bundle to write.
        frames: Number of low-resolution frames of a clip.
        size: Longer side of the high-resolution frame in pixels; the other sizes shrink in proportion.
        tokens: Number of visual tokens computed per frame; the most similar ones are merged.
        data, corpora: Packed corpora whose validation splits are used to measure and calibrate (empty: all).
        precision: Precision of the stored weights of the video graph.
        seed: Seed of the random parity inputs; None: random.
    """

    bundle: Path
    out: Path
    name: str
    frames: int | None = None
    size: int | None = None
    tokens: int | None = None
    data: Path | None = None
    corpora: Sequence[str] = ()
    precision: Precision = "int8-weights"
    seed: int | None = None


def reduce_bundle(options: ReduceOptions, log: Log) -> dict[str, Any]:
    """Write the variant, and return a summary.

    Raises:
        InvalidInput: The bundle has no checkpoint, or the sizes are invalid.
        ParityError: The outputs of the video graph differ from those of its module.
    """
    check_target(options.bundle, options.out, options.name)
    changes = {key: value for key in ("frames", "size", "tokens") if (value := getattr(options, key)) is not None}
    if not changes:
        raise InvalidInput("frames, size, tokens: none given; at least one was expected")
    log(f"reading {options.bundle}")
    bundle = Bundle.open(options.bundle)
    model = load_initial_model(options.bundle).model.eval()
    if not isinstance(model, HdVila):
        raise InvalidInput(f"{options.bundle}: holds a model of {model.cfg.system}; one of hd-vila was expected")
    cfg = reduced_config(model.cfg, low_frames=options.frames, size=options.size)
    descriptions = {
        "frames": f"{options.frames} low-resolution frames instead of {model.cfg.low_frames}",
        "size": f"images of {options.size} pixels instead of {max(model.cfg.high_height, model.cfg.high_width)}",
        "tokens": f"{options.tokens} tokens per frame instead of {cfg.visual_tokens} (merged: Bolya et al., 2023)",
    }
    manifest = bundle.manifest
    summary = "; ".join(descriptions[key] for key in changes)
    replacement = VideoReplacement(
        module=ReducedVideo(model, cfg, options.tokens).eval(),
        streams=cfg.streams(),
        name=options.name,
        version=manifest.version,
        precision=options.precision,
        extra={"variant_of": SourceBundle.from_bundle(bundle).model_dump(), "reduced": changes},
        description=[f"{manifest.name} {manifest.version} with {summary}. No weights were trained."],
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory(prefix="reduce-") as folder:
        held_out = _encode_validation_splits(options, bundle, Path(folder), log)
        exported = export_with_video(bundle, replacement, options.out, held_out=held_out, log=log)
    return {"bundle": str(options.out), "variant_of": manifest.name, **changes, **exported._asdict()}


def _encode_validation_splits(
    options: ReduceOptions, bundle: Bundle, folder: Path, log: Log
) -> dict[str, TeacherOutputs]:
    """Encode the validation splits with the original bundle."""
    if options.data is None:
        return {}
    available = sorted(path.parent.parent.name for path in options.data.glob(f"*/val/{PACK_NAME}"))
    if (missing := sorted(set(options.corpora) - set(available))) or not available:
        raise InvalidInput(f"corpus: {missing or 'none'} with a split 'val' in {options.data}; available: {available}")
    original, outputs = Model(bundle), {}
    for name in list(dict.fromkeys(options.corpora)) or available:
        packed = open_packed(options.data / name / "val")
        packed = replace(packed, examples=packed.examples[:MAX_EXAMPLES])
        log(f"encoding {len(packed)} clips of {name}/val with the original bundle")
        outputs[name] = compute_teacher_outputs(original, packed, folder / name)
    return outputs
