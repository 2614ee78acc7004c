"""A new collection out of exported Parquet files: every row is checked, and it is all there or nothing is.

Ids stay, so that what refers to videos and clips from outside goes on doing so.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.collection import Collection
from index.library import Library, new_meta
from index.records import (
    NewVideo,
    check_metadata,
    check_span,
    check_text,
    check_thumbnail,
    check_vector,
    check_video,
)
from index.storage.catalogue import CATALOGUE_NAME, Catalogue, create_catalogue
from index.storage.former_paths import take_media
from index.storage.rows import ClipRow, insert_whole
from index.transfer.media_links import bring_media
from index.transfer.parquet_format import CLIPS_NAME, VIDEOS_NAME, Label, clip_fields, video_fields
from vitascope.errors import FingerprintMismatch, InvalidInput, StorageError
from vitascope.manifest import Manifest
from vitascope.token_encoding import decode_tokens

OnRows = Callable[[int, int], None]
"""Takes how many clips are done, and of how many."""

ROWS = 1024
"""Read at a time."""
CLIPS_AT_ONCE = 4096
"""Clips in one transaction, about."""
_UNIT = 1e-6
_LARGEST_ID = 2**62


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a file: where it is, and its values by column."""

    file: str
    number: int
    values: dict[str, Any]

    def wrong(self, problem: object) -> InvalidInput:
        return InvalidInput(f"{self.file}: row {self.number}: {problem}")


def import_collection(
    library: Library, folder: Path, name: str, manifest: Manifest, on_rows: OnRows | None = None
) -> Collection:
    """The new collection ``name`` with all that was exported to ``folder``.

    Clips without tokens are found by similarity and not reranked. Tokens stay encoded as they are. Raises InvalidInput
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
        with library.new_folder(name) as place:
            path = place / CATALOGUE_NAME
            create_catalogue(path, new_meta(manifest, label.token_encoding, library.vectors))
            catalogue = Catalogue(path)
            try:
                _fill(catalogue, place, videos, clips, label, on_rows)
                with catalogue.write() as connection:
                    take_media(connection, place)  # an export by version 0.2.0 has absolute paths
                bring_media(library, place, catalogue)
            finally:
                catalogue.close()
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


def _fill(catalogue: Catalogue, place: Path, videos: Any, clips: Any, label: Label, on_rows: OnRows | None) -> None:
    """All rows into the catalogue, some thousand clips to a transaction: nobody can open it before its folder has a
    name."""
    total, done = clips.metadata.num_rows, 0
    whole = _whole_videos(_rows(VIDEOS_NAME, videos), _rows(CLIPS_NAME, clips), label)
    for batch in _batches(whole):
        with catalogue.write() as connection:
            for row, video, first_clip, own in batch:
                try:
                    insert_whole(
                        connection,
                        video,
                        first_clip,
                        own,
                        video_id=row.values["video_id"],
                        added_at=row.values["added_at"],
                    )
                except sqlite3.IntegrityError as error:
                    raise row.wrong(f"content_sha256: {video.content_sha256} is that of an earlier row") from error
                done += len(own)
        try:
            os.utime(place)  # it is being worked on
        except OSError as error:
            raise StorageError(f"{place}: {error}") from error
        if on_rows is not None:
            on_rows(done, total)


_Whole = tuple[_Row, NewVideo, int, list[ClipRow]]


def _batches(whole: Iterator[_Whole]) -> Iterator[list[_Whole]]:
    batch: list[_Whole] = []
    size = 0
    for item in whole:
        batch.append(item)
        size += len(item[3])
        if size >= CLIPS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _whole_videos(videos: Iterator[_Row], clips: Iterator[_Row], label: Label) -> Iterator[_Whole]:
    """Each video with its checked clips. Both files must be in the order of ids, a video's clips in a row."""
    last_video = last_clip = 0
    for row in videos:
        video_id, count = row.values["video_id"], row.values["clip_count"]
        if not last_video < video_id < _LARGEST_ID:
            raise row.wrong(f"video_id: {video_id}; more than {last_video}, that of the row before, was expected")
        video = _video(row)
        if count < 1:
            raise row.wrong(f"clip_count: {count}; at least 1 was expected")
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
            if not last_clip < clip_id < _LARGEST_ID or clip_id != first + number:
                wanted = f"more than {last_clip}" if number == 0 else str(first + number)
                raise clip.wrong(f"clip_id: {clip_id}; {wanted} was expected")
            own.append(_clip(clip, label))
            last_clip = clip_id
        last_video = video_id
        yield row, video, first, own
    if (clip := next(clips, None)) is not None:
        raise clip.wrong(f"video_id: {clip.values['video_id']}; no row of {VIDEOS_NAME} is left for it")


def _video(row: _Row) -> NewVideo:
    values = row.values
    try:
        metadata = json.loads(values["metadata"])
        check_metadata(metadata)
    except (ValueError, RecursionError) as error:
        raise row.wrong(f"metadata: not JSON ({error})") from error
    except InvalidInput as error:
        raise row.wrong(error) from error
    if not np.isfinite(values["added_at"]):
        raise row.wrong(f"added_at: {values['added_at']}; Unix seconds were expected")
    fields = ("content_sha256", "path", "title", "duration", "width", "height")
    try:
        return check_video(NewVideo(**{name: values[name] for name in fields}, metadata=metadata))
    except InvalidInput as error:
        raise row.wrong(error) from error


def _clip(row: _Row, label: Label) -> ClipRow:
    values = row.values
    tokens = values.get("tokens")
    try:
        if tokens is not None:
            decode_tokens(tokens, label.token_encoding, label.tokens_shape)
        return ClipRow(
            span=check_span(values["start"], values["end"]),
            text=check_text("text", values["text"]),
            vector=_unit(values["vector"], label.vector_width),
            tokens=tokens,
            thumbnail=check_thumbnail(values.get("thumbnail")),
        )
    except InvalidInput as error:
        raise row.wrong(error) from error


def _unit(vector: Any, width: int) -> bytes:
    """The vector's bytes; those of length 1 stay as they are, to the last bit."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    kept = vector if abs(length - 1) < _UNIT else check_vector(vector, width)
    return bytes(kept.astype("<f4").tobytes())


def _rows(name: str, file: Any) -> Iterator[_Row]:
    """Every row, with vectors as NumPy arrays. Raises InvalidInput for nulls and for a file that is damaged."""
    number = 0
    nullable = ("tokens", "thumbnail")
    try:
        for batch in file.iter_batches(batch_size=ROWS, use_threads=False):
            columns: dict[str, Any] = {}
            for column, array in zip(batch.schema.names, batch.columns, strict=True):
                if array.null_count and column not in nullable:
                    missing = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                    raise InvalidInput(f"{name}: row {number + missing + 1}: {column}: null; a value was expected")
                columns[column] = _vectors(array) if column == "vector" else array.to_pylist()
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield _Row(name, number, dict(zip(columns, values, strict=True)))
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{name}: after row {number}: {error}; a whole Parquet file was expected") from error


def _vectors(array: Any) -> Any:
    """(rows, D) float32; nulls within a vector are NaN, and refused as such."""
    return array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(array), -1)
