"""Still and animated pictures: decoding with Pillow, and frame durations from the structure of the file."""

from __future__ import annotations

import bisect
import itertools
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitascope.errors import MediaCorrupt, MediaTooLarge, MediaUnsupported, VitascopeError
from vitascope.extras import missing_package_message
from vitascope.media.file import MediaFile
from vitascope.media.formats import MAX_MISSING_FRACTION, missing_bytes
from vitascope.media.frame import Frame, Pixels
from vitascope.media.limits import MediaLimits

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # for sizes that ``MediaLimits`` allow or reject
_EXIF_ORIENTATION = 0x0112
_PILLOW_PIXELS = 2**26
"""Minimum of Pillow's own pixel limit, so that ``MediaLimits`` rejects large pictures, with their size."""
_TIME_TOLERANCE = 1e-6
"""Tolerance in seconds, as sums of durations are not exact."""
_DEFAULT_FRAME_SECONDS = 0.1
"""Seconds for which a frame with the duration zero is shown, as in browsers."""


@dataclass(frozen=True)
class PictureFrame:
    """A frame decoded by Pillow: an upright RGB image."""

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

    def thumbnail_rgb(self, width: int, height: int) -> Pixels:
        return np.array(self.image.resize((width, height), Image.Resampling.BOX), np.uint8)


@cache
def has_heif() -> bool:
    """Register the decoder of HEIC pictures with Pillow; return whether its package is installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


@contextmanager
def open_picture(file: MediaFile, container: str, limits: MediaLimits) -> Iterator[Image.Image]:
    """Open a picture as ``container`` and read its header, without decoding pixels.

    Raises MediaTooLarge and MediaError for sizes outside ``limits``, and MediaCorrupt for any error in the block.
    """
    if container == "heif" and not has_heif():
        raise MediaUnsupported(f"{file.name}: {missing_package_message('pi_heif', 'a HEIC picture')}")
    # Pillow raises an error above twice this number, also before it allocates larger frames of a GIF.
    Image.MAX_IMAGE_PIXELS = max(limits.max_pixels, _PILLOW_PIXELS)
    try:
        with Image.open(file.reader(), formats=[container.upper()]) as image:
            limits.check_pixels(file.name, *image.size)
            yield image
    except VitascopeError:
        raise
    except MemoryError as error:
        raise MediaTooLarge(f"{file.name}: decoding it needs more memory than there is") from error
    except Image.DecompressionBombError as error:
        size = re.search(r"\d+ pixels", str(error))
        raise limits.pixels_error(file.name, size[0] if size else str(error)) from error
    except UnidentifiedImageError as error:
        raise MediaCorrupt(f"{file.name}: starts like a {container} but has no readable header") from error
    except Exception as error:  # Pillow raises nearly anything for damaged files
        missing = missing_bytes(file, container)
        cause = f"it is truncated by {missing} bytes" if missing else str(error)
        raise MediaCorrupt(f"{file.name}: the {container} cannot be decoded: {cause}") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the displayed (width, height) in pixels, using only the header."""
    width, height = image.size
    is_rotated = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if is_rotated else (width, height)


def picture_frames(
    file: MediaFile, container: str, durations: Sequence[float], times: Sequence[float], limits: MediaLimits
) -> Iterator[tuple[list[int], Frame]]:
    """Decode each distinct frame that is on screen at any of ``times`` (s, any order), once, in display order.

    Args:
        file: File to decode.
        container: png, gif, webp, jpeg, avif or heif.
        durations: Result of ``frame_durations``.
        times: Times in seconds.
        limits: Limits on the file.

    Yields:
        The indices in ``times`` of the times at which a frame is on screen, and the frame.

    Raises:
        MediaCorrupt: A frame cannot be decoded, and more than 10% of the duration is missing.
    """
    starts = frame_starts(durations)
    requested: dict[int, list[int]] = {}
    for position, time in enumerate(times):
        index = max(0, bisect.bisect_right(starts, time + _TIME_TOLERANCE) - 1)
        requested.setdefault(index, []).append(position)
    frame: PictureFrame | None = None
    with open_picture(file, container, limits) as image:
        for index in sorted(requested):
            try:
                frame = _decode_frame(image, index, file, limits)
            except VitascopeError:
                raise
            except Exception:
                if starts[index] == 0:
                    raise
                # The file is truncated: use the frames that decode if they are nearly all.
                last, frame = _last_decodable(file, container, index, limits)
                if (end := starts[last] + durations[last]) < (1 - MAX_MISSING_FRACTION) * sum(durations):
                    raise MediaCorrupt(
                        f"{file.name}: {end:.2f} seconds can be decoded of the {sum(durations):.2f} seconds "
                        "that its structure states"
                    ) from None
            yield requested[index], frame


def frame_starts(durations: Sequence[float]) -> list[float]:
    """Return the start times (s) of the frames of a picture, from the result of ``frame_durations``."""
    return [0.0, *itertools.accumulate(durations)][:-1] or [0.0]


def _decode_frame(image: Image.Image, index: int, file: MediaFile, limits: MediaLimits) -> PictureFrame:
    # The default image of a PNG may be outside its animation, but Pillow counts it.
    index += int(getattr(image, "default_image", False))
    if index:
        image.seek(index)
        limits.check_pixels(file.name, *image.size)  # a GIF may grow
    return PictureFrame(_flatten(image))


def _last_decodable(file: MediaFile, container: str, before: int, limits: MediaLimits) -> tuple[int, PictureFrame]:
    """Return the index of the last decodable frame before the damaged frame ``before``, and the frame."""
    with open_picture(file, container, limits) as image:
        frame = _decode_frame(image, 0, file, limits)
        for index in range(1, before):
            try:
                frame = _decode_frame(image, index, file, limits)
            except Exception:
                return index - 1, frame
    return before - 1, frame


def _flatten(image: Image.Image) -> Image.Image:
    """Convert to upright RGB, with transparency on white."""
    image.load()  # sets the mode of a GIF's frame
    upright = ImageOps.exif_transpose(image) if image.getexif().get(_EXIF_ORIENTATION, 1) != 1 else image
    if upright.mode.startswith("I;16") or upright.mode == "I":
        # 16-bit grey: Pillow would clip everything above 255 to white.
        values = np.asarray(upright, np.uint32)
        grey = (values >> 8).clip(0, 255).astype(np.uint8)
        grey[values == upright.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB", dither=Image.Dither.NONE) if upright.mode != "RGB" else upright.copy()


def frame_durations(file: MediaFile, container: str, limits: MediaLimits) -> list[float]:
    """Return the duration (s) of each frame in display order; an empty list for a still picture.

    Raises:
        MediaTooLarge: There are more frames than ``limits`` allow.
        MediaCorrupt: The file ends before its first frame, or before 90% of the frames in the header of a PNG.
    """
    readers = {"png": _png_durations, "gif": _gif_durations, "webp": _webp_durations}
    if container not in readers:
        return []
    try:
        durations = readers[container](file.reader(), limits.max_frames + 1)
    except (struct.error, IndexError) as error:
        raise MediaCorrupt(f"{file.name}: the {container} is truncated before its first frame") from error
    except ValueError as error:
        raise MediaCorrupt(f"{file.name}: the {container} is truncated: it has {error}") from error
    limits.check_frames(file.name, len(durations))
    return [seconds if seconds > 0 else _DEFAULT_FRAME_SECONDS for seconds in durations]


def display_duration(durations: Sequence[float]) -> float:
    """Return the duration (s) of a picture with these frames; 0.0 for a still picture."""
    return round(sum(durations), 6) if len(durations) > 1 else 0.0


def _png_durations(file: BinaryIO, stop: int) -> list[float]:
    file.seek(8)
    durations: list[float] = []
    count = 0
    while len(durations) < stop and len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"acTL":
            (count,) = struct.unpack(">I", file.read(4))
            length -= 4
        elif kind == b"fcTL" and length == 26:
            fields = file.read(26)
            if len(fields) < 26:
                break
            numerator, denominator = struct.unpack(">HH", fields[20:24])
            durations.append(numerator / (denominator or 100))
            length = 0
        file.seek(length + 4, 1)
    if len(durations) < min(stop, (1 - MAX_MISSING_FRACTION) * count):
        raise ValueError(f"{len(durations)} of the {count} frames that its header states")
    return durations if count else []


def _webp_durations(file: BinaryIO, stop: int) -> list[float]:
    file.seek(12)
    durations: list[float] = []
    while len(durations) < stop and len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        consumed = 0
        if kind == b"ANMF" and length >= 16:
            fields = file.read(16)
            consumed = len(fields)
            durations.append(int.from_bytes(fields[12:15], "little") / 1000)
        file.seek(length + (length & 1) - consumed, 1)
    return durations


def _gif_durations(file: BinaryIO, stop: int) -> list[float]:
    flags = file.read(13)[10]
    file.seek(3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0, 1)
    durations: list[float] = []
    delay = 0.0
    while len(durations) < stop and (introducer := file.read(1)) in (b"!", b","):
        if introducer == b"!":
            is_control = file.read(1) == b"\xf9"
            block = _skip_gif_blocks(file)
            if is_control and len(block) >= 4:
                delay = int.from_bytes(block[1:3], "little") / 100
            continue
        descriptor = file.read(9)
        if len(descriptor) < 9:
            break
        file.seek((3 * 2 ** ((descriptor[8] & 7) + 1) if descriptor[8] & 0x80 else 0) + 1, 1)
        _skip_gif_blocks(file)
        durations.append(delay)
        delay = 0.0
    return durations


def _skip_gif_blocks(file: BinaryIO) -> bytes:
    """Skip a chain of sub-blocks and return the bytes of the first."""
    first = b""
    while (size := file.read(1)) not in (b"", b"\x00"):
        data = file.read(size[0])
        first = first or data
    return first
