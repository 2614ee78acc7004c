"""FAISS index of a collection in memory, kept current with the catalogue.

The catalogue numbers its changes. Before a search, the number is compared (one SQLite query) and later changes of any
process are applied. During a search, the vectors and the read transaction have the same last change: the search sees
exactly one state of the collection.

When enough clips have changed since the last snapshot, or another kind of index is due, a background thread builds a
new snapshot from the catalogue, opens it, applies later changes and swaps it in between two searches. Without a valid
snapshot, the vectors are read from the catalogue and searched exactly until the build has finished.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss

from index.records import Signal
from index.storage.catalogue import Catalogue
from index.storage.queries import changed_since, count_embeddings, last_change, truncate_change_log
from index.vectors.concurrency import BackgroundTask, IsCancelled, ReadWriteLock
from index.vectors.faiss_kinds import FLAT, HNSW, MIN_CLIPS, BuildCancelled, kind_to_build, read_requested_kind
from index.vectors.segmented_vectors import ChangeLogTruncated, SegmentedVectors
from index.vectors.snapshot import (
    SNAPSHOT_NAMES,
    SnapshotDamaged,
    SnapshotHeader,
    build_snapshot,
    exclusive_build_lock,
    read_header,
)
from vitascope.errors import VitascopeError

_log = logging.getLogger(__name__)

SNAPSHOT_AT_CLOSE = 50_000  # clips: smaller collections write a snapshot at every close
REBUILD_RATIO = 0.25  # a rebuild is due when this share of the clips has changed,
MAX_RECENT = 20_000  # or this number of clips, which each search compares one by one in addition to the graph or lists,
MIN_CHANGED = 1000  # but not before this number of clips has changed
CHANGES_KEPT = 10_000  # changes before the one in the snapshot that are kept for other processes
SHARED_ATTEMPTS = 3
RETRY_SECONDS = 10.0  # after a background run, in which searches do not trigger another one


class FaissIndex:
    """Vectors of one signal of a catalogue, loaded at the first use; thread-safe."""

    def __init__(self, catalogue: Catalogue, folder: Path, dim: int, signal: Signal = "visual") -> None:
        """``folder``: folder of the collection. ``dim``: embedding dim. ``signal``: which embeddings are indexed."""
        self._catalogue = catalogue
        self._signal = signal
        self._path = folder / SNAPSHOT_NAMES[signal]
        self._dim = dim
        self._lock = ReadWriteLock()
        self._current: SegmentedVectors | None = None
        self._snapshot_invalid = False
        self._requested_kind: str | None = None
        self._not_before = 0.0
        self._background = BackgroundTask(self._rebuild_if_due, f"index of {folder.name}")

    @contextmanager
    def snapshot(self) -> Iterator[tuple[sqlite3.Connection, SegmentedVectors]]:
        """See ``VectorIndex.snapshot``. The vectors must not be changed."""
        for _ in range(SHARED_ATTEMPTS):
            with self._lock.shared(), self._catalogue.read() as connection:
                if self._current is not None and self._current.change == last_change(connection):
                    previous, self._requested_kind = self._requested_kind, read_requested_kind(connection)
                    if previous not in (None, self._requested_kind):  # another process has requested another kind
                        self._background.trigger()
                    yield connection, self._current
                    return
            with self._lock.exclusive(), self._catalogue.read() as connection:
                self._catch_up(connection)
        # Other processes write faster than this thread gets the shared lock: search while holding the exclusive lock.
        with self._lock.exclusive(), self._catalogue.read() as connection:
            yield connection, self._catch_up(connection)

    def status(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """See ``VectorIndex.status``."""
        current = self._current  # without the lock, which may be held while an index is loaded
        if current is not None:
            return current.kind, current.changed + changed_since(connection, current.change[0])
        header = self._read_header()
        if header is None:
            return FLAT, count_embeddings(connection, self._signal)
        return header.kind, changed_since(connection, header.change)

    def on_write(self, clips: int) -> None:
        """See ``VectorIndex.on_write``. After every ``MIN_CHANGED`` clips, check whether a rebuild is due."""
        self._background.add_pending(clips, MIN_CHANGED)

    def request_rebuild(self) -> None:
        """See ``VectorIndex.request_rebuild``."""
        self._background.trigger()

    def wait_for_rebuild(self) -> None:
        """See ``VectorIndex.wait_for_rebuild``."""
        self._background.wait()

    def close(self) -> None:
        """Stop work in the background, and write a flat snapshot if that is quick and saves time at the next opening.

        A failure (disk or memory full, collection dropped) is logged and costs only time at the next opening.
        """
        self._background.stop()
        with self._failures_logged(), exclusive_build_lock(self._path, lambda: True) as is_held:
            if is_held and self._is_due_at_close():
                self._build(FLAT, lambda: False)

    # In memory; the lock is held exclusively

    def _catch_up(self, connection: sqlite3.Connection) -> SegmentedVectors:
        """Return the vectors with every change of the catalogue applied. Raises StorageError."""
        current = self._current
        if current is not None and current.change == last_change(connection):
            return current
        current = self._apply_changes(connection) or self._load_snapshot(connection)
        if current is None:
            self._current = current = SegmentedVectors.from_catalogue(connection, self._dim, self._signal)
        if time.monotonic() >= self._not_before:
            self._trigger_if_due(connection, current)
        return current

    def _load_snapshot(self, connection: sqlite3.Connection) -> SegmentedVectors | None:
        """Open the snapshot if none is loaded, or if another process has built a later one."""
        try:
            collection_id = self._catalogue.meta["collection_id"]
            self._current = SegmentedVectors.from_snapshot(
                self._path, connection, collection_id, self._dim, self._signal
            )
        except SnapshotDamaged as error:
            _log.warning("%s: %s; rebuilding from the catalogue", self._path, error)
            self._snapshot_invalid = True
        return self._apply_changes(connection)

    def _apply_changes(self, connection: sqlite3.Connection) -> SegmentedVectors | None:
        """Apply later changes; None if there are no vectors or the log no longer has all changes."""
        current, self._current = self._current, None
        if current is None:
            return None
        try:
            current.apply_changes(connection)
        except ChangeLogTruncated:
            return None
        # Assigned last: after an exception, inconsistent vectors are discarded.
        self._current = current
        return current

    def _trigger_if_due(self, connection: sqlite3.Connection, current: SegmentedVectors) -> None:
        header = current.header
        kind = kind_to_build(read_requested_kind(connection), current.count, header.kind if header else None)
        if is_rebuild_due(current.changed, current.count, kind, header):
            self._background.trigger()

    # On disk

    def _rebuild_if_due(self, is_cancelled: IsCancelled) -> None:
        """Write a snapshot if one is due, and swap in a later snapshot of any process."""
        faiss.omp_set_num_threads(max(1, min(faiss.omp_get_max_threads(), (os.cpu_count() or 1) // 2)))

        def should_end() -> bool:
            return is_cancelled() or self._catalogue.closed

        with self._failures_logged():
            # Waits for another process that builds, to use its snapshot.
            with exclusive_build_lock(self._path, should_end) as is_held:
                kind = self._kind_due() if is_held and not should_end() else None
                if kind is not None:
                    self._build(kind, should_end)
            if not should_end():
                self._swap_in()
        self._not_before = time.monotonic() + RETRY_SECONDS

    def _build(self, kind: str, is_cancelled: IsCancelled) -> None:
        header = build_snapshot(self._catalogue, self._path, self._dim, kind, is_cancelled, self._signal)
        self._snapshot_invalid = False
        with self._catalogue.write() as connection:
            truncate_change_log(connection, header.change - CHANGES_KEPT)

    def _swap_in(self) -> None:
        """Replace the vectors in memory by the snapshot on disk if the snapshot is later."""
        header = self._read_header()
        with self._lock.shared():  # not while changes are being applied
            old = self._current
        if old is None or header is None or header == old.header:
            return
        if old.header is not None and header.change < old.header.change:
            return
        with self._catalogue.read() as connection:
            collection_id = self._catalogue.meta["collection_id"]
            fresh = SegmentedVectors.from_snapshot(self._path, connection, collection_id, self._dim, self._signal)
            if fresh is None:
                return
            fresh.apply_changes(connection)
        with self._lock.exclusive(), self._catalogue.read() as connection:
            fresh.apply_changes(connection)  # the few since a moment ago
            self._current = fresh
            self._trigger_if_due(connection, fresh)  # much may have been written during the build

    def _kind_due(self) -> str | None:
        """Return the kind of the snapshot that has to be built; None if none is due."""
        header = self._read_header()
        with self._catalogue.read() as connection:
            clips, changed, kind = self._plan(connection, header)
        return kind if is_rebuild_due(changed, clips, kind, header) else None

    def _is_due_at_close(self) -> bool:
        """Return whether a flat snapshot would save time at the next opening; other kinds take too long to build."""
        header = self._read_header()
        with self._catalogue.read() as connection:
            change, _ = last_change(connection)
            clips, changed, kind = self._plan(connection, header)
        if change == 0 or (header is not None and (header.change, header.kind) == (change, kind)):
            return False
        if kind != FLAT:
            return header is None and is_rebuild_due(changed, clips, FLAT, header)
        return clips < SNAPSHOT_AT_CLOSE or is_rebuild_due(changed, clips, kind, header)

    def _plan(self, connection: sqlite3.Connection, header: SnapshotHeader | None) -> tuple[int, int, str]:
        """Return the number of clips, the number of clips changed since the snapshot, and the kind to build."""
        clips = count_embeddings(connection, self._signal)
        changed = clips if header is None else changed_since(connection, header.change)
        return clips, changed, kind_to_build(read_requested_kind(connection), clips, header.kind if header else None)

    def _read_header(self) -> SnapshotHeader | None:
        """Return the header of the snapshot on disk; None if it is known to be invalid or of another collection."""
        try:
            header = None if self._snapshot_invalid else read_header(self._path)
        except SnapshotDamaged:
            return None
        is_own = header is not None and header.collection_id == self._catalogue.meta["collection_id"]
        return header if is_own else None

    @contextmanager
    def _failures_logged(self) -> Iterator[None]:
        """Log failures. They cost only time: the catalogue has all vectors, and the old index still serves searches."""
        try:
            yield
        except BuildCancelled:
            pass
        except (OSError, VitascopeError, RuntimeError, MemoryError, SnapshotDamaged, ChangeLogTruncated) as error:
            _log.warning("%s: no snapshot written or loaded: %s", self._path, error or type(error).__name__)


def is_rebuild_due(changed: int, clips: int, kind: str, header: SnapshotHeader | None) -> bool:
    """Return whether enough clips changed, or a kind other than the snapshot's has to be built."""
    if header is not None and header.kind != kind and clips >= MIN_CLIPS[HNSW]:
        return True
    limit = REBUILD_RATIO * clips if kind == FLAT else min(REBUILD_RATIO * clips, MAX_RECENT)
    return changed >= max(MIN_CHANGED, limit)
