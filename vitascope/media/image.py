"""Still and animated pictures, through Pillow."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitascope.errors import MediaCorrupt, MediaTooLarge, VitascopeError
from vitascope.media.file import MediaFile
from vitascope.media.frame import Frame, Pixels
from vitascope.media.limits import MediaLimits, check_pixels
from vitascope.media.truncation import MISSING_SHARE, missing_bytes

_EXIF_ORIENTATION = 0x0112
_SHOW_TOLERANCE = 1e-6
"""Seconds; sums of durations are not exact."""


@dataclass(frozen=True)
class PictureFrame:
    """A frame that Pillow decoded, as an upright RGB image."""

    image: Image.Image

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    def rgb(self, width: int, height: int) -> Pixels:
        image = self.image
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.array(image, np.uint8)

    def small_rgb(self, width: int, height: int) -> Pixels:
        return np.array(self.image.resize((width, height), Image.Resampling.BOX), np.uint8)


@contextmanager
def open_picture(file: MediaFile, container: str, limits: MediaLimits) -> Iterator[Image.Image]:
    """The picture's header, read as ``container`` and as nothing else; pixels are not decoded yet.

    Raises MediaTooLarge and MediaError for sizes outside ``limits``; whatever goes wrong inside the
    block becomes MediaCorrupt.
    """
    try:
        with Image.open(file.reader(), formats=[container.upper()]) as image:
            check_pixels(file.name, *image.size, limits)
            yield image
    except VitascopeError:
        raise
    except MemoryError as error:
        raise MediaTooLarge(f"{file.name}: decoding it needs more memory than there is") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaTooLarge(f"{file.name}: {error}; at most {limits.max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise MediaCorrupt(f"{file.name}: starts like a {container} but has no readable header") from error
    except Exception as error:  # for damaged files Pillow raises nearly anything
        missing = missing_bytes(file, container)
        cause = f"it breaks off {missing} bytes early" if missing else str(error)
        raise MediaCorrupt(f"{file.name}: the {container} cannot be decoded: {cause}") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels as shown, from the header alone."""
    width, height = image.size
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def picture_frames(
    file: MediaFile, container: str, seconds: Sequence[float], times: Sequence[float], limits: MediaLimits
) -> Iterator[tuple[list[int], Frame]]:
    """Each distinct frame that ``times`` (s, any order) need, with the positions it answers.

    ``seconds``: what each frame lasts, empty for a still picture. Frames are decoded in order, once.
    Raises MediaCorrupt when a wanted frame cannot be decoded and more than 10% of the time is lost.
    """
    starts = [0.0, *itertools.accumulate(seconds)][:-1] if seconds else [0.0]
    wanted: dict[int, list[int]] = {}
    for position, time in enumerate(times):
        number = max(0, bisect.bisect_right(starts, time + _SHOW_TOLERANCE) - 1)
        wanted.setdefault(number, []).append(position)
    shown: PictureFrame | None = None
    with open_picture(file, container, limits) as image:
        for number in sorted(wanted):
            try:
                shown = _frame(image, number, file, limits)
            except VitascopeError:
                raise
            except Exception:
                if starts[number] == 0:
                    raise
                # The file is broken off: what decodes is used if it is nearly all.
                last, shown = _last_whole(file, container, number, limits)
                if (end := starts[last] + seconds[last]) < (1 - MISSING_SHARE) * sum(seconds):
                    raise MediaCorrupt(
                        f"{file.name}: {end:.2f} seconds can be decoded of the {sum(seconds):.2f} seconds "
                        "that its structure states"
                    ) from None
            yield wanted[number], shown


def _frame(image: Image.Image, number: int, file: MediaFile, limits: MediaLimits) -> PictureFrame:
    # A PNG's default image may stand outside its animation; Pillow counts it all the same.
    number += int(getattr(image, "default_image", False))
    if number:
        image.seek(number)
        check_pixels(file.name, *image.size, limits)  # a GIF may grow
    return PictureFrame(_flatten(image))


def _last_whole(file: MediaFile, container: str, before: int, limits: MediaLimits) -> tuple[int, PictureFrame]:
    """The last frame before the broken frame ``before`` that decodes, and its number."""
    with open_picture(file, container, limits) as image:
        whole = _frame(image, 0, file, limits)
        for number in range(1, before):
            try:
                whole = _frame(image, number, file, limits)
            except Exception:
                return number - 1, whole
    return before - 1, whole


def _flatten(image: Image.Image) -> Image.Image:
    """Upright RGB; transparency over white."""
    image.load()  # only then does Pillow know the mode of a GIF's frame
    shown = ImageOps.exif_transpose(image) if image.getexif().get(_EXIF_ORIENTATION, 1) != 1 else image
    if shown.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in shown.info:
        rgba = shown.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if shown.mode.startswith("I;16") or shown.mode == "I":
        # 16-bit grey: Pillow's own conversion would clip everything above 255 to white.
        grey = (np.asarray(shown, np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return shown.convert("RGB", dither=Image.Dither.NONE) if shown.mode != "RGB" else shown.copy()
