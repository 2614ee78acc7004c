"""Rows of an untrusted catalogue: videos, clips and jobs. The type of every value is checked.

Every job becomes confined, as its source, files and file list may name any path: only a service may run it, within its
access policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from index.clip_rows import token_shapes
from index.collection import MODEL_DIM_KEY
from index.jobs.recognition_settings import META_KEYS as RECOGNITION_KEYS
from index.jobs.recognition_settings import parse_recognition_meta
from index.jobs.records import JobCounts, JobOptions, JobRate, StopRequest
from index.jobs.sources.source_types import SOURCE_TYPES, Source, UploadSource, is_upload_name, source_json
from index.records import check_metadata, check_text
from index.storage.catalogue import Catalogue
from index.storage.foreign_catalogue import MAX_CELL, ForeignCatalogue
from index.storage.fulltext import STEMMING_KEY, check_stemming
from index.storage.jobs import options_json
from index.storage.schema import FILE_SIZE, SOURCE_COLUMNS
from index.storage.transfer import insert_rows
from index.transfer.media import AllowedPaths
from index.transfer.new_catalogue import MAX_ID, CheckedVideo, ClipFormat, ForeignRow, check_clip_row, check_video_row
from index.transfer.text_columns import read_video_text
from index.vectors.faiss_kinds import AUTO, INDEX_KIND_KEY, check_index_kind
from index.vectors.interface import BACKEND_KEY, SIGNALS_KEY, backend_of, check_backend, index_kinds_of, parse_signals
from vitascope.errors import InvalidInput
from vitascope.job_states import ItemState, JobState
from vitascope.text_format import format_validation_error
from vitascope.visual_token_codec import check_encoding

Id = Annotated[int, Field(ge=1, lt=MAX_ID)]
Count = Annotated[int, Field(ge=0, lt=MAX_ID)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Flag = Literal[0, 1]
_OPTIONS = TypeAdapter(JobOptions)
_SOURCES: dict[str, TypeAdapter[Source]] = {kind: TypeAdapter(source) for kind, source in SOURCE_TYPES.items()}
_BATCH_ROWS = 10_000


class _Record(BaseModel):
    """A row of a table: one typed field per column."""

    model_config = ConfigDict(strict=True)


class _VideoRecord(_Record):
    id: Id
    content_sha256: str
    path: str
    title: str
    duration: float
    width: Count
    height: Count
    metadata: str
    added_at: float
    first_clip: Id
    clip_count: Id
    source_uri: str | None = None
    source_values: str | None = None
    file_size: Count | None = None


class _ClipRecord(_Record):
    id: Id
    video_id: Id
    start: float
    end: float
    text: str
    vector: bytes | None
    tokens: bytes | None
    thumbnail: bytes | None
    audio_vector: bytes | None
    audio_tokens: bytes | None


class _JobRecord(_Record):
    id: Id
    source: str
    options: str
    state: JobState
    error: str | None
    listed: Flag
    requested: StopRequest | None
    created_at: Finite
    started_at: Finite | None
    finished_at: Finite | None
    run_started_at: Finite | None
    run_ended_at: Finite | None
    events: Count


class _ItemRecord(_Record):
    job_id: Id
    position: Count
    path: str
    title: str | None
    metadata: str | None
    state: ItemState
    reason: str | None
    video_id: Id | None
    decided: Flag
    tries: Count
    crashes: Count
    seconds: Finite | None
    ended_at: Finite | None
    event: Count | None
    share: Finite | None


class _StateRecord(_Record):
    job_id: Id
    event: Count
    at: Finite
    state: JobState
    job: str
    told: Flag


class _JobState(_Record):
    """The JSON of a row of ``job_states``."""

    state: JobState
    error: str | None
    requested: StopRequest | None
    started_at: Finite | None
    finished_at: Finite | None
    progress: Finite | None = None
    counts: JobCounts
    rate: JobRate | None


AnyRecord = TypeVar("AnyRecord", bound=_Record)


def read_meta(foreign: ForeignCatalogue) -> dict[str, str]:
    """Return the table meta of a catalogue without its ``collection_id``. Raises InvalidInput that names the key."""
    table = f"{foreign.file}: table meta"
    stored = dict(foreign.rows("meta", ("key", "value")))
    if "dropped" in stored:
        raise InvalidInput(f"{table}: dropped: the collection was deleted; a backup was expected")
    meta = {}
    try:
        for key in ("fingerprint", "bundle", "vector_width", "visual_tokens", "visual_width", "created_at"):
            meta[key] = stored[key]
        for key in (MODEL_DIM_KEY, SIGNALS_KEY, "audio_tokens", "audio_width", *RECOGNITION_KEYS):
            if key in stored:
                meta[key] = stored[key]
        sizes = {"vector_width", "visual_tokens", "visual_width", "audio_tokens", "audio_width", MODEL_DIM_KEY}
        for key in sizes & set(meta):
            if not 0 <= int(meta[key]) < 2**24:
                raise ValueError(f"{key}: {meta[key]}; a number of values was expected")
        if not np.isfinite(float(meta["created_at"])):
            raise ValueError(f"created_at: {meta['created_at']}; Unix seconds were expected")
        meta["token_encoding"] = check_encoding(stored.get("token_encoding", "float16"))
        meta[BACKEND_KEY] = check_backend(backend_of(stored))
        meta[INDEX_KIND_KEY] = check_index_kind(stored.get(INDEX_KIND_KEY, AUTO), index_kinds_of(meta[BACKEND_KEY]))
        if not all(isinstance(value, str) for value in meta.values()):
            raise ValueError("a value is no text")
        parse_signals(meta)
        token_shapes(meta)
        parse_recognition_meta(meta)
        meta[STEMMING_KEY] = check_stemming(stored.get(STEMMING_KEY, "english"))
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
        raise InvalidInput(f"{table}: {error}") from error
    return meta


def clip_format(meta: Mapping[str, str]) -> ClipFormat:
    """Return the format of the blobs of a catalogue with this table meta."""
    encoding = check_encoding(meta["token_encoding"])
    return ClipFormat(int(meta["vector_width"]), token_shapes(meta), encoding, parse_signals(meta))


def read_sequences(foreign: ForeignCatalogue) -> dict[str, int]:
    """Return the highest id that each table has ever assigned. Raises InvalidInput."""
    sequences = dict(foreign.rows("sqlite_sequence", ("name", "seq")))
    for name, value in sequences.items():
        if not isinstance(value, int) or not 0 <= value < MAX_ID:
            raise InvalidInput(f"{foreign.file}: table sqlite_sequence: {name}: {value!r}; an id was expected")
    return {name: sequences[name] for name in ("videos", "clips", "jobs") if name in sequences}


def read_videos(foreign: ForeignCatalogue, clip_format: ClipFormat, allowed: AllowedPaths) -> Iterator[CheckedVideo]:
    """Yield every video with its clips, checked, by id. Raises InvalidInput naming table, row and column."""
    table, clip_count = f"{foreign.file}: table videos", 0
    columns = list(_VideoRecord.model_fields)
    if foreign.version < SOURCE_COLUMNS:
        columns = columns[: columns.index("source_uri")]
    elif foreign.version < FILE_SIZE:
        columns.remove("file_size")
    for values in foreign.rows("videos", columns, order="id"):
        video = _check_types(_VideoRecord, table, values[0], values)
        row = ForeignRow(table, video.id, video.model_dump())
        rows = _read_clips(foreign, row, clip_format.vector_width)
        clips = [check_clip_row(clip, clip_format, has_pictures=video.width > 0) for clip in rows]
        clip_count += len(clips)
        new, text = check_video_row(row, allowed), read_video_text(foreign, row)
        yield CheckedVideo(row, video.id, video.added_at, new, video.first_clip, clips, text)
    if (total := foreign.count_clips()) != clip_count:
        raise InvalidInput(f"{foreign.file}: table clips: {total - clip_count} rows are those of no video")


def copy_jobs(foreign: ForeignCatalogue, catalogue: Catalogue) -> None:
    """Copy all jobs with their files and events into a new catalogue, every value checked.

    Raises InvalidInput naming table, row and column, StorageError.
    """
    with foreign.current_job_tables() as jobs:
        for table, record, check in (
            ("jobs", _JobRecord, _check_job),
            ("job_items", _ItemRecord, _check_item),
            ("job_states", _StateRecord, _check_state),
        ):
            rows = jobs.rows(table, record.model_fields)
            while batch := rows.fetchmany(_BATCH_ROWS):
                checked = [_check_job_row(record, check, f"{foreign.file}: table {table}", row) for row in batch]
                with catalogue.write() as connection:
                    insert_rows(connection, table, record.model_fields, checked)


def _read_clips(foreign: ForeignCatalogue, video: ForeignRow, width: int) -> Iterator[ForeignRow]:
    """Yield the clips of a video, for ``check_clip_row``."""
    table = f"{foreign.file}: table clips"
    first, count = video.values["first_clip"], video.values["clip_count"]
    expected_id = first
    for values in foreign.clip_rows(first, count):
        clip = _check_types(_ClipRecord, table, values[0], values)
        if (clip.id, clip.video_id) != (expected_id, video.number):
            break
        vectors = {}
        for name, blob in (("vector", clip.vector), ("audio_vector", clip.audio_vector)):
            if blob is not None and len(blob) != 4 * width:
                raise InvalidInput(f"{table}: row {clip.id}: {name}: {len(blob)} bytes; {4 * width} were expected")
            vectors[name] = None if blob is None else np.frombuffer(blob, "<f4")
        yield ForeignRow(table, clip.id, {**clip.model_dump(), **vectors})
        expected_id += 1
    if expected_id != first + count:
        raise video.error(f"first_clip, clip_count: {first}, {count}; clips of these ids, all its own, were expected")


def _check_types(record: type[AnyRecord], table: str, number: object, values: tuple[Any, ...]) -> AnyRecord:
    """Convert a row to a record. Values are in the order of the fields; values at the end may be missing.

    Raises InvalidInput naming row and column.
    """
    try:
        return record.model_validate(dict(zip(record.model_fields, values, strict=False)))
    except ValidationError as error:
        raise InvalidInput(f"{table}: row {number}: {format_validation_error(error)}") from error


def _check_job_row(
    record: type[_Record], check: Callable[[dict[str, Any]], None], table: str, row: tuple[Any, ...]
) -> tuple[Any, ...]:
    number = row[0] if record is _JobRecord else f"{row[0]}, {row[1]}"
    values = _check_types(record, table, number, row).model_dump()
    try:
        for name, value in values.items():
            if isinstance(value, str):
                check_text(name, value, MAX_CELL)
        check(values)
    except ValidationError as error:
        raise InvalidInput(f"{table}: row {number}: {format_validation_error(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
        raise InvalidInput(f"{table}: row {number}: {error}") from error
    return tuple(values.values())


def _check_job(values: dict[str, Any]) -> None:
    values["source"] = source_json(_check_source(values["source"]))
    options = _OPTIONS.validate_json(values["options"], strict=True)
    metadata = check_metadata(options.metadata)
    values["options"] = options_json(replace(options, metadata=metadata, confined=True))


def _check_source(text: str) -> Source:
    stored = json.loads(text)
    if "held" in stored:
        stored["stored_name"] = stored.pop("held")
    source = _SOURCES[stored.pop("kind")].validate_json(json.dumps(stored), strict=True)
    for field in fields(source):
        value = getattr(source, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, str):
                check_text(f"source: {field.name}", part, MAX_CELL)
    if isinstance(source, UploadSource) and not is_upload_name(source.stored_name):
        raise InvalidInput(f"source: held: {source.stored_name!r}; the name of a file in the collection was expected")
    return source


def _check_item(values: dict[str, Any]) -> None:
    if values["metadata"] is not None:
        check_metadata(json.loads(values["metadata"]))


def _check_state(values: dict[str, Any]) -> None:
    _JobState.model_validate_json(values["job"])
