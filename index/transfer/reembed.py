"""A collection embedded again by another bundle, from the original files, while the old one goes on serving.

The new collection grows beside the old one, as NAME-next, with the same videos, clips, ids and words: both can be
searched, each with its bundle. When it has everything, it takes the old one's name, in one write transaction of the
old: nobody can add or delete in between. Killed at any moment, the same call goes on.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from index.clips.cutting import Cut
from index.collection import Collection
from index.jobs.ingest import OpenedFile, clip_batches, content_sha256, decode_clips, embed_clips, file_state
from index.library import Library
from index.records import NewClip, Video
from vitascope.errors import CollectionExists, FingerprintMismatch, InvalidInput, MediaError, VideoNotFound
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import probe
from vitascope.model import Model

PAGE = 500
"""Videos of the old collection that are read at a time."""
JOB_TABLES = ("jobs", "job_items")
MEDIA = "media"
"""Where a collection keeps copies of what came from archives and URLs; paths of its videos lead there."""

OnVideo = Callable[[int, int, str], None]
"""Called with how many videos are there, how many there will be, and the title of the last."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A video that cannot be embedded again, and why."""

    video: Video
    reason: str


@dataclass(frozen=True, slots=True)
class Reembedded:
    """``switched``: whether the new collection has taken the name. ``missing``: what it lacks."""

    switched: bool
    embedded: int
    missing: list[Missing]


def reembed(
    library: Library,
    name: str,
    model: Model,
    *,
    skip_missing: bool = False,
    limits: MediaLimits = DEFAULT_LIMITS,
    on_video: OnVideo = lambda *_: None,
) -> Reembedded:
    """Embed all videos of collection ``name`` by ``model`` and put the result in its place.

    Where a file is gone, has changed or cannot be read, the old collection keeps its name, unless ``skip_missing``:
    then such videos are not in the new one. Raises InvalidInput where ``model`` filled the collection already,
    FingerprintMismatch where NAME-next is of a third bundle, CollectionNotFound, TaskMissing, EngineError,
    StorageError.
    """
    following = f"{name}-next"
    if name not in library.names() and following in library.names():
        library.rename(following, name)  # killed between the two renames of the switch
        return Reembedded(True, 0, [])
    old = library.open(name)
    if old.fingerprint == model.bundle.fingerprint:
        raise InvalidInput(f"bundle: {old.bundle_name} filled collection {name} already; another one was expected")
    new = _following(library, old, following, model)
    embedded = 0
    while True:
        missing = []
        for video in _lacking(old, new):
            try:
                _add(old, new, model, video, limits)
            except VideoNotFound:
                continue  # deleted meanwhile
            except (MediaError, InvalidInput) as error:
                missing.append(Missing(video, str(error)))
                continue
            embedded += 1
            on_video(new.stats().videos, old.stats().videos, video.title)
        if missing and not skip_missing:
            return Reembedded(False, embedded, missing)
        if _switch(library, old, new, {one.video.id for one in missing}):
            return Reembedded(True, embedded, missing)


def _following(library: Library, old: Collection, name: str, model: Model) -> Collection:
    try:
        return library.create(name, model, token_encoding=old.token_encoding, index_kind=old.index_state().setting)
    except CollectionExists:
        new = library.open(name)
    if new.fingerprint != model.bundle.fingerprint:
        raise FingerprintMismatch(
            f"collection {name}: begun by bundle {new.bundle_name}; drop it, or go on with that bundle"
        )
    return new


def _lacking(old: Collection, new: Collection) -> Iterator[Video]:
    """Videos of the old collection that the new one lacks, by id."""
    after = 0
    while page := old.videos(PAGE, after):
        there = _ids(new)
        yield from (video for video in page if video.id not in there)
        after = page[-1].id


def _ids(collection: Collection) -> set[int]:
    with collection.catalogue.read() as connection:
        return {row[0] for row in connection.execute("SELECT id FROM videos")}


def _add(old: Collection, new: Collection, model: Model, video: Video, limits: MediaLimits) -> None:
    """Embed the clips of one video as they are cut, and add it under its id."""
    file = Path(video.path)
    before = file_state(file)
    if content_sha256(file, limits) != video.content_sha256:
        raise MediaError(f"{file.name}: has other content than when it was indexed; the same was expected")
    spans = old.clips(video.id)
    opened = OpenedFile(
        file=file,
        state=before,
        content_sha256=video.content_sha256,
        info=probe(file, limits),
        cut=Cut([(clip.start, clip.end) for clip in spans], [clip.text for clip in spans]),
        title=video.title,
        metadata=video.metadata,
    )
    clips: list[NewClip] = []
    for batch in clip_batches(opened):
        clips += embed_clips(model, batch, decode_clips(model, opened, batch, limits))
    new.add_again(video, clips, spans[0].id)


def _switch(library: Library, old: Collection, new: Collection, skipped: set[int]) -> bool:
    """Give the new collection the old one's name; False where the old one has got videos meanwhile."""

    def is_complete(connection: sqlite3.Connection) -> bool:
        wanted = {row[0] for row in connection.execute("SELECT id FROM videos")}
        there = _ids(new)
        if not wanted - skipped <= there:
            return False
        for video_id in there - wanted:
            new.delete_video(video_id)
        _copy_jobs(connection, new)
        with suppress(FileNotFoundError):
            os.rename(old.folder / MEDIA, new.folder / MEDIA)
        return True

    return library.replace(old.name, new.name, is_complete)


def _copy_jobs(connection: sqlite3.Connection, new: Collection) -> None:
    """What became of which file, and jobs that are still to be run."""
    with new.catalogue.write() as target:
        for table in JOB_TABLES:
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                target.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)
