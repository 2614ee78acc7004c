"""Snapshot of a watched folder: its files, their cheap properties, and the file systems that they lie on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index.jobs.sources.iterate_source import list_folder
from index.storage.watched_files import WatchedFile

_MISSING_ERRORS = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class FileStatus:
    """``facts``: inode, size and times of a file, as text. ``device``: number of the file system of its folder."""

    facts: str
    device: int


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """A folder at one moment.

    Attributes:
        files: the files that may be videos, by path.
        unreadable: folders and files that exist and cannot be read, with the reason.
        device: of the folder itself.
    """

    files: dict[str, FileStatus]
    unreadable: dict[str, str]
    device: int


def scan_folder(folder: Path, recursive: bool) -> FolderSnapshot:
    """List a folder. Raises OSError where it cannot be listed."""
    snapshot = FolderSnapshot({}, {}, _device(folder))
    devices = {str(folder): snapshot.device}
    for item in list_folder(folder, recursive):
        if item.state == "failed":
            if os.path.lexists(item.uri):  # not deleted since it was listed
                snapshot.unreadable[item.uri] = item.reason or "cannot be read"
        elif item.state == "queued":
            parent = os.path.dirname(item.uri)
            try:
                if parent not in devices:
                    devices[parent] = _device(parent)
                snapshot.files[item.uri] = FileStatus(_facts(item.uri), devices[parent])
            except _MISSING_ERRORS:
                continue  # deleted since it was listed
            except OSError as error:
                snapshot.unreadable[item.uri] = error.strerror or str(error)
    return snapshot


def is_missing(path: str) -> bool:
    """Whether a file certainly does not exist; an error of the disk or the network proves nothing."""
    try:
        os.stat(path)
    except _MISSING_ERRORS:
        return True
    except OSError:
        return False
    return False


def nearest_folder(path: Path, folder: Path) -> tuple[Path, int]:
    """Return the nearest existing folder from ``path`` up to ``folder``, and its device. Raises OSError."""
    while True:
        try:
            return path, _device(path)
        except _MISSING_ERRORS:
            if path == folder:
                raise
            path = path.parent


class Drives:
    """Labels of the file systems below a folder.

    Device numbers change when a machine restarts or a drive is plugged in again. So every file system gets a label,
    which is stored with its files. It is recognised by a file on it that has not changed, else by its number.
    """

    def __init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._new: set[int] = set()
        """Devices with a new label, since no file on them was known."""
        self._absent: set[str] = set()
        """Labels of former file systems, whose numbers may belong to others by now."""

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
    """Return inode, size, modification and change time, as git's index uses; the change time cannot be set."""
    status = os.stat(path)
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _device(folder: str | Path) -> int:
    return os.stat(folder).st_dev
