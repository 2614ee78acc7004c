"""Cancellation and concurrency of the asynchronous client."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import PATIENCE
from vitascope import AsyncClient, Client, errors
from vitascope.client import RetryConfig, ServiceError

Handler = Callable[[httpx.Request], httpx.Response]
MEGABYTE = 1_000_000


def client_of(handler: Handler, retries: RetryConfig | None = None) -> AsyncClient:
    return AsyncClient(
        "http://service", transport=httpx.MockTransport(handler), retries=retries or RetryConfig(max_attempts=1)
    )


def test_errors_and_retries_equal_those_of_the_blocking_client() -> None:
    tries = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request.headers.get("Idempotency-Key"))
        if len(tries) < 3:
            return httpx.Response(503, headers={"Retry-After": "0"})
        return httpx.Response(409, json={"code": "collection_exists", "detail": "there is one"})

    async def create() -> None:
        async with client_of(answer, RetryConfig(max_attempts=3, base_delay=0.0)) as client:
            await client.create_collection("films")

    with pytest.raises(errors.CollectionExists, match="there is one"):
        asyncio.run(create())
    assert len(tries) == 3
    assert len(set(tries)) == 1
    assert tries[0]


def test_delays_between_attempts_do_not_block_the_loop() -> None:
    """Every request is attempted once before the first retry, which waits for its delay."""
    asked: list[tuple[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, time.monotonic()))
        return httpx.Response(503, json={"code": "overloaded", "detail": "later"})

    async def many() -> None:
        async with client_of(answer, RetryConfig(max_attempts=2, base_delay=0.2)) as client:
            calls = (client.get_collection(f"{number}") for number in range(20))
            failed = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, ServiceError) and one.status == 503 for one in failed)

    asyncio.run(many())
    first, again = dict(asked[:20]), dict(asked[20:])
    assert len(first) == 20
    assert first.keys() == again.keys()
    assert min(again[path] - at for path, at in first.items()) >= 0.1


def test_cancelled_call_ends_its_request() -> None:
    async def cancel() -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            with suppress(ConnectionError):
                while await reader.read(1000):
                    pass
            ended.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, AsyncClient(f"http://127.0.0.1:{port}") as client:
            call = asyncio.create_task(client.search("films", "a dog"))
            await asyncio.wait_for(asked.wait(), PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(ended.wait(), PATIENCE)

    asyncio.run(cancel())


def test_cancelled_backup_deletes_the_operation(tmp_path: Path) -> None:
    sent = []

    async def cancel() -> None:
        waiting = asyncio.Event()

        def answer(request: httpx.Request) -> httpx.Response:
            sent.append(request.method)
            waiting.set() if request.method == "GET" else None
            return httpx.Response(200, json={"id": "7", "state": "running"})

        async with client_of(answer) as client:
            call = asyncio.create_task(client.backup("films", tmp_path / "films", interval=60))
            await asyncio.wait_for(waiting.wait(), PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(cancel())
    assert (sent[0], sent[-1], sent.count("DELETE")) == ("POST", "DELETE", 1)


class Discarding(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Service that discards uploads; records the largest chunk and the total size."""

    largest = size = 0

    def _take(self, piece: bytes) -> None:
        self.largest, self.size = max(self.largest, len(piece)), self.size + len(piece)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for piece in request.stream:
            self._take(piece)
        assert self.size == int(request.headers["Content-Length"])
        return httpx.Response(201, json={"id": "1"})

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        for piece in request.stream:
            self._take(piece)
        assert self.size == int(request.headers["Content-Length"])
        return httpx.Response(201, json={"id": "1"})


@pytest.mark.parametrize("blocking", [True, False])
def test_upload_is_streamed_and_reports_progress(blocking: bool, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with film.open("wb") as file:
        file.truncate(32 * MEGABYTE)
    seen: list[tuple[int, int]] = []

    async def upload(service: Discarding) -> None:
        async with AsyncClient("http://service", transport=service) as client:
            await client.add_video("films", film, progress=lambda sent, size: seen.append((sent, size)))

    service = Discarding()
    tracemalloc.start()
    try:
        if blocking:
            with Client("http://service", transport=service) as client:
                client.add_video("films", film, progress=lambda sent, size: seen.append((sent, size)))
        else:
            asyncio.run(upload(service))
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert service.size > 32 * MEGABYTE
    assert service.largest < MEGABYTE
    sizes = [sent for sent, size in seen]
    assert sizes == sorted(sizes)
    assert seen[-1] == (service.size, service.size)


def test_slow_disk_does_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    spinning = threading.Event()

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert spinning.wait(PATIENCE)  # would wait in vain in the loop, which sets it
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda *_: Slow(b"not really a film"))

    async def upload() -> None:
        async with AsyncClient("http://service", transport=Discarding()) as client:
            call = asyncio.create_task(client.add_video("films", "film.mp4"))
            await asyncio.sleep(0.05)
            assert not call.done()
            spinning.set()
            assert (await call)["id"] == "1"

    asyncio.run(upload())


def test_iterators_request_pages_as_needed() -> None:
    asked: list[Any] = []
    listed = {"videos": "videos", "jobs": "jobs", "items": "items", "deliveries": "deliveries", "search": "results"}

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}") | dict(request.url.params)
        asked.append(body.get("cursor"))
        number = int(body.get("cursor") or 0)
        entries = [{"id": number}, {"id": number + 1}]
        kind = listed[request.url.path.rsplit("/", 1)[1]]
        return httpx.Response(200, json={kind: entries, "next_cursor": str(number + 2) if number < 4 else None})

    async def ids(entries: AsyncIterator[Any]) -> list[int]:
        return [entry["id"] async for entry in entries]

    async def go_through() -> None:
        async with client_of(answer) as client:
            for entries in (
                client.iter_videos("films"),
                client.iter_jobs("films", state="failed"),
                client.iter_job_items("films", "1", state="failed"),
                client.iter_webhook_deliveries("1"),
                client.iter_search_results("films", "a dog", group="video"),
            ):
                assert await ids(entries) == [0, 1, 2, 3, 4, 5]
            asked.clear()
            async for result in client.iter_search_results("films", "a dog"):
                if result["id"] == 2:  # type: ignore[typeddict-item]
                    break
            assert asked == [None, "2"]

    asyncio.run(go_through())


def test_thumbnail_of_another_host_is_rejected() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"the key went to {request.url}")

    async def ask(url: str) -> None:
        async with client_of(answer) as client:
            await client.get_thumbnail(url)

    for url in ("http://elsewhere/v1/", "//elsewhere/v1/"):
        with pytest.raises(errors.InvalidInput, match="thumbnail_url"):
            asyncio.run(ask(url))
