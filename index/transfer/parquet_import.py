"""Parquet import: a new collection of exported files, with every row checked and all ids kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.collection import Collection
from index.collection_store import CollectionStore, initial_metadata
from index.storage.queries import ClipRow
from index.transfer import ProgressCallback
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
from index.transfer.parquet_export import CLIPS_NAME, VIDEOS_NAME, ExportHeader, clip_fields, video_fields
from vitascope.bundle.manifest import Manifest
from vitascope.errors import FingerprintMismatch, InvalidInput

BATCH_ROWS = 1024


def import_collection(
    library: CollectionStore,
    folder: Path,
    name: str,
    manifest: Manifest,
    on_progress: ProgressCallback | None = None,
    *,
    allowed: AllowedPaths,
) -> Collection:
    """Create the collection ``name`` with everything that was exported to ``folder``.

    Clips without visual tokens are found by similarity and not reranked. Media files are not part of an export.

    Args:
        manifest: of the bundle in use.
        allowed: where the media files may lie that the videos name.

    Raises:
        InvalidInput: a row is wrong; the message names file, row (from 1) and field.
        FingerprintMismatch: another bundle computed the embeddings.
        CollectionExists, StorageError. There is no collection of this name then.
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
        meta = initial_metadata(manifest, header.token_encoding, library.vectors)
        with library.create_folder(name) as new_folder, new_catalogue(new_folder, meta) as catalogue:
            rows = _read_rows(VIDEOS_NAME, videos), _read_rows(CLIPS_NAME, clips)
            # An export by version 0.2.0 is not marked as such.
            checked = _check_videos(*rows, header, allowed.for_collection(new_folder, is_legacy=True))
            write_videos(catalogue, new_folder, checked, clips.metadata.num_rows, on_progress)
            link_media(library, new_folder, catalogue)
    return library.open(name)


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
    _check_columns(VIDEOS_NAME, videos.schema_arrow, video_fields())
    optional = {name: name in clips.schema_arrow.names for name in ("tokens", "thumbnail")}
    fields = clip_fields(header.vector_width, tokens=optional["tokens"], thumbnails=optional["thumbnail"])
    _check_columns(CLIPS_NAME, clips.schema_arrow, fields)
    return header


def _check_shapes(header: ExportHeader, manifest: Manifest) -> None:
    for name in ("vector_width", "visual_tokens", "visual_width"):
        if getattr(header, name) != getattr(manifest, name):
            raise InvalidInput(
                f"{VIDEOS_NAME}: vitascope.{name}: {getattr(header, name)}; the bundle has {getattr(manifest, name)}"
            )


def _check_columns(file: str, schema: Any, fields: list[Any]) -> None:
    for field in fields:
        if field.name not in schema.names:
            raise InvalidInput(f"{file}: column {field.name}: missing; {field.type} was expected")
        actual = schema.field(field.name).type
        actual = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(actual, actual)
        are_lists = pa.types.is_fixed_size_list(actual) and pa.types.is_fixed_size_list(field.type)
        if actual != field.type and not (
            are_lists and (actual.list_size, actual.value_type) == (field.type.list_size, field.type.value_type)
        ):
            raise InvalidInput(f"{file}: column {field.name}: {actual}; {field.type} was expected")


def _check_videos(
    videos: Iterator[ForeignRow], clips: Iterator[ForeignRow], header: ExportHeader, allowed: AllowedPaths
) -> Iterator[CheckedVideo]:
    """Yield each video with its clips, checked. Both files must be in the order of ids, a video's clips in a row."""
    clip_format = ClipFormat(header.vector_width, header.tokens_shape, header.token_encoding)
    last_video = last_clip = 0
    for row in videos:
        video_id, count = row.values["video_id"], row.values["clip_count"]
        if not last_video < video_id < MAX_ID:
            raise row.error(f"video_id: {video_id}; more than {last_video}, that of the row before, was expected")
        video = check_video_row(row, allowed)
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
            clip_rows.append(check_clip_row(clip, clip_format))
            last_clip = clip_id
        last_video = video_id
        yield CheckedVideo(row, video_id, row.values["added_at"], video, first, clip_rows)
    if (clip := next(clips, None)) is not None:
        raise clip.error(f"video_id: {clip.values['video_id']}; no row of {VIDEOS_NAME} is left for it")


def _read_rows(name: str, file: Any) -> Iterator[ForeignRow]:
    """Yield every row, with embeddings as NumPy arrays. Raises InvalidInput for nulls and for a damaged file."""
    number = 0
    nullable = ("tokens", "thumbnail")
    known = {field.name for field in (*video_fields(), *clip_fields(1, tokens=True, thumbnails=True))}
    used = [column for column in file.schema_arrow.names if column in known]
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=used, use_threads=False):
            columns: dict[str, Any] = {}
            for column, array in zip(batch.schema.names, batch.columns, strict=True):
                if array.null_count and column not in nullable:
                    missing = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                    raise InvalidInput(f"{name}: row {number + missing + 1}: {column}: null; a value was expected")
                columns[column] = _to_vectors(array) if column == "vector" else array.to_pylist()
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield ForeignRow(name, number, dict(zip(columns, values, strict=True)))
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{name}: after row {number}: {error}; a complete Parquet file was expected") from error


def _to_vectors(array: Any) -> Any:
    """Return embeddings (rows, D) float32; nulls within one become NaN, which is refused later."""
    return array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(array), -1)
