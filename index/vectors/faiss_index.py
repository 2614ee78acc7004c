"""The vectors in memory, kept level with the catalogue.

The catalogue numbers its changes. Before a search the number is compared (one look-up in SQLite) and what is
missing is applied, whichever process wrote it. A search holds the vectors and one read transaction of the same
change together: it sees exactly one state of the collection.

When enough has changed since the last snapshot, or another kind of index is due, a thread beside the searches builds
a new one from the catalogue and puts it on disk; then it is loaded, brought level and swapped in between two
searches. Without a snapshot that can be trusted, the vectors are read from the catalogue and searched exactly until
that has happened.
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

from index.storage.catalogue import Catalogue
from index.storage.queries import changed_since, clip_count, last_change
from index.vectors.background_task import Background, Stop
from index.vectors.faiss_kinds import AUTO, FLAT, HNSW, LEAST, SETTINGS, Stopped, kind_for
from index.vectors.rwlock import ReadersWriter
from index.vectors.segmented_vectors import Vectors
from index.vectors.snapshot import Label, SnapshotDamaged, read_label
from index.vectors.snapshot_builder import build_snapshot, building_alone
from index.vectors.versioned_vectors import OutOfReach, VectorState, load_state, read_state
from vitascope.errors import StorageError, VitascopeError

_log = logging.getLogger(__name__)

ALWAYS_BELOW = 50_000  # clips; a snapshot of fewer is written at every closing
SHARE = 0.25  # a snapshot is due when this share of the clips has changed since the last,
RECENT_MOST = 20_000  # or so many clips, which a search compares with one by one beside a graph or lists,
LEAST_CHANGED = 1000  # but not before so many
CHANGES_KEPT = 10_000  # changes kept for other processes before the one in the snapshot
SHARED_TRIES = 3
RETRY_SECONDS = 10.0  # after a look at whether a snapshot is due, until changes lead to the next
SETTING_KEY = "index_kind"


class LiveIndex:
    """Vectors of one catalogue, loaded at the first use; safe to use from many threads."""

    def __init__(self, catalogue: Catalogue, snapshot: Path, width: int) -> None:
        self._catalogue = catalogue
        self._snapshot = snapshot
        self._width = width
        self._lock = ReadersWriter()
        self._state: VectorState | None = None
        self._distrusted = False
        self._setting: str | None = None
        self._not_before = 0.0
        self._background = Background(self._renew, f"index of {snapshot.parent.name}")

    @contextmanager
    def level(self) -> Iterator[tuple[sqlite3.Connection, Vectors]]:
        """A read transaction and the vectors, both of the same change; the vectors must not be altered.

        Raises CollectionNotFound and StorageError.
        """
        for _ in range(SHARED_TRIES):
            with self._lock.shared(), self._catalogue.read() as connection:
                if self._state is not None and self._state.is_level(connection):
                    self._note_setting(connection)
                    yield connection, self._state.vectors
                    return
            self.catch_up()
        # Others write faster than this thread gets its turn: go through once while holding the lock alone.
        with self._lock.exclusive(), self._catalogue.read() as connection:
            yield connection, self._follow(connection).vectors

    def outlook(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """(kind that serves, or will from the first search on; clips that changed since it was built).

        Loads nothing and waits for nobody: a figure of a moment ago is better than waiting until an index is loaded.
        """
        state = self._state
        if state is not None:
            return state.vectors.kind, state.vectors.changed + changed_since(connection, state.change)
        label = self._label_on_disk()
        if label is None:
            return FLAT, clip_count(connection)
        return label.kind, changed_since(connection, label.change)

    def catch_up(self) -> None:
        """Apply what the catalogue has and the vectors lack. Raises CollectionNotFound and StorageError."""
        with self._lock.exclusive(), self._catalogue.read() as connection:
            self._follow(connection)

    def _note_setting(self, connection: sqlite3.Connection) -> None:
        """Take up a kind that another process has asked for since the last search."""
        setting = setting_of(connection)
        before, self._setting = self._setting, setting
        if before not in (None, setting):
            self._background.ask()

    def note_written(self, clips: int) -> None:
        """Count clips that this process added or deleted; every so often a snapshot is considered."""
        self._background.note(clips, LEAST_CHANGED)

    def renew(self) -> None:
        """Have a snapshot written and taken up, beside everything else, if one is due; returns at once."""
        self._background.ask()

    def wait(self) -> None:
        """Wait until what is done beside the searches is done."""
        self._background.wait()

    def close(self) -> None:
        """End what is done beside the searches, and write a snapshot if it is worth it and takes no time.

        A failure (disk or memory full, collection dropped) is logged and costs only time at the next opening:
        the catalogue has everything.
        """
        self._background.stop()
        with self._logged(), building_alone(self._snapshot, lambda: True) as alone:
            if alone and self._is_due_at_closing():
                self._build(FLAT, lambda: False)

    # What is in memory; the lock is held alone

    def _follow(self, connection: sqlite3.Connection) -> VectorState:
        self._note_setting(connection)
        if self._state is not None:
            if self._state.is_level(connection):
                return self._state
            self._apply(connection)
        if self._state is None:
            self._load(connection)  # at the first use; or the log no longer reaches back, and another process has built
            if self._state is not None and not self._state.is_level(connection):
                self._apply(connection)
        if self._state is None:
            self._rebuild(connection)
        assert self._state is not None
        if time.monotonic() >= self._not_before:
            self._ask_if_due(connection, self._state)
        return self._state

    def _ask_if_due(self, connection: sqlite3.Connection, state: VectorState) -> None:
        held, built = state.vectors, state.label
        kind = kind_for(setting_of(connection), held.count, built.kind if built else None)
        if is_enough(held.changed, held.count, kind, built):
            self._background.ask()

    def _load(self, connection: sqlite3.Connection) -> None:
        try:
            self._state = load_state(self._snapshot, connection, self._catalogue.meta["collection_id"], self._width)
        except SnapshotDamaged as error:
            _log.warning("%s: %s; rebuilding from the catalogue", self._snapshot, error)
            self._distrusted = True

    def _apply(self, connection: sqlite3.Connection) -> None:
        state, self._state = self._state, None
        assert state is not None
        try:
            state.apply(connection)
        except OutOfReach:
            return
        # Only now: half applied it is forgotten, and the next use starts from the snapshot or the catalogue.
        self._state = state

    def _rebuild(self, connection: sqlite3.Connection) -> None:
        self._state = read_state(connection, self._width)

    # What is on disk

    def _renew(self, stop: Stop) -> None:
        """Write a snapshot if one is due, and take up a new one, whoever wrote it. Runs in the background."""
        faiss.omp_set_num_threads(max(1, min(faiss.omp_get_max_threads(), (os.cpu_count() or 1) // 2)))

        def ended() -> bool:
            return stop() or self._catalogue.closed

        with self._logged():
            # Another process that is building is waited for: what it makes is taken up.
            with building_alone(self._snapshot, ended) as alone:
                kind = self._kind_due() if alone and not ended() else None
                if kind is not None:
                    self._build(kind, ended)
            if not ended():
                self._take_up()
        self._not_before = time.monotonic() + RETRY_SECONDS

    def _build(self, kind: str, stop: Stop) -> None:
        label = build_snapshot(self._catalogue, self._snapshot, self._width, kind, stop)
        self._distrusted = False
        with self._catalogue.write() as connection:
            connection.execute("DELETE FROM changes WHERE id < ?", (label.change - CHANGES_KEPT,))

    def _take_up(self) -> None:
        """Swap in the snapshot on disk where it is newer than what this process searches in."""
        label = self._label_on_disk()
        with self._lock.shared():  # in the middle of a change there is none
            old = self._state
        if old is None or label is None or label == old.label:
            return
        if old.label is not None and label.change < old.label.change:
            return
        with self._catalogue.read() as connection:
            fresh = load_state(self._snapshot, connection, self._catalogue.meta["collection_id"], self._width)
            if fresh is None:
                return
            fresh.apply(connection)
        with self._lock.exclusive(), self._catalogue.read() as connection:
            fresh.apply(connection)  # the few that came since a moment ago
            self._state = fresh
            self._ask_if_due(connection, fresh)  # much may have been written during the build

    def _kind_due(self) -> str | None:
        """The kind of the snapshot that is due; None where none is."""
        label = self._label_on_disk()
        with self._catalogue.read() as connection:
            total = clip_count(connection)
            kind = kind_for(setting_of(connection), total, label.kind if label else None)
            changed = total if label is None else changed_since(connection, label.change)
        return kind if is_enough(changed, total, kind, label) else None

    def _is_due_at_closing(self) -> bool:
        """Whether a flat snapshot would save time at the next opening; graphs and lists take too long to build."""
        label = self._label_on_disk()
        with self._catalogue.read() as connection:
            change, _ = last_change(connection)
            total = clip_count(connection)
            kind = kind_for(setting_of(connection), total, label.kind if label else None)
            changed = total if label is None else changed_since(connection, label.change)
        if change == 0 or (label is not None and (label.change, label.kind) == (change, kind)):
            return False
        if kind != FLAT:
            return label is None and is_enough(changed, total, FLAT, label)
        return total < ALWAYS_BELOW or is_enough(changed, total, kind, label)

    def _label_on_disk(self) -> Label | None:
        """The label of a snapshot that is to be believed as far as its label says."""
        try:
            label = None if self._distrusted else read_label(self._snapshot)
        except SnapshotDamaged:
            return None
        ours = label is not None and label.collection_id == self._catalogue.meta["collection_id"]
        return label if ours else None

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Failures are logged and cost only time: the catalogue has everything, and the old index serves."""
        try:
            yield
        except Stopped:
            pass
        except (OSError, VitascopeError, RuntimeError, MemoryError, SnapshotDamaged, OutOfReach) as error:
            _log.warning("%s: no snapshot written or taken up: %s", self._snapshot, error or type(error).__name__)


def is_enough(changed: int, clips: int, kind: str, built: Label | None) -> bool:
    """Whether so many clips changed, or another kind than is built is wanted, that a new snapshot is due."""
    if built is not None and built.kind != kind and clips >= LEAST[HNSW]:
        return True
    most = SHARE * clips if kind == FLAT else min(SHARE * clips, RECENT_MOST)
    return changed >= max(LEAST_CHANGED, most)


def setting_of(connection: sqlite3.Connection) -> str:
    """The collection's setting, ``auto`` where none was made. Raises StorageError for one that is unknown."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (SETTING_KEY,)).fetchone()
    if row is not None and row[0] not in SETTINGS:
        raise StorageError(f"table meta: {SETTING_KEY} {row[0]!r}; one of {', '.join(SETTINGS)} was expected")
    return AUTO if row is None else str(row[0])


def write_setting(connection: sqlite3.Connection, setting: str) -> None:
    """Keep the collection's setting."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SETTING_KEY, setting))
