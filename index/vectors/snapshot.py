"""A built index on disk: one file, written beside and swapped in, verified as a whole before FAISS parses a byte.

Layout: FAISS's own serialised index, the clip ids of its positions (8 bytes each, little-endian), a JSON label, the
label's length (8 bytes, little-endian), the SHA-256 of all bytes so far (32), a magic (8). The label says which state
of which catalogue the index holds. Whoever finds no valid file rebuilds from the catalogue: a snapshot saves time and
is never the truth.

The file is mapped, not read: its pages are in memory once for all processes, as far as searches touch them. A file
that has been replaced stays, without a name, until the last process has let go of it. Lists of codes (`ivfpq`) are
read into memory, the vectors beside them are mapped.
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
from typing import Any, BinaryIO

import faiss
import numpy as np

from index.vectors.faiss_kinds import Index, Int64, kind_of
from vitascope.durable_files import sync

SNAPSHOT_NAME = "vectors.faiss"
MAGIC = b"VTSNAP02"
_TAIL = 8 + 32 + len(MAGIC)
_MAX_LABEL = 4096
_CHUNK = 1 << 20
_engine: Any = faiss  # what the package declares of types lacks its Python layer


@dataclass(frozen=True, slots=True)
class Label:
    """Which catalogue, its last change (number and stamp) that the index holds, and the index's kind."""

    collection_id: str
    change: int
    stamp: int
    width: int
    clips: int
    kind: str


class SnapshotDamaged(Exception):
    """The file is there and cannot be trusted; the message says why. Never leaves this room."""


def write_snapshot(path: Path, index: Index, ids: Int64, label: Label) -> None:
    """Replace the snapshot at ``path`` by ``index`` with the ``ids`` (N,) of its positions, durably.

    Readers see the old or the new one, whole. Raises OSError (disk full); the old snapshot is still there then.
    """
    text = json.dumps(asdict(label), sort_keys=True).encode()
    digest = hashlib.sha256()
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:

            def write(part: bytes) -> None:
                digest.update(part)
                file.write(part)

            _engine.write_index(index, _engine.PyCallbackIOWriter(write, _CHUNK))
            for part in (ids.astype("<i8").tobytes(), text, len(text).to_bytes(8, "little")):
                write(part)
            file.write(digest.digest() + MAGIC)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    sync(path.parent)


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


def read_snapshot(path: Path) -> tuple[Index, Int64, Label] | None:
    """The verified index, mapped from the file, the ids of its positions (N,), and its label; None without a file.

    The index must not be changed. Raises SnapshotDamaged where a byte is not what was written.
    """
    try:
        # One open file for all that follows: another process may swap in a new snapshot meanwhile.
        with open(path, "rb") as file:
            length, label = _parts(file)
            _verify(file)
            file.seek(length - 8 * label.clips)
            ids = np.fromfile(file, dtype="<i8", count=label.clips).astype(np.int64, copy=False)
            try:
                index = faiss.read_index(f"/dev/fd/{file.fileno()}", faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:  # whole, but of a FAISS that writes another format
                raise SnapshotDamaged(f"{path.name}: {error}") from error
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotDamaged(f"{path.name}: {error}") from error
    if (index.d, index.ntotal, kind_of(index)) != (label.width, label.clips, label.kind):
        raise SnapshotDamaged(
            f"{path.name}: {kind_of(index)} of {index.ntotal} vectors of {index.d}; the label says otherwise"
        )
    return index, ids, label


def _verify(file: BinaryIO) -> None:
    """Raise SnapshotDamaged unless the SHA-256 at the end is that of all before it."""
    left = file.seek(0, os.SEEK_END) - 32 - len(MAGIC)
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    if left or digest.digest() != file.read(32):
        raise SnapshotDamaged("SHA-256 is not that of the end of the file")


def remove_leftovers(path: Path) -> None:
    """Delete half-written files beside ``path`` that a process killed an hour ago or earlier left there."""
    for beside in path.parent.glob(f".{path.name}-*"):
        with suppress(OSError):
            if beside.stat().st_mtime < time.time() - 3600:
                beside.unlink()


def _parts(file: BinaryIO) -> tuple[int, Label]:
    """(bytes before the label, label)."""
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
    payload = size - _TAIL - length
    if not isinstance(label.clips, int) or not 0 <= 8 * label.clips <= payload:
        raise SnapshotDamaged(f"the label counts {label.clips!r} clips; the file is too short for them")
    return payload, label
