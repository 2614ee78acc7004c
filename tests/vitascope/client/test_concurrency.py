"""Concurrency and cancellation of the asynchronous client; streamed uploads of both."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from tests.vitascope.client.services import async_client
from tests.waiting import PATIENCE
from vitascope import AsyncClient, Client
from vitascope.client import RetryConfig, ServiceError

MEGABYTE = 1_000_000


def test_delays_between_attempts_do_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is attempted once before the first retry."""
    paths: list[str] = []
    all_waiting = asyncio.Event()

    def respond(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        all_waiting.set() if len(paths) == 20 else None
        return httpx.Response(503, json={"code": "overloaded", "detail": "later"})

    async def sleep(seconds: float) -> None:
        await asyncio.wait_for(all_waiting.wait(), PATIENCE)

    monkeypatch.setattr("vitascope.client.retry.sleep_async", sleep)

    async def many() -> None:
        retries = RetryConfig(max_attempts=2)
        async with AsyncClient("http://service", transport=httpx.MockTransport(respond), retries=retries) as client:
            calls = (client.get_collection(f"{number}") for number in range(20))
            failures = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(failure, ServiceError) and failure.status == 503 for failure in failures)

    asyncio.run(many())
    assert len(set(paths[:20])) == 20
    assert set(paths[:20]) == set(paths[20:])


def test_cancelled_call_ends_its_request() -> None:
    async def cancel() -> None:
        received, ended = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            received.set()
            with suppress(ConnectionError):
                while await reader.read(1000):
                    pass
            ended.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, AsyncClient(f"http://127.0.0.1:{port}") as client:
            call = asyncio.create_task(client.search("films", "a dog"))
            await asyncio.wait_for(received.wait(), PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(ended.wait(), PATIENCE)

    asyncio.run(cancel())


def test_cancelled_backup_deletes_the_operation(tmp_path: Path) -> None:
    sent = []

    async def cancel() -> None:
        waiting = asyncio.Event()

        def respond(request: httpx.Request) -> httpx.Response:
            sent.append(request.method)
            waiting.set() if request.method == "GET" else None
            return httpx.Response(200, json={"id": "7", "state": "running"})

        async with async_client(respond) as client:
            call = asyncio.create_task(client.backup("films", tmp_path / "films", interval=60))
            await asyncio.wait_for(waiting.wait(), PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(cancel())
    assert (sent[0], sent[-1], sent.count("DELETE")) == ("POST", "DELETE", 1)


class DiscardingService(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Service that discards uploads; records the largest chunk and the total size."""

    largest = size = 0

    def _discard(self, chunk: bytes) -> None:
        self.largest, self.size = max(self.largest, len(chunk)), self.size + len(chunk)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        assert self.size == int(request.headers["Content-Length"])
        return httpx.Response(201, json={"id": "1"})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for chunk in request.stream:
            self._discard(chunk)
        return self._respond(request)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        for chunk in request.stream:
            self._discard(chunk)
        return self._respond(request)


@pytest.mark.parametrize("is_async", [False, True])
def test_upload_is_streamed_and_reports_progress(is_async: bool, film: Path) -> None:
    with film.open("wb") as file:
        file.truncate(32 * MEGABYTE)
    reports: list[tuple[int, int]] = []
    service = DiscardingService()

    async def upload() -> None:
        async with AsyncClient("http://service", transport=service) as client:
            await client.add_video("films", film, progress=lambda sent, size: reports.append((sent, size)))

    tracemalloc.start()
    try:
        if is_async:
            asyncio.run(upload())
        else:
            with Client("http://service", transport=service) as client:
                client.add_video("films", film, progress=lambda sent, size: reports.append((sent, size)))
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert service.size > 32 * MEGABYTE
    assert service.largest < MEGABYTE
    assert reports == sorted(reports)
    assert reports[-1] == (service.size, service.size)


def test_slow_disk_does_not_block_the_loop(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, loop_runs = threading.Event(), threading.Event()

    class SlowFile(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reading.set()
            assert loop_runs.wait(PATIENCE)  # set by the loop
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda *_: SlowFile(b"not really a film"))

    async def continue_reading() -> None:
        while not reading.is_set():
            await asyncio.sleep(0.001)
        loop_runs.set()

    async def upload() -> None:
        async with AsyncClient("http://service", transport=DiscardingService()) as client:
            video, _ = await asyncio.gather(client.add_video("films", film), continue_reading())
            assert video["id"] == "1"

    asyncio.run(upload())
