"""A collection written as Parquet, for other programs and other machines, while it is in use."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.collection import Collection
from index.transfer.parquet_format import CLIPS_NAME, VIDEOS_NAME, Label, clip_fields, video_fields
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, StorageError

OnRows = Callable[[int, int], None]
"""Takes how many clips are done, and of how many."""

GROUP_BYTES = 32 * 1024 * 1024
"""Of one row group, about; some of it is in memory several times."""
_FETCHED = 128
"""Rows that are made Arrow's at a time, while no other thread runs."""

_VIDEOS = (
    "SELECT id, content_sha256, path, title, duration, width, height, metadata, added_at, clip_count"
    " FROM videos ORDER BY id"
)


@dataclass(frozen=True, slots=True)
class Exported:
    """How much was written."""

    videos: int
    clips: int
    bytes: int


def export_collection(
    collection: Collection,
    folder: Path,
    *,
    tokens: bool = False,
    thumbnails: bool = False,
    on_rows: OnRows | None = None,
) -> Exported:
    """Write the collection as it is at this moment into the new ``folder``.

    Others read and write meanwhile. The folder appears when both files are whole and durable. ``tokens``: with the
    visual tokens, without which an imported collection does not rerank. Memory does not grow with the collection.
    Raises InvalidInput where ``folder`` exists or its parent does not, CollectionNotFound and StorageError.
    """
    if folder.exists():
        raise InvalidInput(f"folder: {str(folder)!r} exists; a new folder was expected")
    if not folder.parent.is_dir():
        raise InvalidInput(f"folder: {str(folder.parent)!r} is not a folder; a name in an existing one was expected")
    label = _label(collection)
    try:
        with atomic_path(folder) as beside:
            beside.mkdir()
            with collection.catalogue.read() as connection:
                videos = _write_videos(connection, beside / VIDEOS_NAME, label)
                clips = _write_clips(connection, beside / CLIPS_NAME, label, tokens, thumbnails, on_rows)
            size = sum(entry.stat().st_size for entry in beside.iterdir())
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{folder}: collection {collection.name} was not exported: {error}") from error
    return Exported(videos, clips, size)


def _label(collection: Collection) -> Label:
    visual_tokens, visual_width = collection.tokens_shape
    return Label(
        export=uuid.uuid4().hex,
        collection=collection.name,
        bundle=collection.bundle_name,
        fingerprint=collection.fingerprint,
        vector_width=collection.width,
        visual_tokens=visual_tokens,
        visual_width=visual_width,
        token_encoding=collection.token_encoding,
        exported_at=time.time(),
    )


def _write_videos(connection: sqlite3.Connection, path: Path, label: Label) -> int:
    schema = pa.schema(video_fields(), metadata=label.metadata())
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(connection.execute(_VIDEOS), lambda rows: _video_batch(rows, schema)):
            writer.write_table(group)
            count += len(group)
    return count


def _write_clips(
    connection: sqlite3.Connection, path: Path, label: Label, tokens: bool, thumbnails: bool, on_rows: OnRows | None
) -> int:
    schema = pa.schema(clip_fields(label.vector_width, tokens=tokens, thumbnails=thumbnails), metadata=label.metadata())
    total = connection.execute("SELECT count(*) FROM clips").fetchone()[0]
    optional = [("tokens", "tokens")] * tokens + [("thumbnails", "jpeg")] * thumbnails
    select = ", ".join(f"{table}.{column}" for table, column in optional)
    joins = " ".join(f"LEFT JOIN {table} ON {table}.clip_id = clips.id" for table, _ in optional)
    query = (
        f"SELECT clips.id, video_id, start, end, text, vector{', ' * bool(select)}{select} FROM clips"
        f" JOIN vectors ON vectors.clip_id = clips.id {joins} ORDER BY clips.id"
    )
    count = 0
    # Vectors and encoded tokens hardly repeat: a dictionary of them would be made in vain.
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["text"]) as writer:
        width = label.vector_width
        for group in _groups(connection.execute(query), lambda rows: _clip_batch(rows, schema, width)):
            writer.write_table(group)
            count += len(group)
            if on_rows is not None:
                on_rows(count, total)
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


def _groups(cursor: sqlite3.Cursor, batch_of: Callable[[list[tuple[Any, ...]]], Any]) -> Iterator[Any]:
    """The rows as tables of about ``GROUP_BYTES``, made batch by batch: other threads get their turn in between."""
    batches: list[Any] = []
    size = 0
    while rows := cursor.fetchmany(_FETCHED):
        batches.append(batch_of(rows))
        size += batches[-1].nbytes
        if size >= GROUP_BYTES:
            yield pa.Table.from_batches(batches)
            batches, size = [], 0
    if batches:
        yield pa.Table.from_batches(batches)
