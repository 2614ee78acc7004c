"""The vectors of a collection in memory: a built index that never changes, vectors that came since, and what was
deleted.

The built part may be of any kind (``faiss_kinds``) and may be mapped from a file that other processes map, too.
What came since is compared exactly. Nothing is taken out of an index: a deleted vector is passed over, in either
part, until the next build leaves it out. A search merges both parts. Ids are clip ids (int64), which only grow.

Shape letters: N vectors, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from index.vectors import gpu
from index.vectors.faiss_kinds import FLAT, Float32, Index, Int64, Mask, Selection, build, kind_of, nearest, raw_of

__all__ = ["Float32", "Index", "Int64", "Vectors"]


class Vectors:
    """Searched by many threads at once, changed by one that is alone."""

    def __init__(self, width: int, built: Index = None, ids: Int64 | None = None) -> None:
        """``built``: an index of vectors of ``width`` with their ``ids`` (N,), ascending; None for none."""
        self.width = width
        nobody = np.empty(0, np.int64)
        self._built = None if built is None else _Part(built, nobody if ids is None else ids, may_use_gpu=True)
        self._recent = _Part(build(FLAT, width, [], lambda: False), nobody)

    @property
    def kind(self) -> str:
        """The kind of the built part; flat where nothing is built."""
        return FLAT if self._built is None else self._built.kind

    @property
    def is_exact(self) -> bool:
        """As ``VectorSnapshot.is_exact``."""
        return self.kind == FLAT

    @property
    def last_id(self) -> int:
        """The highest id that was ever added, deleted or not; 0 where none was."""
        return max((int(part.ids[-1]) for part in (self._built, self._recent) if part and len(part.ids)), default=0)

    @property
    def count(self) -> int:
        """Vectors that a search can find."""
        return self._recent.alive + (0 if self._built is None else self._built.alive)

    @property
    def changed(self) -> int:
        """Vectors that came or went since the built part was built."""
        return len(self._recent.ids) + self._recent.dead + (0 if self._built is None else self._built.dead)

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add ``vectors`` (N, D) under ``ids`` (N,), ascending and above all that were ever added."""
        if len(ids):
            self._recent.append(ids, vectors)

    def remove(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Remove the ids of every (first, count); ids that are not there are passed over."""
        spans = np.array(list(ranges), np.int64).reshape(-1, 2)
        for part in (self._built, self._recent):
            if part is not None and len(spans):
                part.remove(spans[:, 0], spans.sum(axis=1))

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """(cosines, ids), each (Q, K), of the K nearest to every query (Q, D), best first, ties by id.

        K is ``k``, or less where there are fewer. ``allowed`` says by position whether the id of that number may
        be found; ids beyond its end may not. It travels with the call, so that searches with different filters
        run beside each other.
        """
        parts = [part for part in (self._built, self._recent) if part is not None and len(part.ids)]
        found = [part.search(queries, k, allowed) for part in parts]
        if not found:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if len(found) == 1:
            cosines, ids = found[0]
            if not (cosines[:, 1:] == cosines[:, :-1]).any():  # one part's are in order already, but for ties
                return cosines, ids
        else:
            cosines = np.concatenate([one[0] for one in found], axis=1)
            ids = np.concatenate([one[1] for one in found], axis=1)
        order = np.lexsort((ids, -cosines))[:, :k]
        return np.take_along_axis(cosines, order, 1), np.take_along_axis(ids, order, 1)


class _Part:
    """An index with the ids of its positions, ascending, and which of them are deleted."""

    def __init__(self, index: Index, ids: Int64, *, may_use_gpu: bool = False) -> None:
        self.index = index
        self.ids = ids
        self.kind = kind_of(index)
        self._raw = raw_of(index)
        self._gpu = gpu.on_gpu(index) if may_use_gpu else None
        self.dead = 0
        self._living: npt.NDArray[np.bool_] = np.ones(len(ids), bool)
        self._selection: Selection | None = None

    @property
    def alive(self) -> int:
        return len(self.ids) - self.dead

    def append(self, ids: Int64, vectors: Float32) -> None:
        self.index.add(np.ascontiguousarray(vectors))
        self.ids = np.concatenate([self.ids, ids])
        self._living = np.concatenate([self._living, np.ones(len(ids), bool)])
        self._note_deleted()

    def remove(self, firsts: Int64, ends: Int64) -> None:
        for start, end in zip(*np.searchsorted(self.ids, (firsts, ends)), strict=True):
            self._living[start:end] = False
        self._note_deleted()

    def _note_deleted(self) -> None:
        self.dead = len(self.ids) - int(np.count_nonzero(self._living))
        self._selection = Selection(self._living) if self.dead else None

    def search(self, queries: Float32, k: int, allowed: Mask | None) -> tuple[Float32, Int64]:
        selection = self._selection if allowed is None else Selection(self._mask(allowed))
        wanted = min(k, self.alive)
        if self._gpu is not None and selection is None and self._gpu.can_find(wanted):
            cosines, positions = self._gpu.search(queries, wanted)
            if positions.min() >= 0:
                return cosines, self.ids[positions]
        cosines, positions = nearest(self.index, queries, k, selection, kind=self.kind, raw=self._raw)
        return cosines, self.ids[positions]

    def _mask(self, allowed: Mask) -> Mask:
        """``allowed``, which is by id, by position and without what is deleted."""
        first, last = int(self.ids[0]), int(self.ids[-1])
        mask = np.zeros(len(self.ids), bool)
        if last - first + 1 == len(self.ids):  # ids without a gap are the usual case
            within = allowed[first : last + 1]
            mask[: len(within)] = within
        else:
            known = int(np.searchsorted(self.ids, len(allowed)))
            mask[:known] = allowed[self.ids[:known]]
        return mask & self._living if self.dead else mask
