"""Caches of embeddings: eviction, single flight, invalidation, and the work that they save."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from service.errors import DeadlineExceeded
from service.inference.cache import ENTRY_BYTES, Cache
from service.inference.scheduler import CallContext
from tests.media_files import write_color_video
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.service.test_observability import scrape, value
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
    """Return a cache with room for ``entries`` values of 100 bytes."""
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


def test_a_value_larger_than_the_cache_is_returned_and_not_cached() -> None:
    cache: Cache[Named, str] = Cache("test", 1000, lambda key, value: 1001, RecordingObserver())
    assert cache.get_or_create(keys("a"), Creator(), CallContext()) == {Named("f", "a"): "A"}
    assert (cache.entries, cache.bytes) == (0, 0)


def test_a_cache_without_bytes_caches_nothing() -> None:
    cache, create = cache_of(0), Creator()
    for _ in range(2):
        assert cache.get_or_create(keys("aa"), create, CallContext()) == {Named("f", "a"): "A"}
    assert create.created == ["a", "a"]


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


@pytest.mark.parametrize("error", [EngineError("not now"), DeadlineExceeded("too late")], ids=["engine", "deadline"])
def test_a_waiting_caller_takes_over_after_a_failure(error: Exception) -> None:
    observer, failing, create = RecordingObserver(), Creator(error=error), Creator()
    cache = cache_of(100, observer)
    failing.free.clear()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.get_or_create, keys("a"), failing, CallContext())
        assert failing.entered.wait(PATIENCE)
        others = [threads.submit(cache.get_or_create, keys("a"), create, CallContext()) for _ in range(3)]
        wait_for(lambda: observer.shared == 3)
        failing.free.set()
        with pytest.raises(type(error)):
            first.result(PATIENCE)
        assert [other.result(PATIENCE) for other in others] == [{Named("f", "a"): "A"}] * 3
    assert create.created == ["a"]


def test_a_waiting_caller_stops_at_its_deadline() -> None:
    cache, create = cache_of(100), Creator()
    create.free.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.get_or_create, keys("a"), create, CallContext())
        assert create.entered.wait(PATIENCE)
        with pytest.raises(DeadlineExceeded):
            cache.get_or_create(keys("a"), create, CallContext(deadline=time.monotonic() + 0.05))
        create.free.set()
        assert first.result(PATIENCE)


def test_bytes_are_exact_after_concurrent_use() -> None:
    cache, create = cache_of(20), Creator()

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            names = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 4))
            fingerprint = str(random.integers(2))
            values = cache.get_or_create(keys(names, fingerprint), create, CallContext())
            assert {key.name: made for key, made in values.items()} == {name: name.upper() for name in names}
            if random.random() < 0.05:
                cache.invalidate(fingerprint)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert cache.bytes == cache.entries * (ENTRY_BYTES + 100)
    assert 0 < cache.entries <= 20
    cache.invalidate("0")
    cache.invalidate("1")
    assert (cache.entries, cache.bytes) == (0, 0)


@pytest.fixture(scope="module")
def caching(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with metrics of its own, and the collection `palette`."""
    data = tmp_path_factory.mktemp("caching")
    with serving(settings_for(small_bundle, data)) as running:
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


class MetricChanges:
    """Differences of metrics since this object was created."""

    def __init__(self, running: Running) -> None:
        self._client = running.client
        self._before = scrape(running.client)

    def __call__(self, name: str, **labels: str) -> float:
        return value(scrape(self._client), name, **labels) - value(self._before, name, **labels)


@contextmanager
def blocked_graph(running: Running, graph: str) -> Iterator[tuple[list[int], threading.Event]]:
    """Block a graph until the event is set; yields the rows of each run, and the event."""
    go, rows = threading.Event(), list[int]()
    engine = running.service.model._graphs.engine(graph)  # type: ignore[attr-defined]
    run = engine.run

    def run_later(inputs: JSON) -> object:
        rows.append(len(next(iter(inputs.values()))))
        assert go.wait(PATIENCE)
        return run(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", run_later)
        try:
            yield rows, go
        finally:
            go.set()


def embed(running: Running, texts: Sequence[str], **headers: str) -> JSON:
    response = running.client.post("/v1/embeddings", json={"input": texts}, headers=headers)
    assert response.status_code == 200, response.text
    made: JSON = response.json()
    return made


def test_only_new_texts_of_a_request_are_run(caching: Running) -> None:
    known = [f"a {'big ' * number}cat" for number in range(30)]
    first = embed(caching, known)
    changes = MetricChanges(caching)
    again = embed(caching, [*known[:15], "a small red cat", *known[15:], "a small blue ball", "a small red cat"])
    assert changes("vitascope_batch_rows_sum", graph="text") == 2
    assert changes("vitascope_cache_lookups_total", cache="texts", result="hit") == 30
    assert changes("vitascope_cache_lookups_total", cache="texts", result="miss") == 2
    assert changes("vitascope_cache_entries", cache="texts") == 2
    assert changes("vitascope_cache_bytes", cache="texts") > 2 * 16 * 4
    # Bit for bit the same, in the order of the inputs; the tokens of cached texts count as well.
    vectors = [item["embedding"] for item in again["data"]]
    assert vectors[:15] + vectors[16:31] == [item["embedding"] for item in first["data"]]
    assert vectors[15] == vectors[32]
    assert vectors[15] != vectors[31]
    per_text = {text: embed(caching, [text])["usage"]["prompt_tokens"] for text in ("a big cat", "a small red cat")}
    assert again["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"] + 3 * per_text["a small red cat"]


def test_a_repeated_search_runs_no_graph(caching: Running) -> None:
    def search() -> JSON:
        values: JSON = caching.client.post("/v1/collections/palette/search", json={"text": "a red thing here"}).json()
        return values

    first = search()
    changes = MetricChanges(caching)
    assert search() == first
    assert embed(caching, ["a red thing here"])["data"]  # cached by the search
    assert changes("vitascope_inference_seconds_count", graph="text") == 0
    assert changes("vitascope_cache_lookups_total", cache="texts", result="hit") == 2


def test_concurrent_requests_with_the_same_text_run_it_once(caching: Running) -> None:
    """Also if one request runs in a thread (a search) and the other on the event loop."""
    changes = MetricChanges(caching)
    with blocked_graph(caching, "text") as (rows, go), ThreadPoolExecutor(3) as threads:
        first = threads.submit(embed, caching, ["sent twice"])
        wait_for(lambda: rows)
        second = threads.submit(embed, caching, ["sent twice", "sent once"])
        search = threads.submit(caching.client.post, "/v1/collections/palette/search", json={"text": "sent twice"})
        wait_for(lambda: changes("vitascope_cache_lookups_total", cache="texts", result="shared") == 2)
        go.set()
        assert first.result()["data"][0]["embedding"] == second.result()["data"][0]["embedding"]
        assert search.result().status_code == 200
    assert rows == [1, 1]


def score(running: Running, frames: int = 0, **clip: object) -> JSON:
    response = running.client.post("/v1/caption-scores", json={"captions": ["a red thing"], "frames": frames, **clip})
    assert response.status_code == 200, response.text
    values: JSON = response.json()
    return values


def test_a_second_question_about_a_clip_decodes_nothing(caching: Running) -> None:
    clip = {"collection": "palette", "video_id": "1", "start": 0.25}
    first = score(caching, frames=4, **clip)
    changes = MetricChanges(caching)
    assert score(caching, frames=4, **clip) == first
    without = score(caching, **clip)["scores"][0]
    assert {**without, "emscore": None} == {**first["scores"][0], "emscore": None}
    response = caching.client.post("/v1/answers", json={"question": "what color is it?", **clip}).json()
    assert response["answer"] == "red"
    assert (response["start"], response["end"]) == (first["start"], first["end"])
    assert changes("vitascope_stage_seconds_count", stage="decode") == 0
    assert changes("vitascope_inference_seconds_count", graph="video") == 0
    score(caching, frames=2, **clip)  # other frames
    assert changes("vitascope_inference_seconds_count", graph="video") == 1
    score(caching, **{**clip, "start": 0.5})
    assert changes("vitascope_stage_seconds_count", stage="decode") == 2


def test_the_same_content_is_embedded_once_under_any_name(caching: Running, files: Path) -> None:
    content = (files / "green.mp4").read_bytes()
    changes = MetricChanges(caching)
    for name in ("a.mp4", "b.mp4"):
        form = {"file": (name, content)}
        response = caching.client.post("/v1/answers", files=form, data={"question": "what color is it?"})
        assert response.json()["answer"] == "green", response.text
    assert caching.client.post("/v1/embeddings", files=form).status_code == 200
    assert changes("vitascope_inference_seconds_count", graph="video") == 1
    assert changes("vitascope_decoding_wait_seconds_count", operation="sample_span", kind="interactive") == 1
    # A stored video has the same content.
    assert score(caching, collection="palette", video_id="2")["scores"]
    assert changes("vitascope_inference_seconds_count", graph="video") == 1


def test_an_invalid_span_of_a_cached_file_is_an_error(caching: Running, files: Path) -> None:
    form = {"file": ("a.mp4", (files / "blue.mp4").read_bytes())}
    data = {"question": "what color is it?"}
    assert caching.client.post("/v1/answers", files=form, data=data).status_code == 200
    problem_of(caching.client.post("/v1/answers", files=form, data={**data, "start": "9"}), 422, "invalid_input")


def test_a_replaced_file_is_embedded_again(caching: Running) -> None:
    """The catalogue has the SHA-256 of the red video, which a green one of its size replaces in the indexed folder."""
    folder = caching.settings.data_dir / "incoming"
    film, red, green = folder / "film.mp4", folder.parent / "red.mp4", folder.parent / "green.mp4"
    write_color_video(red, (200, 20, 20), seconds=1.5)
    write_color_video(green, (20, 200, 20), seconds=1.5)
    for file in (red, green):
        with file.open("ab") as padded:
            padded.truncate(2**16)
    film.write_bytes(red.read_bytes())
    assert caching.client.post("/v1/collections", json={"name": "folders"}).status_code == 201
    job = caching.client.post("/v1/collections/folders/jobs", json={"folder": str(folder)}).json()
    address = f"/v1/collections/folders/jobs/{job['id']}"
    wait_for(lambda: caching.client.get(address).json()["state"] == "succeeded")
    question = {"question": "what color is it?"}
    stored = {"collection": "folders", "video_id": "1", **question}
    assert caching.client.post("/v1/answers", json=stored).json()["answer"] == "red"
    green.replace(film)
    assert caching.client.post("/v1/answers", json=stored).json()["answer"] == "green"
    # The green embedding is not cached under the SHA-256 of the red video.
    form = {"file": ("a.mp4", red.read_bytes())}
    assert caching.client.post("/v1/answers", files=form, data=question).json()["answer"] == "red"


def test_concurrent_questions_about_one_upload_decode_it_once(caching: Running, tmp_path: Path) -> None:
    write_color_video(tmp_path / "odd.mp4", (30, 200, 30), seconds=1.0)
    content = (tmp_path / "odd.mp4").read_bytes()
    changes = MetricChanges(caching)

    def ask(_: int) -> str:
        form, data = {"file": ("a.mp4", content)}, {"question": "what color is it?"}
        response: str = caching.client.post("/v1/answers", files=form, data=data).json()["answer"]
        return response

    with blocked_graph(caching, "video") as (rows, go), ThreadPoolExecutor(6) as threads:
        responses = threads.map(ask, range(6))
        wait_for(lambda: changes("vitascope_cache_lookups_total", cache="clips", result="shared") == 5)
        go.set()
        assert list(responses) == ["green"] * 6
    assert rows == [1]


def test_caches_respect_their_limit_and_are_invalidated_with_a_model(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path, text_cache_bytes=5000, clip_cache_bytes=0)
    with serving(settings) as running:
        changes = MetricChanges(running)
        for number in range(20):
            embed(running, [f"text {number}"])
        assert changes("vitascope_cache_bytes", cache="texts") <= 5000
        count = changes("vitascope_cache_entries", cache="texts")
        assert 2 <= count <= 8
        assert changes("vitascope_cache_evictions_total", cache="texts") == 20 - count
        running.service.caches.invalidate("another")
        assert changes("vitascope_cache_entries", cache="texts") == count
        running.service.caches.invalidate(running.service.model.bundle.fingerprint)
        assert changes("vitascope_cache_bytes", cache="texts") == 0
