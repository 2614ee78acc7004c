"""Reading of a batch's frames: selection of clips, and augmentation.

Shape letters: B videos, C packed clips, K selected clips, F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data.packed import Packed
from training.recipe import DatasetConfig
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

LOW_CELL_PIXELS, HIGH_CELL_PIXELS = 16, 32
"""Smallest number of pixels per side of one cell of the visual grid."""


def clip_count(packed: Packed, requested: int | None) -> int:
    """Return the number of clips used per video: `requested`, or for None all packed clips.

    Raises InvalidInput if fewer clips are packed.
    """
    if requested is None or packed.is_still:
        return packed.clips
    if not 1 <= requested <= packed.clips:
        raise InvalidInput(
            f"clips: {requested} of {packed.folder}, where {packed.clips} of each video are packed; from 1 to "
            f"{packed.clips} were expected (`vitascope prepare --clips` packs more)"
        )
    return requested


def sample_clips(rng: np.random.Generator, videos: int, packed: int, count: int) -> NDArray[np.int64]:
    """Sample clips for training: indices (videos, K) in time order, one from each of K equal segments.

    The state of `rng` does not change, so that other random choices do not depend on the number of clips.
    """
    edges = _edges(packed, count)
    if count == packed:
        return np.broadcast_to(edges[:-1], (videos, count))
    return rng.spawn(1)[0].integers(edges[:-1], edges[1:], size=(videos, count))


def spread_clips(packed: int, count: int) -> NDArray[np.int64]:
    """Return the clips for testing: indices (K,) in time order, the middle of each of K equal segments."""
    edges = _edges(packed, count)
    return (edges[:-1] + edges[1:] - 1) // 2


def _edges(packed: int, count: int) -> NDArray[np.int64]:
    return np.arange(count + 1, dtype=np.int64) * packed // count


def read_frames(
    packed: Packed,
    rows: np.ndarray,
    clips: NDArray[np.int64],
    dataset: DatasetConfig,
    streams: Sequence[FrameStream],
    rng: np.random.Generator,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Read the frames of some rows of a corpus, and augment them.

    Args:
        packed: The corpus.
        rows: (B,) indices of examples.
        clips: (B, K) indices of packed clips.
        dataset: Options of augmentation.
        streams: Streams of the model.
        rng: Random generator of augmentation.

    Returns:
        `streams` and `times` of a `training.data.batch.Batch`.
    """
    frames = {s.name: torch.from_numpy(packed.frames(s.name)[rows[:, None], clips]) for s in streams}
    times = None
    total = sum(s.frames for s in streams)
    if total > 2 and all(stream.shape[2] == 1 for stream in frames.values()):
        # For a still image one low-resolution frame suffices. Its time is sampled, so that all time embeddings train.
        neighbour = int(rng.choice([t for t in range(total) if t != total // 2]))
        times = torch.tensor([total // 2, neighbour])
    return augment(frames, dataset, rng), times


def augment(streams: Mapping[str, Tensor], dataset: DatasetConfig, rng: np.random.Generator) -> dict[str, Tensor]:
    """Augment videos by the dataset's options: one crop per batch; flip, colour and contrast (not of depth) per video.

    Args:
        streams: (B, C, F, H, W, 3) uint8 by name, 0..255. All streams get the same crop and flip.

    Returns:
        Streams of the same shapes, float32 0..255 where anything was changed.
    """
    out = dict(streams)
    if dataset.min_crop < 1.0 or dataset.resolution_ratio < 1.0 or dataset.zoom_out > 1.0:
        keep = rng.uniform(dataset.min_crop, dataset.zoom_out, size=2)
        offset = rng.uniform(np.minimum(1.0 - keep, 0.0), np.maximum(1.0 - keep, 0.0))
        cells = _cell_pixels(out)
        out = {name: _crop(x, keep, offset, dataset.resolution_ratio, cells[name]) for name, x in out.items()}
    b = len(next(iter(out.values())))
    if dataset.flip:
        mirrored = torch.from_numpy(rng.random(b) < 0.5)
        for x in out.values():
            x[mirrored] = x[mirrored].flip(-2)
    if dataset.channel_mix:
        share = rng.uniform(0, dataset.channel_mix, (b, 1, 1))
        rows = share * rng.dirichlet((1.0, 1.0, 1.0), size=(b, 3)) + (1.0 - share) * np.eye(3)  # each sums to 1
        mixing = torch.from_numpy(rows.astype(np.float32))
        out = {name: torch.einsum("bcfhwi,boi->bcfhwo", x.float(), mixing) for name, x in out.items()}
    if dataset.jitter:
        shape = (b, 1, 1, 1, 1, 1)
        gain = torch.from_numpy(rng.uniform(1 - dataset.jitter, 1 + dataset.jitter, shape).astype(np.float32))
        shift = torch.from_numpy(rng.uniform(-64 * dataset.jitter, 64 * dataset.jitter, shape).astype(np.float32))
        out |= {name: (x.float() * gain + shift).clamp_(0, 255) for name, x in out.items() if name != "depth"}
    return out


def _cell_pixels(streams: Mapping[str, Tensor]) -> dict[str, int]:
    """Return, by stream, the side of one cell of the visual grid in pixels, so that all streams keep the same grid."""
    if "low" not in streams:
        return {"high": HIGH_CELL_PIXELS}
    ratio = streams["high"].shape[3] // streams["low"].shape[3]
    return dict.fromkeys(streams, LOW_CELL_PIXELS) | {"high": max(LOW_CELL_PIXELS * ratio, HIGH_CELL_PIXELS)}


def _crop(frames: Tensor, keep: np.ndarray, offset: np.ndarray, scale: float, cell: int) -> Tensor:
    """Crop a window of relative size `keep` at `offset`, and resize it to `scale` of the frame, in whole grid cells.

    If the window exceeds the frame, the border of the frame is repeated.
    """
    b, c, f, h, w, _ = frames.shape
    top, left = int(offset[0] * h), int(offset[1] * w)
    bottom, right = top + max(int(keep[0] * h), 8), left + max(int(keep[1] * w), 8)
    size = (max(round(h * scale / cell), 1) * cell, max(round(w * scale / cell), 1) * cell)
    whole = frames.flatten(0, 2).permute(0, 3, 1, 2).float()
    beyond = (max(-left, 0), max(right - w, 0), max(-top, 0), max(bottom - h, 0))
    if any(beyond):
        whole = F.pad(whole, beyond, mode="replicate")
    top, bottom, left, right = top + beyond[2], bottom + beyond[2], left + beyond[0], right + beyond[0]
    window = whole[:, :, top:bottom, left:right]
    if window.shape[2:] != size:
        shrinks = size[0] < window.shape[2] or size[1] < window.shape[3]
        window = F.interpolate(window, size, mode="bilinear", align_corners=False, antialias=shrinks)
    return window.permute(0, 2, 3, 1).reshape(b, c, f, *size, 3)
