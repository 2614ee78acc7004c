"""A copy in Milvus is brought level with its catalogue, step by step; its mark says how far it is.

First all vectors are copied in the order of their ids, then the changes since the copy began are applied; every later
change comes the same way. A step is some thousand clips and can be done twice: ids keep their vectors for ever, what
is deleted never comes back, and vectors are read at the moment of the step. So whoever is killed, or does not hear
from Milvus, goes on from the mark, and an older mark than the true one costs time only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from index.integrations.milvus.replica_registry import Copy
from index.integrations.milvus.server import MilvusServer
from index.storage.catalogue import Catalogue
from index.storage.queries import has_change, last_change, load_embeddings, load_embeddings_after, log_covers
from index.vectors.faiss_kinds import Float32, Int64, Stopped
from index.vectors.versioned_vectors import OutOfReach

_CLIPS_AT_ONCE = 4096
_CHANGES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to which change (number and stamp) of which catalogue a copy is level.

    ``copied``: while the copy is still filled, the last clip that it has; None from then on.
    """

    collection_id: str
    change: int
    stamp: int
    copied: int | None

    def text(self) -> str:
        """As it is kept in Milvus."""
        copied = "all" if self.copied is None else str(self.copied)
        return f"{self.collection_id} {self.change} {self.stamp} {copied}"


def read_mark(text: str) -> Mark | None:
    """The mark that ``text`` is of; None for any other text."""
    try:
        collection_id, change, stamp, copied = text.split(" ")
        return Mark(collection_id, int(change), int(stamp), None if copied == "all" else int(copied))
    except ValueError:
        return None


def is_of(mark: Mark, connection: sqlite3.Connection, collection_id: str) -> bool:
    """Whether a copy with this mark can follow the catalogue: the mark is of its history, and the log reaches back."""
    if mark.collection_id != collection_id or not log_covers(connection, mark.change):
        return False
    return has_change(connection, mark.change, mark.stamp)


def begin(server: MilvusServer, catalogue: Catalogue, copy: Copy, width: int, description: str) -> Mark:
    """Make the copy in Milvus, empty, and mark it. Raises StorageError."""
    with catalogue.read() as connection:
        change, stamp = last_change(connection)
    mark = Mark(catalogue.meta["collection_id"], change, stamp, 0)
    server.create(copy.name, width, copy.kind, description)
    server.write_mark(copy.name, mark.text(), width)
    return mark


def follow(
    server: MilvusServer, catalogue: Catalogue, copy: Copy, width: int, mark: Mark, stop: Callable[[], bool]
) -> Mark:
    """Bring the copy from ``mark`` to the catalogue's newest change, and return the mark that it has then.

    Only one at a time may follow with a copy. Raises Stopped soon after ``stop`` says so, what is done then stays;
    OutOfReach where the log of changes does not reach back; CollectionLost; StorageError, CollectionNotFound.
    """
    while True:
        with catalogue.read() as connection:
            step = _next_step(connection, width, mark)
        if step is None:
            return mark
        if stop():
            raise Stopped
        if step.gone:
            server.delete(copy.name, step.gone)
        if len(step.ids):
            server.upsert(copy.name, step.ids, step.vectors)
        mark = step.mark
        server.write_mark(copy.name, mark.text(), width)


@dataclass(frozen=True, slots=True)
class _Step:
    """Ids to delete, vectors (N, D) to put under ``ids`` (N,), and the mark that is true then."""

    gone: list[int]
    ids: Int64
    vectors: Float32
    mark: Mark


def _next_step(connection: sqlite3.Connection, width: int, mark: Mark) -> _Step | None:
    """What comes after ``mark``; None where the copy is level."""
    if not log_covers(connection, mark.change):
        raise OutOfReach
    if mark.copied is not None:
        ids, vectors = load_embeddings_after(connection, width, mark.copied, _CLIPS_AT_ONCE)
        return _Step([], ids, vectors, replace(mark, copied=int(ids[-1]) if len(ids) else None))
    rows = connection.execute(
        "SELECT id, stamp, kind, first_clip, clip_count FROM changes WHERE id > ? ORDER BY id LIMIT ?",
        (mark.change, _CHANGES_AT_ONCE),
    ).fetchall()
    if not rows:
        return None
    added: list[int] = []
    gone: list[int] = []
    for change, stamp, kind, first, count in rows:
        if len(added) + len(gone) >= _CLIPS_AT_ONCE:
            break
        (added if kind == "add" else gone).extend(range(first, first + count))
        mark = replace(mark, change=change, stamp=stamp)
    there = load_embeddings(connection, added, width)
    ids = np.array(list(there), np.int64)
    vectors = np.stack(list(there.values())) if there else np.empty((0, width), np.float32)
    return _Step(gone, ids, vectors, mark)
