"""Check videos with their clips, which come from an export or a backup, and write them into a new catalogue."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from index.storage.queries import ClipRow, insert_video
from index.transfer.media_paths import AllowedPaths
from vitascope.durable_files import sync
from vitascope.errors import InvalidInput, StorageError
from vitascope.visual_token_codec import TokenEncoding, check_stored

OnRows = Callable[[int, int], None]
"""Takes how many clips are done, and of how many."""

CLIPS_AT_ONCE = 4096
BYTES_AT_ONCE = 32 * 1024 * 1024
"""Clips, and bytes of what is stored with them, in one transaction, about."""
LARGEST_ID = 2**62
_UNIT = 1e-6


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file, or of a table of a file, from outside: its number, and its values by column."""

    file: str
    number: int
    values: Mapping[str, Any]

    def error(self, problem: object) -> InvalidInput:
        """An error that names the row."""
        return InvalidInput(f"{self.file}: row {self.number}: {problem}")


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """What the blobs of a collection's clips are: vectors of ``vector_width``, tokens of ``tokens_shape`` (V, W)."""

    vector_width: int
    tokens_shape: tuple[int, int]
    token_encoding: TokenEncoding


@dataclass(frozen=True, slots=True)
class WholeVideo:
    """A checked video with its clips, whose ids run from ``first_clip``. ``added_at``: Unix seconds."""

    row: Row
    id: int
    added_at: float
    video: NewVideo
    first_clip: int
    clips: list[ClipRow]


@contextmanager
def new_catalogue(folder: Path, meta: Mapping[str, str]) -> Iterator[Catalogue]:
    """Create a catalogue in ``folder``, to be filled within the block; it is durable when the block is left.

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


def fill(catalogue: Catalogue, folder: Path, videos: Iterator[WholeVideo], total: int, on_rows: OnRows | None) -> None:
    """Write all videos into the catalogue in ``folder``, some thousand clips to a transaction: no other process opens
    it before its folder has a name.

    Raises InvalidInput naming the row, StorageError.
    """
    done = 0
    for batch in _batches(videos):
        with catalogue.write() as connection:
            for whole in batch:
                _insert(connection, whole)
                done += len(whole.clips)
        touch(folder)
        if on_rows is not None:
            on_rows(done, total)


def touch(folder: Path) -> None:
    """Show that the folder of a new collection is still being worked on. Raises StorageError."""
    try:
        os.utime(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {error}") from error


def checked_video(row: Row, allowed: AllowedPaths) -> NewVideo:
    """The video of a row with the columns of ``videos.parquet``. Raises InvalidInput naming the row and the column."""
    values = row.values
    try:
        metadata = json.loads(values["metadata"])
        check_metadata(metadata)
    except (ValueError, RecursionError) as error:
        raise row.error(f"metadata: not JSON ({error})") from error
    except InvalidInput as error:
        raise row.error(error) from error
    if not np.isfinite(values["added_at"]):
        raise row.error(f"added_at: {values['added_at']}; Unix seconds were expected")
    fields = ("content_sha256", "path", "title", "duration", "width", "height")
    try:
        video = check_video(NewVideo(**{name: values[name] for name in fields}, metadata=metadata))
        return replace(video, path=allowed.accept("path", video.path, video.content_sha256))
    except InvalidInput as error:
        raise row.error(error) from error


def checked_clip(row: Row, form: ClipFormat) -> ClipRow:
    """The clip of a row with the columns of ``clips.parquet``; ``vector`` is an array (D,).

    Raises InvalidInput naming the row and the column.
    """
    values = row.values
    tokens = values.get("tokens")
    try:
        if tokens is not None:
            check_stored(tokens, form.token_encoding, form.tokens_shape)
        return ClipRow(
            span=check_span(values["start"], values["end"]),
            text=check_text("text", values["text"]),
            vector=_unit(values["vector"], form.vector_width),
            tokens=tokens,
            thumbnail=check_thumbnail(values.get("thumbnail")),
        )
    except InvalidInput as error:
        raise row.error(error) from error


def _insert(connection: sqlite3.Connection, whole: WholeVideo) -> None:
    try:
        insert_video(
            connection,
            whole.video,
            whole.first_clip,
            whole.clips,
            video_id=whole.id,
            added_at=whole.added_at,
        )
    except sqlite3.IntegrityError as error:
        if "videos.content_sha256" in str(error):
            sha256 = whole.video.content_sha256
            raise whole.row.error(f"content_sha256: {sha256} is that of an earlier row") from error
        raise whole.row.error(f"ids of its clips are those of an earlier row ({error})") from error


def _batches(videos: Iterator[WholeVideo]) -> Iterator[list[WholeVideo]]:
    batch: list[WholeVideo] = []
    clips = size = 0
    for whole in videos:
        batch.append(whole)
        clips += len(whole.clips)
        size += sum(len(blob or b"") for clip in whole.clips for blob in (clip.vector, clip.tokens, clip.thumbnail))
        if clips >= CLIPS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield batch
            batch, clips, size = [], 0, 0
    if batch:
        yield batch


def _unit(vector: Any, width: int) -> bytes:
    """The vector's bytes; those of length 1 stay as they are, to the last bit."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    kept = vector if vector.shape == (width,) and abs(length - 1) < _UNIT else check_vector(vector, width)
    return bytes(kept.astype("<f4").tobytes())
