"""Event streams of jobs: every event in order, and exactly the missed ones after a reconnect."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from index.collection_store import CollectionStore
from index.jobs import jobs as index_jobs
from index.jobs.jobs import pause
from index.storage.job_transitions import finish
from service import events as service_events
from service.events import Broadcaster
from service.http.api_keys import key_id_of
from tests.index.jobs.fixtures import create_folder_job
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.jobs import ReceivedEvent, all_events, events, jobs_kept_queued, start_job, stream, write_pictures
from tests.service.running import Running, make_key, problem_of, process, serving
from tests.waiting import PATIENCE, wait_for
from vitascope import AsyncClient
from vitascope.errors import StorageError
from vitascope.model import Model

STREAMS = 50
STALLED_READERS = ("", "\r\nX-Forwarded-For: 192.0.2.7")
"""Further headers: of a direct client, and of a client behind a trusted proxy."""


def numbered(received: list[ReceivedEvent]) -> list[ReceivedEvent]:
    """Return the numbered events, without progress."""
    return [event for event in received if event.kind != "progress"]


def summaries(received: list[ReceivedEvent]) -> list[str]:
    return [
        event.data["state"] if event.kind == "state" else f"{Path(event.data['path']).name} {event.data['state']}"
        for event in numbered(received)
    ]


def test_all_events_of_a_job_arrive_in_order(
    running: Running, collection: str, incoming: Path, release_jobs: Callable[[], None]
) -> None:
    name = "a\u2028b\u2029c\x85d.png"  # line separators of Unicode, escaped as httpx's iter_lines splits at them
    write_picture(incoming / name, solid((3, 60, 200), 48, 48))
    write_pictures(incoming, 5)
    (incoming / "broken.mp4").write_bytes(b"no video")
    with jobs_kept_queued(running.service.worker) as waiting:
        job = start_job(running.client, collection, incoming)
    with stream(running.client, job, 0) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        received: list[ReceivedEvent] = []
        for event in events(response):
            received.append(event)
            if event.number == 1:
                waiting[0]()  # only followed jobs compute progress
            if event.kind == "progress":
                release_jobs()
    assert [event.number for event in numbered(received)] == list(range(1, 12))
    assert summaries(received)[:3] == ["queued", "running", "running"]
    assert sorted(summaries(received)[3:-1]) == sorted(
        [f"{name} succeeded", *(f"{n:03}.png succeeded" for n in range(5)), "broken.mp4 failed"]
    )
    assert [received[-1].kind, received[-1].data] == ["state", running.client.get(job).json()]
    items = {item["path"]: item for item in running.client.get(f"{job}/items", params={"limit": 9}).json()["items"]}
    for event in received:
        if event.kind == "item":
            assert event.data == items[event.data["path"]]
    done = [event.data["done"] for event in received if event.kind == "progress"]
    assert done == sorted(done)
    assert done
    for number in range(11):  # a reconnect at any event gets exactly the rest
        assert numbered(all_events(running.client, job, number)) == numbered(received)[number:]


def test_a_finished_job_sends_its_end_and_then_204(running: Running, collection: str, incoming: Path) -> None:
    write_pictures(incoming, 1)
    job = start_job(running.client, collection, incoming)
    end = all_events(running.client, job)[-1]
    assert all_events(running.client, job) == [end]
    assert end.data == running.client.get(job).json()
    with stream(running.client, job, end.number) as response:
        assert (response.status_code, response.content) == (204, b"")
    # A number that this job never gave out: the collection had another history.
    assert all_events(running.client, job, 1000) == [end]


def test_the_async_client_can_disconnect_and_resume(
    running: Running, collection: str, incoming: Path, release_jobs: Callable[[], None]
) -> None:
    write_pictures(incoming, 2)
    job = start_job(running.client, collection, incoming).rsplit("/", 1)[1]

    async def watch() -> None:
        async with AsyncClient(str(running.client.base_url)) as client:
            async with aclosing(client.iter_job_events(collection, job, after=0)) as received:
                first = await anext(received)
            await asyncio.to_thread(wait_for, lambda: not running.service.broadcaster.open_streams)
            waiting = asyncio.create_task(client.wait_for_job(collection, job))
            await asyncio.to_thread(wait_for, lambda: running.service.broadcaster.open_streams)
            waiting.cancel()
            await asyncio.to_thread(wait_for, lambda: not running.service.broadcaster.open_streams)
            release_jobs()
            rest = [event async for event in client.iter_job_events(collection, job, after=int(first["id"] or 0))]
            assert rest[-1]["data"]["state"] == "succeeded"
            numbers = [int(event["id"]) for event in rest if event["id"] is not None]
            assert numbers == list(range(int(first["id"] or 0) + 1, numbers[-1] + 1))

    asyncio.run(watch())


def test_a_client_misses_no_event_over_a_restart(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", shutdown_timeout=0.2, job_concurrency=1)
    write_pictures(settings.roots()[0] / "some", 4)
    embed, calls, leaving = Model.embed_video, itertools.count(), threading.Event()

    def slow(*args: object) -> object:
        if next(calls) == 2:
            leaving.wait(PATIENCE)  # until the service has given up on it
        return embed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "embed_video", slow)
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
        job = start_job(running.client, "videos", Path("some"))
        with stream(running.client, job, 0) as response:
            first = []
            for event in events(response):
                first.append(event)
                if sum(event.kind == "item" for event in first) == 2:
                    break
    leaving.set()
    with serving(settings) as running:
        rest = all_events(running.client, job, first[-1].number)
    received = numbered(first) + numbered(rest)
    assert [event.number for event in received] == list(range(1, len(received) + 1))
    assert sorted(word for word in summaries(received) if " " in word) == [f"{n:03}.png succeeded" for n in range(4)]
    assert summaries(received)[-1] == "succeeded"


def test_a_paused_job_is_followed_through_its_pause(running: Running, collection: str, incoming: Path) -> None:
    write_pictures(incoming, 1)
    with jobs_kept_queued(running.service.worker):
        job = start_job(running.client, collection, incoming)
        with stream(running.client, job) as response:
            received = events(response)
            assert next(received).data["state"] == "queued"
            running.client.post(f"{job}/pause")
            assert next(received).data["state"] == "paused"
            running.client.post(f"{job}/resume")
            running.client.delete(job)
            assert summaries(list(received)) == ["queued", "cancelled"]


def test_many_streams_get_the_same_events_from_one_read(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", client_streams=STREAMS)
    write_pictures(settings.data_dir / "incoming" / "many", 8)
    reads: list[int] = []
    read = index_jobs.events_after
    monkeypatch.setattr(index_jobs, "events_after", lambda *args: reads.append(1) or read(*args))
    with serving(settings) as running, ThreadPoolExecutor(STREAMS) as threads:
        running.client.post("/v1/collections", json={"name": "videos"})
        with jobs_kept_queued(running.service.worker) as waiting:
            job = start_job(running.client, "videos", Path("many"))
        futures = [threads.submit(read_all_events, str(running.client.base_url), job) for _ in range(STREAMS)]
        wait_for(lambda: running.service.broadcaster.open_streams == STREAMS)
        with stream(running.client, job) as response:
            problem_of(response, 429, "too_many_at_once")
        waiting[0]()
        received = [numbered(future.result(PATIENCE)) for future in futures]
        assert all(each == received[0] for each in received)
        assert [event.number for event in received[0]] == list(range(1, 13))
        assert len(reads) <= 12
        wait_for(lambda: running.service.broadcaster.open_streams == 0)


def read_all_events(url: str, job: str) -> list[ReceivedEvent]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        return all_events(client, job)


def test_a_slow_reader_gets_all_events_from_the_catalogue(
    running: Running, collection: str, incoming: Path, release_jobs: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_events, "BUFFER_BYTES", 1)
    monkeypatch.setattr(service_events, "PAGE_SIZE", 2)
    write_pictures(incoming, 5)
    job = start_job(running.client, collection, incoming)
    with stream(running.client, job, 0) as response:
        stream_events = events(response)
        received = [next(stream_events)]
        release_jobs()
        wait_for(lambda: running.client.get(job).json()["state"] == "succeeded")
        received += stream_events
    assert [event.number for event in numbered(received)] == list(range(1, 10))


def test_an_idle_stream_sends_heartbeats_and_ends_after_its_time(
    running: Running, collection: str, incoming: Path, release_jobs: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_events, "HEARTBEAT_SECONDS", 0.05)
    write_pictures(incoming, 1)
    job = start_job(running.client, collection, incoming)
    with stream(running.client, job) as response:
        beats = (line for line in response.iter_lines() if line == ":")
        assert [next(beats) for _ in range(3)] == [":"] * 3
    monkeypatch.setattr(service_events, "STREAM_SECONDS", 0.2)
    with stream(running.client, job) as response:
        lines = list(response.iter_lines())
    assert lines[0] == "retry: 2000"
    assert running.client.get(job).json()["state"] in ("queued", "running")  # it is still held: the time was over


def test_a_stream_ends_when_the_collection_is_dropped(
    running: Running, collection: str, incoming: Path, release_jobs: Callable[[], None]
) -> None:
    write_pictures(incoming, 1)
    job = start_job(running.client, collection, incoming)
    with stream(running.client, job) as response:
        received = events(response)
        next(received)
        assert running.client.delete(f"/v1/collections/{collection}").status_code == 204
        assert all(event.data["state"] == "running" for event in received)
    with stream(running.client, job) as response:
        problem_of(response, 404, "collection_not_found")


def test_a_stream_ends_when_its_key_cannot_be_read(locked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_events, "HEARTBEAT_SECONDS", 0.05)
    write_pictures(locked.settings.roots()[0] / "unreadable", 1)
    with jobs_kept_queued(locked.service.worker):
        job = start_job(locked.client, "other", "unreadable")
    with stream(locked.client, job) as response, monkeypatch.context() as patch:
        received = events(response)
        assert next(received).data["state"] == "queued"
        patch.setattr(locked.service.auth.keys, "get", Mock(side_effect=StorageError("keys.sqlite3: broken")))
        assert list(received) == []
    locked.client.delete(job).raise_for_status()


def test_a_stream_ends_when_its_key_is_revoked(locked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_events, "HEARTBEAT_SECONDS", 0.05)
    write_pictures(locked.settings.roots()[0] / "revoked", 1)
    key = make_key(locked, "read")
    with jobs_kept_queued(locked.service.worker):
        job = start_job(locked.client, "other", "revoked")
    with (
        httpx.Client(base_url=locked.client.base_url, headers={"X-API-Key": key}, timeout=PATIENCE) as client,
        stream(client, job) as response,
    ):
        received = events(response)
        assert next(received).data["state"] == "queued"
        locked.client.delete(f"/v1/keys/{key_id_of(key)}").raise_for_status()
        assert list(received) == []
    locked.client.delete(job).raise_for_status()


def test_unknown_jobs_and_event_ids_are_problems(running: Running, collection: str) -> None:
    job = f"/v1/collections/{collection}/jobs/1"
    with stream(running.client, job) as response:
        problem_of(response, 404, "job_not_found")
    response = running.client.get(f"{job}/events", headers={"Last-Event-ID": "latest"})
    problem_of(response, 400, "bad_request")


def test_the_total_number_of_streams_is_limited(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", max_streams=1)
    write_pictures(settings.data_dir / "incoming" / "few", 1)
    with serving(settings) as running, jobs_kept_queued(running.service.worker):
        running.client.post("/v1/collections", json={"name": "a"})
        job = start_job(running.client, "a", "few")
        with stream(running.client, job) as response:
            received = events(response)  # the connection is open as long as this is referenced
            assert next(received).data["state"] == "queued"
            with stream(running.client, job) as rejected:
                problem_of(rejected, 503, "overloaded")
                assert rejected.headers["retry-after"] == "1"
        wait_for(lambda: running.service.broadcaster.open_streams == 0)


def test_a_suspended_service_cancels_no_reader_at_shutdown() -> None:
    broadcaster, ended = Broadcaster(pytest.fail, 1, 1), asyncio.Event()

    async def read() -> None:
        with broadcaster.stream("client", partial(pytest.fail, "a reader was cut off"), PATIENCE):
            await ended.wait()
            for _ in range(5):  # a few turns of the loop, as the end of an answer takes
                await asyncio.sleep(0)

    async def stop() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            await asyncio.sleep(0)
            closing = tasks.create_task(broadcaster.close())
            await asyncio.sleep(0)
            ended.set()
            time.sleep(0.6)  # blocks the event loop, like a suspended process
            await closing

    asyncio.run(stop())


def resident_memory(process_id: int) -> int:
    """Return the resident memory of a process in bytes."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def has_computed(process_id: int, seconds: float) -> bool:
    """Whether the process uses more than a tenth of a processor during this time."""
    before = processor_seconds(process_id)
    time.sleep(seconds)
    return processor_seconds(process_id) - before > 0.1 * seconds


def processor_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_shutdown_waits_neither_for_streams_nor_for_stalled_readers(
    small_bundle: Path, small_model: Model, tmp_path: Path
) -> None:
    settings = settings_for(
        small_bundle, tmp_path / "data", shutdown_timeout=10 * PATIENCE, trusted_proxies=["127.0.0.1"]
    )
    settings.roots()[0].mkdir(parents=True)
    with CollectionStore(settings.data_dir / "collections") as store:
        collection = store.create("a", small_model)
        resting, long = (create_folder_job(collection, settings.roots()[0]).id for _ in range(2))
        pause(collection, resting)
        with collection.catalogue.write() as connection:
            # Together more than all buffers in between hold.
            rows = [(long, number, str(number), "x" * 3000, number + 2) for number in range(4000)]
            connection.executemany(
                "INSERT INTO job_items (job_id, position, path, state, reason, event) VALUES (?, ?, ?, 'failed', ?, ?)",
                rows,
            )
            connection.execute("UPDATE jobs SET events = ? WHERE id = ?", (len(rows) + 1, long))
            finish(connection, long, "succeeded")
    with process(settings) as (client, server):
        listed = f"/v1/collections/a/jobs/{long}"
        resident = resident_memory(server.pid)
        with ExitStack() as open_, stream(client, "/v1/collections/a/jobs/1") as response:
            for client_headers in STALLED_READERS:
                stalled = open_.enter_context(socket.socket())
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.connect(("127.0.0.1", client.base_url.port))
                headers = f"Host: localhost\r\nLast-Event-ID: 0{client_headers}"
                stalled.sendall(f"GET {listed}/events HTTP/1.1\r\n{headers}\r\n\r\n".encode())
            received = events(response)
            assert next(received).data["state"] == "paused"
            wait_for(lambda: f"vitascope_event_streams {len(STALLED_READERS) + 1}.0" in client.get("/metrics").text)
            while has_computed(server.pid, seconds=0.5):
                pass  # until all buffers on the way to those readers are full
            assert resident_memory(server.pid) - resident < len(STALLED_READERS) * 6 * 1024**2  # of 12 MB each
            server.send_signal(signal.SIGTERM)
            assert list(received) == []
            assert server.wait(PATIENCE) == 0
