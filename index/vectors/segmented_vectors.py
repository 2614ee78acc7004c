"""The vectors of a collection in memory: a built index, vectors added since its build, and a mask of deleted vectors.

The built segment may be of any kind (``faiss_kinds``), never changes, and may be mapped from a file that other
processes map, too. Recent vectors are compared exactly. No vector is removed from an index: a deleted vector is
excluded from searches, and the next build leaves it out. A search merges the results of both segments. Ids are clip
ids (int64), which only increase.

Shape letters: N vectors, Q queries, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index.records import Signal
from index.storage.queries import change_stamp, changes_since, iter_embeddings, last_change, log_covers
from index.vectors import gpu
from index.vectors.faiss_kinds import (
    FLAT,
    Float32,
    IdSelection,
    Index,
    Int64,
    Mask,
    build,
    flat_index,
    index_kind,
    search_index,
)
from index.vectors.snapshot import SnapshotDamaged, SnapshotHeader, read_snapshot


class ChangeLogTruncated(Exception):
    """The change log no longer has every change since this state, or a change cannot be applied."""


class SegmentedVectors:
    """A built and a recent segment. Many threads may search at the same time; changes need exclusive access.

    Attributes:
        change: number and stamp of the last change of the catalogue that the vectors contain.
        header: header of the snapshot with the built segment.
    """

    def __init__(
        self,
        dim: int,
        built: Index = None,
        ids: Int64 | None = None,
        header: SnapshotHeader | None = None,
        signal: Signal = "visual",
    ) -> None:
        """``built``: an index of vectors (N, dim) of the signal, with ascending ``ids`` (N,); None: empty."""
        self.dim = dim
        self._signal = signal
        self.header = header
        self.change = (0, 0) if header is None else (header.change, header.stamp)
        no_ids = np.empty(0, np.int64)
        self._built = None if built is None else _Segment(built, no_ids if ids is None else ids, may_use_gpu=True)
        self._recent = _Segment(build(FLAT, dim, [], lambda: False), no_ids)

    @classmethod
    def from_catalogue(cls, connection: sqlite3.Connection, dim: int, signal: Signal = "visual") -> SegmentedVectors:
        """Read all vectors of a signal in the catalogue; they are searched exactly. Raises StorageError."""
        vectors = cls(dim, signal=signal)
        for ids, block in iter_embeddings(connection, dim, signal=signal):
            vectors.add(ids, block)
        vectors.change = last_change(connection)
        return vectors

    @classmethod
    def from_snapshot(
        cls, path: Path, connection: sqlite3.Connection, collection_id: str, dim: int, signal: Signal = "visual"
    ) -> SegmentedVectors | None:
        """Open the snapshot at ``path``; None if there is no file.

        Raises SnapshotDamaged if it is invalid or belongs to another collection, history or signal.
        """
        snapshot = read_snapshot(path)
        if snapshot is None:
            return None
        index, ids, header = snapshot
        if (header.collection_id, header.width, header.signal) != (collection_id, dim, signal) or (
            change_stamp(connection, header.change) != header.stamp
        ):
            raise SnapshotDamaged(f"{path.name}: of another state of the catalogue")
        return cls(dim, index, ids, header, signal)

    @property
    def kind(self) -> str:
        """The kind of the built segment; flat if there is none."""
        return FLAT if self._built is None else self._built.kind

    @property
    def is_exact(self) -> bool:
        """Return whether a search always returns the exact nearest vectors."""
        return self._built is None or self._built.kind == FLAT

    @property
    def last_id(self) -> int:
        """The highest id that was ever added, even if deleted since; 0 if none was added."""
        return max((int(part.ids[-1]) for part in (self._built, self._recent) if part and len(part.ids)), default=0)

    @property
    def count(self) -> int:
        """Number of vectors that are not deleted."""
        return self._recent.live_count + (0 if self._built is None else self._built.live_count)

    @property
    def changed(self) -> int:
        """Number of vectors added or deleted since the built segment was built."""
        built_deleted = 0 if self._built is None else self._built.deleted_count
        return len(self._recent.ids) + self._recent.deleted_count + built_deleted

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add ``vectors`` (N, D) under ``ids`` (N,), which are ascending and above ``last_id``."""
        if len(ids):
            self._recent.append(ids, vectors)

    def remove(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Remove the ids of every (first, count); unknown ids are ignored."""
        spans = np.array(list(ranges), np.int64).reshape(-1, 2)
        for segment in (self._built, self._recent):
            if segment is not None and len(spans):
                segment.remove(spans[:, 0], spans.sum(axis=1))

    def apply_changes(self, connection: sqlite3.Connection) -> None:
        """Apply every later change of the catalogue. After an exception the vectors are inconsistent.

        Raises ChangeLogTruncated (before anything is applied) and StorageError.
        """
        if not log_covers(connection, self.change[0]):
            raise ChangeLogTruncated
        changes = changes_since(connection, self.change[0])
        added = [first for _, _, kind, first, _ in changes if kind == "add"]
        if added and min(added) <= self.last_id:  # add_with_ids has added a video with lower ids
            raise ChangeLogTruncated
        self.remove([(first, count) for _, _, kind, first, count in changes if kind == "delete"])
        if added:
            # Ids only increase, so all added vectors have ids from the lowest added one on.
            for ids, vectors in iter_embeddings(connection, self.dim, min(added), self._signal):
                self.add(ids, vectors)
        self.change = last_change(connection)

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """See ``VectorSnapshot.search``."""
        segments = [segment for segment in (self._built, self._recent) if segment is not None and len(segment.ids)]
        results = [segment.search(queries, k, allowed) for segment in segments]
        if not results:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if len(results) == 1:
            cosines, ids = results[0]
            if not (
                cosines[:, 1:] == cosines[:, :-1]
            ).any():  # the results of one segment are in order, except for ties
                return cosines, ids
        else:
            cosines = np.concatenate([result[0] for result in results], axis=1)
            ids = np.concatenate([result[1] for result in results], axis=1)
        order = np.lexsort((ids, -cosines))[:, :k]
        return np.take_along_axis(cosines, order, 1), np.take_along_axis(ids, order, 1)


class _Segment:
    """An index, the ascending ids of its positions, and a mask of deleted positions."""

    def __init__(self, index: Index, ids: Int64, *, may_use_gpu: bool = False) -> None:
        self.index = index
        self.ids = ids
        self.kind = index_kind(index)
        self._flat = flat_index(index)
        self._gpu = gpu.copy_to_gpu(index) if may_use_gpu else None
        self.deleted_count = 0
        self._live_mask: npt.NDArray[np.bool_] = np.ones(len(ids), bool)
        self._live_selection: IdSelection | None = None

    @property
    def live_count(self) -> int:
        return len(self.ids) - self.deleted_count

    def append(self, ids: Int64, vectors: Float32) -> None:
        self.index.add(np.ascontiguousarray(vectors))
        self.ids = np.concatenate([self.ids, ids])
        self._live_mask = np.concatenate([self._live_mask, np.ones(len(ids), bool)])
        self._count_deleted()

    def remove(self, firsts: Int64, ends: Int64) -> None:
        for start, end in zip(*np.searchsorted(self.ids, (firsts, ends)), strict=True):
            self._live_mask[start:end] = False
        self._count_deleted()

    def _count_deleted(self) -> None:
        self.deleted_count = len(self.ids) - int(np.count_nonzero(self._live_mask))
        self._live_selection = IdSelection(self._live_mask) if self.deleted_count else None

    def search(self, queries: Float32, k: int, allowed: Mask | None) -> tuple[Float32, Int64]:
        selection = self._live_selection if allowed is None else IdSelection(self._position_mask(allowed))
        if self._gpu is not None and selection is None and self._gpu.supports(gpu_k := min(k, self.live_count)):
            cosines, positions = self._gpu.search(queries, gpu_k)
            if positions.min() >= 0:
                return cosines, self.ids[positions]
        cosines, positions = search_index(self.index, queries, k, selection, kind=self.kind, flat=self._flat)
        return cosines, self.ids[positions]

    def _position_mask(self, allowed: Mask) -> Mask:
        """Convert the mask ``allowed`` by id to a mask by position, without deleted positions."""
        first, last = int(self.ids[0]), int(self.ids[-1])
        mask = np.zeros(len(self.ids), bool)
        if last - first + 1 == len(self.ids):  # ids without a gap are the usual case
            within = allowed[first : last + 1]
            mask[: len(within)] = within
        else:
            known = int(np.searchsorted(self.ids, len(allowed)))
            mask[:known] = allowed[self.ids[:known]]
        return mask & self._live_mask if self.deleted_count else mask
