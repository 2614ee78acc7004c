"""What a folder job has to do: every file below a folder, in an order that depends on the names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


def list_folder(folder: Path, recursive: bool = True) -> Iterator[Listed]:
    """Every entry below ``folder`` that is not a folder, ordered by path, folder by folder.

    Symbolic links to folders and hidden folders are not entered; a link to a file outside ``folder`` is
    skipped, so that a link cannot bring in what the folder does not hold. Raises OSError when ``folder``
    itself cannot be read.
    """
    root = folder.resolve()
    yield from _list(folder, root, recursive)


def _list(folder: Path, root: Path, recursive: bool) -> Iterator[Listed]:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path = folder / entry.name
        if not entry.is_dir(follow_symlinks=False):
            if not (entry.is_symlink() and os.path.isdir(path)):
                yield _judged(path, root)
        elif recursive and not entry.name.startswith("."):
            try:
                yield from _list(path, root, recursive)
            except OSError as error:
                yield Listed(printable(path), "failed", f"cannot be listed: {error.strerror or error}")


def _judged(path: Path, root: Path) -> Listed:
    shown = printable(path)
    if shown != str(path):
        return Listed(shown, "failed", "the file's name is not valid UTF-8; rename it")
    if path.name.startswith("."):
        return Listed(shown, "skipped", "hidden file")
    if path.suffix.lower() in NOT_MEDIA:
        return Listed(shown, "skipped", f"not a media file ({path.suffix.lower()})")
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return Listed(shown, "failed", "a symbolic link that leads nowhere")
        if not target.is_relative_to(root):
            return Listed(shown, "skipped", "a symbolic link that leaves the folder")
    if path.exists() and not path.is_file():
        return Listed(shown, "skipped", "not a regular file")
    return Listed(shown, "queued")


def printable(path: Path) -> str:
    """The path as text that can be stored; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
