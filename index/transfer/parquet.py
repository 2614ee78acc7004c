"""Parquet export of a collection in use, and import as a new collection: all rows are checked, all ids are kept.

``videos.parquet`` has one row per video, in order of ``video_id``; ``clips.parquet`` one row per clip, in order of
``clip_id``, and therefore of the videos. Needs the extra ``parquet``.

Shape letters: D embedding width, V visual tokens, W their width.
"""

from __future__ import annotations

import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.collection import Collection
from index.collection_store import CollectionStore, initial_metadata
from index.storage.fulltext import STEMMING_KEY
from index.storage.queries import ClipRow, count_embeddings
from index.storage.transfer import count_clips, select_clips, select_videos, set_sequences
from index.storage.video_text import load_video_text
from index.transfer import ProgressCallback
from index.transfer.export_header import ExportHeader
from index.transfer.foreign_rows import clip_format
from index.transfer.media import AllowedPaths, link_media
from index.transfer.new_catalogue import (
    MAX_ID,
    CheckedVideo,
    ClipFormat,
    ForeignRow,
    check_clip_row,
    check_video_row,
    new_catalogue,
    write_videos,
)
from index.transfer.text_columns import TEXT_COLUMNS, check_text_columns, text_columns
from vitascope.bundle.manifest import Manifest
from vitascope.durable_files import atomic_path
from vitascope.errors import FingerprintMismatch, InvalidInput, StorageError

VIDEOS_NAME, CLIPS_NAME = "videos.parquet", "clips.parquet"
VECTORS = ("vector", "audio_vector")
"""Columns of embeddings."""
ROW_GROUP_BYTES = 32 * 1024 * 1024
"""Approximate size of a row group; some of its data are in memory several times."""
IMPORT_BATCH_ROWS = 1024
_FETCH_ROWS = 128
"""Rows converted to Arrow at a time; the conversion holds the GIL."""


class ClipColumns(NamedTuple):
    """The optional columns of ``clips.parquet`` that a file has."""

    audio: bool
    tokens: bool
    audio_tokens: bool
    thumbnails: bool


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Number of videos and clips written, and the size of the files."""

    videos: int
    clips: int
    bytes: int


def video_fields() -> list[Any]:
    """Return the columns of ``videos.parquet``.

    Duration is in seconds, sizes in pixels, ``added_at`` in Unix seconds; ``metadata`` and ``source_values`` are JSON
    objects, the latter as ``records.SourceValues``; ``TEXT_COLUMNS`` are JSON, of the fields of ``VideoText``. Older
    exports lack the columns from ``source_uri`` on.
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
        pa.field("source_uri", pa.string()),
        pa.field("source_values", pa.string()),
        *(pa.field(name, pa.string()) for name in TEXT_COLUMNS),
    ]


def clip_fields(width: int, *, audio: bool, tokens: bool, audio_tokens: bool, thumbnails: bool) -> list[Any]:
    """Return the columns of ``clips.parquet``.

    ``start`` and ``end`` are in seconds, ``vector`` is float32 (D,) of length 1. Optional columns are ``audio_vector``
    (embedding of the sound, in the same form), ``tokens`` and ``audio_tokens`` (encoded) and ``thumbnail`` (JPEG); they
    are null for a clip without them. With ``audio``, ``vector`` is null for a clip without pictures.
    """
    embedding = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    fields = [
        pa.field("clip_id", pa.int64(), nullable=False),
        pa.field("video_id", pa.int64(), nullable=False),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("vector", embedding, nullable=audio),
    ]
    if audio:
        fields.append(pa.field("audio_vector", embedding))
    if tokens:
        fields.append(pa.field("tokens", pa.binary()))
    if audio_tokens:
        fields.append(pa.field("audio_tokens", pa.binary()))
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
    """Write a consistent snapshot of the collection into the new ``folder``.

    Concurrent reads and writes are possible. The folder gets its name when both files are complete and durable. Memory
    use does not depend on the size of the collection.

    Args:
        collection: the collection to export.
        folder: folder to create.
        tokens: include visual and audio tokens, without which an imported collection cannot rerank.
        thumbnails: include thumbnails.
        on_progress: called with the number of written clips and their total.

    Raises:
        InvalidInput: ``folder`` exists, or its parent does not.
        CollectionNotFound, StorageError.
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
                audio_tokens = tokens and "audio" in collection.token_shapes
                options = ClipColumns("audio" in collection.signals, tokens, audio_tokens, thumbnails)
                vectors = count_embeddings(connection, "visual") if "visual" in collection.signals else 0
                clips = _write_clips(connection, temp_path / CLIPS_NAME, header, options, vectors, on_progress)
            size = sum(entry.stat().st_size for entry in temp_path.iterdir())
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{folder}: collection {collection.name} was not exported: {error}") from error
    return ExportResult(videos, clips, size)


def _header(collection: Collection) -> ExportHeader:
    visual_tokens, visual_width = collection.token_shapes["visual"]
    audio_tokens, audio_width = collection.token_shapes.get("audio", (0, 0))
    return ExportHeader(
        export=uuid.uuid4().hex,
        collection=collection.name,
        bundle=collection.bundle_name,
        fingerprint=collection.fingerprint,
        vector_width=collection.embed_dim,
        visual_tokens=visual_tokens,
        visual_width=visual_width,
        audio_tokens=audio_tokens,
        audio_width=audio_width,
        token_encoding=collection.token_encoding,
        exported_at=time.time(),
        stemming=collection.stemming(),
    )


def _write_videos(connection: sqlite3.Connection, path: Path, header: ExportHeader) -> int:
    schema = pa.schema(video_fields(), metadata=header.to_metadata())
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _row_groups(select_videos(connection), lambda rows: _video_batch(connection, rows, schema)):
            writer.write_table(group)
            count += len(group)
    return count


def _write_clips(
    connection: sqlite3.Connection,
    path: Path,
    header: ExportHeader,
    columns: ClipColumns,
    vectors: int,
    on_progress: ProgressCallback | None,
) -> int:
    """Write the clips and return their number. ``vectors``: expected visual embeddings. Raises StorageError."""
    schema = pa.schema(clip_fields(header.vector_width, **columns._asdict()), metadata=header.to_metadata())
    total, missing = count_clips(connection), vectors
    count = 0
    # No dictionary encoding of embeddings and tokens, which hardly repeat.
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["text"]) as writer:
        width = header.vector_width
        for group in _row_groups(
            select_clips(connection, **columns._asdict()),
            lambda rows: _clip_batch(rows, schema, width),
        ):
            writer.write_table(group)
            count += len(group)
            missing -= len(group) - group.column("vector").null_count
            if on_progress is not None:
                on_progress(count, total)
    if missing:
        raise StorageError(f"{missing} of {total} clips have no vector; the catalogue is damaged")
    return count


def _video_batch(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    rows = [(*row, *text_columns(load_video_text(connection, row[0]))) for row in rows]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.record_batch(columns, schema=schema)


def _clip_batch(rows: Sequence[tuple[Any, ...]], schema: Any, width: int) -> Any:
    columns = []
    for column, field in zip(zip(*rows, strict=True), schema, strict=True):
        if field.name not in VECTORS:
            columns.append(pa.array(column, field.type))
            continue
        blobs = [bytes(4 * width) if blob is None and field.nullable else blob for blob in column]
        if any(blob is None or len(blob) != 4 * width for blob in blobs):
            raise StorageError(f"a vector is not {width} float32 numbers; the catalogue is damaged")
        numbers = pa.array(np.frombuffer(b"".join(blobs), "<f4"))
        mask = pa.array([blob is None for blob in column]) if field.nullable else None
        columns.append(pa.FixedSizeListArray.from_arrays(numbers, type=field.type, mask=mask))
    return pa.record_batch(columns, schema=schema)


def _row_groups(cursor: sqlite3.Cursor, batch_of: Callable[[list[tuple[Any, ...]]], Any]) -> Iterator[Any]:
    """Yield tables of about ``ROW_GROUP_BYTES``, converted in batches so that other threads get the GIL in between."""
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


# Import


def import_collection(
    library: CollectionStore,
    folder: Path,
    name: str,
    manifest: Manifest,
    on_progress: ProgressCallback | None = None,
    *,
    allowed: AllowedPaths,
) -> Collection:
    """Create the collection ``name`` from the export in ``folder``.

    Clips without visual tokens are found by similarity, but not reranked. An export contains no media files. After an
    error, no collection exists.

    Args:
        library: store in which the collection is created.
        folder: folder of the export.
        name: name of the new collection.
        manifest: manifest of the bundle in use.
        on_progress: called with the number of imported clips and their total.
        allowed: folders that may contain the media files that the videos name.

    Raises:
        InvalidInput: a row is invalid; the message names file, row (from 1) and field.
        FingerprintMismatch: another bundle computed the embeddings.
        CollectionExists, StorageError.
    """
    with _open_parquet(folder / VIDEOS_NAME) as videos, _open_parquet(folder / CLIPS_NAME) as clips:
        header = _read_header(videos, clips)
        if header.fingerprint != manifest.fingerprint():
            raise FingerprintMismatch(
                f"{folder}: exported from a collection of bundle {header.bundle}, "
                f"fingerprint {header.fingerprint[:12]}; the bundle in use has {manifest.fingerprint()[:12]}. "
                "Use that bundle"
            )
        _check_shapes(header, manifest)
        meta = initial_metadata(manifest, header.token_encoding, library.vectors, dimensions=header.vector_width)
        meta[STEMMING_KEY] = header.stemming
        with library.create_folder(name) as new_folder, new_catalogue(new_folder, meta) as catalogue:
            rows = _read_rows(VIDEOS_NAME, videos), _read_rows(CLIPS_NAME, clips)
            # An export by version 0.2.0 is not marked as such.
            paths = allowed.for_collection(new_folder, is_legacy=True)
            checked = _check_videos(*rows, clip_format(meta), paths)
            write_videos(catalogue, new_folder, checked, clips.metadata.num_rows, on_progress)
            with catalogue.write() as connection:
                set_sequences(connection, {"jobs": _last_job(connection)})
            link_media(library, new_folder, catalogue)
    return library.open(name)


def _last_job(connection: sqlite3.Connection) -> int:
    """Return the last job whose folder has a video's file, since the folders of later jobs must be others."""
    paths = connection.execute("SELECT path FROM videos WHERE path LIKE 'media/job-%'")
    matches = (re.match(r"media/job-(\d{1,15})/", path) for (path,) in paths)
    return max((int(match[1]) for match in matches if match), default=0)


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InvalidInput(f"folder: {str(path.parent)!r} has no {path.name}; an exported collection was expected")
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{path.name}: {error}; a Parquet file was expected") from error
    with file:
        yield file


def _read_header(videos: Any, clips: Any) -> ExportHeader:
    header = ExportHeader.from_metadata(VIDEOS_NAME, videos.schema_arrow.metadata)
    clips_header = ExportHeader.from_metadata(CLIPS_NAME, clips.schema_arrow.metadata)
    if header != clips_header:
        raise InvalidInput(
            f"{CLIPS_NAME}: of export {clips_header.export}; {header.export}, that of {VIDEOS_NAME}, was expected"
        )
    names = videos.schema_arrow.names
    fields = [field for field in video_fields() if field.name in names or not field.nullable]
    _check_columns(VIDEOS_NAME, videos.schema_arrow, fields)
    optional = ("audio_vector", "tokens", "audio_tokens", "thumbnail")
    columns = ClipColumns(*(name in clips.schema_arrow.names for name in optional))
    _check_columns(CLIPS_NAME, clips.schema_arrow, clip_fields(header.vector_width, **columns._asdict()))
    return header


def _check_shapes(header: ExportHeader, manifest: Manifest) -> None:
    try:
        manifest.check_dimensions(header.vector_width)
    except InvalidInput as error:
        raise InvalidInput(f"{VIDEOS_NAME}: vitascope.vector_width: {error}") from error
    audio = manifest.audio
    audio_sizes = (audio.tokens, audio.width) if audio and header.audio_tokens else (0, 0)
    sizes = (manifest.visual_tokens, manifest.visual_width, *audio_sizes)
    names = ("visual_tokens", "visual_width", "audio_tokens", "audio_width")
    for name, size in zip(names, sizes, strict=True):
        if getattr(header, name) != size:
            raise InvalidInput(f"{VIDEOS_NAME}: vitascope.{name}: {getattr(header, name)}; the bundle has {size}")


def _check_columns(file: str, schema: Any, fields: list[Any]) -> None:
    for field in fields:
        if (count := schema.names.count(field.name)) != 1:
            problem = "occurs more than once" if count else "missing"
            raise InvalidInput(f"{file}: column {field.name}: {problem}; {field.type} was expected")
        actual = schema.field(field.name).type
        actual = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(actual, actual)
        are_lists = pa.types.is_fixed_size_list(actual) and pa.types.is_fixed_size_list(field.type)
        if actual != field.type and not (
            are_lists and (actual.list_size, actual.value_type) == (field.type.list_size, field.type.value_type)
        ):
            raise InvalidInput(f"{file}: column {field.name}: {actual}; {field.type} was expected")


def _check_videos(
    videos: Iterator[ForeignRow],
    clips: Iterator[ForeignRow],
    clip_format: ClipFormat,
    allowed: AllowedPaths,
) -> Iterator[CheckedVideo]:
    """Check and yield each video with its clips. Both files must be ordered by id, with a video's clips consecutive."""
    last_video = last_clip = 0
    for row in videos:
        video_id, count = row.values["video_id"], row.values["clip_count"]
        if not last_video < video_id < MAX_ID:
            raise row.error(f"video_id: {video_id}; more than {last_video}, that of the row before, was expected")
        video = check_video_row(row, allowed)
        has_pictures = video.width > 0
        if count < 1:
            raise row.error(f"clip_count: {count}; at least 1 was expected")
        clip_rows: list[ClipRow] = []
        first = last_clip + 1
        for number in range(count):
            clip = next(clips, None)
            if clip is None or clip.values["video_id"] != video_id:
                where = "the file ends" if clip is None else f"row {clip.number} is of video {clip.values['video_id']}"
                raise InvalidInput(
                    f"{CLIPS_NAME}: {where} after {number} clips of video {video_id}; {count} in a row were expected "
                    f"({VIDEOS_NAME}: row {row.number}: clip_count)"
                )
            clip_id = clip.values["clip_id"]
            if number == 0:
                first = clip_id
            if not last_clip < clip_id < MAX_ID or clip_id != first + number:
                expected = f"more than {last_clip}" if number == 0 else str(first + number)
                raise clip.error(f"clip_id: {clip_id}; {expected} was expected")
            clip_rows.append(check_clip_row(clip, clip_format, has_pictures=has_pictures))
            last_clip = clip_id
        last_video = video_id
        yield CheckedVideo(row, video_id, row.values["added_at"], video, first, clip_rows, check_text_columns(row))
    if (clip := next(clips, None)) is not None:
        raise clip.error(f"video_id: {clip.values['video_id']}; no row of {VIDEOS_NAME} is left for it")


def _read_rows(name: str, file: Any) -> Iterator[ForeignRow]:
    """Yield every row, with embeddings as NumPy arrays. Raises InvalidInput for nulls and for a damaged file."""
    number = 0
    has_audio = "audio_vector" in file.schema_arrow.names
    columns_of_clips = clip_fields(1, audio=has_audio, tokens=True, audio_tokens=True, thumbnails=True)
    fields = (*video_fields(), *columns_of_clips)
    nullable = {field.name: field.nullable for field in fields}
    used = [column for column in file.schema_arrow.names if column in nullable]
    try:
        for batch in file.iter_batches(batch_size=IMPORT_BATCH_ROWS, columns=used, use_threads=False):
            columns: dict[str, Any] = {}
            for column, array in zip(batch.schema.names, batch.columns, strict=True):
                if array.null_count and not nullable[column]:
                    missing = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                    raise InvalidInput(f"{name}: row {number + missing + 1}: {column}: null; a value was expected")
                try:
                    columns[column] = _to_vectors(array) if column in VECTORS else array.to_pylist()
                except UnicodeDecodeError as error:
                    raise InvalidInput(f"{name}: after row {number}: {column}: not UTF-8 ({error})") from error
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield ForeignRow(name, number, dict(zip(columns, values, strict=True)))
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{name}: after row {number}: {error}; a complete Parquet file was expected") from error


def _to_vectors(array: Any) -> Any:
    """Return an embedding (D,) float32 or None for each row; nulls within an embedding become NaN, rejected later."""
    present = array.is_valid().to_numpy(zero_copy_only=False)
    rows = iter(
        array.flatten()
        .to_numpy(zero_copy_only=False)
        .astype(np.float32)
        .reshape(int(present.sum()), array.type.list_size)
    )
    return [next(rows) if is_present else None for is_present in present]
