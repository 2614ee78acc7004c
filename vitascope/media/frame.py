"""Decoded frames: their interface for all decoders, and resizing to the size of a stream or thumbnail."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB, upright."""
THUMBNAIL_SIDE = 320
"""Default length of the longer side of a thumbnail, in pixels."""
_THUMBNAIL_QUALITY = 80
_WHITE, _GREY = 255, 128
_MAX_ASPECT = 32
"""Ratio of a frame's sides, relative to that of a crop, above which only its middle is scaled before it is cropped."""


class Frame(Protocol):
    """A decoded frame. ``width`` and ``height`` are displayed pixels (upright, square)."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    def rgb(self, width: int, height: int) -> Pixels:
        """Resize the frame to (height, width, 3), ignoring its aspect ratio."""

    def thumbnail_rgb(self, width: int, height: int) -> Pixels:
        """Resize by area averaging: faster and less exact than ``rgb``, for measurements. Not turned upright."""


def resize_to_fit(
    frame: Frame,
    width: int,
    height: int,
    fit: str,
    resample: str = "decoder",
    shortest_edge: int | None = None,
    margin: str = "down",
) -> Pixels:
    """Resize a frame to (height, width, 3).

    Args:
        frame: Frame to resize.
        width: Target width in pixels.
        height: Target height in pixels.
        fit: stretch: ignore the aspect ratio; crop: cover the target and cut out the centre; pad: fit the whole frame,
            centred on black.
        resample, shortest_edge, margin: See ``manifest.FrameStream``.
    """
    max_aspect = _MAX_ASPECT * max(width / height, height / width) if fit == "crop" else None
    frame = with_resampling(frame, resample, max_aspect)
    if fit == "crop" and (shortest_edge or resample != "decoder"):
        return _center_crop(frame, shortest_edge or max(width, height), width, height, margin)
    if fit == "stretch":
        return frame.rgb(width, height)
    scales = (width / frame.width, height / frame.height)
    scale = max(scales) if fit == "crop" else min(scales)
    inner_width = max(1, round(frame.width * scale))
    inner_height = max(1, round(frame.height * scale))
    if fit == "crop":
        inner = frame.rgb(max(inner_width, width), max(inner_height, height))
        top, left = (inner.shape[0] - height) // 2, (inner.shape[1] - width) // 2
        return inner[top : top + height, left : left + width]
    inner = frame.rgb(min(inner_width, width), min(inner_height, height))
    canvas: Pixels = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def mirrored_middle(pixels: Pixels, fraction: float) -> Pixels:
    """Return the middle of a frame, mirrored left to right, at the size of the frame.

    Args:
        pixels: The frame (H, W, 3).
        fraction: Width and height of the middle as a fraction of the frame's, above 0 and at most 1.
    """
    height, width = pixels.shape[:2]
    left, top = width * (1 - fraction) / 2, height * (1 - fraction) / 2
    box = (left, top, width - left, height - top)
    middle = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box)
    return np.asarray(middle.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def with_resampling(frame: Frame, resample: str, max_aspect: float | None = None) -> Frame:
    """Return ``frame`` with the resampling filter ``resample`` of ``manifest.FrameStream``.

    ``max_aspect``: ratio of the sides above which the frame is replaced by its middle. Scaling all of a frame of
    8x60000 pixels so that it covers a crop would take gigabytes.
    """
    shorter, longer = sorted((frame.width, frame.height))
    margin = 0 if max_aspect is None else max(0, int(longer - max_aspect * shorter) // 2)
    if resample == "decoder" and not margin:
        return frame
    method = Image.Resampling.BICUBIC if resample == "decoder" else Image.Resampling[resample.upper()]
    return _ResampledFrame(frame, method, *((margin, 0) if frame.width == longer else (0, margin)))


@dataclass(frozen=True)
class _ResampledFrame:
    """A frame without its margins (pixels), resized with one of Pillow's filters."""

    frame: Frame
    method: Image.Resampling
    margin_x: int
    margin_y: int

    @property
    def width(self) -> int:
        return self.frame.width - 2 * self.margin_x

    @property
    def height(self) -> int:
        return self.frame.height - 2 * self.margin_y

    def rgb(self, width: int, height: int) -> Pixels:
        pixels = self.frame.rgb(self.frame.width, self.frame.height)
        box = (self.margin_x, self.margin_y, self.margin_x + self.width, self.margin_y + self.height)
        return np.array(Image.fromarray(pixels).resize((width, height), self.method, box), np.uint8)

    def thumbnail_rgb(self, width: int, height: int) -> Pixels:
        return self.frame.thumbnail_rgb(width, height)


def _center_crop(frame: Frame, shortest_edge: int, width: int, height: int, margin: str) -> Pixels:
    """Resize the shorter edge to ``shortest_edge`` and cut the centre.

    The longer edge rounds down, as in the processors of public models.
    """
    shorter = min(frame.width, frame.height)
    inner = frame.rgb(shortest_edge * frame.width // shorter, shortest_edge * frame.height // shorter)
    rounding = math.floor if margin == "down" else round
    top, left = rounding((inner.shape[0] - height) / 2), rounding((inner.shape[1] - width) / 2)
    return inner[top : top + height, left : left + width]


def pad_top_left(frame: Frame, side: int, shortest_edge: int, longest_edge: int, multiple: int, shows: str) -> Pixels:
    """Place a frame in the upper left corner of a black square, or its cover mask.

    Args:
        frame: Frame to resize.
        side: Side of the square in pixels.
        shortest_edge, longest_edge, multiple, shows: See ``manifest.FrameStream``.

    Returns:
        (side, side, 3) uint8.
    """
    width, height = top_left_size(frame.width, frame.height, shortest_edge, longest_edge, multiple)
    canvas: Pixels = np.zeros((side, side, 3), np.uint8)
    if shows == "cover":
        canvas[: height // multiple, : width // multiple] = _WHITE
    else:
        canvas[:height, :width] = frame.rgb(width, height)
    return canvas


def top_left_size(width: int, height: int, shortest_edge: int, longest_edge: int, multiple: int) -> tuple[int, int]:
    """Return the (width, height) of a frame in ``pad_top_left``, computed like ViLT's processor.

    Each edge is a multiple of ``multiple``, and at least ``multiple``.
    """
    new_width, new_height = float(shortest_edge), float(shortest_edge)
    if height < width:
        new_width = width * (shortest_edge / height)
    else:
        new_height = height * (shortest_edge / width)
    longer = max(new_width, new_height)
    if longer > longest_edge:
        scale = longest_edge / longer
        new_width, new_height = new_width * scale, new_height * scale
    return _round_to_multiple(new_width, multiple), _round_to_multiple(new_height, multiple)


def arrange_tiles(frame: Frame, width: int, height: int, side: int, shows: str) -> Pixels:
    """Fill a canvas with the tiles of a frame in reading order and the rest with black, or return its cover mask.

    Args:
        frame: Frame to resize.
        width: Width of the canvas in pixels.
        height: Height of the canvas in pixels.
        side: Side of a tile in pixels.
        shows: See ``manifest.FrameStream``; a cover mask has one pixel per tile.

    Returns:
        (height, width, 3) uint8.
    """
    is_cover = shows == "cover"
    count = height * width if is_cover else (height // side) * (width // side)
    columns, rows = tile_grid(frame.width, frame.height, count, side)
    tiles: Pixels = np.zeros((count, *((1, 1) if is_cover else (side, side)), 3), np.uint8)
    if is_cover:
        tiles[: rows * columns] = _GREY
        tiles[columns - 1 : rows * columns : columns] = _WHITE
    else:
        pixels = frame.rgb(columns * side, rows * side)
        split = pixels.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        tiles[: rows * columns] = split.reshape(-1, side, side, 3)
    across, edge = (width, 1) if is_cover else (width // side, side)
    arranged: Pixels = tiles.reshape(-1, across, edge, edge, 3).swapaxes(1, 2).reshape(height, width, 3)
    return arranged


def tile_grid(width: int, height: int, count: int, side: int) -> tuple[int, int]:
    """Return the (columns, rows) of at most ``count`` tiles for a frame, computed like Gemma's processors.

    Args:
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        count: Maximum number of tiles.
        side: Side of a tile in pixels.
    """
    scale = math.sqrt(count * side**2 / (width * height))
    columns, rows = math.floor(scale * width / side), math.floor(scale * height / side)
    if not rows:
        return min(width // height, count), 1
    if not columns:
        return 1, min(height // width, count)
    return columns, rows


def _round_to_multiple(edge: float, multiple: int) -> int:
    return max(1, int(edge + 0.5) // multiple) * multiple


def size_within(frame: Frame, side: int) -> tuple[int, int]:
    """Return the (width, height) of a frame scaled down so that its longer side has at most ``side`` pixels."""
    scale = min(1.0, side / max(frame.width, frame.height))
    return max(1, round(frame.width * scale)), max(1, round(frame.height * scale))


def thumbnail_jpeg(frame: Frame, side: int = THUMBNAIL_SIDE) -> bytes:
    """Encode a frame as a JPEG whose longer side has at most ``side`` pixels; small frames keep their size."""
    output = io.BytesIO()
    Image.fromarray(frame.rgb(*size_within(frame, side))).save(output, "JPEG", quality=_THUMBNAIL_QUALITY)
    return output.getvalue()


def composite_on_white(rgba: NDArray[Any]) -> Pixels:
    """Composite (H, W, 4) uint8 with straight alpha on white: (H, W, 3) uint8."""
    alpha = rgba[..., 3:].astype(np.uint16)
    mixed = (rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha) + 127) // 255
    pixels: Pixels = mixed.astype(np.uint8)
    return pixels
