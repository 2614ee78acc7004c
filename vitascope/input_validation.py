"""Whether a model can take what it is given, as its manifest states it.

Shape letters: B videos or texts, C clips, F frames, H height, W width (pixels, or of a visual token), V visual tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.manifest import FrameStream, Manifest
from vitascope.errors import InvalidInput

Streams = Mapping[str, NDArray[np.uint8]]


def check_texts(texts: Sequence[str]) -> None:
    """Raises InvalidInput for one string in the place of a list."""
    if isinstance(texts, str):
        raise InvalidInput("texts: one string; a list of strings was expected")


def checked_tokens(stated: Manifest, count: int, tokens: NDArray[np.floating]) -> NDArray[np.float32]:
    """Visual tokens (B, V, W) of ``count`` videos, in float32. Raises InvalidInput for another shape or no floats."""
    expected = (count, stated.visual_tokens, stated.visual_width)
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind != "f" or tokens.shape != expected:
        raise InvalidInput(f"visual_tokens: {_described(tokens)}; floats of shape {expected} expected")
    return tokens.astype(np.float32, copy=False)  # of a clip beside many texts each piece is a copy, not the whole


def count_of_streams(stated: Sequence[FrameStream], streams: Streams) -> int:
    """B, of streams (B, C, F, H, W, 3) uint8. Raises InvalidInput naming the one that is not as stated."""
    names = sorted(s.name for s in stated)
    if sorted(streams) != names:
        raise InvalidInput(f"streams: {sorted(streams)}; {names} were expected")
    shared: tuple[int, ...] | None = None
    for stream in stated:
        array = streams[stream.name]
        tail = (stream.frames, stream.height, stream.width, 3)
        shape = np.shape(array)
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != np.uint8
            or len(shape) != 6
            or shape[2:] != tail
            or shape[1] < 1
            or shape[:2] != (shared or shape[:2])
        ):
            wanted = ("B", "C") if shared is None else shared
            written = ", ".join(map(str, (*wanted, *tail)))
            raise InvalidInput(
                f"streams[{stream.name!r}]: {_described(array)}; uint8 of shape ({written}) was expected"
            )
        shared = shape[:2]
    assert shared is not None
    return shared[0]


def _described(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
