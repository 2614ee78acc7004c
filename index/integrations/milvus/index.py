"""A collection's vectors searched in Milvus, kept level with the catalogue by its log of changes.

The order is always the same: a read transaction is opened, the copy in Milvus is brought to that state or a later one,
and then it is searched (``vectors`` takes out what is later). A write brings it level at once where Milvus
answers; where it does not, the write stands all the same, and the next search does.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.integrations.milvus.file_locks import BUILDING, after
from index.integrations.milvus.replica_manager import CopyKeeper, Known, kind_for_milvus
from index.integrations.milvus.replica_registry import read_copies
from index.integrations.milvus.server import MOST_STEPS, CollectionLost, MilvusServer
from index.integrations.milvus.vectors import MilvusVectors
from index.storage.catalogue import Catalogue
from index.storage.queries import clip_count, last_change
from index.vectors.background_task import Background, Stop
from index.vectors.faiss_index import LEAST_CHANGED, setting_of
from index.vectors.faiss_kinds import HNSW, Float32, Stopped
from index.vectors.snapshot_builder import building_alone
from index.vectors.versioned_vectors import OutOfReach
from vitascope.errors import StorageError, VectorsUnavailable, VitascopeError

_log = logging.getLogger(__name__)

LEVEL_SECONDS = 30.0
"""What a search spends on bringing Milvus level before it gives up; what is done by then stays done."""
WRITE_SECONDS = 10.0
"""The same of a write, which does not fail for it."""
RETRY_SECONDS = 15.0
"""For so long after Milvus did not answer, writes leave it alone; searches try each time."""
_TRIES = 4  # of a search, each in a copy that is replaced or lost while it is searched
_STEPS = 128  # of a walk through the graph, at least: what FAISS takes in large collections


class MilvusIndex:
    """Follows one catalogue; safe to use from many threads and in several processes. Connects at the first use."""

    def __init__(self, catalogue: Catalogue, folder: Path, width: int, url: str) -> None:
        """``folder``: of the collection. ``url``: as ``check_place`` returns it."""
        self._catalogue = catalogue
        self._folder = folder
        self._width = width
        self._server = MilvusServer(url)
        self._keeper = CopyKeeper(self._server, catalogue, folder, width)
        self._not_before = 0.0
        self._background = Background(self._renew, f"Milvus of {folder.name}")

    @contextmanager
    def level(self) -> Iterator[tuple[sqlite3.Connection, MilvusVectors]]:
        """As ``VectorIndex.level``; VectorsUnavailable names the URL where Milvus does not answer."""
        with self._catalogue.read() as connection:
            self._reach(last_change(connection)[0])
            yield connection, MilvusVectors(self._catalogue, connection, self._width, self)

    def outlook(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """As ``VectorIndex.outlook``, by the catalogue. What Milvus builds follows every change: none is left over."""
        copy = read_copies(connection).current
        kind = copy.kind if copy else kind_for_milvus(setting_of(connection), clip_count(connection), None)
        return kind, 0

    def note_written(self, clips: int) -> None:
        """Bring Milvus level, unless it does not answer: that is logged, and the next search does it."""
        try:
            if time.monotonic() >= self._not_before:
                self._keeper.reach(self._newest(), after(WRITE_SECONDS))
        except (VitascopeError, Stopped) as error:
            self._not_before = time.monotonic() + RETRY_SECONDS
            reason = str(error) or "it takes long"
            _log.warning("%s: written, and not yet in Milvus: %s", self._folder.name, reason)
        self._background.note(clips, LEAST_CHANGED)

    def renew(self) -> None:
        """As ``VectorIndex.renew``."""
        self._background.ask()

    def wait(self) -> None:
        """As ``VectorIndex.wait``."""
        self._background.wait()

    def close(self) -> None:
        """As ``VectorIndex.close``; the next process goes on with a copy that is being filled."""
        self._background.stop()
        self._server.close()

    def propose(self, vector: Float32, k: int, expression: str, share: float) -> list[int]:
        """As ``Proposing.propose``. Where the copy was replaced or lost meanwhile, the new one is asked."""
        known = self._reach(0)
        for _ in range(_TRIES):
            try:
                return self._proposed(known, vector, k, expression, share)
            except CollectionLost:
                known = self._reach(self._newest())
        raise VectorsUnavailable(
            f"{self._server.url}: Milvus: the collection searched was gone {_TRIES} times in a row"
        )

    def _proposed(self, known: Known, vector: Float32, k: int, expression: str, share: float) -> list[int]:
        steps = None
        if known.copy.kind == HNSW:
            steps = min(MOST_STEPS, int(max(_STEPS, 1.5 * k) / share))
        try:
            return self._server.search(known.copy.name, vector, k, steps=steps, expression=expression)
        except (CollectionLost, StorageError) as error:
            self._keeper.forget(known)  # whatever happened to Milvus, what it holds is looked at again
            # Milvus has many words for a collection that is dropped under a search.
            if isinstance(error, StorageError) and self._is_replaced(known):
                raise CollectionLost from error
            raise

    def _is_replaced(self, known: Known) -> bool:
        with self._catalogue.read() as connection:
            return read_copies(connection).current != known.copy

    def _newest(self) -> int:
        with self._catalogue.read() as connection:
            return last_change(connection)[0]

    def _reach(self, change: int) -> Known:
        """As ``CopyKeeper.reach``; VectorsUnavailable after ``LEVEL_SECONDS``; the work goes on in the background."""
        try:
            is_first = self._keeper.known is None
            known = self._keeper.reach(change, after(LEVEL_SECONDS))
        except Stopped as stopped:
            self._background.ask()
            raise VectorsUnavailable(
                f"{self._server.url}: Milvus: collection {self._folder.name} is being filled; try again later"
            ) from stopped
        if is_first and self._keeper.work_is_due():
            self._background.ask()
        return known

    def _renew(self, stop: Stop) -> None:
        """Bring the copy level however long it takes, tidy up, and make a copy of another kind where one is due."""

        def ended() -> bool:
            return stop() or self._catalogue.closed

        try:
            with building_alone(self._folder / BUILDING, ended) as alone:
                if alone and not ended():
                    self._keeper.settle(ended)
                    if (kind := self._keeper.kind_due()) is not None:
                        self._keeper.replace(kind, ended)
        except Stopped:
            pass
        except (OSError, VitascopeError, CollectionLost, OutOfReach) as error:
            _log.warning("%s: Milvus: %s", self._folder.name, str(error) or type(error).__name__)
