"""A new collection out of exported Parquet files: every row is checked, and it is all there or nothing is.

Ids stay, so that what refers to videos and clips from outside goes on doing so.
"""

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
from index.transfer.media_links import bring_media
from index.transfer.media_paths import AllowedPaths
from index.transfer.parquet_format import CLIPS_NAME, VIDEOS_NAME, Label, clip_fields, video_fields
from index.transfer.whole_videos import (
    LARGEST_ID,
    ClipFormat,
    OnRows,
    Row,
    WholeVideo,
    checked_clip,
    checked_video,
    fill,
    new_catalogue,
)
from vitascope.bundle.manifest import Manifest
from vitascope.errors import FingerprintMismatch, InvalidInput

ROWS = 1024
"""Read at a time."""


def import_collection(
    library: CollectionStore,
    folder: Path,
    name: str,
    manifest: Manifest,
    on_rows: OnRows | None = None,
    *,
    allowed: AllowedPaths,
) -> Collection:
    """Create the collection ``name`` with all that was exported to ``folder``.

    Clips without tokens are found by similarity and not reranked. Tokens stay encoded as they are. Media files are not
    part of an export: ``allowed`` says where those may lie that the videos name. Raises InvalidInput
    naming file, row (from 1) and field; FingerprintMismatch unless ``manifest`` is of the bundle that made the vectors;
    CollectionExists and StorageError. There is no collection of this name then.
    """
    with _opened(folder / VIDEOS_NAME) as videos, _opened(folder / CLIPS_NAME) as clips:
        label = _checked_label(videos, clips)
        if label.fingerprint != manifest.fingerprint():
            raise FingerprintMismatch(
                f"{folder}: exported from a collection of bundle {label.bundle}, fingerprint {label.fingerprint[:12]}; "
                f"the bundle in use has {manifest.fingerprint()[:12]}. Use that bundle"
            )
        _check_shapes(label, manifest)
        meta = initial_metadata(manifest, label.token_encoding, library.vectors)
        with library.create_folder(name) as place, new_catalogue(place, meta) as catalogue:
            rows = _rows(VIDEOS_NAME, videos), _rows(CLIPS_NAME, clips)
            # An export by version 0.2.0 says so nowhere.
            whole = _whole_videos(*rows, label, allowed.of_collection(place, is_former=True))
            fill(catalogue, place, whole, clips.metadata.num_rows, on_rows)
            bring_media(library, place, catalogue)
    return library.open(name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InvalidInput(f"folder: {str(path.parent)!r} has no {path.name}; an exported collection was expected")
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{path.name}: {error}; a Parquet file was expected") from error
    with file:
        yield file


def _checked_label(videos: Any, clips: Any) -> Label:
    label = Label.read(VIDEOS_NAME, videos.schema_arrow.metadata)
    other = Label.read(CLIPS_NAME, clips.schema_arrow.metadata)
    if label != other:
        raise InvalidInput(
            f"{CLIPS_NAME}: of export {other.export}; {label.export}, that of {VIDEOS_NAME}, was expected"
        )
    _check_columns(VIDEOS_NAME, videos.schema_arrow, video_fields())
    optional = {name: name in clips.schema_arrow.names for name in ("tokens", "thumbnail")}
    fields = clip_fields(label.vector_width, tokens=optional["tokens"], thumbnails=optional["thumbnail"])
    _check_columns(CLIPS_NAME, clips.schema_arrow, fields)
    return label


def _check_shapes(label: Label, manifest: Manifest) -> None:
    for name in ("vector_width", "visual_tokens", "visual_width"):
        if getattr(label, name) != getattr(manifest, name):
            raise InvalidInput(
                f"{VIDEOS_NAME}: vitascope.{name}: {getattr(label, name)}; the bundle has {getattr(manifest, name)}"
            )


def _check_columns(file: str, schema: Any, fields: list[Any]) -> None:
    for field in fields:
        if field.name not in schema.names:
            raise InvalidInput(f"{file}: column {field.name}: missing; {field.type} was expected")
        found = schema.field(field.name).type
        found = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(found, found)
        same_list = pa.types.is_fixed_size_list(found) and pa.types.is_fixed_size_list(field.type)
        if found != field.type and not (
            same_list and (found.list_size, found.value_type) == (field.type.list_size, field.type.value_type)
        ):
            raise InvalidInput(f"{file}: column {field.name}: {found}; {field.type} was expected")


def _whole_videos(
    videos: Iterator[Row], clips: Iterator[Row], label: Label, allowed: AllowedPaths
) -> Iterator[WholeVideo]:
    """Yield each video with its clips, checked. Both files must be in the order of ids, a video's clips in a row."""
    form = ClipFormat(label.vector_width, label.tokens_shape, label.token_encoding)
    last_video = last_clip = 0
    for row in videos:
        video_id, count = row.values["video_id"], row.values["clip_count"]
        if not last_video < video_id < LARGEST_ID:
            raise row.error(f"video_id: {video_id}; more than {last_video}, that of the row before, was expected")
        video = checked_video(row, allowed)
        if count < 1:
            raise row.error(f"clip_count: {count}; at least 1 was expected")
        own: list[ClipRow] = []
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
            if not last_clip < clip_id < LARGEST_ID or clip_id != first + number:
                wanted = f"more than {last_clip}" if number == 0 else str(first + number)
                raise clip.error(f"clip_id: {clip_id}; {wanted} was expected")
            own.append(checked_clip(clip, form))
            last_clip = clip_id
        last_video = video_id
        yield WholeVideo(row, video_id, row.values["added_at"], video, first, own)
    if (clip := next(clips, None)) is not None:
        raise clip.error(f"video_id: {clip.values['video_id']}; no row of {VIDEOS_NAME} is left for it")


def _rows(name: str, file: Any) -> Iterator[Row]:
    """Every row, with vectors as NumPy arrays. Raises InvalidInput for nulls and for a file that is damaged."""
    number = 0
    nullable = ("tokens", "thumbnail")
    known = {field.name for field in (*video_fields(), *clip_fields(1, tokens=True, thumbnails=True))}
    columns_read = [column for column in file.schema_arrow.names if column in known]
    try:
        for batch in file.iter_batches(batch_size=ROWS, columns=columns_read, use_threads=False):
            columns: dict[str, Any] = {}
            for column, array in zip(batch.schema.names, batch.columns, strict=True):
                if array.null_count and column not in nullable:
                    missing = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                    raise InvalidInput(f"{name}: row {number + missing + 1}: {column}: null; a value was expected")
                columns[column] = _vectors(array) if column == "vector" else array.to_pylist()
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield Row(name, number, dict(zip(columns, values, strict=True)))
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{name}: after row {number}: {error}; a whole Parquet file was expected") from error


def _vectors(array: Any) -> Any:
    """(rows, D) float32; nulls within a vector are NaN, and refused as such."""
    return array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(array), -1)
