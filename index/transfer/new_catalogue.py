"""Creation of a catalogue from the videos and clips of an export or a backup, which are checked."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from index.records import (
    NewVideo,
    Signal,
    check_embedding,
    check_metadata,
    check_span,
    check_text,
    check_thumbnail,
    check_video,
    parse_source_values,
)
from index.storage.catalogue import CATALOGUE_NAME, Catalogue, create_catalogue
from index.storage.queries import ClipRow, insert_video
from index.transfer import ProgressCallback
from index.transfer.media import AllowedPaths
from index.video_text import VideoText
from vitascope.durable_files import sync
from vitascope.errors import InvalidInput, StorageError
from vitascope.visual_token_codec import TokenEncoding, check_stored

BATCH_CLIPS = 4096
BATCH_BYTES = 32 * 1024 * 1024
"""Approximate number of clips, and bytes of their blobs, per transaction."""
MAX_ID = 2**62
_UNIT_TOLERANCE = 1e-6
_YEAR_3000 = 32_503_680_000  # Unix seconds; a safe limit, as dates of SQLite and Python end in the year 9999


@dataclass(frozen=True, slots=True)
class ForeignRow:
    """A row of an untrusted file, or of a table in it: its number, and its values by column."""

    file: str
    number: int
    values: Mapping[str, Any]

    def error(self, problem: object) -> InvalidInput:
        """Return an error that names the row."""
        return InvalidInput(f"{self.file}: row {self.number}: {problem}")


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """Format of a collection's blobs.

    ``vector_width``: embedding dim. ``signals``: signals with embeddings. ``token_shapes``: shape of tokens by signal.
    """

    vector_width: int
    token_shapes: Mapping[Signal, tuple[int, int]]
    token_encoding: TokenEncoding
    signals: tuple[Signal, ...]


@dataclass(frozen=True, slots=True)
class CheckedVideo:
    """A checked video with its clips, whose ids run from ``first_clip``. ``added_at``: Unix seconds."""

    row: ForeignRow
    id: int
    added_at: float
    video: NewVideo
    first_clip: int
    clips: list[ClipRow]
    text: VideoText


@contextmanager
def new_catalogue(folder: Path, meta: Mapping[str, str]) -> Iterator[Catalogue]:
    """Create a catalogue in ``folder`` to fill within the block; it is durable when the block ends.

    Raises StorageError and OSError.
    """
    path = folder / CATALOGUE_NAME
    create_catalogue(path, meta)
    catalogue = Catalogue(path, durable=False)
    try:
        yield catalogue
    finally:
        catalogue.close()
    sync(path)


def write_videos(
    catalogue: Catalogue,
    folder: Path,
    videos: Iterator[CheckedVideo],
    clip_count: int,
    on_progress: ProgressCallback | None,
) -> None:
    """Write all videos into the catalogue in ``folder``, some thousand clips per transaction.

    No other process opens the catalogue before its folder gets its final name. ``clip_count``: total number of clips,
    for ``on_progress``. Raises InvalidInput that names the row, and StorageError.
    """
    done = 0
    for batch in _batches(videos):
        with catalogue.write() as connection:
            for video in batch:
                _insert(connection, video)
                done += len(video.clips)
        touch_folder(folder)
        if on_progress is not None:
            on_progress(done, clip_count)


def touch_folder(folder: Path) -> None:
    """Update the time of a new collection's folder, so that it is not removed as abandoned. Raises StorageError."""
    try:
        os.utime(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {error}") from error


def check_video_row(row: ForeignRow, allowed: AllowedPaths) -> NewVideo:
    """Return the video of a row with the columns of ``videos.parquet``. Raises InvalidInput naming row and column."""
    values = row.values
    try:
        metadata = json.loads(values["metadata"])
        check_metadata(metadata)
    except (ValueError, RecursionError) as error:
        raise row.error(f"metadata: not JSON ({error})") from error
    except InvalidInput as error:
        raise row.error(error) from error
    if not 0 <= values["added_at"] < _YEAR_3000:
        raise row.error(f"added_at: {values['added_at']}; Unix seconds before the year 3000 were expected")
    fields = ("content_sha256", "path", "title", "duration", "width", "height")
    try:
        video = NewVideo(
            **{name: values[name] for name in fields},
            metadata=metadata,
            source_uri=values.get("source_uri"),
            source_values=parse_source_values(values.get("source_values")),
            file_size=values.get("file_size"),
        )
        check_video(video)
        return replace(video, path=allowed.check("path", video.path, video.content_sha256))
    except InvalidInput as error:
        raise row.error(error) from error


def check_clip_row(row: ForeignRow, clip_format: ClipFormat, *, has_pictures: bool) -> ClipRow:
    """Return the clip of a row with the columns of ``clips.parquet``; ``vector`` and ``audio_vector`` are arrays (D,).

    Raises InvalidInput naming row and column.
    """
    values = row.values
    tokens, audio_tokens = values.get("tokens"), values.get("audio_tokens")
    has_pictures = has_pictures and "visual" in clip_format.signals
    try:
        width = clip_format.vector_width
        vectors = [_normalized_bytes(values.get(name), width, name) for name in ("vector", "audio_vector")]
        if (vectors[0] is not None) != has_pictures:
            actual = None if has_pictures else "an embedding"
            raise InvalidInput(f"vector: {actual}; one was expected of a video with pictures, and of no other")
        if vectors[1] is not None and "audio" not in clip_format.signals:
            raise InvalidInput("audio_vector: null was expected, as the collection has no audio signal")
        if tokens is not None and not has_pictures:
            raise InvalidInput("tokens: null was expected, as the video has no pictures")
        if tokens is not None:
            check_stored(tokens, clip_format.token_encoding, clip_format.token_shapes["visual"])
        if audio_tokens is not None:
            if vectors[1] is None or "audio" not in clip_format.token_shapes:
                raise InvalidInput("audio_tokens: null was expected, of a clip or a collection without")
            check_stored(audio_tokens, clip_format.token_encoding, clip_format.token_shapes["audio"])
        return ClipRow(
            span=check_span(values["start"], values["end"]),
            text=check_text("text", values["text"]),
            vector=vectors[0],
            tokens=tokens,
            thumbnail=check_thumbnail(values.get("thumbnail")),
            audio_vector=vectors[1],
            audio_tokens=audio_tokens,
        )
    except InvalidInput as error:
        raise row.error(error) from error


def _insert(connection: sqlite3.Connection, checked: CheckedVideo) -> None:
    try:
        insert_video(
            connection,
            checked.video,
            checked.first_clip,
            checked.clips,
            video_id=checked.id,
            added_at=checked.added_at,
            text=checked.text,
        )
    except sqlite3.IntegrityError as error:
        if "videos.content_sha256" in str(error):
            sha256 = checked.video.content_sha256
            raise checked.row.error(f"content_sha256: {sha256} is that of an earlier row") from error
        raise checked.row.error(f"ids of its clips are those of an earlier row ({error})") from error


def _batches(videos: Iterator[CheckedVideo]) -> Iterator[list[CheckedVideo]]:
    batch: list[CheckedVideo] = []
    clips = size = 0
    for video in videos:
        batch.append(video)
        clips += len(video.clips)
        for clip in video.clips:
            blobs = (clip.vector, clip.tokens, clip.thumbnail, clip.audio_vector, clip.audio_tokens)
            size += sum(len(blob or b"") for blob in blobs)
        if clips >= BATCH_CLIPS or size >= BATCH_BYTES:
            yield batch
            batch, clips, size = [], 0, 0
    if batch:
        yield batch


def _normalized_bytes(vector: Any, width: int, name: str) -> bytes | None:
    """Return the bytes of an embedding (D,), normalised; an embedding of length 1 is not changed by a single bit."""
    if vector is None:
        return None
    length = float(np.linalg.norm(vector.astype(np.float64)))
    is_normalized = vector.shape == (width,) and abs(length - 1) < _UNIT_TOLERANCE
    return bytes((vector if is_normalized else check_embedding(vector, width, name)).astype("<f4").tobytes())
