"""A collection embedded again by another bundle, from the original files, while the old one goes on serving.

The new collection grows beside the old one, as NAME-next, with the same videos, clips, ids and words: both can be
searched, each with its bundle. When it has everything, it takes the old one's name, in one write transaction of the
old: nobody can add or delete in between. Killed before that, the same call goes on; killed within, the library has the
new collection, whole, as soon as it is opened again.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from index.clips.segmentation import Segments
from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.ingest import FileDescription, IngestResult, PreparedFile, check_unchanged, content_sha256, file_stat
from index.jobs.pipeline import Pipeline, PipelineConfig, StageTimer
from index.records import NewClip, Video
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import (
    CollectionExists,
    FingerprintMismatch,
    InvalidInput,
    MediaError,
    StorageError,
    VideoNotFound,
)
from vitascope.media.file import map_os_errors
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model

PAGE = 500
"""Videos of the old collection that are read at a time."""
_LOOK_SECONDS = 1.0
_LAST_ID = 2**63 - 1
JOB_TABLES = ("jobs", "job_items", "job_states")

OnVideo = Callable[[int, int, str], None]
"""Takes how many videos are embedded, of how many, and the title of the last."""


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
    library: CollectionStore,
    name: str,
    model: Model,
    *,
    skip_missing: bool = False,
    limits: MediaLimits = DEFAULT_LIMITS,
    config: PipelineConfig | None = None,
    on_video: OnVideo = lambda *_: None,
) -> Reembedded:
    """Embed all videos of collection ``name`` by ``model`` and put the result in its place.

    Films pass through the stages of a job, ``config.in_flight`` at a time. Where a file is gone, has changed or cannot
    be read, the old collection keeps its name, unless ``skip_missing``: then such videos are not in the new one. Raises
    InvalidInput where ``model`` filled the collection already, FingerprintMismatch where NAME-next is of a third one,
    CollectionNotFound, TaskMissing, EngineError, StorageError.
    """
    old = library.open(name)
    if old.fingerprint == model.bundle.fingerprint:
        raise InvalidInput(f"bundle: {old.bundle_name} filled collection {name} already; another one was expected")
    new = _following(library, old, f"{name}-next", model)
    work = _Reembedding(old, new, model, limits)
    embedded = 0
    while True:
        missing = []
        done, total = new.stats().videos, old.stats().videos  # counting reads all rows: once, not for every video
        with closing(work.pass_on(_lacking(old, new), config or PipelineConfig())) as passed:
            for video, problem in passed:
                if problem is not None:
                    missing.append(Missing(video, problem))
                    continue
                embedded += 1
                done += 1
                on_video(done, max(done, total), video.title)
        if missing and not skip_missing:
            return Reembedded(False, embedded, missing)
        if _switch(library, old, new, {one.video.id for one in missing}):
            return Reembedded(True, embedded, missing)


def _following(library: CollectionStore, old: Collection, name: str, model: Model) -> Collection:
    try:
        return library.create(
            name,
            model,
            token_encoding=old.token_encoding,
            index_kind=old.index_state().setting,
            vectors=old.vector_backend,
        )
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
        there = _ids(new, page[0].id, page[-1].id)
        yield from (video for video in page if video.id not in there)
        after = page[-1].id


def _ids(collection: Collection, first: int = 0, last: int = _LAST_ID) -> set[int]:
    """Return the ids of the collection's videos, from ``first`` to ``last``."""
    with collection.catalogue.read() as connection:
        rows = connection.execute("SELECT id FROM videos WHERE id BETWEEN ? AND ?", (first, last))
        return {row[0] for row in rows}


@dataclass(slots=True)
class _Reembedding:
    """Videos of the old collection on their way into the new one."""

    old: Collection
    new: Collection
    model: Model
    limits: MediaLimits
    embedded: dict[int, list[NewClip]] = field(default_factory=dict)
    """By video, until its turn to be added comes."""

    def pass_on(
        self, videos: Iterator[Video], config: PipelineConfig
    ) -> Generator[tuple[Video, str | None], None, None]:
        """Every video once it is added, or with the reason why it cannot be; one that is deleted meanwhile is left out.

        They are embedded side by side and added in their order: clip ids then grow, as those who follow the new
        collection's changes like them to.
        """
        waiting: deque[Video] = deque()
        ended: dict[int, BaseException | None] = {}
        with Pipeline(self.model, self._open, self._keep, self.limits, config, StageTimer()) as pipeline:
            while True:
                while len(waiting) < config.in_flight and (video := next(videos, None)) is not None:
                    waiting.append(video)
                    pipeline.submit(video)
                if not waiting:
                    return
                while waiting[0].id not in ended:
                    ended.update((result.item.id, result.error) for result in pipeline.results(_LOOK_SECONDS))
                video = waiting.popleft()
                try:
                    self._add(video, ended.pop(video.id))
                except VideoNotFound:
                    continue  # deleted meanwhile
                except (MediaError, InvalidInput) as error:
                    yield video, str(error)
                else:
                    yield video, None

    def _open(self, video: Video) -> PreparedFile:
        """The first stage of the pipeline: the clips are those of the old collection."""
        with ExitStack() as unless_returned:
            with map_os_errors(self.old.media_path(video)):
                media = unless_returned.enter_context(self.old.media.open(video.path))
            before = file_stat(media.status())
            if content_sha256(media, self.limits) != video.content_sha256:
                raise MediaError(f"{media.name}: has other content than when it was indexed; the same was expected")
            info, clips = self.model.decoder.probe(media, self.limits), self.old.clips(video.id)
            cut = Segments([(clip.start, clip.end) for clip in clips], [clip.text for clip in clips])
            description = FileDescription(media.path, video.content_sha256, info, cut, video.title, video.metadata)
            unless_returned.pop_all()
            return PreparedFile(media, before, description)

    def _keep(self, video: Video, opened: PreparedFile, clips: list[NewClip]) -> IngestResult:
        """The last stage of the pipeline."""
        check_unchanged(opened)
        self.embedded[video.id] = clips
        return IngestResult(video, created=True)

    def _add(self, video: Video, error: BaseException | None) -> None:
        """Add a video that came out of the pipeline. Raises what it came out with."""
        clips = self.embedded.pop(video.id, [])
        if error is not None:
            raise error
        file = self.old.media_path(video) if self.old.owns(video) else None
        try:
            self.new.add_with_ids(video, clips, self.old.clips(video.id)[0].id, file)
        except StorageError:
            self.old.get_video(video.id)  # raises VideoNotFound where it has been deleted, with its file
            raise


def _switch(library: CollectionStore, old: Collection, new: Collection, skipped: set[int]) -> bool:
    """Give the new collection the old one's name; False where the old one has got videos meanwhile."""

    def is_complete(connection: sqlite3.Connection) -> bool:
        wanted = {row[0] for row in connection.execute("SELECT id FROM videos")}
        there = _ids(new)
        if not wanted - skipped <= there:
            return False
        for video_id in there - wanted:
            new.delete_video(video_id)
        _copy_jobs(connection, new)
        _share_files(old.media.folder, new.media.folder)
        return True

    return library.replace(old.name, new.name, is_complete)


def _copy_jobs(connection: sqlite3.Connection, new: Collection) -> None:
    """What became of which file, and jobs that are still to be run."""
    with new.catalogue.write() as target:
        for table in JOB_TABLES:
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                # What a switch that failed has copied may have gone on since.
                target.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)


def _share_files(folder: Path, other: Path) -> None:
    """Let ``other`` have every file of ``folder``, too: under a second name, or as a copy where that cannot be.

    Those of videos are there already; files that jobs need are not. Raises StorageError.
    """
    try:
        for parent, _, names in os.walk(folder):
            there = other / Path(parent).relative_to(folder)
            make_folders(there)
            for name in names:
                if not (there / name).exists():
                    link_or_copy(Path(parent) / name, there / name)
            sync(there)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be taken along: {error}") from error
