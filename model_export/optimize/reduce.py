"""A cheaper variant of a bundle without training: fewer frames, smaller pictures, merged tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_export.assemble import check_name, check_replaceable
from model_export.export import LIMIT
from model_export.optimize.replace_video import OtherVideo, export_other_video
from model_export.parity.variants import named
from model_export.weights import Precision
from training.data.packed import PACK_NAME, open_packed
from training.distillation.teacher import Taught, taught
from training.from_bundle import model_of_bundle
from training.models.hd_vila import HdVila
from training.models.hd_vila.reduction import ReducedVideo, reduced_config
from vitascope.bundle.bundle import Bundle
from vitascope.errors import InvalidInput
from vitascope.model import Model

Say = Callable[[str], None]


@dataclass(frozen=True)
class Reduction:
    """What is asked for; None leaves a thing as it is."""

    bundle: Path
    out: Path
    name: str
    frames: int | None = None
    """Low-resolution frames of a clip."""
    size: int | None = None
    """Pixels of the longer side of the high-resolution frame; the others shrink alike."""
    tokens: int | None = None
    """Visual tokens that are computed of each frame, of all that there are; the likest are merged."""
    data: Path | None = None
    """Packed corpora, whose validation splits serve to measure and to calibrate."""
    corpora: Sequence[str] = ()
    precision: Precision = "int8-weights"
    seed: int | None = None


def reduced(wanted: Reduction, say: Say) -> dict[str, Any]:
    """Write the variant; returns what it came to.

    Raises InvalidInput for a bundle whose weights are not known here and for what cannot be reduced, and ParityError.
    """
    check_name(wanted.name)
    check_replaceable(wanted.out)
    what = {key: value for key in ("frames", "size", "tokens") if (value := getattr(wanted, key)) is not None}
    if not what:
        raise InvalidInput("frames, size, tokens: none given; at least one was expected")
    say(f"reading {wanted.bundle}")
    bundle = Bundle.open(wanted.bundle)
    model = model_of_bundle(wanted.bundle).model.eval()
    assert isinstance(model, HdVila)
    cfg = reduced_config(model.cfg, low_frames=wanted.frames, size=wanted.size)
    video = ReducedVideo(model, cfg, wanted.tokens).eval()
    words = {
        "frames": f"{wanted.frames} low-resolution frames of {model.cfg.low_frames}",
        "size": f"pictures of {wanted.size} pixels of {max(model.cfg.high_height, model.cfg.high_width)}",
        "tokens": f"{wanted.tokens} tokens a frame of {cfg.visual_tokens} (the likest merged: Bolya et al., 2023)",
    }
    stated = bundle.manifest
    other = OtherVideo(
        module=video,
        streams=cfg.streams(),
        name=wanted.name,
        version=stated.version,
        precision=wanted.precision,
        extra={"variant_of": named(bundle).model_dump(), "reduced": what},
        about=[f"{stated.name} {stated.version} with {'; '.join(words[key] for key in what)}. Nothing was trained."],
        seed=wanted.seed,
    )
    with tempfile.TemporaryDirectory(prefix="reduce-") as folder:
        held_out = _held_out(wanted, bundle, Path(folder), say)
        made = export_other_video(bundle, other, wanted.out, held_out=held_out, say=say)
    return {"bundle": str(wanted.out), "variant_of": stated.name, **what, **made._asdict()}


def _held_out(wanted: Reduction, bundle: Bundle, folder: Path, say: Say) -> dict[str, Taught]:
    """What the bundle itself says of the validation splits."""
    if wanted.data is None:
        return {}
    there = sorted(path.parent.parent.name for path in wanted.data.glob(f"*/val/{PACK_NAME}"))
    if (missing := sorted(set(wanted.corpora) - set(there))) or not there:
        raise InvalidInput(f"corpus: {missing or 'none'} with a split 'val' in {wanted.data}; there are {there}")
    original, found = Model(bundle), {}
    for name in list(dict.fromkeys(wanted.corpora)) or there:
        packed = open_packed(wanted.data / name / "val")
        packed = replace(packed, examples=packed.examples[:LIMIT])
        say(f"the bundle itself looks at {len(packed)} clips of {name}/val")
        found[name] = taught(original, packed, folder / name)
    return found
