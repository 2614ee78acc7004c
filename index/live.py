"""The FAISS index in memory, kept level with the catalogue.

The catalogue numbers its changes. Before a search the number is compared (one look-up in SQLite) and what is
missing is applied, whichever process wrote it. A search holds the index and one read transaction of the same
change together: it sees exactly one state of the collection.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np

from index import vectors
from index.catalogue import Catalogue
from index.readers_writer import ReadersWriter
from index.snapshot import Label, SnapshotDamaged, read_label, read_snapshot, remove_leftovers, write_snapshot
from vitascope.errors import StorageError, VitascopeError

_log = logging.getLogger(__name__)

ROWS = 4096  # vectors read from SQLite at a time
ALWAYS_BELOW = 50_000  # clips; a snapshot of fewer is written at every closing
SHARE = 0.25  # above that, when this share of the clips has changed since the last snapshot
LEAST_CHANGED = 1000  # clips; while writing, a snapshot is not worth it before that many
CHANGES_KEPT = 10_000  # changes kept for other processes before the one in the snapshot
SHARED_TRIES = 3


class LiveIndex:
    """Vectors of one catalogue, loaded at the first use; safe to use from many threads."""

    def __init__(self, catalogue: Catalogue, snapshot: Path, width: int) -> None:
        self._catalogue = catalogue
        self._snapshot = snapshot
        self._width = width
        self._lock = ReadersWriter()
        self._index: vectors.Index = None
        self._change = 0
        self._stamp = 0
        self._written = 0
        self._distrusted = False

    @contextmanager
    def level(self) -> Iterator[tuple[sqlite3.Connection, vectors.Index]]:
        """A read transaction and the index, both of the same change; the index must not be altered.

        Raises CollectionNotFound and StorageError.
        """
        for _ in range(SHARED_TRIES):
            with self._lock.shared(), self._catalogue.read() as connection:
                if self._index is not None and last_change(connection) == (self._change, self._stamp):
                    yield connection, self._index
                    return
            self.catch_up()
        # Others write faster than this thread gets its turn: go through once while holding the lock alone.
        with self._lock.exclusive(), self._catalogue.read() as connection:
            self._follow(connection)
            yield connection, self._index

    def catch_up(self) -> None:
        """Apply what the catalogue has and the index lacks. Raises CollectionNotFound and StorageError."""
        with self._lock.exclusive(), self._catalogue.read() as connection:
            self._follow(connection)

    def note_written(self, clips: int) -> None:
        """Count clips that this process added or deleted; every so often a snapshot is considered."""
        self._written += clips
        if self._written >= LEAST_CHANGED:
            self._written = 0
            self.save_if_due()

    def save_if_due(self, *, closing: bool = False) -> bool:
        """Write a snapshot if enough has changed since the last; True if one was written.

        A failure (disk or memory full, collection dropped) is logged and costs only time at the next opening:
        the catalogue has everything, and a write that was made must not be reported as failed.
        """
        try:
            if not self._is_due(closing):
                return False
            self.catch_up()
            with self._lock.shared():
                serialised = faiss.serialize_index(self._index)
                label = self._label()
            write_snapshot(self._snapshot, serialised, label)
            self._distrusted = False
            remove_leftovers(self._snapshot)
            with self._catalogue.write() as connection:
                connection.execute("DELETE FROM changes WHERE id < ?", (label.change - CHANGES_KEPT,))
        except (OSError, VitascopeError, RuntimeError, MemoryError) as error:
            _log.warning("%s: no snapshot written: %s", self._snapshot, error)
            return False
        return True

    def _is_due(self, closing: bool) -> bool:
        try:
            label = None if self._distrusted else read_label(self._snapshot)
        except SnapshotDamaged:
            label = None
        with self._catalogue.read() as connection:
            change, _ = last_change(connection)
            total = clip_count(connection)
            if label is None or label.collection_id != self._catalogue.meta["collection_id"]:
                changed = total
            elif label.change == change:
                return False
            else:
                changed = changed_since(connection, label.change)
        if closing and total < ALWAYS_BELOW:
            return change > 0
        return changed >= max(LEAST_CHANGED, SHARE * total)

    def _follow(self, connection: sqlite3.Connection) -> None:
        change, stamp = last_change(connection)
        if self._index is None:
            self._load(connection)
        if self._index is not None and (change, stamp) == (self._change, self._stamp):
            return
        if self._index is None or not reaches_back(connection, self._change):
            self._rebuild(connection)
        else:
            self._apply(connection)
        self._change, self._stamp = change, stamp

    def _load(self, connection: sqlite3.Connection) -> None:
        try:
            found = read_snapshot(self._snapshot)
        except SnapshotDamaged as error:
            _log.warning("%s: %s; rebuilding from the catalogue", self._snapshot, error)
            self._distrusted = True
            return
        if found is None:
            return
        index, label = found
        row = connection.execute("SELECT stamp FROM changes WHERE id = ?", (label.change,)).fetchone()
        of_this = label.collection_id == self._catalogue.meta["collection_id"]
        if not of_this or label.width != self._width or row is None or row[0] != label.stamp:
            _log.warning("%s: of another state of the catalogue; rebuilding", self._snapshot)
            self._distrusted = True
            return
        self._index, self._change, self._stamp = index, label.change, label.stamp

    def _apply(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(
            "SELECT kind, first_clip, clip_count FROM changes WHERE id > ? ORDER BY id", (self._change,)
        ).fetchall()
        added = [first for kind, first, _ in rows if kind == "add"]
        try:
            vectors.remove(self._index, [(first, count) for kind, first, count in rows if kind == "delete"])
            if added:
                # Ids only grow, so that everything added since is at or after the first of them.
                self._add_from(connection, min(added))
        except BaseException:
            # Half applied: forget it, so that the next use starts from the snapshot or the catalogue.
            self._index = None
            raise

    def _rebuild(self, connection: sqlite3.Connection) -> None:
        self._index = None
        fresh = vectors.new_index(self._width)
        self._index = fresh
        try:
            self._add_from(connection, 0)
        except BaseException:
            self._index = None
            raise

    def _add_from(self, connection: sqlite3.Connection, first_clip: int) -> None:
        cursor = connection.execute(
            "SELECT clip_id, vector FROM vectors WHERE clip_id >= ? ORDER BY clip_id", (first_clip,)
        )
        while rows := cursor.fetchmany(ROWS):
            blob = b"".join(row[1] for row in rows)
            if len(blob) != len(rows) * self._width * 4:
                raise StorageError(f"{self._catalogue.path}: a vector is not {self._width} float32 numbers")
            ids = np.array([row[0] for row in rows], dtype=np.int64)
            vectors.add(self._index, ids, np.frombuffer(blob, "<f4").reshape(len(rows), self._width))

    def _label(self) -> Label:
        identity = self._catalogue.meta["collection_id"]
        return Label(identity, self._change, self._stamp, self._width, int(self._index.ntotal))


def last_change(connection: sqlite3.Connection) -> tuple[int, int]:
    """(number, stamp) of the newest change; (0, 0) when nothing was ever written."""
    row = connection.execute("SELECT id, stamp FROM changes ORDER BY id DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, 0)


def clip_count(connection: sqlite3.Connection) -> int:
    """Clips in the catalogue."""
    return int(connection.execute("SELECT coalesce(sum(clip_count), 0) FROM videos").fetchone()[0])


def changed_since(connection: sqlite3.Connection, change: int) -> int:
    """Clips added or deleted after ``change``."""
    row = connection.execute("SELECT coalesce(sum(clip_count), 0) FROM changes WHERE id > ?", (change,)).fetchone()
    return int(row[0])


def reaches_back(connection: sqlite3.Connection, change: int) -> bool:
    """Whether every change after ``change`` is still in the log."""
    oldest = connection.execute("SELECT min(id) FROM changes").fetchone()[0]
    return oldest is None or oldest <= change + 1
