"""Watching of a folder: index complete files, report removed files, and delete their videos if requested.

The folder is polled, which also works on network drives. A file is complete when it has not changed for some seconds.
Each round of new files is a separate job, so that nothing is lost when the process dies.

The catalogue stores for each file (`index.storage.watched_files`) the id of its video, and its inode, size and times. A
file whose inode, size or times have changed is read again; only a change of its content counts as a replacement.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from index.collection import MAX_PAGE, Collection
from index.jobs.jobs import create_job, list_items, list_jobs
from index.jobs.recognition import JobRecognition
from index.jobs.records import MAX_NOTES, Job, JobItem, JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import MAX_NAMED, FilesSource, FolderSource, source_dict
from index.jobs.watched_folder import (
    MAX_DELETE,
    Drives,
    FileStatus,
    FolderSnapshot,
    LostVideo,
    LostVideos,
    nearest_folder,
    scan_folder,
)
from index.media_files import is_missing
from index.records import Video
from index.storage.edits import SourceStatement
from index.storage.watched_files import WatchedFile, read_watched_files, video_paths, videos_at, write_watched_files
from vitascope.errors import Conflict, InvalidInput, VideoNotFound
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model
from vitascope.sandbox.recognizers import Recognizers

EventCallback = Callable[[dict[str, Any]], None]
"""Callback for events: ``event`` and ``path``, and where they apply ``video`` (its id) and ``reason``."""

_ITEM_EVENTS = {
    "succeeded": "added",
    "refreshed": "refreshed",
    "skipped": "skipped",
    "failed": "failed",
    "quarantined": "failed",
}
_OTHER_DRIVE = "its file system is not mounted, or another one is mounted there"
_NEVER_SEEN = "none of its files was ever there; its file system may not be mounted"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """The folder to watch, and options.

    Attributes:
        source: the folder.
        options: options of the jobs that index new files.
        interval: seconds between two scans.
        quiet_seconds: seconds for which a file must be unchanged to be indexed, or lost for its video to be deleted.
        delete: whether videos whose file is gone or replaced are deleted from the collection.
        max_delete: share of the folder's videos that may be deleted at once, 0 to 1.
        limits: limits on media files.
        recognizers: recognisers of speech and screen text.
    """

    source: FolderSource
    options: JobOptions
    interval: float = 5.0
    quiet_seconds: float = 5.0
    delete: bool = False
    max_delete: float = MAX_DELETE
    limits: MediaLimits = DEFAULT_LIMITS
    recognizers: Recognizers | None = None


@dataclass
class WatchTotals:
    """Totals of a watched folder.

    Attributes:
        refreshed: files whose video has another path, title, metadata or subtitles than before.
        duplicates: skipped files whose content the collection has.
        notes: files that were added with a note, at most ``MAX_NOTES``.
        gone: videos whose file was deleted or replaced.
        removed: the videos among them that were deleted from the collection.
        remaining: the videos among them that are still in the collection.
        held: videos that stay in the collection for now although their file is lost.
        held_reason: explanation, if they stay because too many files are lost at once.
        unavailable: reason by path, for folders and files that cannot be read now.
    """

    added: int = 0
    refreshed: int = 0
    skipped: int = 0
    duplicates: int = 0
    failures: list[JobItem] = field(default_factory=list)
    notes: list[JobItem] = field(default_factory=list)
    gone: int = 0
    removed: int = 0
    remaining: int = 0
    held: int = 0
    held_reason: str | None = None
    unavailable: dict[str, str] = field(default_factory=dict)

    def summary(self, collection: Collection, source: FolderSource) -> dict[str, Any]:
        """Return the totals as JSON, with the keys of the summary of a job."""
        stats = collection.stats()
        return {
            "source": source_dict(source),
            "job": None,
            "resumed": [],
            "files": self.added + self.refreshed + self.skipped + len(self.failures),
            "added": self.added,
            "refreshed": self.refreshed,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "failed": len(self.failures),
            "failures": [{"file": item.path, "reason": item.reason} for item in self.failures],
            "notes": [{"file": item.path, "note": item.reason} for item in self.notes],
            "gone": self.gone,
            "removed": self.removed,
            "remaining": self.remaining,
            "held_videos": self.held,
            "held_reason": self.held_reason,
            "unavailable": [{"path": path, "reason": reason} for path, reason in self.unavailable.items()],
            "videos": stats.videos,
            "clips": stats.clips,
        }


def watch_folder(collection: Collection, model: Model, options: WatchOptions, on_event: EventCallback) -> WatchTotals:
    """Watch a folder until KeyboardInterrupt. Raises StorageError, and other errors that end a job."""
    watcher = FolderWatcher(collection, model, options, on_event)
    try:
        watcher.finish_interrupted()
        while True:
            watcher.poll(monotonic())
            sleep(options.interval)
    except KeyboardInterrupt:
        return watcher.final_totals()


@dataclass(slots=True)
class _SeenFile:
    """A file at the last scan. ``since``: time of its last change; ``is_done``: whether it needs no indexing."""

    status: FileStatus
    since: float
    is_done: bool = False


class _FolderState(NamedTuple):
    """The folder of a missing file.

    ``path``: the folder to report if it is unavailable. ``drive``: label of its file system; None if it is
    unavailable, for this ``reason``.
    """

    path: str
    drive: str | None
    reason: str = _OTHER_DRIVE


def _folders_of(files: Iterable[str]) -> set[str]:
    """Return the folders that contain files, directly or in subfolders."""
    folders: set[str] = set()
    for file in files:
        folder = os.path.dirname(file)
        while folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    return folders


class FolderWatcher:
    """The state of a watched folder between two scans."""

    def __init__(self, collection: Collection, model: Model, options: WatchOptions, on_event: EventCallback) -> None:
        self._collection = collection
        self._model = model
        self._options = options
        self._on_event = on_event
        self._folder = Path(options.source.folder)
        self._seen: dict[str, _SeenFile] = {}
        self._known: dict[str, WatchedFile] = {}
        """Rows of the catalogue, by path."""
        self._contents: dict[str, int] = {}
        """Id of a file's video, by path of the file."""
        self._expected: set[str] = set()
        """Paths of videos' files that the folder contains or contained, except files that were reported as gone."""
        self._drives = Drives()
        self._lost = LostVideos(collection, options.source, options.quiet_seconds, options.max_delete)
        self._is_loaded = False
        self.totals = WatchTotals()

    def final_totals(self) -> WatchTotals:
        """Return the totals, including the number of videos that remain without their file."""
        self.totals.remaining = self._lost.count()
        return self.totals

    def finish_interrupted(self) -> None:
        """Finish the jobs of interrupted rounds."""
        unfinished = [*list_jobs(self._collection, state="queued"), *list_jobs(self._collection, state="running")]
        for job in unfinished:
            is_round = isinstance(job.source, FilesSource) and all(
                Path(file).is_relative_to(self._folder) for file in job.source.files
            )
            if is_round and job.options == self._options.options:
                with suppress(Conflict):  # another process runs it; ``poll`` reads its files again
                    self._run(job.id)

    def poll(self, now: float) -> None:
        """Scan the folder once and handle the changes. ``now``: seconds of a monotonic clock."""
        if not self._is_loaded:
            self._load_known()
            self._is_loaded = True
        snapshot = self._scan()
        if snapshot is None:
            return
        self._drives.update(snapshot, self._known)
        self._on_present(snapshot, now)
        self._on_missing(snapshot, now)
        complete = [
            path
            for path in snapshot.files
            if not self._seen[path].is_done and now - self._seen[path].since >= self._options.quiet_seconds
        ]
        for first in range(0, len(complete), MAX_NAMED):
            self._index(complete[first : first + MAX_NAMED])
        if self._options.delete:
            self._delete_lost(snapshot, now)

    def _load_known(self) -> None:
        """Read the rows of the folder's files, and refresh the metadata of files that are not read again."""
        source = self._options.source
        with self._collection.catalogue.read() as connection:
            self._known = read_watched_files(connection, source.folder, source.recursive)
            self._expected = {*self._known, *video_paths(connection, source.folder, source.recursive)}
        self._contents = {path: file.video_id for path, file in self._known.items()}
        metadata = self._options.options.metadata
        for video in chain.from_iterable(self._videos_at(list(self._known) if metadata else []).values()):
            with suppress(VideoNotFound):
                if self._collection.refresh_video(video, SourceStatement(metadata=metadata))[1]:
                    self._on_refreshed(video.path, video, "refreshed: metadata")

    def _scan(self) -> FolderSnapshot | None:
        """Return the folder now; None while it is unavailable: an unmounted drive must not count as deleted files."""
        try:
            snapshot = scan_folder(self._folder, self._options.source.recursive)
            reason = None if snapshot.files or not self._expected else "all its files are gone at once; its videos stay"
        except OSError as error:
            snapshot, reason = None, error.strerror or str(error)
        if reason is None:
            return snapshot
        self._set_unavailable({**self.totals.unavailable, str(self._folder): reason})
        return None

    def _on_present(self, snapshot: FolderSnapshot, now: float) -> None:
        """Handle files that are new, changed or back."""
        lost_events = {lost.video.id: lost.event for lost in self._lost}
        moved = []
        for path, status in snapshot.files.items():
            known, seen = self._known.get(path), self._seen.get(path)
            is_known = known is not None and known.facts == status.facts
            if seen is None or seen.status.facts != status.facts:
                # A file that was reported as replaced is read again: it may have its former content back.
                is_done = known is not None and is_known and lost_events.get(known.video_id) != "replaced"
                self._seen[path] = _SeenFile(status, now, is_done)
            else:
                seen.status = status
            if known is not None and is_known:
                drive, device = self._drives.label(status.device), str(status.device)
                if (known.drive, known.device, known.held_since) != (drive, device, None):
                    moved.append(replace(known, drive=drive, device=device, held_since=None))
        self._store(moved)
        self._seen = {path: self._seen[path] for path in snapshot.files}
        self._expected |= snapshot.files.keys() & self._known.keys()
        for lost in self._lost:
            if lost.event == "gone" and lost.video.path in snapshot.files:
                self._lost.discard(lost.video.id)
                self._on_event({"event": "back", "path": lost.video.path, "video": str(lost.video.id)})

    def _on_missing(self, snapshot: FolderSnapshot, now: float) -> None:
        """Handle missing files, and unavailable folders together with their files."""
        unavailable: dict[str, str] = {}
        gone: list[str] = []
        folders: dict[str, _FolderState] = {}
        missing = sorted(self._expected - snapshot.files.keys())
        with_files = _folders_of(snapshot.files) if missing else set()
        for path in missing:
            if path in snapshot.unreadable:
                unavailable[path] = snapshot.unreadable[path]
                continue
            parent = os.path.dirname(path)
            if parent not in folders:
                folders[parent] = self._folder_state(parent, snapshot)
            state, known = folders[parent], self._known.get(path)
            if state.drive is None or (known is not None and known.drive != state.drive):
                unavailable[state.path] = state.reason
            elif known is None and parent not in with_files:
                unavailable[parent] = _NEVER_SEEN
            elif is_missing(path):
                gone.append(path)
        self._set_unavailable(unavailable)
        for path, videos in self._videos_at(gone).items():
            self._expected.discard(path)
            self._contents.pop(path, None)
            for video in videos:
                if not self._relink(video):
                    self._on_lost(LostVideo(video, "gone", now))

    def _folder_state(self, path: str, snapshot: FolderSnapshot) -> _FolderState:
        folder = Path(path)
        for parent in (folder, *folder.parents):
            if str(parent) in snapshot.unreadable:
                return _FolderState(str(parent), None, snapshot.unreadable[str(parent)])
        try:
            nearest, device = nearest_folder(folder, self._folder)
        except OSError as error:
            return _FolderState(path, None, error.strerror or str(error))
        if nearest == self._folder != folder:  # even the mount point of an absent file system is missing
            nearest = nearest / folder.relative_to(nearest).parts[0]
        return _FolderState(str(nearest), self._drives.label(device))

    def _set_unavailable(self, unavailable: dict[str, str]) -> None:
        before, self.totals.unavailable = self.totals.unavailable, unavailable
        for path, reason in unavailable.items():
            if path not in before:
                self._on_event({"event": "unavailable", "path": path, "reason": reason})
        for path in before:
            if path not in unavailable:
                self._on_event({"event": "back", "path": path})

    def _index(self, paths: list[str]) -> None:
        """Index complete files. The next scan handles files that disappear or change meanwhile."""
        existing = tuple(path for path in paths if Path(path).is_file())
        if not existing:
            return
        try:
            job = create_job(self._collection, FilesSource(existing), self._options.options)
        except InvalidInput:
            return  # gone since the scan
        job = self._run(job.id)
        if job.state == "failed":
            raise Conflict(f"job {job.id}: {job.error}")
        contents = {}
        for item in list_items(self._collection, job.id, limit=MAX_PAGE):
            # A file that has changed since is another file at the next scan.
            self._seen[item.path].is_done = True
            if item.video_id is not None:
                contents[item.path] = item.video_id
        self._record_contents(contents)

    def _run(self, job_id: int) -> Job:
        limits, recognizers = self._options.limits, self._options.recognizers
        recognition = None if recognizers is None else JobRecognition(recognizers)
        return run_job(
            self._collection, self._model, job_id, on_item=self._on_item, limits=limits, recognition=recognition
        )

    def _record_contents(self, contents: dict[str, int]) -> None:
        """Record the video of each file, and handle the videos whose file was replaced."""
        self._contents.update(contents)
        self._expected |= contents.keys()
        for path, video_id in contents.items():
            if (known := self._known.get(path)) and known.video_id == video_id:
                self._drives.recognise(self._seen[path].status.device, known.drive)
        current, files = self._videos_at(list(contents)), []
        for path, video_id in contents.items():
            seen = self._seen[path]
            facts, device = seen.status.facts, seen.status.device
            file = WatchedFile(path, video_id, facts, self._drives.label(device), str(device))
            if any(video.id == video_id for video in current[path]):
                self._lost.discard(video_id)
            replaced = [video for video in current[path] if video.id != video_id and not self._relink(video)]
            known = self._known.get(path)
            is_on_other_drive = known is not None and known.drive != file.drive
            for video in replaced:
                self._on_lost(LostVideo(video, "replaced", seen.since, file, is_on_other_drive))
            if not (replaced and self._options.delete):
                files.append(file)
        self._store(files)
        for lost in self._lost:
            if self._relink(lost.video):
                self._lost.discard(lost.video.id)

    def _relink(self, video: Video) -> bool:
        """Point a video that has lost its file to another file with the same content; return whether there is one."""
        paths = [path for path, video_id in self._contents.items() if video_id == video.id]
        path = next((path for path in paths if path in self._seen and self._seen[path].is_done), None)
        if path is None:
            return False
        with suppress(VideoNotFound):
            self._collection.refresh_video(video, SourceStatement(path=path))
            self._on_refreshed(path, video, f"moved from {video.path}")
        return True

    def _on_refreshed(self, path: str, video: Video, reason: str) -> None:
        self.totals.refreshed += 1
        self._on_event({"event": "refreshed", "path": path, "video": str(video.id), "reason": reason})

    def _on_lost(self, lost: LostVideo) -> None:
        """Report a lost file and what happens to its video."""
        if lost.is_on_other_drive:
            reason = "by a file on another file system; the former video stays"
        elif self._options.delete:
            reason = f"the video is deleted in {self._options.quiet_seconds:g} s unless the file is back"
        else:
            reason = "the video stays in the collection; --watch-delete deletes it"
        self.totals.gone += 1
        self._lost.add(lost)
        self._on_event({"event": lost.event, "path": lost.video.path, "video": str(lost.video.id), "reason": reason})

    def _delete_lost(self, snapshot: FolderSnapshot, now: float) -> None:
        """Delete the videos whose file is lost, or report why they stay."""
        held = self._lost.held
        due = self._lost.due(now, self._known)
        self.totals.held, self.totals.held_reason = len(self._lost.held), self._lost.reason
        if self._lost.reason is not None and self._lost.held != held:
            self._on_event({"event": "held", "path": str(self._folder), "reason": self._lost.reason})
        deleted = []
        for lost in due:
            if self._lost.delete(lost):
                deleted.append(lost)
                self.totals.removed += 1
                self._on_event({"event": "removed", "path": lost.video.path, "video": str(lost.video.id)})
        self._forget({lost.video.id for lost in deleted})
        self._store([lost.successor for lost in deleted if lost.successor is not None])

    def _forget(self, video_ids: set[int]) -> None:
        """Forget deleted videos, so that other files with the same content, skipped until now, are indexed."""
        if not video_ids:
            return
        self._known = {path: file for path, file in self._known.items() if file.video_id not in video_ids}
        for path in [path for path, video_id in self._contents.items() if video_id in video_ids]:
            del self._contents[path]
            if path in self._seen:
                self._seen[path].is_done = False

    def _store(self, files: list[WatchedFile]) -> None:
        """Store rows of files."""
        if files:
            with self._collection.catalogue.write() as connection:
                write_watched_files(connection, files)
            self._known.update((file.path, file) for file in files)

    def _videos_at(self, paths: list[str]) -> dict[str, list[Video]]:
        if not paths:
            return {}
        with self._collection.catalogue.read() as connection:
            return videos_at(connection, paths)

    def _on_item(self, item: JobItem, done: int, total: int) -> None:
        event: dict[str, Any] = {"event": _ITEM_EVENTS[item.state], "path": item.path}
        if item.video_id is not None:
            event["video"] = str(item.video_id)
        if item.reason is not None:
            event["reason"] = item.reason
        if item.state == "succeeded":
            self.totals.added += 1
            if item.reason is not None and len(self.totals.notes) < MAX_NOTES:
                self.totals.notes.append(item)
        elif item.state == "refreshed":
            self.totals.refreshed += 1
        elif item.state == "skipped":
            self.totals.skipped += 1
            self.totals.duplicates += item.video_id is not None
        else:
            self.totals.failures.append(item)
        self._on_event(event)
