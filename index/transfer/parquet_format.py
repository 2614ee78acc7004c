"""A collection as two Parquet files in one folder: what their columns are, and what they say about themselves.

``videos.parquet`` has one row for each video, by ``video_id``; ``clips.parquet`` one for each clip, by ``clip_id``,
which is the order of the videos. Needs the extra ``parquet``.

Shape letters: D vector width, V visual tokens, W their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from vitascope.errors import InvalidInput
from vitascope.visual_token_codec import TokenEncoding, check_encoding

VIDEOS_NAME, CLIPS_NAME = "videos.parquet", "clips.parquet"
FORMAT = "1"
_PREFIX = "vitascope."


@dataclass(frozen=True, slots=True)
class Label:
    """What both files say in their schema metadata, under keys that begin with ``vitascope.``.

    ``export``: the same in the two files of one export. ``fingerprint``: of the bundle that made the vectors.
    ``exported_at``: Unix seconds.
    """

    export: str
    collection: str
    bundle: str
    fingerprint: str
    vector_width: int
    visual_tokens: int
    visual_width: int
    token_encoding: TokenEncoding
    exported_at: float

    @property
    def tokens_shape(self) -> tuple[int, int]:
        """(V, W)."""
        return self.visual_tokens, self.visual_width

    def metadata(self) -> dict[str, str]:
        """As Parquet keeps it."""
        values = {name: str(getattr(self, name)) for name in self.__slots__}
        return {f"{_PREFIX}{name}": value for name, value in {"format": FORMAT, **values}.items()}

    @classmethod
    def read(cls, file: str, metadata: dict[bytes, bytes] | None) -> Self:
        """From the schema metadata of ``file``. Raises InvalidInput naming the key."""
        pairs = (metadata or {}).items()
        found = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in pairs}
        stated = {name: found.get(_PREFIX + name) for name in ("format", *cls.__slots__)}
        for name, value in stated.items():
            if value is None:
                raise InvalidInput(f"{file}: no {_PREFIX}{name} in its metadata; an exported collection was expected")
        if (version := stated.pop("format")) != FORMAT:
            raise InvalidInput(f"{file}: {_PREFIX}format: {version!r}; {FORMAT!r} was expected")
        values: dict[str, Any] = dict(stated)
        for name, kind in (
            ("vector_width", int),
            ("visual_tokens", int),
            ("visual_width", int),
            ("exported_at", float),
            ("token_encoding", check_encoding),
        ):
            try:
                values[name] = kind(values[name])
            except (ValueError, InvalidInput) as error:
                raise InvalidInput(f"{file}: {_PREFIX}{name}: {error}") from error
        return cls(**values)


def video_fields() -> list[Any]:
    """Columns of ``videos.parquet``: duration in seconds, sizes in pixels, ``added_at`` in Unix seconds, ``metadata``
    as a JSON object."""
    return [
        pa.field("video_id", pa.int64(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("added_at", pa.float64(), nullable=False),
        pa.field("clip_count", pa.int64(), nullable=False),
    ]


def clip_fields(width: int, *, tokens: bool, thumbnails: bool) -> list[Any]:
    """Columns of ``clips.parquet``: span in seconds, ``vector`` float32 (D,) of length 1, and where they are wanted
    ``tokens`` (encoded, null for a clip without) and ``thumbnail`` (JPEG, null for a clip without)."""
    fields = [
        pa.field("clip_id", pa.int64(), nullable=False),
        pa.field("video_id", pa.int64(), nullable=False),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.field("element", pa.float32(), nullable=False), width), nullable=False),
    ]
    if tokens:
        fields.append(pa.field("tokens", pa.binary()))
    if thumbnails:
        fields.append(pa.field("thumbnail", pa.binary()))
    return fields
