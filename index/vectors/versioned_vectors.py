"""The vectors of a collection as they are at one change of its catalogue, and how they follow to later ones."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from index.storage.queries import iter_embeddings, last_change, log_covers
from index.vectors.segmented_vectors import Vectors
from index.vectors.snapshot import Label, SnapshotDamaged, read_snapshot


class OutOfReach(Exception):
    """The changes since this state are not in the log any longer, or cannot be applied. Never leaves this room."""


class VectorState:
    """Vectors with the number and stamp of the catalogue's change that they are level with."""

    def __init__(self, vectors: Vectors, change: int, stamp: int, label: Label | None = None) -> None:
        """``label``: of the snapshot whose index is the built part."""
        self.vectors = vectors
        self.change, self.stamp = change, stamp
        self.label = label

    def is_level(self, connection: sqlite3.Connection) -> bool:
        """Whether the catalogue has no later change."""
        return last_change(connection) == (self.change, self.stamp)

    def apply(self, connection: sqlite3.Connection) -> None:
        """Take over every later change. After an exception this state is half of two and of no use.

        Raises OutOfReach (nothing has happened then) and StorageError.
        """
        if not log_covers(connection, self.change):
            raise OutOfReach
        rows = connection.execute(
            "SELECT kind, first_clip, clip_count FROM changes WHERE id > ? ORDER BY id", (self.change,)
        ).fetchall()
        added = [first for kind, first, _ in rows if kind == "add"]
        if added and min(added) <= self.vectors.last_id:  # a video of another collection, added under its own ids
            raise OutOfReach
        self.vectors.remove([(first, count) for kind, first, count in rows if kind == "delete"])
        if added:
            # Ids only grow, so that everything added since is at or after the first of them.
            for ids, vectors in iter_embeddings(connection, self.vectors.width, min(added)):
                self.vectors.add(ids, vectors)
        self.change, self.stamp = last_change(connection)


def load_state(path: Path, connection: sqlite3.Connection, collection_id: str, width: int) -> VectorState | None:
    """The state in the snapshot at ``path``, None without a file.

    Raises SnapshotDamaged for a file that cannot be trusted or that is of another collection or history.
    """
    found = read_snapshot(path)
    if found is None:
        return None
    index, ids, label = found
    row = connection.execute("SELECT stamp FROM changes WHERE id = ?", (label.change,)).fetchone()
    if (label.collection_id, label.width) != (collection_id, width) or row is None or row[0] != label.stamp:
        raise SnapshotDamaged(f"{path.name}: of another state of the catalogue")
    return VectorState(Vectors(width, index, ids), label.change, label.stamp, label)


def read_state(connection: sqlite3.Connection, width: int) -> VectorState:
    """The state of the catalogue, all vectors read from it and none built: exact search. Raises StorageError."""
    vectors = Vectors(width)
    for ids, block in iter_embeddings(connection, width):
        vectors.add(ids, block)
    return VectorState(vectors, *last_change(connection))
