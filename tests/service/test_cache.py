"""The cache: eviction, single flight and invalidation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

from service.errors import DeadlineExceeded
from service.inference.cache import ENTRY_BYTES, Cache
from service.inference.call import CallContext
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError


class Named(NamedTuple):
    fingerprint: str
    name: str


@dataclass
class RecordingObserver:
    hits: int = 0
    shared: int = 0
    misses: int = 0
    evictions: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    """Lookups are recorded by many threads."""

    def looked_up(self, cache: str, *, hits: int, shared: int, misses: int) -> None:
        with self.lock:
            self.hits, self.shared, self.misses = self.hits + hits, self.shared + shared, self.misses + misses

    def evicted(self, cache: str, count: int) -> None:
        self.evictions += count


@dataclass
class Creator:
    """Creates upper-case texts, records them, and can be blocked."""

    created: list[str] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.free.set()

    def __call__(self, keys: Sequence[Named]) -> Iterator[tuple[Named, str]]:
        self.entered.set()
        assert self.free.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        for key in keys:
            self.created.append(key.name)
            yield key, key.name.upper()


def cache_of(entries: int, observer: RecordingObserver | None = None) -> Cache[Named, str]:
    """A cache for that many values of 100 bytes."""
    return Cache("test", entries * (ENTRY_BYTES + 100), lambda key, value: 100, observer or RecordingObserver())


def keys(names: str, fingerprint: str = "f") -> list[Named]:
    return [Named(fingerprint, name) for name in names]


def test_least_recently_used_values_are_evicted() -> None:
    observer, create = RecordingObserver(), Creator()
    cache = cache_of(3, observer)
    cache.get_or_create(keys("abc"), create, CallContext())
    assert cache.get_or_create(keys("ca"), create, CallContext()) == {Named("f", "c"): "C", Named("f", "a"): "A"}
    cache.get_or_create(keys("d"), create, CallContext())  # evicts b, the least recently used
    cache.get_or_create(keys("cad"), create, CallContext())
    assert create.created == list("abcd")
    cache.get_or_create(keys("b"), create, CallContext())
    assert create.created == list("abcdb")
    assert (cache.entries, cache.bytes) == (3, 3 * (ENTRY_BYTES + 100))
    assert observer == RecordingObserver(hits=5, shared=0, misses=5, evictions=2)


def test_only_missing_values_are_created_and_equal_keys_once() -> None:
    cache, create = cache_of(100), Creator()
    cache.get_or_create(keys("abcdefgh"), create, CallContext())
    found = cache.get_or_create(keys("xaxbya"), create, CallContext())
    assert create.created == list("abcdefghxy")
    assert {key.name for key in found} == set("abxy")


def test_a_value_larger_than_the_cache_is_returned_and_not_cached() -> None:
    cache, create = cache_of(1), Creator()
    large: Cache[Named, str] = Cache("test", 1000, lambda key, value: 1001, RecordingObserver())
    cache.get_or_create(keys("a"), create, CallContext())
    assert large.get_or_create(keys("a"), create, CallContext()) == {Named("f", "a"): "A"}
    assert (large.entries, large.bytes) == (0, 0)


def test_a_cache_without_bytes_neither_caches_nor_shares() -> None:
    observer, create = RecordingObserver(), Creator()
    cache = cache_of(0, observer)
    for _ in range(2):
        assert cache.get_or_create(keys("aa"), create, CallContext()) == {Named("f", "a"): "A"}
    assert create.created == ["a", "a"]
    assert observer == RecordingObserver(misses=2)


def test_invalidation_covers_values_that_are_being_created() -> None:
    cache, create = cache_of(100), Creator()
    cache.get_or_create(keys("abc", "old") + keys("a", "new"), create, CallContext())
    create.free.clear()
    create.entered.clear()
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(cache.get_or_create, keys("d", "old"), create, CallContext())
        assert create.entered.wait(PATIENCE)
        cache.invalidate("old")
        create.free.set()
        assert late.result(PATIENCE) == {Named("old", "d"): "D"}
    assert (cache.entries, cache.bytes) == (1, ENTRY_BYTES + 100)
    cache.get_or_create(keys("d", "old") + keys("a", "new"), create, CallContext())
    assert create.created == list("abcadd")


def test_concurrent_callers_share_one_computation() -> None:
    observer, create = RecordingObserver(), Creator()
    cache = cache_of(100, observer)
    create.free.clear()
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(cache.get_or_create, keys("ab"), create, CallContext()) for _ in range(8)]
        wait_for(lambda: observer.shared == 14)
        create.free.set()
        assert [future.result(PATIENCE) for future in futures] == [dict(zip(keys("ab"), "AB", strict=True))] * 8
    assert create.created == ["a", "b"]
    assert observer == RecordingObserver(shared=14, misses=2)


def test_a_waiting_caller_takes_over_after_a_failure() -> None:
    observer, failing, create = RecordingObserver(), Creator(error=EngineError("not now")), Creator()
    cache = cache_of(100, observer)
    failing.free.clear()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.get_or_create, keys("a"), failing, CallContext())
        assert failing.entered.wait(PATIENCE)
        others = [threads.submit(cache.get_or_create, keys("a"), create, CallContext()) for _ in range(3)]
        wait_for(lambda: observer.shared == 3)
        failing.free.set()
        with pytest.raises(EngineError, match="not now"):
            first.result(PATIENCE)
        assert [other.result(PATIENCE) for other in others] == [{Named("f", "a"): "A"}] * 3
    assert create.created == ["a"]


def test_a_waiting_caller_stops_at_its_deadline() -> None:
    observer, create = RecordingObserver(), Creator()
    cache = cache_of(100, observer)
    create.free.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.get_or_create, keys("a"), create, CallContext())
        assert create.entered.wait(PATIENCE)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            cache.get_or_create(keys("a"), create, CallContext(deadline=began + 0.05))
        assert time.monotonic() - began < PATIENCE / 2
        create.free.set()
        assert first.result(PATIENCE)


def test_bytes_are_exact_after_concurrent_use() -> None:
    cache, create = cache_of(20), Creator()

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            names = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 4))
            fingerprint = str(random.integers(2))
            found = cache.get_or_create(keys(names, fingerprint), create, CallContext())
            assert {key.name: made for key, made in found.items()} == {name: name.upper() for name in names}
            if random.random() < 0.05:
                cache.invalidate(fingerprint)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert cache.bytes == cache.entries * (ENTRY_BYTES + 100)
    assert 0 < cache.entries <= 20
    cache.invalidate("0")
    cache.invalidate("1")
    assert (cache.entries, cache.bytes) == (0, 0)
