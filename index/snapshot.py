"""The FAISS index on disk: one file, written beside and swapped in, verified as a whole before FAISS parses a
byte.

Layout: FAISS's own serialised index, then a JSON label, the label's length (8 bytes, little-endian), the
SHA-256 of all bytes so far (32), a magic (8). The label says which state of which catalogue the index holds.
Whoever finds no valid file rebuilds from the catalogue: a snapshot saves time and is never the truth.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import faiss
import numpy as np

from index.vectors import Index

SNAPSHOT_NAME = "vectors.faiss"
MAGIC = b"VTSNAP01"
_TAIL = 8 + 32 + len(MAGIC)
_MAX_LABEL = 4096


@dataclass(frozen=True, slots=True)
class Label:
    """Which catalogue, and its last change (number and stamp) that the index holds."""

    collection_id: str
    change: int
    stamp: int
    width: int
    clips: int


class SnapshotDamaged(Exception):
    """The file is there and cannot be trusted; the message says why. Never leaves this room."""


def write_snapshot(path: Path, serialised: np.ndarray[tuple[int], np.dtype[np.uint8]], label: Label) -> None:
    """Replace the snapshot at ``path`` by this one, durably; readers see the old or the new one, whole.

    Raises OSError (disk full); the old snapshot is still there then.
    """
    text = json.dumps(asdict(label), sort_keys=True).encode()
    digest = hashlib.sha256()
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            for part in (serialised.data, text, len(text).to_bytes(8, "little")):
                digest.update(part)
                file.write(part)
            file.write(digest.digest() + MAGIC)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    sync_folder(path.parent)


def read_label(path: Path) -> Label | None:
    """The label of the snapshot at ``path``, without verifying the index; None where there is no such file.

    Raises SnapshotDamaged where there is no readable label. For estimates only.
    """
    try:
        with open(path, "rb") as file:
            return _parts(file)[1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotDamaged(f"{path.name}: {error}") from error


def read_snapshot(path: Path) -> tuple[Index, Label] | None:
    """The verified index and its label; None where there is no such file.

    Raises SnapshotDamaged where a byte is not what was written.
    """
    try:
        # One open file for all that follows: another process may swap in a new snapshot meanwhile.
        with open(path, "rb") as file:
            payload_length, label, text = _parts(file)
            file.seek(0)
            payload = np.fromfile(file, dtype=np.uint8, count=payload_length)
            file.seek(-(32 + len(MAGIC)), os.SEEK_END)
            expected = file.read(32)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotDamaged(f"{path.name}: {error}") from error
    digest = hashlib.sha256(payload.data)
    digest.update(text + len(text).to_bytes(8, "little"))
    if digest.digest() != expected:
        raise SnapshotDamaged(f"{path.name}: SHA-256 is not that of the end of the file")
    try:
        index = faiss.deserialize_index(payload)
    except RuntimeError as error:  # whole, but of a FAISS that writes another format
        raise SnapshotDamaged(f"{path.name}: {error}") from error
    if (index.d, index.ntotal) != (label.width, label.clips):
        raise SnapshotDamaged(f"{path.name}: {index.ntotal} vectors of {index.d}; the label says otherwise")
    return index, label


def remove_leftovers(path: Path) -> None:
    """Delete half-written files beside ``path`` that a process killed an hour ago or earlier left there."""
    for beside in path.parent.glob(f".{path.name}-*"):
        with suppress(OSError):
            if beside.stat().st_mtime < time.time() - 3600:
                beside.unlink()


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parts(file: BinaryIO) -> tuple[int, Label, bytes]:
    """(length of the payload in bytes, label, the label as written)."""
    size = file.seek(0, os.SEEK_END)
    if size < _TAIL:
        raise SnapshotDamaged(f"{size} bytes; at least {_TAIL} were expected")
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:8], "little")
    if tail[40:] != MAGIC or length > min(_MAX_LABEL, size - _TAIL):
        raise SnapshotDamaged("the end of the file is not that of a snapshot")
    file.seek(size - _TAIL - length)
    text = file.read(length)
    try:
        label = Label(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise SnapshotDamaged(f"the label cannot be read: {error}") from error
    return size - _TAIL - length, label, text
