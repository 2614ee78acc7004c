"""One look at a watched folder: its files, what is cheap to know of each, and the file systems that they lie on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index.jobs.folder_scan import list_folder
from index.storage.watched_files import WatchedFile

_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class FileStatus:
    """``facts``: inode, size and times of a file, as text. ``device``: number of the file system of its folder."""

    facts: str
    device: int


@dataclass(frozen=True, slots=True)
class Look:
    """A folder at one moment.

    Attributes:
        files: the files that may be videos, by path.
        unreadable: folders and files that are there and cannot be looked at, with the reason.
        device: of the folder itself.
    """

    files: dict[str, FileStatus]
    unreadable: dict[str, str]
    device: int


def look_at(folder: Path, recursive: bool) -> Look:
    """List a folder. Raises OSError where it cannot be listed."""
    look = Look({}, {}, _device(folder))
    devices = {str(folder): look.device}
    for entry in list_folder(folder, recursive):
        if entry.state == "failed":
            if os.path.lexists(entry.path):  # still, since it was listed
                look.unreadable[entry.path] = entry.reason or "cannot be read"
        elif entry.state == "queued":
            above = os.path.dirname(entry.path)
            try:
                if above not in devices:
                    devices[above] = _device(above)
                look.files[entry.path] = FileStatus(_facts(entry.path), devices[above])
            except _GONE:
                continue  # since it was listed
            except OSError as error:
                look.unreadable[entry.path] = error.strerror or str(error)
    return look


def is_missing(path: str) -> bool:
    """Whether there is certainly no such file: an error of the disk or the network is no answer."""
    try:
        os.stat(path)
    except _GONE:
        return True
    except OSError:
        return False
    return False


def nearest_folder(path: Path, folder: Path) -> tuple[Path, int]:
    """The nearest folder that is there, from ``path`` up to ``folder``, and its device. Raises OSError."""
    while True:
        try:
            return path, _device(path)
        except _GONE:
            if path == folder:
                raise
            path = path.parent


class Drives:
    """Labels of the file systems below a folder.

    Device numbers change when a machine is started again or a drive is plugged in again. So every file system gets a
    label, which is kept with its files. It is recognised by a file on it that has not changed, else by its number.
    """

    def __init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._new: set[int] = set()
        """Devices whose label was made up, since nothing on them was known."""
        self._absent: set[str] = set()
        """Labels of file systems that were there before: their numbers may be those of others by now."""

    def update(self, look: Look, known: Mapping[str, WatchedFile]) -> None:
        """Forget devices that hold no file any more, and recognise the others by their files."""
        in_use = {status.device for status in look.files.values()} | {look.device}
        self._absent |= {label for device, label in self._labels.items() if device not in in_use | self._new}
        self._labels = {device: label for device, label in self._labels.items() if device in in_use}
        self._new &= in_use
        if in_use <= self._labels.keys():
            return
        for path, status in look.files.items():
            if status.device not in self._labels and (file := known.get(path)) and file.facts == status.facts:
                self._set(status.device, file.drive)
        unavailable = {*self._labels.values(), *self._absent}
        by_number = {file.device: file.drive for file in known.values() if file.drive not in unavailable}
        for device in in_use - self._labels.keys():
            label = by_number.get(str(device))
            if label is not None and label not in self._labels.values():
                self._set(device, label)

    def label(self, device: int) -> str:
        """The label of a device, a new one where none is known."""
        if device not in self._labels:
            self._labels[device] = uuid.uuid4().hex
            self._new.add(device)
        return self._labels[device]

    def recognise(self, device: int, label: str) -> None:
        """Note that a file of the file system ``label`` was found on ``device``, by its content."""
        if device in self._new:
            self._set(device, label)

    def _set(self, device: int, label: str) -> None:
        self._labels[device] = label
        self._new.discard(device)
        self._absent.discard(label)


def _facts(path: str) -> str:
    """As git's index: also the time of the last change of the inode, which cannot be set."""
    status = os.stat(path)
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _device(folder: str | Path) -> int:
    return os.stat(folder).st_dev
