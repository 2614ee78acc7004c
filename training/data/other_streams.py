"""A packed corpus as a model sees it that takes fewer or smaller frames than are packed.

Shape letters: B videos, C clips, F frames, H height, W width (pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from training.data.packed import Packed
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.media.sampling import clip_times

Frames = dict[str, np.ndarray]


@dataclass(frozen=True)
class Change:
    """How one stream is made of what is packed under its name."""

    stream: FrameStream
    frames: tuple[int, ...] | None
    """Which of the packed ones; None: all, as they are."""
    resized: bool
    off: float
    """The most that a frame lies beside the moment the model looks at, as a share of the clip."""


@dataclass(frozen=True)
class Sight:
    """How a model's streams are made of those of a packed corpus."""

    changes: tuple[Change, ...]

    @property
    def exact(self) -> bool:
        """Whether the model sees the very frames that are packed."""
        return not any(change.frames or change.resized for change in self.changes)

    @property
    def off(self) -> float:
        """The most that any frame lies beside the moment the model looks at, as a share of the clip."""
        return max(change.off for change in self.changes)

    def __call__(self, streams: Frames) -> Frames:
        """Packed streams by name, uint8 (B, C, F, H, W, 3), as the model takes them."""
        return {change.stream.name: _changed(streams[change.stream.name], change) for change in self.changes}

    def words(self) -> str:
        """For people."""
        if self.exact:
            return "as packed"
        picked = [f"{c.stream.frames} of the packed frames of {c.stream.name!r}" for c in self.changes if c.frames]
        small = [f"{c.stream.name!r} made {c.stream.width}x{c.stream.height}" for c in self.changes if c.resized]
        offset_note = f", at most {self.off:.1%} of a clip beside their moments" if self.off > 1e-9 else ""
        return "; ".join([*picked, *small]) + offset_note


def sight(packed: Packed, expected: Sequence[FrameStream]) -> Sight:
    """How the `wanted` streams are made of what is packed. Raises InvalidInput, naming the stream, where they cannot.

    A frame is the packed one nearest to the moment that the sampler would take. Smaller pictures are made of the packed
    ones, which is a little softer than made of the video; `vitascope prepare --seen-by` packs the very frames.
    """
    there = {stream.name: stream for stream in packed.streams}
    return Sight(tuple(_change(packed, there.get(stream.name), stream) for stream in expected))


def _change(packed: Packed, there: FrameStream | None, expected: FrameStream) -> Change:
    if there is None:
        raise _cannot(packed, expected, "nothing")
    description = f"{there.frames} of {there.width}x{there.height} pixels ({there.placement}, {there.fit})"
    still = packed.is_still and there.frames == 1
    same_pixels = (expected.height, expected.width) == (there.height, there.width)
    smaller = expected.height <= there.height and expected.width <= there.width
    one_shape = expected.height * there.width == expected.width * there.height
    same_preprocessing = all(
        getattr(there, key) == getattr(expected, key) for key in ("fit", "resample", "shortest_edge", "margin")
    )
    shrinks = smaller and (there.fit == "stretch" or (one_shape and there.shortest_edge is None))
    if not same_preprocessing or not (same_pixels or shrinks):
        raise _cannot(packed, expected, description)
    if still or (there.frames, there.placement) == (expected.frames, expected.placement):
        return Change(expected, None, not same_pixels, 0.0)
    if expected.frames > there.frames:
        raise _cannot(packed, expected, description)
    packed_times, expected_times = (np.array(clip_times(stream, 0.0, 1.0)) for stream in (there, expected))
    distance = np.abs(expected_times[:, None] - packed_times[None, :])
    nearest = tuple(int(i) for i in distance.argmin(axis=1))
    return Change(expected, nearest, not same_pixels, float(distance.min(axis=1).max()))


def _cannot(packed: Packed, expected: FrameStream, description: str) -> InvalidInput:
    return InvalidInput(
        f"streams: {packed.folder}: {expected.name}: {description} packed; {expected.frames} of "
        f"{expected.width}x{expected.height} pixels ({expected.placement}, {expected.fit}) cannot be made from it "
        "(`vitascope prepare --seen-by BUNDLE` packs the frames of a bundle)"
    )


def _changed(frames: np.ndarray, change: Change) -> np.ndarray:
    if change.frames is not None:
        frames = frames[:, :, list(change.frames)]
    return _resized(frames, change.stream.height, change.stream.width) if change.resized else frames


def _resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, C, F, H, W, 3) uint8 -> (B, C, F, height, width, 3) uint8, bicubic, averaged where it shrinks."""
    *lead, high, wide, _ = frames.shape
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).reshape(-1, high, wide, 3).permute(0, 3, 1, 2)
    small = F.interpolate(pixels.float(), (height, width), mode="bicubic", antialias=True)
    out: np.ndarray = small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(out).reshape(*lead, height, width, 3)
