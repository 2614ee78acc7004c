"""Read videos and clips from an untrusted catalogue, and check the type of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index.transfer.foreign_catalogue import ForeignCatalogue
from index.transfer.media_paths import AllowedPaths
from index.transfer.whole_videos import LARGEST_ID, ClipFormat, Row, WholeVideo, checked_clip, checked_video
from index.vectors.faiss_kinds import AUTO, INDEX_KIND_KEY, check_index_kind
from index.vectors.interface import BACKEND_KEY, backend_of, check_backend, index_kinds_of
from vitascope.errors import InvalidInput
from vitascope.visual_token_codec import check_encoding

Id = Annotated[int, Field(ge=1, lt=LARGEST_ID)]
Count = Annotated[int, Field(ge=0, lt=LARGEST_ID)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """A row of a table: a field for each column, with the type of its values."""

    model_config = ConfigDict(strict=True)


class _VideoRecord(Record):
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


class _ClipRecord(Record):
    id: Id
    video_id: Id
    start: float
    end: float
    text: str
    vector: bytes
    tokens: bytes | None
    thumbnail: bytes | None


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_meta(foreign: ForeignCatalogue) -> dict[str, str]:
    """Return what the catalogue says about itself, without its identity. Raises InvalidInput naming the key."""
    where = f"{foreign.file}: table meta"
    stated = dict(foreign.connection.execute("SELECT key, value FROM meta"))
    if "dropped" in stated:
        raise InvalidInput(f"{where}: dropped: the collection was deleted; a backup was expected")
    meta = {}
    try:
        for key in ("fingerprint", "bundle", "vector_width", "visual_tokens", "visual_width", "created_at"):
            meta[key] = stated[key]
        for key in ("vector_width", "visual_tokens", "visual_width"):
            if not 0 <= int(meta[key]) < 2**24:
                raise ValueError(f"{key}: {meta[key]}; a number of values was expected")
        if not np.isfinite(float(meta["created_at"])):
            raise ValueError(f"created_at: {meta['created_at']}; Unix seconds were expected")
        meta["token_encoding"] = check_encoding(stated.get("token_encoding", "float16"))
        meta[BACKEND_KEY] = check_backend(backend_of(stated))
        meta[INDEX_KIND_KEY] = check_index_kind(stated.get(INDEX_KIND_KEY, AUTO), index_kinds_of(meta[BACKEND_KEY]))
        if not all(isinstance(value, str) for value in meta.values()):
            raise ValueError("a value is no text")
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise InvalidInput(f"{where}: {error}") from error
    return meta


def clip_format(meta: Mapping[str, str]) -> ClipFormat:
    """Return what the blobs of a catalogue with this table meta are."""
    shape = int(meta["visual_tokens"]), int(meta["visual_width"])
    return ClipFormat(int(meta["vector_width"]), shape, check_encoding(meta["token_encoding"]))


def count_clips(foreign: ForeignCatalogue) -> int:
    """Return how many clips the catalogue has."""
    return int(foreign.connection.execute("SELECT count(*) FROM clips").fetchone()[0])


def read_sequences(foreign: ForeignCatalogue) -> dict[str, int]:
    """Return the highest id that each table has ever given out. Raises InvalidInput."""
    sequences = dict(foreign.connection.execute("SELECT name, seq FROM sqlite_sequence"))
    for name, value in sequences.items():
        if not isinstance(value, int) or not 0 <= value < LARGEST_ID:
            raise InvalidInput(f"{foreign.file}: table sqlite_sequence: {name}: {value!r}; an id was expected")
    return {name: sequences[name] for name in ("videos", "clips", "jobs") if name in sequences}


def read_videos(foreign: ForeignCatalogue, form: ClipFormat, allowed: AllowedPaths) -> Iterator[WholeVideo]:
    """Yield every video with its clips, checked, by id. Raises InvalidInput naming table, row and column."""
    table, clips_read = f"{foreign.file}: table videos", 0
    columns = ", ".join(_VideoRecord.model_fields)
    for values in foreign.connection.execute(f"SELECT {columns} FROM videos ORDER BY id"):
        video = checked(_VideoRecord, table, values[0], values)
        row = Row(table, video.id, video.model_dump())
        clips = [checked_clip(clip, form) for clip in _clips(foreign, row, form.vector_width)]
        clips_read += len(clips)
        yield WholeVideo(row, video.id, video.added_at, checked_video(row, allowed), video.first_clip, clips)
    if (total := count_clips(foreign)) != clips_read:
        raise InvalidInput(f"{foreign.file}: table clips: {total - clips_read} rows are those of no video")


def checked(record: type[AnyRecord], table: str, number: object, values: tuple[Any, ...]) -> AnyRecord:
    """The record of a row, whose values are in the order of its fields. Raises InvalidInput naming row and column."""
    try:
        return record.model_validate(dict(zip(record.model_fields, values, strict=True)))
    except ValidationError as error:
        raise InvalidInput(f"{table}: row {number}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """Say what pydantic found first: the place, the value and what was expected."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {repr(first['input'])[:100]}; {first['msg'][:1].lower()}{first['msg'][1:]}"


def _clips(foreign: ForeignCatalogue, video: Row, width: int) -> Iterator[Row]:
    """The clips of a video, as ``checked_clip`` takes them."""
    table = f"{foreign.file}: table clips"
    first, count = video.values["first_clip"], video.values["clip_count"]
    text, jpeg, join = "text", "jpeg", "LEFT JOIN thumbnails ON thumbnails.clip_id = id"
    if foreign.version == 1:
        text, jpeg, join = "''", "NULL", ""
    rows = foreign.connection.execute(
        f"SELECT id, video_id, start, end, {text}, vector, tokens, {jpeg} FROM clips"
        " LEFT JOIN vectors ON vectors.clip_id = id LEFT JOIN tokens ON tokens.clip_id = id"
        f" {join} WHERE id >= ? AND id < ? ORDER BY id",
        (first, first + count),
    )
    following = first
    for values in rows:
        clip = checked(_ClipRecord, table, values[0], values)
        if (clip.id, clip.video_id) != (following, video.number):
            break
        if len(clip.vector) != 4 * width:
            raise InvalidInput(f"{table}: row {clip.id}: vector: {len(clip.vector)} bytes; {4 * width} were expected")
        yield Row(table, clip.id, {**clip.model_dump(), "vector": np.frombuffer(clip.vector, "<f4")})
        following += 1
    if following != first + count:
        raise video.error(f"first_clip, clip_count: {first}, {count}; clips of these ids, all its own, were expected")
