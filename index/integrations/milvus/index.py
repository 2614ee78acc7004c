"""Vector index in Milvus, kept current with the catalogue by its change log.

The order is always the same: a read transaction is opened, the replica in Milvus is brought to that state or a later
one, then it is searched (``vectors`` removes what is later). A write updates the replica at once if Milvus responds; if
it does not, the write succeeds all the same, and the next search updates the replica.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.integrations.milvus.replica_manager import (
    ReplicaManager,
    ReplicaStatus,
    build_lock_path,
    deadline,
    milvus_kind,
)
from index.integrations.milvus.replication import read_replicas
from index.integrations.milvus.server import MAX_EF, CollectionLost, MilvusServer
from index.integrations.milvus.vectors import MilvusVectors
from index.storage.catalogue import Catalogue
from index.storage.queries import count_clips, last_change
from index.vectors.concurrency import BackgroundTask, IsCancelled
from index.vectors.faiss_index import MIN_CHANGED
from index.vectors.faiss_kinds import HNSW, BuildCancelled, Float32, read_requested_kind
from index.vectors.segmented_vectors import ChangeLogTruncated
from index.vectors.snapshot import exclusive_build_lock
from vitascope.errors import StorageError, VectorsUnavailable, VitascopeError

_log = logging.getLogger(__name__)

SEARCH_CATCH_UP_SECONDS = 30.0
"""Seconds after which a search stops waiting for the replica; completed steps are kept."""
WRITE_CATCH_UP_SECONDS = 10.0
"""Seconds after which a write stops waiting for the replica; it does not fail."""
RETRY_SECONDS = 15.0
"""Seconds in which writes do not call Milvus after it did not respond; searches always call it."""
_MAX_ATTEMPTS = 4  # of a search whose replica is replaced or lost during the search
_MIN_EF = 128  # what FAISS uses in large collections


class MilvusIndex:
    """Vector index of one catalogue; thread-safe, and usable in several processes. Connects at the first use."""

    def __init__(self, catalogue: Catalogue, folder: Path, dim: int, url: str) -> None:
        """``folder``: folder of the collection. ``dim``: embedding dim. ``url``: URL checked by ``check_backend``."""
        self._catalogue = catalogue
        self._folder = folder
        self._dim = dim
        self._server = MilvusServer(url)
        self._manager = ReplicaManager(self._server, catalogue, folder, dim)
        self._not_before = 0.0
        self._background = BackgroundTask(self._rebuild_if_due, f"Milvus of {folder.name}")

    @contextmanager
    def snapshot(self) -> Iterator[tuple[sqlite3.Connection, MilvusVectors]]:
        """See ``VectorIndex.snapshot``. Raises VectorsUnavailable that names the URL if Milvus does not respond."""
        with self._catalogue.read() as connection:
            self._catch_up(last_change(connection)[0])
            yield connection, MilvusVectors(self._catalogue, connection, self._dim, self)

    def status(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """See ``VectorIndex.status``. The number of changes is 0, as Milvus indexes every change."""
        replica = read_replicas(connection).current
        if replica is not None:
            return replica.kind, 0
        return milvus_kind(read_requested_kind(connection), count_clips(connection), None), 0

    def on_write(self, clips: int) -> None:
        """Update the replica. If Milvus does not respond, log it; the next search updates the replica."""
        try:
            if time.monotonic() >= self._not_before:
                self._manager.catch_up(self._last_change(), deadline(WRITE_CATCH_UP_SECONDS))
        except (VitascopeError, BuildCancelled) as error:
            self._not_before = time.monotonic() + RETRY_SECONDS
            reason = str(error) or "it takes long"
            _log.warning("%s: written, and not yet in Milvus: %s", self._folder.name, reason)
        self._background.add_pending(clips, MIN_CHANGED)

    def request_rebuild(self) -> None:
        """See ``VectorIndex.request_rebuild``."""
        self._background.trigger()

    def wait_for_rebuild(self) -> None:
        """See ``VectorIndex.wait_for_rebuild``."""
        self._background.wait()

    def close(self) -> None:
        """See ``VectorIndex.close``; the next process resumes a replica that is being filled."""
        self._background.stop()
        self._server.close()

    def candidates(self, query: Float32, k: int, expression: str, share: float) -> list[int]:
        """See ``CandidateSource.candidates``. Retries in a new replica if this one is lost meanwhile."""
        status = self._catch_up(0)
        for _ in range(_MAX_ATTEMPTS):
            try:
                return self._search(status, query, k, expression, share)
            except CollectionLost:
                status = self._catch_up(self._last_change())
        raise VectorsUnavailable(
            f"{self._server.url}: Milvus: the collection searched was gone {_MAX_ATTEMPTS} times in a row"
        )

    def _search(self, status: ReplicaStatus, query: Float32, k: int, expression: str, share: float) -> list[int]:
        replica = status.replica
        ef = min(MAX_EF, int(max(_MIN_EF, 1.5 * k) / share)) if replica.kind == HNSW else None
        try:
            return self._server.search(replica.name, query, k, ef=ef, expression=expression)
        except (CollectionLost, StorageError) as error:
            self._manager.invalidate(status)  # whatever happened to Milvus, its content is checked again
            # Milvus has many error codes for a collection that is dropped during a search.
            if isinstance(error, StorageError) and self._is_replaced(status):
                raise CollectionLost from error
            raise

    def _is_replaced(self, status: ReplicaStatus) -> bool:
        with self._catalogue.read() as connection:
            return read_replicas(connection).current != status.replica

    def _last_change(self) -> int:
        with self._catalogue.read() as connection:
            return last_change(connection)[0]

    def _catch_up(self, change: int) -> ReplicaStatus:
        """Catch up for ``SEARCH_CATCH_UP_SECONDS``, then raise VectorsUnavailable and continue in the background."""
        is_first = self._manager.status is None
        try:
            status = self._manager.catch_up(change, deadline(SEARCH_CATCH_UP_SECONDS))
        except BuildCancelled as cancelled:
            self._background.trigger()
            raise VectorsUnavailable(
                f"{self._server.url}: Milvus: collection {self._folder.name} is being filled; try again later"
            ) from cancelled
        if is_first and self._manager.is_work_due():
            self._background.trigger()
        return status

    def _rebuild_if_due(self, is_cancelled: IsCancelled) -> None:
        """Catch up without a time limit, drop old replicas, and create a replica of another kind if it is due."""

        def should_end() -> bool:
            return is_cancelled() or self._catalogue.closed

        try:
            with exclusive_build_lock(build_lock_path(self._folder), should_end) as is_held:
                if is_held and not should_end():
                    self._manager.catch_up_fully(should_end)
                    if (kind := self._manager.kind_due()) is not None:
                        self._manager.replace(kind, should_end)
        except BuildCancelled:
            pass
        except (OSError, VitascopeError, CollectionLost, ChangeLogTruncated) as error:
            _log.warning("%s: Milvus: %s", self._folder.name, str(error) or type(error).__name__)
