"""Snapshots of built indexes on disk, built from the catalogue, replaced atomically and verified before use.

Layout of the file: FAISS's serialised index, the clip ids of its positions (8 bytes each, little-endian), a JSON
header, the header's length (8 bytes, little-endian), the SHA-256 of all bytes so far (32), magic bytes (8). The header
names the catalogue and its last change in the index. Without a valid file the vectors are read from the catalogue,
which is the source of truth: a snapshot only saves time.

The file is memory-mapped: only touched pages are read, and all processes share them. A replaced file exists without a
name until the last process has closed it. Of `ivfpq`, lists and codes are read into memory, and the full vectors are
mapped.

Shape letter: N vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from index.records import Signal
from index.storage.catalogue import Catalogue
from index.storage.queries import iter_embeddings, last_change
from index.vectors.concurrency import IsCancelled
from index.vectors.faiss_kinds import BuildCancelled, Float32, Index, Int64, build, index_kind
from vitascope.durable_files import atomic_path
from vitascope.file_lock import file_lock

SNAPSHOT_NAMES: Mapping[Signal, str] = {"visual": "vectors.faiss", "audio": "audio.faiss"}
MAGIC = b"VTSNAP02"
_TAIL = 8 + 32 + len(MAGIC)
_MAX_HEADER = 4096
_CHUNK = 1 << 20
_POLL_SECONDS = 0.2
_faiss: Any = faiss  # the package's type hints lack its Python layer


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """Header of a snapshot: catalogue, last change in the index (number, stamp), embedding dim, clips, kind, signal."""

    collection_id: str
    change: int
    stamp: int
    width: int
    clips: int
    kind: str
    signal: Signal = "visual"


class SnapshotDamaged(Exception):
    """A snapshot file exists but is invalid; the message is the reason."""


def write_snapshot(path: Path, index: Index, ids: Int64, header: SnapshotHeader) -> None:
    """Replace the snapshot at ``path`` by ``index`` with the ``ids`` (N,) of its positions, durably.

    Readers see either the old file or the new one. Raises OSError, for example if the disk is full; the old file stays.
    """
    text = json.dumps(asdict(header), sort_keys=True).encode()
    digest = hashlib.sha256()
    with atomic_path(path) as temp_path, open(temp_path, "wb") as file:

        def write(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        _faiss.write_index(index, _faiss.PyCallbackIOWriter(write, _CHUNK))
        for part in (ids.astype("<i8").tobytes(), text, len(text).to_bytes(8, "little")):
            write(part)
        file.write(digest.digest() + MAGIC)


def read_header(path: Path) -> SnapshotHeader | None:
    """Return the header of the snapshot at ``path`` without verifying the index; None without a file.

    For estimates only. Raises SnapshotDamaged if the header cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _parse_tail(file)[1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotDamaged(f"{path.name}: {error}") from error


def read_snapshot(path: Path) -> tuple[Index, Int64, SnapshotHeader] | None:
    """Verify a snapshot; return its index (mapped, read-only), ids (N,) and header, or None if there is no file.

    Raises SnapshotDamaged if any byte differs from what was written.
    """
    try:
        # All reads use the same open file, as another process may replace the snapshot meanwhile.
        with open(path, "rb") as file:
            length, header = _parse_tail(file)
            _verify_digest(file)
            file.seek(length - 8 * header.clips)
            ids = np.fromfile(file, dtype="<i8", count=header.clips).astype(np.int64, copy=False)
            try:
                index = faiss.read_index(f"/dev/fd/{file.fileno()}", faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:  # intact, but written by a FAISS version with another format
                raise SnapshotDamaged(f"{path.name}: {error}") from error
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotDamaged(f"{path.name}: {error}") from error
    if (index.d, index.ntotal, index_kind(index)) != (header.width, header.clips, header.kind):
        raise SnapshotDamaged(
            f"{path.name}: {index_kind(index)} of {index.ntotal} vectors of {index.d}; the header says otherwise"
        )
    return index, ids, header


def exclusive_build_lock(path: Path, is_cancelled: Callable[[], bool]) -> AbstractContextManager[bool]:
    """Hold the lock by which only one process at a time builds the snapshot at ``path``.

    Waits for another builder until ``is_cancelled`` returns True, and yields whether the lock is held. Raises OSError.
    """
    return file_lock(path.with_name(f".{path.name}.lock"), is_cancelled, poll_seconds=_POLL_SECONDS)


def build_snapshot(
    catalogue: Catalogue, path: Path, dim: int, kind: str, is_cancelled: IsCancelled, signal: Signal = "visual"
) -> SnapshotHeader:
    """Build an index of all vectors of a signal in the catalogue, and replace the snapshot at ``path``.

    The vectors are read in one transaction that ends before the build begins, so that the build delays neither writers
    nor checkpoints of SQLite's write-ahead log. If the build is killed or fails, the old snapshot stays, and a later
    build removes the temporary file.

    Raises:
        BuildCancelled: soon after ``is_cancelled`` returns True.
        OSError, StorageError, CollectionNotFound: the old snapshot is unchanged.
    """
    blocks: deque[Float32] = deque()
    all_ids: list[Int64] = [np.empty(0, np.int64)]
    with catalogue.read() as connection:
        change, stamp = last_change(connection)
        for ids, vectors in iter_embeddings(connection, dim, signal=signal):
            if is_cancelled():
                raise BuildCancelled
            all_ids.append(ids)
            blocks.append(vectors)
    index = build(kind, dim, _drain(blocks), is_cancelled)
    ids = np.concatenate(all_ids)
    header = SnapshotHeader(catalogue.meta["collection_id"], change, stamp, dim, len(ids), kind, signal)
    write_snapshot(path, index, ids, header)
    _remove_leftovers(path)
    return header


def _drain(blocks: deque[Float32]) -> Iterator[Float32]:
    """Yield and forget each block, so that its memory is freed as soon as the index has copied it."""
    while blocks:
        yield blocks.popleft()


def _remove_leftovers(path: Path) -> None:
    """Delete temporary files next to ``path`` that are older than an hour: killed processes left them."""
    for temp_path in path.parent.glob(f".{path.name}-*"):
        with suppress(OSError):
            if temp_path.stat().st_mtime < time.time() - 3600:
                temp_path.unlink()


def _verify_digest(file: BinaryIO) -> None:
    remaining = file.seek(0, os.SEEK_END) - 32 - len(MAGIC)
    file.seek(0)
    digest = hashlib.sha256()
    while remaining > 0 and (chunk := file.read(min(_CHUNK, remaining))):
        digest.update(chunk)
        remaining -= len(chunk)
    if remaining or digest.digest() != file.read(32):
        raise SnapshotDamaged("the SHA-256 at the end of the file differs from that of its content")


def _parse_tail(file: BinaryIO) -> tuple[int, SnapshotHeader]:
    """Return the number of bytes before the header, and the header."""
    size = file.seek(0, os.SEEK_END)
    if size < _TAIL:
        raise SnapshotDamaged(f"{size} bytes; at least {_TAIL} were expected")
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:8], "little")
    if tail[40:] != MAGIC or length > min(_MAX_HEADER, size - _TAIL):
        raise SnapshotDamaged("the end of the file is not that of a snapshot")
    file.seek(size - _TAIL - length)
    text = file.read(length)
    try:
        header = SnapshotHeader(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise SnapshotDamaged(f"the header cannot be read: {error}") from error
    payload = size - _TAIL - length
    if not isinstance(header.clips, int) or not 0 <= 8 * header.clips <= payload:
        raise SnapshotDamaged(f"the header counts {header.clips!r} clips; the file is too short for them")
    return payload, header
