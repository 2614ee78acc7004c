"""Adaptation of packed frames to the streams of a model that takes fewer or smaller frames.

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
class StreamChange:
    """Derivation of one stream of a model from the packed stream of the same name."""

    stream: FrameStream
    frames: tuple[int, ...] | None
    """Indices of the packed frames; None: all."""
    resized: bool
    max_offset: float
    """Maximum distance between a packed frame and the model's sampling time, as a fraction of the clip."""


@dataclass(frozen=True)
class StreamAdapter:
    """Derivation of a model's streams from those of a packed corpus."""

    changes: tuple[StreamChange, ...]

    @property
    def exact(self) -> bool:
        """Return whether the model gets exactly the packed frames."""
        return not any(change.frames or change.resized for change in self.changes)

    @property
    def max_offset(self) -> float:
        """Largest distance of any frame from its sampling time, as a fraction of the clip."""
        return max(change.max_offset for change in self.changes)

    def __call__(self, streams: Frames) -> Frames:
        """Return the model's streams, made from packed streams: uint8 (B, C, F, H, W, 3) by name."""
        return {change.stream.name: _apply(streams[change.stream.name], change) for change in self.changes}

    def words(self) -> str:
        """Return a description for reports."""
        if self.exact:
            return "as packed"
        picked = [f"{c.stream.frames} of the packed frames of {c.stream.name!r}" for c in self.changes if c.frames]
        small = [f"{c.stream.name!r} made {c.stream.width}x{c.stream.height}" for c in self.changes if c.resized]
        offset_note = f", at most {self.max_offset:.1%} of a clip off their times" if self.max_offset > 1e-9 else ""
        return "; ".join([*picked, *small]) + offset_note


def stream_adapter(packed: Packed, expected: Sequence[FrameStream]) -> StreamAdapter:
    """Return the adapter from packed to `expected` streams.

    For each sampling time the nearest packed frame is used. Smaller frames are resized from packed frames, which is
    slightly less sharp than resizing the frames of the video; `vitascope prepare --seen-by` packs a bundle's exact
    frames.

    Raises InvalidInput, naming the stream, if a stream cannot be derived.
    """
    available = {stream.name: stream for stream in packed.streams}
    return StreamAdapter(tuple(_stream_change(packed, available.get(stream.name), stream) for stream in expected))


def _stream_change(packed: Packed, available: FrameStream | None, expected: FrameStream) -> StreamChange:
    if available is None:
        raise _incompatible(packed, expected, "nothing")
    description = (
        f"{available.frames} of {available.width}x{available.height} pixels ({available.placement}, {available.fit})"
    )
    still = packed.is_still and available.frames == 1
    same_pixels = (expected.height, expected.width) == (available.height, available.width)
    smaller = expected.height <= available.height and expected.width <= available.width
    one_shape = expected.height * available.width == expected.width * available.height
    same_preprocessing = all(
        getattr(available, key) == getattr(expected, key)
        for key in ("fit", "resample", "shortest_edge", "margin", "track")
    )
    shrinks = smaller and (available.fit == "stretch" or (one_shape and available.shortest_edge is None))
    if not same_preprocessing or not (same_pixels or shrinks):
        raise _incompatible(packed, expected, description)
    if still or (available.frames, available.placement) == (expected.frames, expected.placement):
        return StreamChange(expected, None, not same_pixels, 0.0)
    if expected.frames > available.frames:
        raise _incompatible(packed, expected, description)
    packed_times, expected_times = (np.array(clip_times(stream, 0.0, 1.0)) for stream in (available, expected))
    distance = np.abs(expected_times[:, None] - packed_times[None, :])
    nearest = tuple(int(i) for i in distance.argmin(axis=1))
    return StreamChange(expected, nearest, not same_pixels, float(distance.min(axis=1).max()))


def _incompatible(packed: Packed, expected: FrameStream, description: str) -> InvalidInput:
    return InvalidInput(
        f"streams: {packed.folder}: {expected.name}: {description} packed; {expected.frames} of "
        f"{expected.width}x{expected.height} pixels ({expected.placement}, {expected.fit}) cannot be made from it "
        "(`vitascope prepare --seen-by BUNDLE` packs the frames of a bundle)"
    )


def _apply(frames: np.ndarray, change: StreamChange) -> np.ndarray:
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
