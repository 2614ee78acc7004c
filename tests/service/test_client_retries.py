"""Retries of the client with an overloaded service and lost connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.conftest import fill, settings_for
from tests.service.forwarding import forwarding
from tests.service.running import JSON, Running, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.client import AsyncClient, Client, RetryConfig, ServiceError, compat
from vitascope.errors import CollectionNotFound

ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
SOON = RetryConfig(max_attempts=1000, max_elapsed=PATIENCE, base_delay=0.05, max_delay=0.05)
"""Enough retries for a slow machine."""


@pytest.fixture(scope="module")
def busy(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """Service for two concurrent requests, with the collection `palette`."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("busy"),
        allow_unauthenticated=False,
        admin_key=ADMIN,
        max_requests=2,
        text_cache_bytes=0,
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


def port_of(running: Running) -> int:
    port = running.client.base_url.port
    assert port is not None
    return port


def client_of(running: Running, retries: RetryConfig = SOON, *, key: str = ADMIN, port: int | None = None) -> Client:
    return Client(f"http://127.0.0.1:{port or port_of(running)}", api_key=key, retries=retries)


def answered(running: Running, status: int) -> int:
    """Return the number of responses with this status."""
    families = text_string_to_metric_families(running.service.observer.metrics.to_text().decode())
    samples = [sample for family in families for sample in family.samples]
    return int(
        sum(s.value for s in samples if s.name == "vitascope_requests_total" and s.labels["status"] == str(status))
    )


@contextmanager
def held(running: Running, graph: str, *keys: str) -> Iterator[threading.Event]:
    """Block the graph until the event is set, while one search per key is running or queued."""
    go, entered = threading.Event(), list[int]()
    engine = running.service.model._graphs.engine(graph)  # type: ignore[attr-defined]
    run = engine.run

    def slow(inputs: JSON) -> JSON:
        entered.append(len(next(iter(inputs.values()))))
        assert go.wait(PATIENCE)
        answer: JSON = run(inputs)
        return answer

    def search(key: str) -> int:
        url = f"{running.client.base_url}/v1/collections/palette/search"
        return httpx.post(url, json={"text": "red"}, headers={"x-api-key": key}, timeout=PATIENCE).status_code

    def is_held() -> bool:
        # Two that come at the same time may share a run.
        return sum(entered) + running.service.scheduler.queue_length() == len(keys) and bool(entered) == bool(keys)

    engine.run = slow
    try:
        with ThreadPoolExecutor(max(1, len(keys))) as threads:
            try:
                waiting = [threads.submit(search, key) for key in keys]
                wait_for(is_held)
                yield go
            finally:
                go.set()
            assert [each.result() for each in waiting] == [200] * len(keys)
    finally:
        engine.run = run


def test_requests_rejected_by_a_full_service_succeed_later(busy: Running, files: Path) -> None:
    before, began = answered(busy, 503), time.monotonic()
    with held(busy, "text", ADMIN, ADMIN) as go, ThreadPoolExecutor(3) as threads:
        searching, making, adding = client_of(busy), client_of(busy), client_of(busy)
        found = threads.submit(searching.search, "palette", "a red thing")
        made = threads.submit(making.create_collection, "made-late")
        # The whole file has to be sent again.
        added = threads.submit(adding.score_file, files / "red.mp4", ["a red thing"])
        wait_for(lambda: answered(busy, 503) >= before + 3)  # of the first it may be the second try
        go.set()
        assert found.result()["results"][0]["video"]["title"] == "red"
        assert made.result()["name"] == "made-late"
        assert added.result()["scores"][0]["similarity"] > 0.9
    assert time.monotonic() - began >= 1  # Retry-After: 1


def test_rate_limited_requests_succeed_later(busy: Running) -> None:
    """The request was rejected before execution, so even non-idempotent ones are retried."""
    busy.client.post("/v1/collections", json={"name": "gone-late"})
    scopes = ["read", "write", "admin"]
    key = busy.client.post("/v1/keys", json={"name": "one", "scopes": scopes, "concurrency": 1}).json()["key"]
    before = answered(busy, 429)
    with held(busy, "text", key) as go, ThreadPoolExecutor(1) as threads, client_of(busy, key=key) as client:
        deleted = threads.submit(client.delete_collection, "gone-late")
        wait_for(lambda: answered(busy, 429) > before)
        go.set()
        deleted.result()
    assert busy.client.get("/v1/collections/gone-late").status_code == 404


@pytest.mark.parametrize("retries", [RetryConfig(max_attempts=1), RetryConfig(max_attempts=9, max_elapsed=0.9)])
def test_exhausted_retries_raise_at_once(busy: Running, retries: RetryConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(compat, "time", SimpleNamespace(sleep=pauses.append))
    before = answered(busy, 503)
    with (
        held(busy, "text", ADMIN, ADMIN),
        client_of(busy, retries) as client,
        pytest.raises(ServiceError, match="retry in a moment") as raised,
    ):
        client.search("palette", "red")
    assert pauses == []  # it was asked to wait for longer than it may
    assert raised.value.status == 503
    assert raised.value.problem["code"] == "overloaded"
    wait_for(lambda: answered(busy, 503) == before + 1)  # it is counted after it was sent


def test_cancelled_call_never_reaches_the_model(busy: Running) -> None:
    def dropped() -> float:
        families = text_string_to_metric_families(busy.service.observer.metrics.to_text().decode())
        samples = [sample for family in families for sample in family.samples]
        of_text = {"graph": "text", "reason": "abandoned"}.items()
        return sum(
            s.value for s in samples if s.name == "vitascope_calls_dropped_total" and of_text <= s.labels.items()
        )

    async def search_and_cancel() -> None:
        async with AsyncClient(f"http://127.0.0.1:{port_of(busy)}", api_key=ADMIN) as client:
            call = asyncio.create_task(client.search("palette", "nobody waits for this"))
            await asyncio.to_thread(wait_for, busy.service.scheduler.queue_length)
            (queued,) = busy.service.scheduler._queue
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # The service has seen that the connection is gone.
            await asyncio.to_thread(wait_for, queued.context.cancelled.is_set)

    before = dropped()
    with held(busy, "text", ADMIN):
        asyncio.run(search_and_cancel())
        assert dropped() == before  # it is still in the queue
    wait_for(lambda: dropped() == before + 1)


def test_service_that_starts_late_is_reached(busy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    has_tried = threading.Event()

    def pause(seconds: float) -> None:
        has_tried.set()
        time.sleep(seconds)

    monkeypatch.setattr(compat, "time", SimpleNamespace(sleep=pause))
    with (
        forwarding(port_of(busy), listening=False) as between,
        ThreadPoolExecutor(1) as threads,
        client_of(busy, port=between.port) as client,
    ):
        made = threads.submit(client.create_collection, "patient")
        assert has_tried.wait(PATIENCE)
        assert not made.done()
        between.listen()
        assert made.result()["name"] == "patient"
        assert client.list_collections()["collections"]


def test_write_with_a_lost_response_is_executed_once(busy: Running) -> None:
    with forwarding(port_of(busy)) as between, client_of(busy, port=between.port) as client:
        between.answers_to_lose = 2
        # A second one would be refused: there is a collection of that name.
        assert client.create_collection("once")["name"] == "once"
        assert between.answers_to_lose == 0
        between.answers_to_lose = 1
        assert client.get_collection("once")["videos"] == 0  # reading goes on, too
        between.answers_to_lose = 1
        with pytest.raises(ServiceError, match="cannot be reached"):
            client.delete_collection("once")  # a second one would say that there is none
        with pytest.raises(CollectionNotFound):
            client.get_collection("once")


def test_repeated_upload_waits_for_the_one_in_progress(
    busy: Running, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy.service.concurrency, "_max_writes", 2)  # else the repetition finds no place
    busy.client.post("/v1/collections", json={"name": "broken-off"})
    before = answered(busy, 409)
    with forwarding(port_of(busy)) as between, client_of(busy, port=between.port) as client:
        with held(busy, "video") as go, ThreadPoolExecutor(1) as threads:
            added = threads.submit(client.add_video, "broken-off", files / "blue.mp4", title="Blue")
            wait_for(lambda: busy.service.scheduler._active)  # on the upload, which it cannot be kept from any more
            between.cut()
            wait_for(lambda: answered(busy, 409) > before)
            go.set()
            assert added.result()["title"] == "Blue"
        assert client.get_collection("broken-off")["videos"] == 1
    assert busy.client.get("/v1/collections/broken-off").json()["videos"] == 1
