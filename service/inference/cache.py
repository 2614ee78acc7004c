"""Caches of embeddings with a byte limit and single flight: concurrent callers share one computation.

Shape letters: B texts, N 1 clip or its frames or windows, V visual tokens, W their width, D embedding dim.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from cachetools import LRUCache

from service.inference.scheduler import CallContext, Outputs
from service.settings import Settings
from vitascope.embeddings import Floats
from vitascope.model import Model
from vitascope.tokenizer import TextBatch

if TYPE_CHECKING:  # circular import
    from service.observability import Metrics

POLL_SECONDS = 0.1
"""Seconds between two checks of the deadline by a caller that waits for the value of another caller."""
ENTRY_BYTES = 600
"""Bytes of an entry in addition to its key and value: table slots, tuples, array headers."""


class Key(Protocol):
    """Cache key: it contains everything that the value depends on, so equal keys have equal values."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the bundle that computes the value."""

    def __hash__(self) -> int: ...


class CacheObserver(Protocol):
    """Receives the events of a cache, in any thread."""

    def looked_up(self, cache: str, *, hits: int, shared: int, misses: int) -> None:
        """Values were cached (hits), are computed by another caller (shared), or have to be computed (misses)."""

    def evicted(self, cache: str, count: int) -> None:
        """Values were removed because the cache was full."""


K = TypeVar("K", bound=Key)
V = TypeVar("V")


class InFlight(Generic[V]):
    """A value that is being computed. ``future``: set if another caller waits; result None: computing failed."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[V | None] | None = None


@dataclass
class Claim(Generic[K, V]):
    """The result of a lookup of several keys.

    Attributes:
        cached: Cached values by key.
        missing: Keys whose values the caller has to compute.
        shared: Futures of values that other callers are computing, by key.
        in_flight: The keys of ``missing`` whose values were not put into the cache yet.
    """

    cached: dict[K, V] = field(default_factory=dict)
    missing: list[K] = field(default_factory=list)
    shared: dict[K, Future[V | None]] = field(default_factory=dict)
    in_flight: dict[K, InFlight[V]] = field(default_factory=dict)


class _Entries(LRUCache[K, tuple[V, int]]):
    """LRU cache of (value, size); counts evicted entries."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry[1])
        self.evictions = 0

    def popitem(self) -> tuple[K, tuple[V, int]]:
        self.evictions += 1
        return super().popitem()


class Cache(Generic[K, V]):
    """LRU cache of at most ``max_bytes``. Thread-safe.

    Failures are neither cached nor shared: if computing a value fails, a waiting caller computes it itself.
    """

    def __init__(self, name: str, max_bytes: int, size_of: Callable[[K, V], int], observer: CacheObserver) -> None:
        """``size_of`` returns the bytes of a key with its value. ``max_bytes`` 0: nothing is cached or shared."""
        self.name = name
        self._size_of = size_of
        self._observer = observer
        self._entries: _Entries[K, V] = _Entries(max_bytes)
        self._in_flight: dict[K, InFlight[V]] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Size of the cached values and keys."""
        return int(self._entries.currsize)

    @property
    def entries(self) -> int:
        """Number of cached values."""
        return len(self._entries)

    def get_or_create(
        self, keys: Iterable[K], create: Callable[[Sequence[K]], Iterable[tuple[K, V]]], context: CallContext
    ) -> dict[K, V]:
        """Return the values of all ``keys``; ``create`` computes values that are neither cached nor being computed.

        Blocks. Raises the errors of ``create``, DeadlineExceeded and RequestAbandoned.
        """
        values: dict[K, V] = {}
        missing = list(dict.fromkeys(keys))
        while missing:
            with self.claim(missing) as claim:
                values |= claim.cached
                if claim.missing:
                    for key, value in create(claim.missing):
                        values[key] = value
                        self.put(claim, key, value)
            # After all own values are computed, so that two callers never wait for each other.
            for key, future in claim.shared.items():
                if (value_or_none := _wait(future, context)) is not None:
                    values[key] = value_or_none
            missing = [key for key in missing if key not in values]
        return values

    @contextmanager
    def claim(self, keys: Iterable[K]) -> Iterator[Claim[K, V]]:
        """Look up distinct ``keys``, and claim the missing ones until the end of the context."""
        claim = self._claim(keys)
        self._observer.looked_up(self.name, hits=len(claim.cached), shared=len(claim.shared), misses=len(claim.missing))
        try:
            yield claim
        finally:
            self._give_up(claim)

    def put(self, claim: Claim[K, V], key: K, value: V) -> None:
        """Cache a missing value of ``claim``, and pass it to the callers that wait for it."""
        in_flight = claim.in_flight.pop(key, None)
        if in_flight is None:  # nothing is cached
            return
        size = self._size_of(key, value) + ENTRY_BYTES
        evicted = 0
        with self._lock:
            if self._in_flight.get(key) is in_flight:  # else the bundle was invalidated meanwhile
                del self._in_flight[key]
                if size <= self._entries.maxsize:
                    before = self._entries.evictions
                    self._entries[key] = value, size
                    evicted = self._entries.evictions - before
            future = in_flight.future
        if future is not None:
            future.set_result(value)
        if evicted:
            self._observer.evicted(self.name, evicted)

    def invalidate(self, fingerprint: str) -> None:
        """Remove the values of a bundle. Values in computation are returned to their callers, but not cached."""
        with self._lock:
            for table in (self._entries, self._in_flight):
                for key in [key for key in table if key.fingerprint == fingerprint]:
                    del table[key]

    def _claim(self, keys: Iterable[K]) -> Claim[K, V]:
        if not self._entries.maxsize:
            return Claim(missing=list(keys))
        claim = Claim[K, V]()
        with self._lock:
            for key in keys:
                if (entry := self._entries.get(key)) is not None:
                    claim.cached[key] = entry[0]
                elif (in_flight := self._in_flight.get(key)) is not None:
                    if in_flight.future is None:
                        in_flight.future = Future()
                        in_flight.future.set_running_or_notify_cancel()  # one waiting caller cannot cancel it for all
                    claim.shared[key] = in_flight.future
                else:
                    claim.missing.append(key)
                    claim.in_flight[key] = self._in_flight[key] = InFlight()
        return claim

    def _give_up(self, claim: Claim[K, V]) -> None:
        with self._lock:
            for key, in_flight in claim.in_flight.items():
                if self._in_flight.get(key) is in_flight:
                    del self._in_flight[key]
        for in_flight in claim.in_flight.values():
            if in_flight.future is not None:
                in_flight.future.set_result(None)


def _wait(future: Future[V | None], context: CallContext) -> V | None:
    while True:
        try:
            return future.result(POLL_SECONDS)
        except FutureTimeout:
            if (error := context.cancellation_error(time.monotonic())) is not None:
                raise error from None


class TextKey(NamedTuple):
    """Cache key of a text, including its prompt, for the bundle with this fingerprint."""

    fingerprint: str
    text: str


class CachedText(NamedTuple):
    """``embedding``: (D,) float32. ``tokens``: number of tokens of the text."""

    embedding: Floats
    tokens: int


class ClipKey(NamedTuple):
    """Cache key of a span of a file for the bundle with this fingerprint, which determines the streams.

    Attributes:
        content: Identifies the content of the file.
        start, end: Requested seconds; None: to the end of the file.
        frames: 0: the clip as a whole; otherwise the number of its frames that are embedded one by one.
        windows: 0, or the number of windows of equal length that are embedded one by one.
    """

    fingerprint: str
    content: str
    start: float
    end: float | None
    frames: int = 0
    windows: int = 0


@dataclass(frozen=True)
class CachedClip:
    """An embedded clip, or its embedded frames or windows.

    Attributes:
        start, end: Seconds in the file.
        embeddings: (N, D) float32 of length 1.
        visual_tokens: (1, V, W) float32 for a clip as a whole, else None.
        times: Times of the frames in seconds.
    """

    start: float
    end: float
    embeddings: Floats
    visual_tokens: Floats | None = None
    times: Sequence[float] = ()


TextCache = Cache[TextKey, CachedText]
ClipCache = Cache[ClipKey, CachedClip]


@dataclass(frozen=True)
class Caches:
    """The caches of a service."""

    texts: TextCache
    clips: ClipCache

    def invalidate(self, fingerprint: str) -> None:
        """Remove all values of the bundle with this fingerprint."""
        self.texts.invalidate(fingerprint)
        self.clips.invalidate(fingerprint)


def open_caches(settings: Settings, metrics: Metrics) -> Caches:
    """Create empty caches; ``metrics`` observes them."""
    caches = Caches(
        Cache("texts", settings.text_cache_bytes, _text_bytes, metrics),
        Cache("clips", settings.clip_cache_bytes, _clip_bytes, metrics),
    )
    metrics.bind_cache("texts", lambda: caches.texts.bytes, lambda: caches.texts.entries)
    metrics.bind_cache("clips", lambda: caches.clips.bytes, lambda: caches.clips.entries)
    return caches


def _text_bytes(key: TextKey, value: CachedText) -> int:
    return sys.getsizeof(key.text) + value.embedding.nbytes


def _clip_bytes(key: ClipKey, value: CachedClip) -> int:
    tokens = 0 if value.visual_tokens is None else value.visual_tokens.nbytes
    return len(key.content) + value.embeddings.nbytes + tokens


def text_keys(model: Model, texts: Iterable[str]) -> list[TextKey]:
    """Return the keys of texts."""
    return [TextKey(model.bundle.fingerprint, text) for text in texts]


def embed_texts(cache: TextCache, context: CallContext, model: Model, texts: Sequence[str]) -> Floats:
    """Return embeddings (B, D) float32; only texts that are neither cached nor being embedded are run.

    A cached embedding is equal, bit by bit, to the first computed one. Computed again, it may differ in the last
    digits, since texts run in other batches and with other padding. Raises the errors of ``Model.embed_text``,
    DeadlineExceeded and RequestAbandoned.
    """

    def create(keys: Sequence[TextKey]) -> Iterator[tuple[TextKey, CachedText]]:
        for batch in model.text_batches([key.text for key in keys]):
            yield from split_rows(keys, batch, model.run_graph("text", batch.inputs))

    keys = text_keys(model, texts)
    embeddings, _ = stack(cache.get_or_create(keys, create, context), keys, model.bundle.manifest.vector_width)
    return embeddings


def split_rows(keys: Sequence[TextKey], batch: TextBatch, outputs: Outputs) -> Iterator[tuple[TextKey, CachedText]]:
    """Yield the key and value of each text of a batch. ``outputs``: outputs of the text graph."""
    tokens = batch.inputs["attention_mask"].sum(axis=1)
    for row, embedding, count in zip(batch.rows, outputs["vector"], tokens, strict=True):
        # A copy: a view would keep the whole batch in memory.
        yield keys[row], CachedText(embedding.copy(), int(count))


def stack(values: Mapping[TextKey, CachedText], keys: Sequence[TextKey], width: int) -> tuple[Floats, int]:
    """Return the embeddings (B, D) of ``keys``, and their total number of tokens."""
    embeddings = np.empty((len(keys), width), np.float32)
    tokens = 0
    for row, key in enumerate(keys):
        embeddings[row], count = values[key]
        tokens += count
    return embeddings, tokens
