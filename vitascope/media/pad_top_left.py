"""A frame in the upper left corner of a square, in its own aspect ratio, for models that read pictures of any shape."""

from __future__ import annotations

import numpy as np

from vitascope.media.frame import Frame, Pixels

_WHITE = 255


def in_corner(frame: Frame, side: int, shortest_edge: int, longest_edge: int, multiple: int, shows: str) -> Pixels:
    """(side, side, 3): ``frame`` in the upper left corner and black elsewhere, or its cover.

    ``shortest_edge``, ``longest_edge``, ``multiple`` and ``shows`` as in ``manifest.FrameStream``.
    """
    width, height = corner_size(frame.width, frame.height, shortest_edge, longest_edge, multiple)
    canvas: Pixels = np.zeros((side, side, 3), np.uint8)
    if shows == "cover":
        canvas[: height // multiple, : width // multiple] = _WHITE
    else:
        canvas[:height, :width] = frame.rgb(width, height)
    return canvas


def corner_size(width: int, height: int, shortest_edge: int, longest_edge: int, multiple: int) -> tuple[int, int]:
    """(width, height) that a frame of ``width`` and ``height`` is given, by the arithmetic of ViLT's processor.

    Where that leaves nothing of an edge, it is one ``multiple`` long.
    """
    wide, high = float(shortest_edge), float(shortest_edge)
    if height < width:
        wide = width * (shortest_edge / height)
    else:
        high = height * (shortest_edge / width)
    longer = max(wide, high)
    if longer > longest_edge:
        scale = longest_edge / longer
        wide, high = wide * scale, high * scale
    return _whole(wide, multiple), _whole(high, multiple)


def _whole(edge: float, multiple: int) -> int:
    return max(1, int(edge + 0.5) // multiple) * multiple
