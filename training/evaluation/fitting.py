"""Whether a model can see what is packed: the frame streams of both."""

from __future__ import annotations

from pydantic import ValidationError

from training.data.packed import Packed
from training.evaluation.encoder import Encoder, TorchEncoder
from training.models.hd_vila import HdVilaConfig
from vitascope.errors import InvalidInput


def check_streams(encoder: Encoder, packed: Packed) -> None:
    """Raises InvalidInput naming the streams that are packed otherwise than the model sees them.

    A checkpoint of HD-VILA takes other sizes and numbers of frames, by interpolation; a bundle's graphs do not.
    """
    unlike = "; ".join(packed.stream_mismatches(encoder.streams))
    if unlike and not _interpolates(encoder, packed):
        raise InvalidInput(f"streams: {packed.folder}: {unlike}")


def _interpolates(encoder: Encoder, packed: Packed) -> bool:
    config = encoder.model.cfg if isinstance(encoder, TorchEncoder) else None
    if not isinstance(config, HdVilaConfig):
        return False
    there = {stream.name: stream for stream in packed.streams}
    if not {"high", "low"} <= there.keys():
        return False
    high, low = there["high"], there["low"]
    frames = config.low_frames if packed.stands_still and low.frames == 1 else low.frames
    sizes = {
        "high_height": high.height,
        "high_width": high.width,
        "low_height": low.height,
        "low_width": low.width,
        "low_frames": frames,
        "grid_height": low.height // 16,
        "grid_width": low.width // 16,
    }
    try:
        other = HdVilaConfig.model_validate(config.model_dump() | sizes)
    except ValidationError:
        return False
    return not packed.stream_mismatches(other.streams())
