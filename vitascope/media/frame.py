"""One decoded frame, whatever decoded it, and how it becomes pixels of a wanted size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB, upright."""


class Frame(Protocol):
    """``width`` and ``height`` are in displayed pixels: turned upright, with square pixels."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    def rgb(self, width: int, height: int) -> Pixels:
        """The whole frame resized to (height, width, 3), without regard to the aspect ratio."""

    def small_rgb(self, width: int, height: int) -> Pixels:
        """As ``rgb``, by averaging areas: quicker and less exact, for measuring. Not turned upright."""


def size_within(frame: Frame, side: int) -> tuple[int, int]:
    """(width, height) of the frame with its longer side at most ``side`` pixels, in its aspect ratio."""
    scale = min(1.0, side / max(frame.width, frame.height))
    return max(1, round(frame.width * scale)), max(1, round(frame.height * scale))


def fitted(
    frame: Frame,
    width: int,
    height: int,
    fit: str,
    resample: str = "decoder",
    shortest_edge: int | None = None,
    margin: str = "down",
) -> Pixels:
    """``frame`` as (height, width, 3).

    stretch ignores the aspect ratio; crop covers the target and cuts the centre; pad shows all of the
    frame, centred on black. ``resample``, ``shortest_edge`` and ``margin`` as in ``manifest.FrameStream``.
    """
    frame = filtered(frame, resample)
    if fit == "crop" and (shortest_edge or resample != "decoder"):
        return _centre_of(frame, shortest_edge or max(width, height), width, height, margin)
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


def filtered(frame: Frame, resample: str) -> Frame:
    """``frame``, resized as ``resample`` of ``manifest.FrameStream`` says."""
    return frame if resample == "decoder" else _Filtered(frame, Image.Resampling[resample.upper()])


@dataclass(frozen=True)
class _Filtered:
    """A frame that one of Pillow's filters resizes, whatever decoded it."""

    whole: Frame
    method: Image.Resampling

    @property
    def width(self) -> int:
        return self.whole.width

    @property
    def height(self) -> int:
        return self.whole.height

    def rgb(self, width: int, height: int) -> Pixels:
        pixels = self.whole.rgb(self.width, self.height)
        return np.array(Image.fromarray(pixels).resize((width, height), self.method), np.uint8)

    def small_rgb(self, width: int, height: int) -> Pixels:
        return self.whole.small_rgb(width, height)


def _centre_of(frame: Frame, shortest_edge: int, width: int, height: int, margin: str) -> Pixels:
    """The centre of the frame with its shorter edge made ``shortest_edge`` pixels.

    The longer edge rounds down, as in the processors of public models.
    """
    short = min(frame.width, frame.height)
    inner = frame.rgb(shortest_edge * frame.width // short, shortest_edge * frame.height // short)
    halved = math.floor if margin == "down" else round
    top, left = halved((inner.shape[0] - height) / 2), halved((inner.shape[1] - width) / 2)
    return inner[top : top + height, left : left + width]


def over_white(rgba: NDArray[Any]) -> Pixels:
    """(H, W, 4) uint8 with straight alpha, composited over white: (H, W, 3) uint8."""
    alpha = rgba[..., 3:].astype(np.uint16)
    mixed = (rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha) + 127) // 255
    pixels: Pixels = mixed.astype(np.uint8)
    return pixels
