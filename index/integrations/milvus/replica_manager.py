"""Management of the replica in Milvus that serves a catalogue: catching up, recreation after loss, change of kind.

The checkpoint that a process remembers may be outdated; this costs time, but loses nothing. Only one thread of one
process at a time writes to the current replica, protected by a lock file in the collection's folder.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from index.integrations.milvus.replication import (
    Checkpoint,
    Replica,
    ReplicaSet,
    apply_changes,
    can_resume_from,
    create_replica,
    new_replica,
    parse_checkpoint,
    parse_replicas,
    read_replicas,
    write_replicas,
)
from index.integrations.milvus.server import CollectionLost, MilvusServer
from index.storage.catalogue import Catalogue
from index.storage.queries import count_clips, last_change, truncate_change_log
from index.vectors.concurrency import IsCancelled
from index.vectors.faiss_index import CHANGES_KEPT
from index.vectors.faiss_kinds import HNSW, IVFPQ, BuildCancelled, kind_to_build, read_requested_kind
from index.vectors.interface import backend_of
from index.vectors.segmented_vectors import ChangeLogTruncated
from index.vectors.snapshot import exclusive_build_lock
from vitascope.errors import StorageError
from vitascope.file_lock import file_lock

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.02
_SLICE_SECONDS = 2.0  # of long work; then the lock is released for other threads and processes
_DROP_WAIT_SECONDS = 10.0  # until a process that fills a replica notices that the catalogue was dropped


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica and the last checkpoint that it is known to have reached."""

    replica: Replica
    checkpoint: Checkpoint


class ReplicaManager:
    """Manages the replicas of one catalogue; thread-safe."""

    def __init__(self, server: MilvusServer, catalogue: Catalogue, folder: Path, dim: int) -> None:
        """``folder``: folder of the collection. ``dim``: embedding dim."""
        self._server = server
        self._catalogue = catalogue
        self._folder = folder
        self._dim = dim
        self._lock = threading.Lock()
        self._status: ReplicaStatus | None = None

    @property
    def status(self) -> ReplicaStatus | None:
        """The current replica as this process knows it; None if unknown."""
        return self._status

    def invalidate(self, status: ReplicaStatus) -> None:
        """Check the replica in Milvus again before the next search."""
        if self._status is status:
            self._status = None

    def catch_up(self, change: int, is_cancelled: IsCancelled) -> ReplicaStatus:
        """Return an intact replica that contains this change or a later one.

        Raises:
            BuildCancelled: soon after ``is_cancelled`` returns True; completed steps are kept.
            StorageError, CollectionNotFound.
        """
        while (status := self._status) is None or status.checkpoint.change < change:
            with self._exclusive(is_cancelled):
                if self._status is not status:
                    continue  # another thread has updated it
                try:
                    self._status = self._current(status, is_cancelled)
                except CollectionLost:  # dropped between two calls: start again
                    self._status = None
                    if is_cancelled():
                        raise BuildCancelled from None
                except BaseException:
                    self._status = None  # read the checkpoint from Milvus again
                    raise
        return status

    def catch_up_fully(self, is_cancelled: IsCancelled) -> None:
        """Catch up without a time limit, truncate the change log and drop old replicas. Raises as ``catch_up``."""
        with self._catalogue.read() as connection:
            change, _ = last_change(connection)
        while (status := self._catch_up_slice(change, is_cancelled)) is None:
            if is_cancelled():
                raise BuildCancelled
        with self._catalogue.write() as connection:
            truncate_change_log(connection, status.checkpoint.change - CHANGES_KEPT)
        self._drop_left()

    def is_work_due(self) -> bool:
        """Return whether a replica of another kind is due, or old replicas have to be dropped."""
        with self._catalogue.read() as connection:
            left = read_replicas(connection).left
        return bool(left) or self.kind_due() is not None

    def kind_due(self) -> str | None:
        """Return the kind that a new replica should have; None if the current one is right, or there is none."""
        with self._catalogue.read() as connection:
            replica = read_replicas(connection).current
            if replica is None:
                return None
            kind = milvus_kind(read_requested_kind(connection), count_clips(connection), replica.kind)
        return None if kind == replica.kind else kind

    def replace(self, kind: str, is_cancelled: IsCancelled) -> None:
        """Fill a replica of another kind while the current one serves, then make it the current one.

        Only one caller at a time. Raises the errors of ``catch_up``, CollectionLost and ChangeLogTruncated; after an
        error the old replica stays current.
        """
        replica = new_replica(kind)
        with self._catalogue.write() as connection:
            replicas = read_replicas(connection)
            write_replicas(connection, ReplicaSet(replicas.current, (*replicas.left, replica.name)))
        checkpoint = create_replica(self._server, self._catalogue, replica, self._dim, self._description())
        checkpoint = self._apply_changes(ReplicaStatus(replica, checkpoint), is_cancelled).checkpoint
        with self._exclusive(is_cancelled):
            status = self._apply_changes(ReplicaStatus(replica, checkpoint), is_cancelled)
            with self._catalogue.write() as connection:
                names = read_replicas(connection).names()
                write_replicas(connection, ReplicaSet(replica, tuple(n for n in names if n != replica.name)))
            self._status = status
        self._drop_left()

    def _catch_up_slice(self, change: int, is_cancelled: IsCancelled) -> ReplicaStatus | None:
        """Catch up for ``_SLICE_SECONDS``; return None if the replica is not current by then."""
        is_over = deadline(_SLICE_SECONDS)
        try:
            return self.catch_up(change, lambda: is_cancelled() or is_over())
        except BuildCancelled:
            return None

    # Only while holding the lock

    def _current(self, known: ReplicaStatus | None, is_cancelled: IsCancelled) -> ReplicaStatus:
        """Return the current replica with every change applied. ``known``: the status that this process remembers."""
        resumed = self._resume(known)
        status = resumed or self._recreate()
        is_complete = resumed is None or (known is not None and known.replica == resumed.replica)
        while True:
            name = status.replica.name
            try:
                status = self._apply_changes(status, is_cancelled)
                if is_complete or self._has_all_clips(status):
                    return status
                _log.warning("%s: %s in Milvus lacks clips; another is filled", self._folder.name, name)
            except ChangeLogTruncated:
                _log.warning("%s: %s in Milvus is too far behind", self._folder.name, name)
            status, is_complete = self._recreate(), True

    def _resume(self, known: ReplicaStatus | None) -> ReplicaStatus | None:
        """Return the current replica with its checkpoint in Milvus; None if none can be resumed."""
        with self._catalogue.read() as connection:
            replica = read_replicas(connection).current
            change, _ = last_change(connection)
        if replica is None:
            return None
        if known is not None and known.replica == replica and change <= known.checkpoint.change + 1:
            return known  # no other process has written since
        checkpoint = parse_checkpoint(self._server.read_checkpoint(replica.name) or "")
        with self._catalogue.read() as connection:
            collection_id = self._catalogue.meta["collection_id"]
            if checkpoint is not None and can_resume_from(checkpoint, connection, collection_id):
                return ReplicaStatus(replica, checkpoint)
        problem = "of another history" if checkpoint else "missing"
        _log.warning("%s: %s in Milvus is %s; another is filled", self._folder.name, replica.name, problem)
        return None

    def _recreate(self) -> ReplicaStatus:
        """Drop all replicas and create an empty one."""
        with self._catalogue.read() as connection:
            names = read_replicas(connection).names()
            kind = milvus_kind(read_requested_kind(connection), count_clips(connection), None)
        for name in names:
            self._server.drop(name)
        replica = new_replica(kind)
        with self._catalogue.write() as connection:
            write_replicas(connection, ReplicaSet(replica, ()))
        checkpoint = create_replica(self._server, self._catalogue, replica, self._dim, self._description())
        return ReplicaStatus(replica, checkpoint)

    def _apply_changes(self, status: ReplicaStatus, is_cancelled: IsCancelled) -> ReplicaStatus:
        checkpoint = apply_changes(
            self._server, self._catalogue, status.replica, self._dim, status.checkpoint, is_cancelled
        )
        return ReplicaStatus(status.replica, checkpoint)

    def _has_all_clips(self, status: ReplicaStatus) -> bool:
        """Return whether the replica has a row for each clip at its checkpoint, and one for the checkpoint."""
        with self._catalogue.read() as connection:
            clips = count_clips(connection, at_change=status.checkpoint.change)
        return self._server.count(status.replica.name) > clips

    @contextmanager
    def _exclusive(self, is_cancelled: IsCancelled) -> Iterator[None]:
        while not self._lock.acquire(timeout=_POLL_SECONDS):
            if is_cancelled():
                raise BuildCancelled
        try:
            with write_lock(self._folder, is_cancelled):
                yield
        finally:
            self._lock.release()

    # Only while holding the build lock

    def _drop_left(self) -> None:
        with self._catalogue.read() as connection:
            left = read_replicas(connection).left
        for name in left:
            self._server.drop(name)
        if left:
            with self._catalogue.write() as connection:
                replicas = read_replicas(connection)
                still_left = tuple(name for name in replicas.left if name not in left)
                write_replicas(connection, ReplicaSet(replicas.current, still_left))

    def _description(self) -> str:
        return f"Vectors of the Vitascope collection {self._folder.name}"


def milvus_kind(requested: str, clips: int, current: str | None) -> str:
    """Return the kind of a replica, flat or hnsw; see ``index.vectors.faiss_kinds.kind_to_build``."""
    kind = kind_to_build(requested, clips, current)
    return HNSW if kind == IVFPQ else kind


@contextmanager
def write_lock(folder: Path, is_cancelled: IsCancelled) -> Iterator[None]:
    """Hold the lock of the one process that writes to the current replica. Raises BuildCancelled, StorageError."""
    path = folder / ".milvus.turn"
    with ExitStack() as stack:
        try:
            is_held = stack.enter_context(file_lock(path, is_cancelled, poll_seconds=_POLL_SECONDS))
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error
        if not is_held:
            raise BuildCancelled
        yield


def build_lock_path(folder: Path) -> Path:
    """Return the path whose ``exclusive_build_lock`` is held while a replica of another kind is filled."""
    return folder / "milvus"


def deadline(seconds: float) -> IsCancelled:
    """Return a function that returns True once ``seconds`` have passed since this call."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def drop_replicas(folder: Path, meta: Mapping[str, str]) -> list[str]:
    """Drop the replicas of the dropped catalogue in ``folder`` with this table meta.

    Returns the names of those that are left because Milvus did not respond. Raises StorageError.
    """
    names = parse_replicas(meta).names()
    if not names:
        return []
    server = MilvusServer(backend_of(meta))
    is_over = deadline(_DROP_WAIT_SECONDS)
    try:
        with (
            suppress(BuildCancelled),
            exclusive_build_lock(build_lock_path(folder), is_over),
            write_lock(folder, is_over),
        ):
            pass  # no process fills a replica any more
        while names:
            server.drop(names[-1])
            names.pop()
    except (OSError, StorageError) as error:
        _log.warning("%s; left there, to be dropped by hand: %s", error, ", ".join(names))
    finally:
        server.close()
    return names
