"""Replicas of a catalogue's vectors in Milvus: their registry in the catalogue, and replication by the change log.

A replica is a collection in Milvus with a random name, so that two catalogues (such as a restored or re-embedded one
and its original) never share a replica. The registry, one row of the table meta, has the name of a replica from before
its creation until after it was dropped, so that a killed process leaves no unknown replica.

First all vectors are copied in the order of their ids, then the changes since the start of the copy are applied; later
changes are applied the same way. A checkpoint in Milvus stores the progress of the replica. A step of some thousand
clips can be repeated: an id always has the same vector, deleted clips never come back, and vectors are read during the
step. After a crash or a lost connection, replication resumes from the checkpoint; an outdated one costs only time.

Shape letters: N vectors, D embedding dim.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from index.integrations.milvus.server import MilvusServer
from index.storage.catalogue import Catalogue
from index.storage.queries import (
    changes_since,
    has_change,
    last_change,
    load_embeddings,
    load_embeddings_after,
    log_covers,
    read_meta,
    write_meta,
)
from index.vectors.faiss_kinds import FLAT, HNSW, BuildCancelled, Float32, Int64
from index.vectors.segmented_vectors import ChangeLogTruncated
from vitascope.errors import StorageError

REGISTRY_KEY = "milvus"
_CLIPS_PER_STEP = 4096
_CHANGES_PER_STEP = 1000


@dataclass(frozen=True, slots=True)
class Replica:
    """A collection in Milvus and the kind of its index, flat or hnsw."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """The searched replica, and ``left``: names of other replicas that may exist in Milvus and have to be dropped."""

    current: Replica | None
    left: tuple[str, ...]

    def names(self) -> list[str]:
        """Return the names of all replicas that may be in Milvus."""
        return [*self.left, *([self.current.name] if self.current else [])]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last change (number and stamp) of a catalogue that a replica contains.

    ``copied``: the last clip copied while the replica is being filled; None afterwards.
    """

    collection_id: str
    change: int
    stamp: int
    copied: int | None

    def to_text(self) -> str:
        """Return the form that is stored in Milvus."""
        copied = "all" if self.copied is None else str(self.copied)
        return f"{self.collection_id} {self.change} {self.stamp} {copied}"


def new_replica(kind: str) -> Replica:
    """Return a replica that does not exist yet."""
    return Replica(f"vitascope_{uuid.uuid4().hex}", kind)


def read_replicas(connection: sqlite3.Connection) -> ReplicaSet:
    """Read the registry of a catalogue. Raises StorageError if it cannot be parsed."""
    value = read_meta(connection, REGISTRY_KEY)
    return parse_replicas({} if value is None else {REGISTRY_KEY: value})


def parse_replicas(meta: Mapping[str, str]) -> ReplicaSet:
    """Parse the registry in a catalogue's table meta. Raises StorageError."""
    if REGISTRY_KEY not in meta:
        return ReplicaSet(None, ())
    try:
        fields = json.loads(meta[REGISTRY_KEY])
        current = fields["current"] and Replica(**fields["current"])
        if current and current.kind not in (FLAT, HNSW):
            raise ValueError(f"kind {current.kind!r}")
        return ReplicaSet(current, tuple(fields["left"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"table meta: {REGISTRY_KEY}: {error!r}; the replicas in Milvus were expected") from error


def write_replicas(connection: sqlite3.Connection, replicas: ReplicaSet) -> None:
    """Write the registry, in an open write transaction."""
    write_meta(connection, REGISTRY_KEY, json.dumps(asdict(replicas)))


def parse_checkpoint(text: str) -> Checkpoint | None:
    """Return the checkpoint stored as ``text``; None for any other text."""
    try:
        collection_id, change, stamp, copied = text.split(" ")
        return Checkpoint(collection_id, int(change), int(stamp), None if copied == "all" else int(copied))
    except ValueError:
        return None


def can_resume_from(checkpoint: Checkpoint, connection: sqlite3.Connection, collection_id: str) -> bool:
    """Return whether the checkpoint belongs to the catalogue's history and the log has every later change."""
    if checkpoint.collection_id != collection_id or not log_covers(connection, checkpoint.change):
        return False
    return has_change(connection, checkpoint.change, checkpoint.stamp)


def create_replica(
    server: MilvusServer, catalogue: Catalogue, replica: Replica, dim: int, description: str
) -> Checkpoint:
    """Create an empty replica with its first checkpoint. Raises StorageError."""
    with catalogue.read() as connection:
        change, stamp = last_change(connection)
    checkpoint = Checkpoint(catalogue.meta["collection_id"], change, stamp, 0)
    server.create(replica.name, dim, replica.kind, description)
    server.write_checkpoint(replica.name, checkpoint.to_text(), dim)
    return checkpoint


def apply_changes(
    server: MilvusServer,
    catalogue: Catalogue,
    replica: Replica,
    dim: int,
    checkpoint: Checkpoint,
    is_cancelled: Callable[[], bool],
) -> Checkpoint:
    """Apply every change after ``checkpoint`` to the replica, and return its new checkpoint.

    Only one caller at a time may write to a replica.

    Raises:
        BuildCancelled: soon after ``is_cancelled`` returns True; completed steps are kept.
        ChangeLogTruncated: the log no longer has every change.
        CollectionLost, StorageError, CollectionNotFound.
    """
    while True:
        with catalogue.read() as connection:
            step = _next_step(connection, dim, checkpoint)
        if step is None:
            return checkpoint
        if is_cancelled():
            raise BuildCancelled
        if step.deleted:
            server.delete(replica.name, step.deleted)
        if len(step.ids):
            server.upsert(replica.name, step.ids, step.vectors)
        checkpoint = step.checkpoint
        server.write_checkpoint(replica.name, checkpoint.to_text(), dim)


@dataclass(frozen=True, slots=True)
class _Step:
    """Ids to delete, vectors (N, D) to upsert under ``ids`` (N,), and the checkpoint afterwards."""

    deleted: list[int]
    ids: Int64
    vectors: Float32
    checkpoint: Checkpoint


def _next_step(connection: sqlite3.Connection, dim: int, checkpoint: Checkpoint) -> _Step | None:
    """Return the step after ``checkpoint``; None if there are no later changes."""
    if not log_covers(connection, checkpoint.change):
        raise ChangeLogTruncated
    if checkpoint.copied is not None:
        ids, vectors = load_embeddings_after(connection, dim, checkpoint.copied, _CLIPS_PER_STEP)
        return _Step([], ids, vectors, replace(checkpoint, copied=int(ids[-1]) if len(ids) else None))
    changes = changes_since(connection, checkpoint.change, _CHANGES_PER_STEP)
    if not changes:
        return None
    added: list[int] = []
    deleted: list[int] = []
    for change, stamp, kind, first, count in changes:
        if len(added) + len(deleted) >= _CLIPS_PER_STEP:
            break
        (added if kind == "add" else deleted).extend(range(first, first + count))
        checkpoint = replace(checkpoint, change=change, stamp=stamp)
    embeddings = load_embeddings(connection, added, dim)
    ids = np.array(list(embeddings), np.int64)
    vectors = np.stack(list(embeddings.values())) if embeddings else np.empty((0, dim), np.float32)
    return _Step(deleted, ids, vectors, checkpoint)
