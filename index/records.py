"""Records of a collection, and the validation of new ones.

Shape letters: D embedding dim, V visual tokens, W their width.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitascope.errors import InvalidInput

Signal = Literal["visual", "audio"]
"""What an embedding is of: the pictures of a clip, or its sound."""
SIGNALS: tuple[Signal, ...] = ("visual", "audio")
WordSignal = Literal["speech", "screen_text", "name"]
"""Where the words of a query are searched: in what is said and shown in a clip, and in the title and path of its
video."""
WORD_SIGNALS: tuple[WordSignal, ...] = ("speech", "screen_text", "name")
SearchSignal = Literal[Signal, WordSignal]
SEARCH_SIGNALS: tuple[SearchSignal, ...] = (*SIGNALS, *WORD_SIGNALS)
Scalar = str | float | int | bool
Float32 = npt.NDArray[np.float32]

VIDEO_FIELDS = ("video_id", "content_sha256", "path", "title", "duration", "width", "height", "added_at")
"""Fields of every video in filters; metadata may not use these names, nor those of the operators."""
RESERVED_KEYS = frozenset({*VIDEO_FIELDS, "and", "or", "not"})
CLIP_FIELDS = ("start", "end", "length", "text", "screen_text")
"""Fields of every clip in filters, inside ``clip``. Metadata may use these names, and ``clip``, too."""
MAX_KEYS = 64
MAX_KEY_LENGTH = 128
MAX_TEXT_LENGTH = 10_000
MAX_THUMBNAIL_BYTES = 1_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SourceValues:
    """Last values, in a video's source, of fields that were edited since; None for a field that was not edited.

    ``text_sha256``: of the text of all clips.
    """

    title: str | None = None
    metadata: Mapping[str, Scalar] | None = None
    text_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class NewVideo:
    """A video to be added. ``duration``: seconds, 0 for an image; ``width``, ``height``: pixels, 0 for a sound file.

    ``source_uri``: the URL or archive member that a file of the collection was copied from.
    """

    content_sha256: str
    path: str
    title: str
    duration: float
    width: int
    height: int
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    source_uri: str | None = None
    source_values: SourceValues = SourceValues()


@dataclass(frozen=True, slots=True)
class NewClip:
    """A clip to be added.

    Args:
        start: seconds.
        end: seconds; 0 for the only clip of an image.
        embedding: of its pictures, (D,), of any length above 0; None for a clip without pictures.
        visual_tokens: (V, W), finite as float16; None for a clip without pictures.
        text: spoken words.
        thumbnail: a JPEG image.
        audio_embedding: of its sound, (D,), of any length above 0; None for a clip without sound or with silence.
        audio_tokens: of its sound, (T, A), finite as float16; None for a clip without, or if the model fuses no sound.
    """

    start: float
    end: float
    embedding: npt.NDArray[np.floating] | None
    visual_tokens: npt.NDArray[np.floating] | None
    text: str = ""
    thumbnail: bytes | None = None
    audio_embedding: npt.NDArray[np.floating] | None = None
    audio_tokens: npt.NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A video of a collection. ``duration``: seconds; sizes: pixels, 0 of a sound file; ``added_at``: Unix seconds."""

    id: int
    content_sha256: str
    path: str
    title: str
    duration: float
    width: int
    height: int
    metadata: dict[str, Scalar]
    added_at: float
    clip_count: int
    source_uri: str | None = None
    source_values: SourceValues = SourceValues()

    def as_new(self) -> NewVideo:
        """Return the video as one to be added to another collection."""
        return NewVideo(**{field.name: getattr(self, field.name) for field in fields(NewVideo)})


@dataclass(frozen=True, slots=True)
class Clip:
    """A span of a video, in seconds, the words spoken and the lines shown in it; the clip of an image is 0 to 0.

    ``has_sound``: an embedding of its sound is stored.
    """

    id: int
    video_id: int
    start: float
    end: float
    text: str = ""
    screen_text: str = ""
    has_sound: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip, its video, and the cosine of its embedding and the query's (``similarity``)."""

    clip_id: int
    video_id: int
    start: float
    end: float
    similarity: float
    video: Video
    text: str = ""
    screen_text: str = ""
    has_sound: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """The number of videos and clips of a collection."""

    videos: int
    clips: int


@dataclass(frozen=True, slots=True)
class IndexState:
    """The requested kind of index, the kind that is serving, and the number of clips changed since it was built."""

    requested: str
    serving: str
    changed: int


def check_text(name: str, value: object, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return ``value`` if it is a string that can be stored. Raises InvalidInput."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: {value!r} is of type {type(value).__name__}; a string was expected")
    if len(value) > limit:
        raise InvalidInput(f"{name}: {len(value)} characters; at most {limit} were expected")
    if "\0" in value or not _is_unicode(value):
        raise InvalidInput(f"{name}: {value!r} holds a NUL or a lone surrogate; Unicode text was expected")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_scalar(name: str, value: object) -> Scalar:
    """Return ``value`` if it is a string, finite number or boolean that can be stored. Raises InvalidInput."""
    if isinstance(value, str):
        return check_text(name, value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidInput(f"{name}: {value!r}; a string, a finite number of at most 64 bits or a boolean was expected")


def check_metadata(metadata: Mapping[str, object]) -> dict[str, Scalar]:
    """Return ``metadata`` if every key and value can be stored. Raises InvalidInput that names the key."""
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata: {metadata!r}; an object of keys and values was expected")
    if len(metadata) > MAX_KEYS:
        raise InvalidInput(f"metadata: {len(metadata)} keys; at most {MAX_KEYS} were expected")
    checked = {}
    for key, value in metadata.items():
        check_text("metadata key", key, MAX_KEY_LENGTH)
        if not key or key in RESERVED_KEYS:
            raise InvalidInput(
                f"metadata: key {key!r} is empty or reserved; reserved are {', '.join(sorted(RESERVED_KEYS))}"
            )
        checked[key] = check_scalar(f"metadata[{key!r}]", value)
    return checked


def check_video(video: NewVideo) -> NewVideo:
    """Return ``video`` if it can be stored. Raises InvalidInput that names the field."""
    if not isinstance(video.content_sha256, str) or not _SHA256.fullmatch(video.content_sha256):
        raise InvalidInput(f"content_sha256: {video.content_sha256!r}; 64 lower-case hex digits were expected")
    check_text("path", video.path)
    if video.source_uri is not None:
        check_text("source_uri", video.source_uri)
    check_text("title", video.title)
    if not math.isfinite(video.duration) or video.duration < 0:
        raise InvalidInput(f"duration: {video.duration!r}; finite seconds, not negative, were expected")
    is_sound = video.width == video.height == 0
    if not is_sound and (video.width < 1 or video.height < 1):
        raise InvalidInput(
            f"width, height: {video.width}x{video.height}; at least one pixel each was expected, or 0x0 of sound"
        )
    check_metadata(video.metadata)
    return video


def check_span(start: float, end: float) -> tuple[float, float]:
    """Return (start, end) as floats if it is a span, or (0, 0) for an image. Raises InvalidInput."""
    start, end = float(start), float(end)
    is_picture = start == end == 0
    if not (math.isfinite(start) and math.isfinite(end) and start >= 0 and (start < end or is_picture)):
        raise InvalidInput(f"clip: {start} to {end} s; 0 <= start < end (0 to 0 for a picture) was expected")
    return start, end


def check_thumbnail(jpeg: bytes | None) -> bytes | None:
    """Return ``jpeg`` if it can be a thumbnail. Raises InvalidInput."""
    if jpeg is not None and not (jpeg[:2] == b"\xff\xd8" and len(jpeg) <= MAX_THUMBNAIL_BYTES):
        raise InvalidInput(
            f"thumbnail: {len(jpeg)} bytes that begin {jpeg[:4]!r}; a JPEG of at most {MAX_THUMBNAIL_BYTES} bytes was "
            "expected"
        )
    return jpeg


def check_embedding(embedding: npt.ArrayLike, dim: int, name: str = "embedding") -> Float32:
    """Return an embedding (D,) as float32 of length 1.

    Raises InvalidInput, beginning with ``name``, for a shape other than (``dim``,), NaN, infinity and zero.
    """
    try:
        array = np.asarray(embedding, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: {error}; {dim} numbers were expected") from error
    if array.shape != (dim,):
        raise InvalidInput(f"{name}: shape {array.shape}; ({dim},) was expected")
    length = float(np.linalg.norm(array))
    if not math.isfinite(length) or length < 1e-12:
        raise InvalidInput(f"{name}: its length is {length}; finite numbers, not all zero, were expected")
    return (array / length).astype(np.float32)


def check_tokens(tokens: npt.ArrayLike, shape: tuple[int, int], name: str) -> npt.NDArray[np.float16]:
    """Return ``tokens`` of ``shape`` as float16.

    Raises InvalidInput, beginning with ``name``, for another shape or numbers beyond float16.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            array = np.asarray(tokens).astype("<f2")
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{name}: {error}; an array {shape} was expected") from error
    if array.shape != shape:
        raise InvalidInput(f"{name}: shape {array.shape}; {shape} was expected")
    if not np.isfinite(array).all():
        raise InvalidInput(f"{name}: not finite as float16; finite numbers below 65504 were expected")
    return array


def value_kind(value: Scalar) -> str:
    """Return the kind of a metadata value in the catalogue: text, number or bool."""
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"


def source_values_json(values: SourceValues) -> str | None:
    """Return the stored form of source values; None for a video that was not edited."""
    return None if values == SourceValues() else json.dumps(asdict(values), ensure_ascii=False, sort_keys=True)


def parse_source_values(text: str | None) -> SourceValues:
    """Return source values from their stored form. Raises InvalidInput."""
    if text is None:
        return SourceValues()
    try:
        values = SourceValues(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"source_values: {error}; title, metadata and text_sha256 were expected") from error
    if values.title is not None:
        check_text("source_values: title", values.title)
    if values.metadata is not None:
        check_metadata(values.metadata)
    if values.text_sha256 is not None:
        check_text("source_values: text_sha256", values.text_sha256)
    return values


def metadata_json(metadata: Mapping[str, Scalar]) -> str:
    """Return the stored form of metadata."""
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)
