"""A cache: what was made is found again, made once, bounded, and forgotten."""

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
class Counted:
    hits: int = 0
    shared: int = 0
    misses: int = 0
    evictions: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    """Many threads count here."""

    def looked_up(self, cache: str, *, hits: int, shared: int, misses: int) -> None:
        with self.lock:
            self.hits, self.shared, self.misses = self.hits + hits, self.shared + shared, self.misses + misses

    def evicted(self, cache: str, count: int) -> None:
        self.evictions += count


@dataclass
class Maker:
    """Makes texts in capitals; notes what it was asked for, and can be held."""

    made: list[str] = field(default_factory=list)
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
            self.made.append(key.name)
            yield key, key.name.upper()


def cache_of(entries: int, counted: Counted | None = None) -> Cache[Named, str]:
    """A cache with room for that many values of 100 bytes."""
    return Cache("test", entries * (ENTRY_BYTES + 100), lambda key, value: 100, counted or Counted())


def keys(names: str, fingerprint: str = "f") -> list[Named]:
    return [Named(fingerprint, name) for name in names]


def test_what_was_used_last_stays_and_the_rest_goes() -> None:
    counted, maker = Counted(), Maker()
    cache = cache_of(3, counted)
    cache.get_or_create(keys("abc"), maker, CallContext())
    assert cache.get_or_create(keys("ca"), maker, CallContext()) == {Named("f", "c"): "C", Named("f", "a"): "A"}
    cache.get_or_create(keys("d"), maker, CallContext())  # in the place of b, which was not used since
    cache.get_or_create(keys("cad"), maker, CallContext())
    assert maker.made == list("abcd")
    cache.get_or_create(keys("b"), maker, CallContext())
    assert maker.made == list("abcdb")
    assert (cache.entries, cache.bytes) == (3, 3 * (ENTRY_BYTES + 100))
    assert counted == Counted(hits=5, shared=0, misses=5, evictions=2)


def test_only_what_is_not_there_is_made_and_equal_keys_once() -> None:
    cache, maker = cache_of(100), Maker()
    cache.get_or_create(keys("abcdefgh"), maker, CallContext())
    found = cache.get_or_create(keys("xaxbya"), maker, CallContext())
    assert maker.made == list("abcdefghxy")
    assert {key.name for key in found} == set("abxy")


def test_what_is_larger_than_the_cache_is_given_and_not_kept() -> None:
    cache, maker = cache_of(1), Maker()
    large: Cache[Named, str] = Cache("test", 1000, lambda key, value: 1001, Counted())
    cache.get_or_create(keys("a"), maker, CallContext())
    assert large.get_or_create(keys("a"), maker, CallContext()) == {Named("f", "a"): "A"}
    assert (large.entries, large.bytes) == (0, 0)


def test_without_bytes_nothing_is_kept_or_shared() -> None:
    counted, maker = Counted(), Maker()
    cache = cache_of(0, counted)
    for _ in range(2):
        assert cache.get_or_create(keys("aa"), maker, CallContext()) == {Named("f", "a"): "A"}
    assert maker.made == ["a", "a"]
    assert counted == Counted(misses=2)


def test_a_bundle_that_goes_takes_its_values_along_even_those_under_way() -> None:
    cache, maker = cache_of(100), Maker()
    cache.get_or_create(keys("abc", "old") + keys("a", "new"), maker, CallContext())
    maker.free.clear()
    maker.entered.clear()
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(cache.get_or_create, keys("d", "old"), maker, CallContext())
        assert maker.entered.wait(PATIENCE)
        cache.invalidate("old")
        maker.free.set()
        assert late.result(PATIENCE) == {Named("old", "d"): "D"}
    assert (cache.entries, cache.bytes) == (1, ENTRY_BYTES + 100)
    cache.get_or_create(keys("d", "old") + keys("a", "new"), maker, CallContext())
    assert maker.made == list("abcadd")


def test_many_who_want_the_same_wait_for_one() -> None:
    counted, maker = Counted(), Maker()
    cache = cache_of(100, counted)
    maker.free.clear()
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(cache.get_or_create, keys("ab"), maker, CallContext()) for _ in range(8)]
        wait_for(lambda: counted.shared == 14)
        maker.free.set()
        assert [future.result(PATIENCE) for future in futures] == [dict(zip(keys("ab"), "AB", strict=True))] * 8
    assert maker.made == ["a", "b"]
    assert counted == Counted(shared=14, misses=2)


def test_who_waits_takes_over_from_one_who_gives_up() -> None:
    counted, failing, maker = Counted(), Maker(error=EngineError("not now")), Maker()
    cache = cache_of(100, counted)
    failing.free.clear()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.get_or_create, keys("a"), failing, CallContext())
        assert failing.entered.wait(PATIENCE)
        others = [threads.submit(cache.get_or_create, keys("a"), maker, CallContext()) for _ in range(3)]
        wait_for(lambda: counted.shared == 3)
        failing.free.set()
        with pytest.raises(EngineError, match="not now"):
            first.result(PATIENCE)
        assert [other.result(PATIENCE) for other in others] == [{Named("f", "a"): "A"}] * 3
    assert maker.made == ["a"]


def test_who_waits_waits_no_longer_than_its_answer_is_wanted() -> None:
    counted, maker = Counted(), Maker()
    cache = cache_of(100, counted)
    maker.free.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.get_or_create, keys("a"), maker, CallContext())
        assert maker.entered.wait(PATIENCE)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            cache.get_or_create(keys("a"), maker, CallContext(deadline=began + 0.05))
        assert time.monotonic() - began < PATIENCE / 2
        maker.free.set()
        assert first.result(PATIENCE)


def test_threads_that_ask_make_and_forget_at_random_end_with_exact_bytes() -> None:
    cache, maker = cache_of(20), Maker()

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            names = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 4))
            fingerprint = str(random.integers(2))
            found = cache.get_or_create(keys(names, fingerprint), maker, CallContext())
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
