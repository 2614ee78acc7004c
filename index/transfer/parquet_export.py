"""Parquet export of a collection in use, and the format of its files.

``videos.parquet`` has one row for each video, by ``video_id``; ``clips.parquet`` one for each clip, by ``clip_id``,
which is the order of the videos. Needs the extra ``parquet``.

Shape letters: D embedding width, V visual tokens, W their width.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.collection import Collection
from index.storage.transfer import count_clips, select_clips, select_videos
from index.transfer import ProgressCallback
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, StorageError
from vitascope.visual_token_codec import TokenEncoding, check_encoding

VIDEOS_NAME, CLIPS_NAME = "videos.parquet", "clips.parquet"
FORMAT = "1"
_PREFIX = "vitascope."
ROW_GROUP_BYTES = 32 * 1024 * 1024
"""Approximate size of a row group; some of it is in memory several times."""
_FETCH_ROWS = 128
"""Rows converted to Arrow at a time, while no other thread runs."""


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """What both files store in their schema metadata, under keys that begin with ``vitascope.``.

    Attributes:
        export: an id, the same in the two files of one export.
        collection: name of the collection.
        bundle: name of the bundle that computed the embeddings.
        fingerprint: of that bundle.
        vector_width: D.
        visual_tokens: V, visual tokens of a clip.
        visual_width: W, width of a visual token.
        token_encoding: of the visual tokens.
        exported_at: Unix seconds.
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

    def to_metadata(self) -> dict[str, str]:
        """Return the header as schema metadata."""
        values = {name: str(getattr(self, name)) for name in self.__slots__}
        return {f"{_PREFIX}{name}": value for name, value in {"format": FORMAT, **values}.items()}

    @classmethod
    def from_metadata(cls, file: str, metadata: dict[bytes, bytes] | None) -> Self:
        """Return the header in the schema metadata of ``file``. Raises InvalidInput naming the key."""
        pairs = (metadata or {}).items()
        stored = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in pairs}
        fields = {name: stored.get(_PREFIX + name) for name in ("format", *cls.__slots__)}
        for name, value in fields.items():
            if value is None:
                raise InvalidInput(f"{file}: no {_PREFIX}{name} in its metadata; an exported collection was expected")
        if (version := fields.pop("format")) != FORMAT:
            raise InvalidInput(f"{file}: {_PREFIX}format: {version!r}; {FORMAT!r} was expected")
        values: dict[str, Any] = dict(fields)
        for name, parse in (
            ("vector_width", int),
            ("visual_tokens", int),
            ("visual_width", int),
            ("exported_at", float),
            ("token_encoding", check_encoding),
        ):
            try:
                values[name] = parse(values[name])
            except (ValueError, InvalidInput) as error:
                raise InvalidInput(f"{file}: {_PREFIX}{name}: {error}") from error
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Number of videos and clips written, and the size of the files."""

    videos: int
    clips: int
    bytes: int


def video_fields() -> list[Any]:
    """Return the columns of ``videos.parquet``.

    Duration is in seconds, sizes in pixels, ``added_at`` in Unix seconds, ``metadata`` a JSON object.
    """
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
    """Return the columns of ``clips.parquet``.

    The span is in seconds, ``vector`` float32 (D,) of length 1; optional are ``tokens`` (encoded) and ``thumbnail``
    (JPEG), which are null for a clip without.
    """
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


def export_collection(
    collection: Collection,
    folder: Path,
    *,
    tokens: bool = False,
    thumbnails: bool = False,
    on_progress: ProgressCallback | None = None,
) -> ExportResult:
    """Write the collection as it is at this moment into the new ``folder``.

    Concurrent reads and writes go on. The folder appears when both files are complete and durable. Memory does not grow
    with the collection.

    Args:
        tokens: include visual tokens, without which an imported collection cannot rerank.
        thumbnails: include thumbnails.

    Raises:
        InvalidInput where ``folder`` exists or its parent does not, CollectionNotFound and StorageError.
    """
    if folder.exists():
        raise InvalidInput(f"folder: {str(folder)!r} exists; a new folder was expected")
    if not folder.parent.is_dir():
        raise InvalidInput(f"folder: {str(folder.parent)!r} is not a folder; a name in an existing one was expected")
    header = _header(collection)
    try:
        with atomic_path(folder) as temp_path:
            temp_path.mkdir()
            with collection.catalogue.read() as connection:
                videos = _write_videos(connection, temp_path / VIDEOS_NAME, header)
                clips = _write_clips(connection, temp_path / CLIPS_NAME, header, tokens, thumbnails, on_progress)
            size = sum(entry.stat().st_size for entry in temp_path.iterdir())
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{folder}: collection {collection.name} was not exported: {error}") from error
    return ExportResult(videos, clips, size)


def _header(collection: Collection) -> ExportHeader:
    visual_tokens, visual_width = collection.tokens_shape
    return ExportHeader(
        export=uuid.uuid4().hex,
        collection=collection.name,
        bundle=collection.bundle_name,
        fingerprint=collection.fingerprint,
        vector_width=collection.embed_dim,
        visual_tokens=visual_tokens,
        visual_width=visual_width,
        token_encoding=collection.token_encoding,
        exported_at=time.time(),
    )


def _write_videos(connection: sqlite3.Connection, path: Path, header: ExportHeader) -> int:
    schema = pa.schema(video_fields(), metadata=header.to_metadata())
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _row_groups(select_videos(connection), lambda rows: _video_batch(rows, schema)):
            writer.write_table(group)
            count += len(group)
    return count


def _write_clips(
    connection: sqlite3.Connection,
    path: Path,
    header: ExportHeader,
    tokens: bool,
    thumbnails: bool,
    on_progress: ProgressCallback | None,
) -> int:
    schema = pa.schema(
        clip_fields(header.vector_width, tokens=tokens, thumbnails=thumbnails), metadata=header.to_metadata()
    )
    total = count_clips(connection)
    count = 0
    # No dictionaries of embeddings and encoded tokens, which hardly repeat.
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["text"]) as writer:
        width = header.vector_width
        for group in _row_groups(
            select_clips(connection, tokens=tokens, thumbnails=thumbnails),
            lambda rows: _clip_batch(rows, schema, width),
        ):
            writer.write_table(group)
            count += len(group)
            if on_progress is not None:
                on_progress(count, total)
    if count != total:
        raise StorageError(f"{total - count} of {total} clips have no vector; the catalogue is damaged")
    return count


def _video_batch(rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.record_batch(columns, schema=schema)


def _clip_batch(rows: Sequence[tuple[Any, ...]], schema: Any, width: int) -> Any:
    columns = []
    for column, field in zip(zip(*rows, strict=True), schema, strict=True):
        if field.name != "vector":
            columns.append(pa.array(column, field.type))
            continue
        if any(len(blob) != 4 * width for blob in column):
            raise StorageError(f"a vector is not {width} float32 numbers; the catalogue is damaged")
        numbers = pa.array(np.frombuffer(b"".join(column), "<f4"))
        columns.append(pa.FixedSizeListArray.from_arrays(numbers, type=field.type))
    return pa.record_batch(columns, schema=schema)


def _row_groups(cursor: sqlite3.Cursor, batch_of: Callable[[list[tuple[Any, ...]]], Any]) -> Iterator[Any]:
    """Yield tables of about ``ROW_GROUP_BYTES``, converted in batches so that other threads run in between."""
    batches: list[Any] = []
    size = 0
    while rows := cursor.fetchmany(_FETCH_ROWS):
        batches.append(batch_of(rows))
        size += batches[-1].nbytes
        if size >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(batches)
            batches, size = [], 0
    if batches:
        yield pa.Table.from_batches(batches)
