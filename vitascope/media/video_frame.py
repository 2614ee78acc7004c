"""A frame that FFmpeg decoded, made upright RGB of any size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av.error
import numpy as np
from av.video.reformatter import Colorspace, Interpolation

from vitascope.errors import MediaUnsupported
from vitascope.media.frame import Pixels, over_white

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_AVERAGING = Interpolation.AREA
_UNTAGGED = 2
"""AVCOL_SPC_UNSPECIFIED"""


@dataclass(frozen=True)
class DecodedFrame:
    """A frame that FFmpeg decoded, turned upright and to square pixels when it is read."""

    name: str
    """The file's, for errors."""
    raw: VideoFrame
    turn: Turn
    pixel_aspect: Fraction

    @property
    def width(self) -> int:
        return self.raw.height if self.turn.transpose else self._wide()

    @property
    def height(self) -> int:
        return self._wide() if self.turn.transpose else self.raw.height

    def _wide(self) -> int:
        return max(1, round(self.raw.width * self.pixel_aspect))

    def rgb(self, width: int, height: int) -> Pixels:
        if self.turn.transpose:
            width, height = height, width
        has_alpha = any(component.is_alpha for component in self.raw.format.components)
        # Untagged video is BT.709 when it is larger than standard definition, as players assume.
        is_large = self.raw.width >= 1280 or self.raw.height > 576
        untagged = Colorspace.ITU709 if is_large else Colorspace.ITU601
        try:
            scaled = self.raw.reformat(
                width=width,
                height=height,
                format="rgba" if has_alpha else "rgb24",
                src_colorspace=untagged if self.raw.colorspace == _UNTAGGED else None,
                interpolation=_SCALING,
                threads=1,
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise self._unreadable(error) from error
        pixels: Any = scaled.to_ndarray()
        return self.turn.apply(over_white(pixels) if has_alpha else pixels)

    def small_rgb(self, width: int, height: int) -> Pixels:
        try:
            scaled = self.raw.reformat(width=width, height=height, format="rgb24", interpolation=_AVERAGING, threads=1)
        except (av.error.FFmpegError, ValueError) as error:
            raise self._unreadable(error) from error
        pixels: Any = scaled.to_ndarray()
        return np.ascontiguousarray(pixels, np.uint8)

    def _unreadable(self, error: Exception) -> MediaUnsupported:
        return MediaUnsupported(
            f"{self.name}: pixels stored as {self.raw.format.name} cannot be turned into RGB: {error}"
        )


@dataclass(frozen=True)
class Turn:
    """How to bring a decoded frame upright: transpose first, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, pixels: Pixels) -> Pixels:
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        if self.mirror_x:
            pixels = pixels[:, ::-1]
        if self.mirror_y:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


class Turns:
    """The turns of one video's frames.

    PyAV ties a frame whose matrix is read to itself, so that only a collection of garbage frees it and its pixels.
    Therefore the matrix is read once for each rotation that frames state, and not of every frame.
    """

    def __init__(self) -> None:
        self._of_rotation: dict[int, Turn] = {}

    def of(self, frame: VideoFrame) -> Turn:
        """How to bring ``frame`` upright."""
        rotation = frame.rotation
        if rotation not in self._of_rotation:
            self._of_rotation[rotation] = _turn_of(frame)
        return self._of_rotation[rotation]


def _turn_of(frame: VideoFrame) -> Turn:
    """The quarter turn and mirroring that the file's display matrix asks for."""
    try:
        data = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
    except KeyError:
        return Turn()
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if a == d == 0 and b and c:
        return Turn(True, mirror_x=c < 0, mirror_y=b < 0)
    if b == c == 0:
        return Turn(False, mirror_x=a < 0, mirror_y=d < 0)
    return Turn()  # not a multiple of a quarter turn: shown as stored
