"""Follow a folder: what comes is indexed once it is complete, what goes is reported, and removed only if so wanted.

The folder is listed again and again, which works on network drives, too. A file is complete when size and time
of change have stayed the same for some seconds. Every round of new files is a job of its own, so that nothing
is lost when the process dies.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from index.collection import Collection
from index.jobs.folder_listing import Listed, list_folder
from index.jobs.jobs import JobItem, JobOptions, create_job, items, jobs, run_job
from index.jobs.records import MAX_PAGE, NOTES_KEPT
from index.jobs.sources.description import MAX_NAMED, FilesSource, FolderSource, source_dict
from index.records import Video
from index.storage.filters import parse_filter
from vitascope.errors import Conflict, InvalidInput, VideoNotFound
from vitascope.model import Model

Say = Callable[[dict[str, Any]], None]
"""Told what happens: ``event``, ``path``, and where they apply ``video`` (its id) and ``reason``."""
State = tuple[int, int, int]
"""Inode, size in bytes and time of change in ns of a file."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is followed, and how. ``interval``: seconds between two looks; ``settle``: seconds for which a file
    must not change; ``delete``: whether videos whose file is gone or replaced leave the collection.
    """

    source: FolderSource
    options: JobOptions
    interval: float = 5.0
    settle: float = 5.0
    delete: bool = False


@dataclass
class Totals:
    """What happened while the folder was watched. ``notes``: remarks on files that were added, as many as a job's."""

    added: int = 0
    skipped: int = 0
    failures: list[JobItem] = field(default_factory=list)
    notes: list[JobItem] = field(default_factory=list)
    gone: int = 0
    removed: int = 0


@dataclass
class _Seen:
    """A file as it was seen: ``since`` when it is so, ``done`` once it was indexed, or found not to be a video."""

    state: State
    since: float
    done: bool = False


def watch(collection: Collection, model: Model, wanted: Watch, say: Say) -> Totals:
    """Follow the folder until KeyboardInterrupt. Raises StorageError and what else ends a job."""
    folder = Path(wanted.source.folder)
    totals = Totals()
    follower = _Follower(collection, model, wanted, say, totals, _identity(folder))
    try:
        follower.finish_interrupted()
        while True:
            follower.look()
            sleep(wanted.interval)
    except KeyboardInterrupt:
        return totals


def summary(collection: Collection, source: FolderSource, totals: Totals) -> dict[str, Any]:
    """The keys that indexing once has, and what went."""
    stats = collection.stats()
    return {
        "source": source_dict(source),
        "job": None,
        "resumed": [],
        "files": totals.added + totals.skipped + len(totals.failures),
        "added": totals.added,
        "skipped": totals.skipped,
        "failed": len(totals.failures),
        "failures": [{"file": item.path, "reason": item.reason} for item in totals.failures],
        "notes": [{"file": item.path, "note": item.reason} for item in totals.notes],
        "gone": totals.gone,
        "removed": totals.removed,
        "videos": stats.videos,
        "clips": stats.clips,
    }


class _Follower:
    """What is known of the folder between two looks."""

    def __init__(
        self, collection: Collection, model: Model, wanted: Watch, say: Say, totals: Totals, identity: tuple[int, int]
    ) -> None:
        self._collection = collection
        self._model = model
        self._wanted = wanted
        self._say = say
        self._totals = totals
        self._identity = identity
        self._folder = Path(wanted.source.folder)
        self._seen: dict[str, _Seen] = {}
        self._copies: dict[int, set[str]] = {}
        """Files that were skipped because their content is that of a video with another file."""
        self._is_away = False
        self._first = True

    def finish_interrupted(self) -> None:
        """Run rounds that were interrupted to their end."""
        unfinished = [*jobs(self._collection, state="queued"), *jobs(self._collection, state="running")]
        for job in unfinished:
            is_round = isinstance(job.source, FilesSource) and all(
                Path(file).is_relative_to(self._folder) for file in job.source.files
            )
            if is_round and job.options == self._wanted.options:
                run_job(self._collection, self._model, job.id, on_item=self._note)

    def look(self) -> None:
        """One look at the folder, and what follows from it."""
        found = self._list()
        if found is None:
            return
        present, unread = found
        if self._first:
            self._recall(present)
            self._first = False
        vanished = [path for path in self._seen if path not in present and not _is_below(path, unread)]
        now = monotonic()
        for path, state in present.items():
            seen = self._seen.get(path)
            if seen is None or seen.state != state:
                self._seen[path] = _Seen(state, now)
        settled = [
            path
            for path in present
            if not self._seen[path].done and now - self._seen[path].since >= self._wanted.settle
        ]
        for first in range(0, len(settled), MAX_NAMED):
            self._index(settled[first : first + MAX_NAMED])
        for path in vanished:
            del self._seen[path]
            for video in self._videos_of(path):
                self._lost(video, "gone")

    def _list(self) -> tuple[dict[str, State], list[str]] | None:
        """(state of every file that may be a video, folders that could not be read); None while the folder as a
        whole is away: an unmounted drive must not look like one whose files were all deleted.
        """
        reason = None
        listed: list[Listed] = []
        try:
            if _identity(self._folder) != self._identity:
                reason = "another folder or drive is in its place"
            else:
                listed = list(list_folder(self._folder, self._wanted.source.recursive))
        except OSError as error:
            reason = error.strerror or str(error)
        present = {}
        for found in listed:
            if found.state == "queued" and (state := _state(found.path)) is not None:
                present[found.path] = state
        if reason is None and not present and self._has_any():
            reason = "all its files are gone at once; nothing follows from that"
        if (reason is not None) != self._is_away:
            self._is_away = reason is not None
            self._say({"event": "away" if reason else "back", "path": str(self._folder), "reason": reason})
        if reason is not None:
            return None
        return present, [found.path for found in listed if found.state == "failed"]

    def _has_any(self) -> bool:
        """Whether the collection has videos of the folder."""
        return bool(self._collection.videos(1, where=parse_filter({"path": {"prefix": f"{self._folder}{os.sep}"}})))

    def _recall(self, present: dict[str, State]) -> None:
        """Files that the collection has by their path, and that have not changed since, need not be read again."""
        prefix = f"{self._folder}{os.sep}"
        for video in _videos(self._collection, {"path": {"prefix": prefix}}):
            state = present.get(video.path)
            if state is None:
                if not Path(video.path).exists():
                    self._seen[video.path] = _Seen((0, 0, 0), 0.0, done=True)  # it went while nobody watched
            elif state[2] / 1e9 < video.added_at:
                self._seen[video.path] = _Seen(state, 0.0, done=True)

    def _index(self, paths: list[str]) -> None:
        """Index files that are complete. One that goes or changes meanwhile is looked at again."""
        earlier = {path: self._videos_of(path) for path in paths}
        there = tuple(path for path in paths if Path(path).is_file())
        if not there:
            return
        try:
            job = create_job(self._collection, FilesSource(there), self._wanted.options)
        except InvalidInput:
            return  # gone between the look and now
        job = run_job(self._collection, self._model, job.id, on_item=self._note)
        if job.state == "failed":
            raise Conflict(f"job {job.id}: {job.error}")
        for item in items(self._collection, job.id, limit=MAX_PAGE):
            # What has changed since is another file at the next look.
            self._seen[item.path].done = True
            if item.state == "skipped" and item.video_id is not None:
                self._copies.setdefault(item.video_id, set()).add(item.path)
            for video in earlier[item.path]:
                if item.video_id is not None and video.id != item.video_id:
                    self._lost(video, "replaced")

    def _lost(self, video: Video, event: str) -> None:
        """The file of a video is no longer there, or has other content now."""
        self._totals.gone += 1
        self._say({"event": event, "path": video.path, "video": str(video.id)})
        if not self._wanted.delete:
            return
        with suppress(VideoNotFound):
            self._collection.delete_video(video.id)
        self._totals.removed += 1
        self._say({"event": "removed", "path": video.path, "video": str(video.id)})
        for copy in self._copies.pop(video.id, set()):  # files of the same content, skipped until now
            if copy in self._seen:
                self._seen[copy].done = False

    def _videos_of(self, path: str) -> list[Video]:
        return _videos(self._collection, {"path": path})

    def _note(self, item: JobItem, done: int, total: int) -> None:
        event: dict[str, Any] = {"event": _EVENTS[item.state], "path": item.path}
        if item.video_id is not None:
            event["video"] = str(item.video_id)
        if item.reason is not None:
            event["reason"] = item.reason
        if item.state == "succeeded":
            self._totals.added += 1
            if item.reason is not None and len(self._totals.notes) < NOTES_KEPT:
                self._totals.notes.append(item)
        elif item.state == "skipped":
            self._totals.skipped += 1
        else:
            self._totals.failures.append(item)
        self._say(event)


_EVENTS = {"succeeded": "added", "skipped": "skipped", "failed": "failed", "quarantined": "failed"}


def _videos(collection: Collection, where: dict[str, Any]) -> list[Video]:
    found: list[Video] = []
    while page := collection.videos(MAX_PAGE, found[-1].id if found else 0, parse_filter(where)):
        found += page
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """Which folder of which drive this is. Raises OSError."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _state(path: str) -> State | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_below(path: str, folders: list[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)
