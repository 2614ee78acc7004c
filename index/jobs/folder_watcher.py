"""The state of a watched folder between two looks, and what follows from each."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from index.collection import Collection
from index.jobs.jobs import JobItem, create_job, items, jobs, run_job
from index.jobs.records import MAX_PAGE, NOTES_KEPT
from index.jobs.sources.source_types import MAX_NAMED, FilesSource
from index.jobs.watch_losses import Loss, Losses
from index.jobs.watch_records import Say, Totals, Watch
from index.jobs.watched_folder import Drives, FileStatus, Look, is_missing, look_at, nearest_folder
from index.records import Video
from index.storage.watched_files import WatchedFile, read_watched_files, video_paths, videos_at, write_watched_files
from vitascope.errors import Conflict, InvalidInput
from vitascope.model import Model

_EVENTS = {"succeeded": "added", "skipped": "skipped", "failed": "failed", "quarantined": "failed"}
_OTHER_DRIVE = "its file system is not there, or another one is in its place"


@dataclass(slots=True)
class _Seen:
    """A file as it was seen: ``since`` when it is so, ``is_done`` once there is nothing left to do with it."""

    status: FileStatus
    since: float
    is_done: bool = False


class _FolderState(NamedTuple):
    """The folder of a missing file: the label of its file system, or None and why that cannot be said.

    ``place``: the folder by which its absence is reported.
    """

    place: str
    drive: str | None
    reason: str = _OTHER_DRIVE


class Follower:
    """What is known of the folder between two looks."""

    def __init__(self, collection: Collection, model: Model, settings: Watch, say: Say) -> None:
        self._collection = collection
        self._model = model
        self._settings = settings
        self._say = say
        self._folder = Path(settings.source.folder)
        self._seen: dict[str, _Seen] = {}
        self._known: dict[str, WatchedFile] = {}
        """Rows of the catalogue, by path."""
        self._contents: dict[str, int] = {}
        """The video that the content of a file is, by path."""
        self._expected: set[str] = set()
        """Paths of videos' files that are, or were, in the folder, and are not reported as gone."""
        self._drives = Drives()
        self._losses = Losses(collection, settings.source, settings.settle, settings.max_delete)
        self._is_first = True
        self.totals = Totals()

    def finish_interrupted(self) -> None:
        """Run rounds that were interrupted to their end."""
        unfinished = [*jobs(self._collection, state="queued"), *jobs(self._collection, state="running")]
        for job in unfinished:
            is_round = isinstance(job.source, FilesSource) and all(
                Path(file).is_relative_to(self._folder) for file in job.source.files
            )
            if is_round and job.options == self._settings.options:
                run_job(self._collection, self._model, job.id, on_item=self._note)

    def look(self, now: float) -> None:
        """Look at the folder once, ``now`` by a clock in seconds, and do what follows from it."""
        if self._is_first:
            self._recall()
            self._is_first = False
        look = self._list()
        if look is None:
            return
        self._drives.update(look, self._known)
        self._note_present(look, now)
        self._note_missing(look, now)
        settled = [
            path
            for path in look.files
            if not self._seen[path].is_done and now - self._seen[path].since >= self._settings.settle
        ]
        for first in range(0, len(settled), MAX_NAMED):
            self._index(settled[first : first + MAX_NAMED])
        if self._settings.delete:
            self._delete_lost(look, now)

    def _recall(self) -> None:
        """Read what is known of the folder's files."""
        source = self._settings.source
        with self._collection.catalogue.read() as connection:
            self._known = read_watched_files(connection, source.folder, source.recursive)
            self._expected = {*self._known, *video_paths(connection, source.folder, source.recursive)}
        self._contents = {path: file.video_id for path, file in self._known.items()}

    def _list(self) -> Look | None:
        """The folder now; None while it is away: an unmounted drive must not look like one whose files were deleted."""
        try:
            look = look_at(self._folder, self._settings.source.recursive)
            reason = None if look.files or not self._expected else "all its files are gone at once"
        except OSError as error:
            look, reason = None, error.strerror or str(error)
        if reason is None:
            return look
        self._set_away({**self.totals.away, str(self._folder): reason})
        return None

    def _note_present(self, look: Look, now: float) -> None:
        """Files that have come, changed or come back."""
        lost = {loss.video.id: loss.event for loss in self._losses}
        kept = []
        for path, status in look.files.items():
            known, seen = self._known.get(path), self._seen.get(path)
            is_known = known is not None and known.facts == status.facts
            if seen is None or seen.status.facts != status.facts:
                # One that had been replaced is read again, to learn what that makes of its replacement.
                is_done = known is not None and is_known and lost.get(known.video_id) != "replaced"
                self._seen[path] = _Seen(status, now, is_done)
            else:
                seen.status = status
            if known is not None and is_known:
                drive, device = self._drives.label(status.device), str(status.device)
                if (known.drive, known.device, known.held_since) != (drive, device, None):
                    kept.append(replace(known, drive=drive, device=device, held_since=None))
        self._keep(kept)
        self._seen = {path: self._seen[path] for path in look.files}
        self._expected |= look.files.keys() & self._known.keys()
        for loss in self._losses:
            if loss.event == "gone" and loss.video.path in look.files:
                self._losses.drop(loss.video.id, loss.video.path)
                self._say({"event": "back", "path": loss.video.path, "video": str(loss.video.id)})

    def _note_missing(self, look: Look, now: float) -> None:
        """Files that are gone, and folders whose files are away with them."""
        away: dict[str, str] = {}
        gone: list[str] = []
        folders: dict[str, _FolderState] = {}
        for path in sorted(self._expected - look.files.keys()):
            if path in look.unreadable:
                away[path] = look.unreadable[path]
                continue
            above = os.path.dirname(path)
            if above not in folders:
                folders[above] = self._folder_state(above, look)
            state, known = folders[above], self._known.get(path)
            if state.drive is None or (known is not None and known.drive != state.drive):
                away[state.place] = state.reason
            elif is_missing(path):
                gone.append(path)
        self._set_away(away)
        for path, videos in self._videos_at(gone).items():
            self._expected.discard(path)
            self._contents.pop(path, None)
            for video in videos:
                self._note_loss(Loss(video, "gone", now))

    def _folder_state(self, above: str, look: Look) -> _FolderState:
        folder = Path(above)
        for parent in (folder, *folder.parents):
            if str(parent) in look.unreadable:
                return _FolderState(str(parent), None, look.unreadable[str(parent)])
        try:
            nearest, device = nearest_folder(folder, self._folder)
        except OSError as error:
            return _FolderState(above, None, error.strerror or str(error))
        if nearest == self._folder != folder:  # not even the mount point of an absent file system is there
            nearest = nearest / folder.relative_to(nearest).parts[0]
        return _FolderState(str(nearest), self._drives.label(device))

    def _set_away(self, away: dict[str, str]) -> None:
        before, self.totals.away = self.totals.away, away
        for path, reason in away.items():
            if path not in before:
                self._say({"event": "away", "path": path, "reason": reason})
        for path in before:
            if path not in away:
                self._say({"event": "back", "path": path})

    def _index(self, paths: list[str]) -> None:
        """Index files that are complete. One that goes or changes meanwhile is looked at again."""
        earlier = self._videos_at(paths)
        there = tuple(path for path in paths if Path(path).is_file())
        if not there:
            return
        try:
            job = create_job(self._collection, FilesSource(there), self._settings.options)
        except InvalidInput:
            return  # gone between the look and now
        job = run_job(self._collection, self._model, job.id, on_item=self._note)
        if job.state == "failed":
            raise Conflict(f"job {job.id}: {job.error}")
        contents = {}
        for item in items(self._collection, job.id, limit=MAX_PAGE):
            # What has changed since is another file at the next look.
            self._seen[item.path].is_done = True
            if item.video_id is not None:
                contents[item.path] = item.video_id
        self._note_contents(contents, earlier)

    def _note_contents(self, contents: dict[str, int], earlier: dict[str, list[Video]]) -> None:
        """What the content of files is, and which videos are replaced by that."""
        self._contents.update(contents)
        self._expected |= contents.keys()
        for path, video_id in contents.items():
            if (known := self._known.get(path)) and known.video_id == video_id:
                self._drives.recognise(self._seen[path].status.device, known.drive)
        files = []
        for path, video_id in contents.items():
            seen = self._seen[path]
            facts, device = seen.status.facts, seen.status.device
            file = WatchedFile(path, video_id, facts, self._drives.label(device), str(device))
            self._losses.drop(video_id, path)
            replaced = [video for video in earlier[path] if video.id != video_id]
            known = self._known.get(path)
            is_elsewhere = known is not None and known.drive != file.drive
            for video in replaced:
                self._note_loss(Loss(video, "replaced", seen.since, file, is_elsewhere))
            if not (replaced and self._settings.delete):
                files.append(file)
        self._keep(files)

    def _note_loss(self, loss: Loss) -> None:
        """Report a loss, and have its video deleted in time if it is to be."""
        event = {"event": loss.event, "path": loss.video.path, "video": str(loss.video.id)}
        if loss.is_on_other_drive:
            event["reason"] = "by a file on another file system"
        self.totals.gone += 1
        self._say(event)
        if self._settings.delete:
            self._losses.add(loss)

    def _delete_lost(self, look: Look, now: float) -> None:
        """Delete the videos whose file is lost, or say why they stay."""
        held, lost = self._losses.held, {loss.video.id for loss in self._losses}
        contents = {video for path, video in self._contents.items() if video in lost and path in look.files}
        due = self._losses.due(now, self._known, contents)
        self.totals.held, self.totals.held_reason = len(self._losses.held), self._losses.reason
        if self._losses.reason is not None and self._losses.held != held:
            self._say({"event": "held", "path": str(self._folder), "reason": self._losses.reason})
        deleted = []
        for loss in due:
            if self._losses.delete(loss):
                deleted.append(loss)
                self.totals.removed += 1
                self._say({"event": "removed", "path": loss.video.path, "video": str(loss.video.id)})
        self._forget({loss.video.id for loss in deleted})
        self._keep([loss.successor for loss in deleted if loss.successor is not None])

    def _forget(self, video_ids: set[int]) -> None:
        """Forget what is known of deleted videos. Files of the same content, skipped until now, are to be indexed."""
        if not video_ids:
            return
        self._known = {path: file for path, file in self._known.items() if file.video_id not in video_ids}
        for path in [path for path, video_id in self._contents.items() if video_id in video_ids]:
            del self._contents[path]
            if path in self._seen:
                self._seen[path].is_done = False

    def _keep(self, files: list[WatchedFile]) -> None:
        """Write what is known of files."""
        if files:
            with self._collection.catalogue.write() as connection:
                write_watched_files(connection, files)
            self._known.update((file.path, file) for file in files)

    def _videos_at(self, paths: list[str]) -> dict[str, list[Video]]:
        if not paths:
            return {}
        with self._collection.catalogue.read() as connection:
            return videos_at(connection, paths)

    def _note(self, item: JobItem, done: int, total: int) -> None:
        event: dict[str, Any] = {"event": _EVENTS[item.state], "path": item.path}
        if item.video_id is not None:
            event["video"] = str(item.video_id)
        if item.reason is not None:
            event["reason"] = item.reason
        if item.state == "succeeded":
            self.totals.added += 1
            if item.reason is not None and len(self.totals.notes) < NOTES_KEPT:
                self.totals.notes.append(item)
        elif item.state == "skipped":
            self.totals.skipped += 1
        else:
            self.totals.failures.append(item)
        self._say(event)
