"""The copy that serves: found in Milvus, brought level with the catalogue, filled anew where it was lost, and replaced
by one of another kind.

What a process knows of how far a copy has come is only ever too little, which costs time and loses nothing. One
thread of one process at a time writes to the current copy (``index.integrations.milvus.file_locks``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from index.integrations.milvus.file_locks import LOOK_SECONDS, after, turn_among_processes
from index.integrations.milvus.replica_registry import Copies, Copy, new_copy, read_copies, write_copies
from index.integrations.milvus.replication import Mark, begin, follow, is_of, read_mark
from index.integrations.milvus.server import CollectionLost, MilvusServer
from index.storage.catalogue import Catalogue
from index.storage.queries import clip_count, clips_at, last_change
from index.vectors.background_task import Stop
from index.vectors.faiss_index import CHANGES_KEPT, setting_of
from index.vectors.faiss_kinds import HNSW, IVFPQ, Stopped, kind_for
from index.vectors.versioned_vectors import OutOfReach

_log = logging.getLogger(__name__)

_SLICE_SECONDS = 2.0  # of long work, between two moments at which others may take their turn


@dataclass(frozen=True, slots=True)
class Known:
    """A copy, and a mark that it has reached at least."""

    copy: Copy
    mark: Mark


class CopyKeeper:
    """Of one catalogue; safe to use from many threads."""

    def __init__(self, server: MilvusServer, catalogue: Catalogue, folder: Path, width: int) -> None:
        self._server = server
        self._catalogue = catalogue
        self._folder = folder
        self._width = width
        self._turn = threading.Lock()
        self._known: Known | None = None

    @property
    def known(self) -> Known | None:
        """The copy that serves, as far as this process knows."""
        return self._known

    def forget(self, known: Known) -> None:
        """Look again in Milvus before this copy is searched another time."""
        if self._known is known:
            self._known = None

    def reach(self, change: int, stop: Stop) -> Known:
        """A good copy that is level with this change or a later one.

        Raises Stopped soon after ``stop`` says so, what is done then stays done; StorageError, CollectionNotFound.
        """
        while (known := self._known) is None or known.mark.change < change:
            with self._alone(stop):
                if self._known is not known:
                    continue  # another thread has been here
                try:
                    self._known = self._caught_up(known, stop)
                except CollectionLost:  # dropped between two calls: again, from the beginning
                    self._known = None
                    if stop():
                        raise Stopped from None
                except BaseException:
                    self._known = None  # the mark in Milvus knows better how far it came
                    raise
        return known

    def settle(self, stop: Stop) -> None:
        """Bring the copy level however long it takes, and put away what nobody needs any more. Raises as ``reach``."""
        with self._catalogue.read() as connection:
            change, _ = last_change(connection)
        while (known := self._reach_a_little(change, stop)) is None:
            if stop():
                raise Stopped
        with self._catalogue.write() as connection:
            connection.execute("DELETE FROM changes WHERE id < ?", (known.mark.change - CHANGES_KEPT,))
        self._drop_left()

    def work_is_due(self) -> bool:
        """Whether a copy of another kind is to be made, or others are to be dropped."""
        with self._catalogue.read() as connection:
            left = read_copies(connection).left
        return bool(left) or self.kind_due() is not None

    def kind_due(self) -> str | None:
        """The kind that a new copy should have; None where the current one is right, or there is none."""
        with self._catalogue.read() as connection:
            copy = read_copies(connection).current
            if copy is None:
                return None
            kind = kind_for_milvus(setting_of(connection), clip_count(connection), copy.kind)
        return None if kind == copy.kind else kind

    def replace(self, kind: str, stop: Stop) -> None:
        """Fill a copy of another kind while the current one serves, then let it be the current one.

        Only one at a time. Raises as ``reach``, and CollectionLost, OutOfReach; the old one goes on serving then.
        """
        copy = new_copy(kind)
        with self._catalogue.write() as connection:
            copies = read_copies(connection)
            write_copies(connection, Copies(copies.current, (*copies.left, copy.name)))
        mark = begin(self._server, self._catalogue, copy, self._width, self._description())
        mark = follow(self._server, self._catalogue, copy, self._width, mark, stop)
        with self._alone(stop):
            mark = follow(self._server, self._catalogue, copy, self._width, mark, stop)
            with self._catalogue.write() as connection:
                copies = read_copies(connection)
                write_copies(connection, Copies(copy, tuple(n for n in copies.names() if n != copy.name)))
            self._known = Known(copy, mark)
        self._drop_left()

    def _reach_a_little(self, change: int, stop: Stop) -> Known | None:
        """As ``reach``; None after a while, so that others get their turn."""
        is_over = after(_SLICE_SECONDS)
        try:
            return self.reach(change, lambda: stop() or is_over())
        except Stopped:
            return None

    # Only while holding the lock

    def _caught_up(self, known: Known | None, stop: Stop) -> Known:
        """The current copy, level with the newest change. ``known``: what this process knew of it until now."""
        found = self._found(known)
        copy = found or self._begun()
        is_proven = found is None or (known is not None and known.copy == found.copy)
        while True:
            try:
                mark = follow(self._server, self._catalogue, copy.copy, self._width, copy.mark, stop)
                if is_proven or self._has_all(copy.copy, mark):
                    return Known(copy.copy, mark)
                _log.warning("%s: %s in Milvus lacks clips; another is filled", self._folder.name, copy.copy.name)
            except OutOfReach:
                _log.warning("%s: %s in Milvus is too far behind", self._folder.name, copy.copy.name)
            copy, is_proven = self._begun(), True

    def _found(self, known: Known | None) -> Known | None:
        """The catalogue's current copy as it is in Milvus; None where there is none that can follow."""
        with self._catalogue.read() as connection:
            copy = read_copies(connection).current
            change, _ = last_change(connection)
        if copy is None:
            return None
        if known is not None and known.copy == copy and change <= known.mark.change + 1:
            return known  # nobody else has written since
        mark = read_mark(self._server.read_mark(copy.name) or "")
        with self._catalogue.read() as connection:
            if mark is not None and is_of(mark, connection, self._catalogue.meta["collection_id"]):
                return Known(copy, mark)
        problem = "of another history" if mark else "gone"
        _log.warning("%s: %s in Milvus is %s; another is filled", self._folder.name, copy.name, problem)
        return None

    def _begun(self) -> Known:
        """A new, empty copy in place of the current one."""
        with self._catalogue.read() as connection:
            old = read_copies(connection)
            kind = kind_for_milvus(setting_of(connection), clip_count(connection), None)
        for name in old.names():
            self._server.drop(name)
        copy = new_copy(kind)
        with self._catalogue.write() as connection:
            write_copies(connection, Copies(copy, ()))
        return Known(copy, begin(self._server, self._catalogue, copy, self._width, self._description()))

    def _has_all(self, copy: Copy, mark: Mark) -> bool:
        """Whether the copy has a row for each clip that there was at its mark, and one for the mark."""
        with self._catalogue.read() as connection:
            clips = clips_at(connection, mark.change)
        return self._server.count(copy.name) > clips

    @contextmanager
    def _alone(self, stop: Stop) -> Iterator[None]:
        while not self._turn.acquire(timeout=LOOK_SECONDS):
            if stop():
                raise Stopped
        try:
            with turn_among_processes(self._folder, stop):
                yield
        finally:
            self._turn.release()

    # By whoever makes a new copy

    def _drop_left(self) -> None:
        with self._catalogue.read() as connection:
            left = read_copies(connection).left
        for name in left:
            self._server.drop(name)
        if left:
            with self._catalogue.write() as connection:
                copies = read_copies(connection)
                write_copies(connection, Copies(copies.current, tuple(n for n in copies.left if n not in left)))

    def _description(self) -> str:
        return f"Vectors of the Vitascope collection {self._folder.name}"


def kind_for_milvus(setting: str, clips: int, current: str | None) -> str:
    """The kind of index, flat or hnsw, for so many clips; as ``index.vectors.faiss_kinds.kind_for``."""
    kind = kind_for(setting, clips, current)
    return HNSW if kind == IVFPQ else kind
