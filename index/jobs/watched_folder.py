"""State of a watched folder: its files, the file systems on which they are, and the videos whose file is lost."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from index.collection import Collection
from index.jobs.source_items import list_folder
from index.jobs.sources.source_types import FolderSource
from index.media_files import MISSING_ERRORS, is_missing
from index.records import Video
from index.storage.watched_files import WatchedFile, count_files, existing_videos, write_watched_files
from vitascope.errors import VideoNotFound
from vitascope.media.subtitles import SUFFIXES

MAX_DELETE = 0.2
"""Default share of a folder's videos that may be deleted at once. A single video may always be deleted."""


@dataclass(frozen=True, slots=True)
class FileStatus:
    """``facts``: inode, size and times of a file and its subtitle files. ``device``: device number of its folder."""

    facts: str
    device: int


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """A folder at one moment.

    Attributes:
        files: status by path, for files that may be videos.
        unreadable: reason by path, for folders and files that exist but cannot be read.
        device: device number of the folder itself.
    """

    files: dict[str, FileStatus]
    unreadable: dict[str, str]
    device: int


def scan_folder(folder: Path, recursive: bool) -> FolderSnapshot:
    """List a folder. Raises OSError where it cannot be listed."""
    snapshot = FolderSnapshot({}, {}, _device(folder))
    devices = {str(folder): snapshot.device}
    subtitles: dict[str, str] = {}  # facts of subtitle files, by path of their video without suffix
    for item in list_folder(folder, recursive):
        if item.uri.lower().endswith(SUFFIXES):
            with suppress(OSError):
                stem, facts = Path(item.uri).with_suffix(""), _facts(item.uri)
                for owner in {stem, stem.with_suffix(""), stem.with_suffix("").with_suffix("")}:
                    subtitles[str(owner)] = f"{subtitles.get(str(owner), '')} {facts}"
        elif item.state == "failed":
            if os.path.lexists(item.uri):  # not deleted since it was listed
                snapshot.unreadable[item.uri] = item.reason or "cannot be read"
        elif item.state == "queued":
            parent = os.path.dirname(item.uri)
            try:
                if parent not in devices:
                    devices[parent] = _device(parent)
                snapshot.files[item.uri] = FileStatus(_facts(item.uri), devices[parent])
            except MISSING_ERRORS:
                continue  # deleted since it was listed
            except OSError as error:
                snapshot.unreadable[item.uri] = error.strerror or str(error)
    for path, status in snapshot.files.items():
        subtitle_facts = subtitles.get(os.path.splitext(path)[0], "")
        snapshot.files[path] = replace(status, facts=status.facts + subtitle_facts)
    return snapshot


def nearest_folder(path: Path, folder: Path) -> tuple[Path, int]:
    """Return the nearest existing folder from ``path`` up to ``folder``, and its device. Raises OSError."""
    while True:
        try:
            return path, _device(path)
        except MISSING_ERRORS:
            if path == folder:
                raise
            path = path.parent


class Drives:
    """Labels of the file systems below a folder.

    Device numbers change when a machine restarts or a drive is plugged in again. Therefore every file system gets a
    label, which is stored with its files. A file system is recognised by an unchanged file on it, else by its number.
    """

    def __init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._new: set[int] = set()
        """Devices that got a new label because no file on them was known."""
        self._absent: set[str] = set()
        """Labels of former file systems; their device numbers may now belong to other file systems."""

    def update(self, snapshot: FolderSnapshot, known: Mapping[str, WatchedFile]) -> None:
        """Forget devices without files, and recognise the others by their files."""
        in_use = {status.device for status in snapshot.files.values()} | {snapshot.device}
        self._absent |= {label for device, label in self._labels.items() if device not in in_use | self._new}
        self._labels = {device: label for device, label in self._labels.items() if device in in_use}
        self._new &= in_use
        if in_use <= self._labels.keys():
            return
        for path, status in snapshot.files.items():
            if status.device not in self._labels and (file := known.get(path)) and file.facts == status.facts:
                self._set(status.device, file.drive)
        excluded = {*self._labels.values(), *self._absent}
        by_number = {file.device: file.drive for file in known.values() if file.drive not in excluded}
        for device in in_use - self._labels.keys():
            label = by_number.get(str(device))
            if label is not None and label not in self._labels.values():
                self._set(device, label)

    def label(self, device: int) -> str:
        """Return the label of a device, a new one if none is known."""
        if device not in self._labels:
            self._labels[device] = uuid.uuid4().hex
            self._new.add(device)
        return self._labels[device]

    def recognise(self, device: int, label: str) -> None:
        """Note that a file of the file system ``label`` was identified on ``device`` by its content."""
        if device in self._new:
            self._set(device, label)

    def _set(self, device: int, label: str) -> None:
        self._labels[device] = label
        self._new.discard(device)
        self._absent.discard(label)


def _facts(path: str) -> str:
    """Return inode, size, modification and change time, like git's index; programs cannot set the change time."""
    status = os.stat(path)
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _device(folder: str | Path) -> int:
    return os.stat(folder).st_dev


@dataclass(frozen=True, slots=True)
class LostVideo:
    """A video whose file is gone, or has other content.

    Attributes:
        video: the video, as stored in the collection.
        event: what happened to its file.
        since: time of the event, in seconds of the caller's clock.
        successor: the file that replaced the video's file, recorded once the video is deleted.
        is_on_other_drive: whether the successor is on another file system than the file was; then the video stays.
    """

    video: Video
    event: Literal["gone", "replaced"]
    since: float
    successor: WatchedFile | None = None
    is_on_other_drive: bool = False


class LostVideos:
    """Videos whose file is lost, to be deleted after some time if requested, unless there are too many of them.

    Attributes:
        held: ids of the videos that stay although their file is lost.
        reason: why videos stay, if there are too many.
    """

    def __init__(self, collection: Collection, source: FolderSource, quiet_seconds: float, max_delete: float) -> None:
        """Create the set.

        Args:
            collection: collection of the videos.
            source: the watched folder.
            quiet_seconds: seconds for which a file must be lost before its video is deleted.
            max_delete: share of the folder's videos that may be deleted at once, 0 to 1.
        """
        self._collection = collection
        self._source = source
        self._quiet_seconds = quiet_seconds
        self._max_delete = max_delete
        self._pending: dict[int, LostVideo] = {}
        self.held: frozenset[int] = frozenset()
        self.reason: str | None = None

    def __iter__(self) -> Iterator[LostVideo]:
        return iter(tuple(self._pending.values()))

    def count(self) -> int:
        """Return the number of these videos that are still in the collection."""
        self._discard_deleted()
        return len(self._pending)

    def add(self, lost: LostVideo) -> None:
        self._pending.setdefault(lost.video.id, lost)

    def discard(self, video_id: int) -> None:
        """Remove a video whose file exists again."""
        self._pending.pop(video_id, None)

    def due(self, now: float, known: dict[str, WatchedFile]) -> list[LostVideo]:
        """Return the videos that the caller has to delete now with ``delete``.

        Args:
            now: seconds of the caller's clock.
            known: the watched files by path. Files whose video is held are updated here and in the catalogue.
        """
        self._discard_deleted()
        candidates = [lost for lost in self if not lost.is_on_other_drive]
        due = [lost for lost in candidates if now - lost.since >= self._quiet_seconds]
        self.reason = self._excess_reason(candidates, known) if due else None
        if self.reason is not None:
            self._record_held(candidates, known)
            self.held = frozenset(lost.video.id for lost in self)
            return []
        self.held = frozenset(lost.video.id for lost in self if lost.is_on_other_drive)
        return due

    def delete(self, lost: LostVideo) -> bool:
        """Delete a video unless its file is back or was found elsewhere; return whether it was deleted."""
        self._pending.pop(lost.video.id)
        if lost.event == "gone" and not is_missing(lost.video.path):
            return False
        try:
            if self._collection.get_video(lost.video.id).path != lost.video.path:
                return False
            self._collection.delete_video(lost.video.id)
        except VideoNotFound:
            return False
        return True

    def _excess_reason(self, lost_videos: list[LostVideo], known: dict[str, WatchedFile]) -> str | None:
        """Return an explanation if there are too many lost files; else None."""
        paths = {lost.video.path for lost in lost_videos}
        # Videos that were added after videos were held must not reduce the share of the held ones.
        held_since = [
            file.held_since
            for lost in lost_videos
            if (file := known.get(lost.video.path)) and file.held_since is not None
        ]
        with self._collection.catalogue.read() as connection:
            total = count_files(connection, self._source.folder, self._source.recursive, min(held_since, default=None))
        share = min(1.0, len(paths) / max(total, 1))
        if len(paths) < 2 or share <= self._max_delete:
            return None
        return (
            f"{len(paths)} of {total} videos have lost their file, which is more than the share of "
            f"{self._max_delete:g} that is deleted at once (--max-delete); they stay"
        )

    def _record_held(self, lost_videos: list[LostVideo], known: dict[str, WatchedFile]) -> None:
        """Store for later runs since when videos are held."""
        now = time.time()
        held = []
        for lost in lost_videos:
            file = known.get(lost.video.path)
            if file is not None and file.video_id == lost.video.id and file.held_since is None:
                held.append(replace(file, held_since=now))
        if held:
            with self._collection.catalogue.write() as connection:
                write_watched_files(connection, held)
            known.update((file.path, file) for file in held)

    def _discard_deleted(self) -> None:
        """Remove videos that were deleted by other means."""
        if self._pending:
            with self._collection.catalogue.read() as connection:
                existing = existing_videos(connection, self._pending)
            self._pending = {video_id: lost for video_id, lost in self._pending.items() if video_id in existing}
