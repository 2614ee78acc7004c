"""What a folder job has to do: every file below a folder, in an order that depends on the names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from index.jobs.sources.access_policy import EVERYWHERE, Reach
from vitascope.media.confined_open import open_folder_beneath

# Endings of files that lie beside videos and are certainly none. All others are judged by their content.
NOT_MEDIA = frozenset(
    [
        ".ass",
        ".bak",
        ".bib",
        ".bz2",
        ".c",
        ".cfg",
        ".conf",
        ".cpp",
        ".css",
        ".csv",
        ".db",
        ".doc",
        ".docx",
        ".eml",
        ".epub",
        ".gz",
        ".h",
        ".htm",
        ".html",
        ".ics",
        ".ini",
        ".ipynb",
        ".java",
        ".js",
        ".json",
        ".jsonl",
        ".key",
        ".lock",
        ".log",
        ".m3u",
        ".m3u8",
        ".md",
        ".nfo",
        ".npy",
        ".npz",
        ".odp",
        ".ods",
        ".odt",
        ".onnx",
        ".parquet",
        ".pdf",
        ".pem",
        ".pkl",
        ".ppt",
        ".pptx",
        ".ps1",
        ".pt",
        ".py",
        ".pyc",
        ".rb",
        ".rs",
        ".rst",
        ".rtf",
        ".safetensors",
        ".sh",
        ".sql",
        ".sqlite",
        ".sqlite3",
        ".srt",
        ".ssa",
        ".sub",
        ".tar",
        ".tex",
        ".tgz",
        ".toml",
        ".torrent",
        ".tsv",
        ".txt",
        ".url",
        ".vtt",
        ".xls",
        ".xlsx",
        ".xml",
        ".xz",
        ".yaml",
        ".yml",
        ".zip",
        ".zst",
    ]
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that was found: ``queued`` to be indexed, or already decided with the reason."""

    path: str
    state: Literal["queued", "failed", "skipped"]
    reason: str | None = None


def list_folder(folder: Path, recursive: bool = True, reach: Reach = EVERYWHERE) -> Iterator[Listed]:
    """Every entry below ``folder`` that is not a folder, ordered by path, folder by folder.

    Symbolic links to folders and hidden folders are not entered; a link to a file outside ``folder`` is
    skipped, so that a link cannot bring in what the folder does not hold. Raises OSError when ``folder``
    itself cannot be read, or may not be by ``reach``.
    """
    top = reach.open_folder(folder)
    try:
        yield from _list(top, folder, PurePath(), folder.resolve(), recursive)
    finally:
        os.close(top)


class _Entry(NamedTuple):
    """What a folder has under a name: a folder, a regular file, a link or something else."""

    name: str
    is_folder: bool
    is_file: bool
    is_link: bool


def _list(top: int, folder: Path, inner: PurePath, root: Path, recursive: bool) -> Iterator[Listed]:
    """The entries of the folder ``inner`` below ``folder``, which is open as ``top``, and really is ``root``."""
    for entry in _entries(top, inner):
        path = folder / inner / entry.name
        if not entry.is_folder:
            if not (entry.is_link and os.path.isdir(path)):
                yield _judged(path, entry, root)
        elif recursive and not entry.name.startswith("."):
            try:
                yield from _list(top, folder, inner / entry.name, root, recursive)
            except OSError as error:
                yield Listed(printable(path), "failed", f"cannot be listed: {error.strerror or error}")


def _entries(top: int, inner: PurePath) -> list[_Entry]:
    descriptor = open_folder_beneath(top, inner)
    try:
        with os.scandir(descriptor) as scan:
            found = [_entry(entry) for entry in scan]
    finally:
        os.close(descriptor)
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _entry(entry: os.DirEntry[str]) -> _Entry:
    is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
    return _Entry(entry.name, is_folder, is_file, entry.is_symlink())


def _judged(path: Path, entry: _Entry, root: Path) -> Listed:
    shown = printable(path)
    if shown != str(path):
        return Listed(shown, "failed", "the file's name is not valid UTF-8; rename it")
    if path.name.startswith("."):
        return Listed(shown, "skipped", "hidden file")
    if path.suffix.lower() in NOT_MEDIA:
        return Listed(shown, "skipped", f"not a media file ({path.suffix.lower()})")
    is_file = entry.is_file
    if entry.is_link:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return Listed(shown, "failed", "a symbolic link that leads nowhere")
        if not target.is_relative_to(root):
            return Listed(shown, "skipped", "a symbolic link that leaves the folder")
        is_file = target.is_file()
    if not is_file:
        return Listed(shown, "skipped", "not a regular file")
    return Listed(shown, "queued")


def printable(path: Path) -> str:
    """The path as text that can be stored; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
