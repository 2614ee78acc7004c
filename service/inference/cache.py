"""Values that cost much to make: kept while there is room, and made once by those who want them at the same time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.inference.call import Asker

LOOK_SECONDS = 0.1
"""Between two looks at whether the answer is still wanted, while another request makes a value."""
ENTRY_BYTES = 600
"""What an entry takes besides its key and value: places in two tables, tuples, the heads of arrays."""


class Key(Protocol):
    """What a value is made of, all of it: equal keys have equal values."""

    @property
    def fingerprint(self) -> str:
        """Of the bundle that makes the value."""

    def __hash__(self) -> int: ...


class Watcher(Protocol):
    """Who counts what happens; called from any thread, briefly."""

    def looked_up(self, cache: str, *, hits: int, shared: int, misses: int) -> None:
        """So many values were there, were being made by another request, and had to be made."""

    def evicted(self, cache: str, count: int) -> None:
        """So many values went to make room."""


K = TypeVar("K", bound=Key)
V = TypeVar("V")
Promise = Future[V | None]
"""Of a value that another is making; None where that was given up, for whatever reason of his own."""


class Making(Generic[V]):
    """A value that somebody is making. ``promise``: once others wait for it, which few do."""

    __slots__ = ("promise",)

    def __init__(self) -> None:
        self.promise: Promise[V] | None = None


@dataclass
class Claim(Generic[K, V]):
    """Keys that one asker wants: ``known`` with their values, ``mine`` for it to make, ``shared`` that others make."""

    known: dict[K, V] = field(default_factory=dict)
    mine: list[K] = field(default_factory=list)
    shared: dict[K, Promise[V]] = field(default_factory=dict)
    makings: dict[K, Making[V]] = field(default_factory=dict)
    """Of what is mine and not made yet; the cache settles them."""


class Cache(Generic[K, V]):
    """The values used last, at most ``max_bytes`` of them; safe to use from many threads.

    Nothing that failed is kept or shared: who waits for another's value takes it over where the other gives up.
    """

    def __init__(self, name: str, max_bytes: int, size_of: Callable[[K, V], int], watcher: Watcher) -> None:
        """``size_of`` a key and its value in bytes. ``max_bytes`` 0: nothing is kept and nothing shared."""
        self.name = name
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._watcher = watcher
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._making: dict[K, Making[V]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What the entries take."""
        return self._bytes

    @property
    def entries(self) -> int:
        """Values that are kept."""
        return len(self._kept)

    def recall(
        self, keys: Iterable[K], make: Callable[[Sequence[K]], Iterable[tuple[K, V]]], asker: Asker
    ) -> dict[K, V]:
        """The values of all ``keys``. ``make`` gives those that are not there, and nobody else is making.

        Blocks. Raises what ``make`` raises, DeadlineExceeded and RequestAbandoned.
        """
        found: dict[K, V] = {}
        wanted = list(dict.fromkeys(keys))
        while wanted:
            with self.claim(wanted) as claim:
                found |= claim.known
                if claim.mine:
                    for key, value in make(claim.mine):
                        found[key] = value
                        self.keep(claim, key, value)
            # Only when all that is mine is made: so nobody waits for one who waits for him.
            for key, promise in claim.shared.items():
                if (kept := _result(promise, asker)) is not None:
                    found[key] = kept
            wanted = [key for key in wanted if key not in found]
        return found

    @contextmanager
    def claim(self, keys: Iterable[K]) -> Iterator[Claim[K, V]]:
        """What is there of ``keys``, which are all different. What is mine and not kept at the end is given up."""
        claim = self._claimed(keys)
        self._watcher.looked_up(self.name, hits=len(claim.known), shared=len(claim.shared), misses=len(claim.mine))
        try:
            yield claim
        finally:
            self._give_up(claim)

    def keep(self, claim: Claim[K, V], key: K, value: V) -> None:
        """Give ``value``, which was mine to make, to all who wait for it and will ask."""
        making = claim.makings.pop(key, None)
        if making is None:  # the cache is off
            return
        size = self._size_of(key, value) + ENTRY_BYTES
        evicted = 0
        with self._lock:
            if self._making.get(key) is making:  # else its bundle was forgotten meanwhile
                del self._making[key]
                if size <= self._max_bytes:
                    self._kept[key] = (value, size)
                    self._bytes += size
                    evicted = self._make_room()
            promise = making.promise
        if promise is not None:
            promise.set_result(value)
        if evicted:
            self._watcher.evicted(self.name, evicted)

    def forget(self, fingerprint: str) -> None:
        """Drop what a bundle has made. What it is making is given to who waits for it, and not kept."""
        with self._lock:
            for key in [key for key in self._kept if key.fingerprint == fingerprint]:
                self._bytes -= self._kept.pop(key)[1]
            for key in [key for key in self._making if key.fingerprint == fingerprint]:
                del self._making[key]

    def _claimed(self, keys: Iterable[K]) -> Claim[K, V]:
        if not self._max_bytes:
            return Claim(mine=list(keys))
        claim = Claim[K, V]()
        with self._lock:
            for key in keys:
                if (kept := self._kept.get(key)) is not None:
                    self._kept.move_to_end(key)
                    claim.known[key] = kept[0]
                elif (making := self._making.get(key)) is not None:
                    if making.promise is None:
                        making.promise = _new_promise()
                    claim.shared[key] = making.promise
                else:
                    claim.mine.append(key)
                    claim.makings[key] = self._making[key] = Making()
        return claim

    def _give_up(self, claim: Claim[K, V]) -> None:
        with self._lock:
            for key, making in claim.makings.items():
                if self._making.get(key) is making:
                    del self._making[key]
        for making in claim.makings.values():
            if making.promise is not None:
                making.promise.set_result(None)

    def _make_room(self) -> int:
        evicted = 0
        while self._bytes > self._max_bytes:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size
            evicted += 1
        return evicted


def _new_promise() -> Promise[V]:
    promise: Promise[V] = Future()
    promise.set_running_or_notify_cancel()  # from now on, one who waits for it cannot cancel it for the others
    return promise


def _result(promise: Promise[V], asker: Asker) -> V | None:
    while True:
        try:
            return promise.result(LOOK_SECONDS)
        except NotYet:
            if (reason := asker.cancellation_error(time.monotonic())) is not None:
                raise reason from None
