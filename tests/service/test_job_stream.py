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

import httpx
import pytest

from index.collection_store import CollectionStore
from index.jobs import jobs as index_jobs
from index.jobs.jobs import pause
from index.storage.job_transitions import finish
from service import events as service_events
from service.events import Broadcaster
from service.http.api_keys import KeyStore
from tests.index.jobs.fixtures import create_folder_job
from tests.media_files import solid, write_picture
from tests.service.blocked_jobs import not_begun
from tests.service.conftest import settings_for
from tests.service.event_client import ReceivedEvent, all_events, events, stream
from tests.service.running import Running, problem_of, process, serving
from tests.waiting import PATIENCE, wait_for
from vitascope import AsyncClient, Client
from vitascope.model import Model

STREAMS = 50
STALLED_READERS = 4


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_picture(folder / f"{number:03}.png", solid((number * 20 % 256, 255 - number, number), 48, 48))


def begin(client: httpx.Client, collection: str, folder: Path) -> str:
    """Start a job and return its URL."""
    response = client.post(f"/v1/collections/{collection}/jobs", json={"folder": folder.name})
    assert response.status_code == 202, response.text
    return str(response.headers["location"])


def numbered(received: list[ReceivedEvent]) -> list[ReceivedEvent]:
    """Return the numbered events, without progress."""
    return [event for event in received if event.kind != "progress"]


def summaries(received: list[ReceivedEvent]) -> list[str]:
    return [
        event.data["state"] if event.kind == "state" else f"{Path(event.data['path']).name} {event.data['state']}"
        for event in numbered(received)
    ]


def test_all_events_of_a_job_arrive_in_order(
    running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 6)
    (incoming / "broken.mp4").write_bytes(b"no video")
    with not_begun(running.service.worker) as waiting:
        job = begin(running.client, collection, incoming)
    with stream(running.client, job, 0) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        received: list[ReceivedEvent] = []
        for event in events(response):
            received.append(event)
            if event.number == 1:
                waiting[0]()  # only followed jobs compute progress
            if event.kind == "progress":
                held()
    assert [event.number for event in numbered(received)] == list(range(1, 12))
    assert summaries(received)[:3] == ["queued", "running", "running"]
    assert sorted(summaries(received)[3:-1]) == [*(f"{n:03}.png succeeded" for n in range(6)), "broken.mp4 failed"]
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


def test_line_separators_in_names_are_escaped(running: Running, collection: str, incoming: Path) -> None:
    name = "a\u2028b\u2029c\x85d.png"
    incoming.mkdir(parents=True, exist_ok=True)
    write_picture(incoming / name, solid((3, 60, 200), 48, 48))
    job = begin(running.client, collection, incoming)
    # `followed` reads with httpx's iter_lines, as vitascope.client did up to 0.2.0.
    assert [
        Path(received.data["path"]).name for received in all_events(running.client, job, 0) if received.kind == "item"
    ] == [name]
    with Client(str(running.client.base_url)) as client:
        assert client.wait_for_job(collection, job.rsplit("/", 1)[1])["state"] == "succeeded"


def test_a_finished_job_sends_its_end_and_then_204(running: Running, collection: str, incoming: Path) -> None:
    pictures(incoming, 1)
    job = begin(running.client, collection, incoming)
    end = all_events(running.client, job)[-1]
    assert all_events(running.client, job) == [end]
    assert end.data == running.client.get(job).json()
    with stream(running.client, job, end.number) as response:
        assert (response.status_code, response.content) == (204, b"")
    # A number that this job never gave out: the collection had another history.
    assert all_events(running.client, job, 1000) == [end]


def test_a_reconnecting_client_misses_no_event(
    running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 4)
    job = begin(running.client, collection, incoming)
    with stream(running.client, job) as response:
        first = next(events(response))
    wait_for(lambda: running.service.broadcaster.open_streams == 0)
    assert running.service.broadcaster.followed_jobs == 0  # and nothing is polled any longer
    held()
    rest = all_events(running.client, job, first.number)
    assert [event.number for event in numbered(rest)] == list(range((first.number or 0) + 1, 9))
    assert summaries(rest)[-1] == "succeeded"


def test_the_async_client_can_disconnect_and_resume(
    running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 2)
    job = begin(running.client, collection, incoming).rsplit("/", 1)[1]

    async def watch() -> None:
        async with AsyncClient(str(running.client.base_url)) as client:
            async with aclosing(client.iter_job_events(collection, job, after=0)) as coming:
                first = await anext(coming)
            await asyncio.to_thread(wait_for, lambda: not running.service.broadcaster.followed_jobs)
            waiting = asyncio.create_task(client.wait_for_job(collection, job))
            await asyncio.to_thread(wait_for, lambda: running.service.broadcaster.followed_jobs)
            waiting.cancel()
            await asyncio.to_thread(wait_for, lambda: not running.service.broadcaster.followed_jobs)
            held()
            rest = [event async for event in client.iter_job_events(collection, job, after=int(first["id"] or 0))]
            assert rest[-1]["data"]["state"] == "succeeded"
            numbers = [int(event["id"]) for event in rest if event["id"] is not None]
            assert numbers == list(range(int(first["id"] or 0) + 1, numbers[-1] + 1))

    asyncio.run(watch())


def test_a_client_misses_no_event_over_a_restart(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", shutdown_timeout=0.2, job_concurrency=1)
    pictures(settings.roots()[0] / "some", 4)
    embed, calls, leaving = Model.embed_video, itertools.count(), threading.Event()

    def slow(*given: object) -> object:
        if next(calls) == 2:
            leaving.wait(PATIENCE)  # until the service has given up on it
        return embed(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "embed_video", slow)
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
        job = begin(running.client, "videos", Path("some"))
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
    pictures(incoming, 1)
    with not_begun(running.service.worker):
        job = begin(running.client, collection, incoming)
        with stream(running.client, job) as response:
            coming = events(response)
            assert next(coming).data["state"] == "queued"
            running.client.post(f"{job}/pause")
            assert next(coming).data["state"] == "paused"
            running.client.post(f"{job}/resume")
            running.client.delete(job)
            assert summaries(list(coming)) == ["queued", "cancelled"]


def test_many_streams_get_the_same_events_from_one_read(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", client_streams=STREAMS)
    pictures(settings.data_dir / "incoming" / "many", 8)
    reads: list[int] = []
    read = index_jobs.events_after
    monkeypatch.setattr(index_jobs, "events_after", lambda *given: reads.append(1) or read(*given))
    with serving(settings) as running, ThreadPoolExecutor(STREAMS) as threads:
        running.client.post("/v1/collections", json={"name": "videos"})
        with not_begun(running.service.worker) as waiting:
            job = begin(running.client, "videos", Path("many"))
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
    running: Running, collection: str, incoming: Path, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_events, "BUFFER_BYTES", 1)
    monkeypatch.setattr(service_events, "PAGE_SIZE", 2)
    pictures(incoming, 5)
    job = begin(running.client, collection, incoming)
    with stream(running.client, job, 0) as response:
        coming = events(response)
        received = [next(coming)]
        held()
        wait_for(lambda: running.client.get(job).json()["state"] == "succeeded")
        received += coming
    assert [event.number for event in numbered(received)] == list(range(1, 10))


def test_an_idle_stream_sends_heartbeats_and_ends_after_its_time(
    running: Running, collection: str, incoming: Path, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_events, "HEARTBEAT_SECONDS", 0.05)
    pictures(incoming, 1)
    job = begin(running.client, collection, incoming)
    with stream(running.client, job) as response:
        beats = (line for line in response.iter_lines() if line == ":")
        assert [next(beats) for _ in range(3)] == [":"] * 3
    monkeypatch.setattr(service_events, "STREAM_SECONDS", 0.2)
    with stream(running.client, job) as response:
        lines = list(response.iter_lines())
    assert lines[0] == "retry: 2000"
    assert running.client.get(job).json()["state"] in ("queued", "running")  # it is still held: the time was over


def test_a_stream_ends_when_the_collection_is_dropped(
    running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 1)
    job = begin(running.client, collection, incoming)
    with stream(running.client, job) as response:
        coming = events(response)
        next(coming)
        assert running.client.delete(f"/v1/collections/{collection}").status_code == 204
        assert all(event.data["state"] == "running" for event in coming)
    with stream(running.client, job) as response:
        problem_of(response, 404, "collection_not_found")


def test_unknown_jobs_and_event_ids_are_problems(running: Running, collection: str) -> None:
    job = f"/v1/collections/{collection}/jobs/1"
    with stream(running.client, job) as response:
        problem_of(response, 404, "job_not_found")
    answer = running.client.get(f"{job}/events", headers={"Last-Event-ID": "latest"})
    problem_of(answer, 400, "bad_request")


def test_streams_require_read_access_and_are_limited(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", allow_unauthenticated=False, max_streams=1)
    pictures(settings.data_dir / "incoming" / "few", 1)
    store = KeyStore(settings.data_dir)
    texts = {
        name: store.create(
            name, [name] if name != "other" else ["read"], collections=["b"] if name == "other" else None
        )[1]
        for name in ("read", "write", "admin", "other")
    }
    store.close()
    keys = {name: {"X-API-Key": text} for name, text in texts.items()}
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "a"}, headers=keys["admin"])
        with not_begun(running.service.worker):
            made = running.client.post("/v1/collections/a/jobs", json={"folder": "few"}, headers=keys["write"])
        job = f"{made.headers['location']}/events"
        for name, code in (("write", "scope_missing"), ("other", "collection_not_allowed")):
            problem_of(running.client.get(job, headers=keys[name]), 403, code)
        problem_of(running.client.get(job), 401, "key_missing")
        with running.client.stream("GET", job, headers=keys["read"]) as response:
            coming = events(response)  # the connection is open as long as this is not dropped
            assert next(coming).data["state"] == "queued"
            refused = running.client.get(job, headers=keys["read"])
            problem_of(refused, 503, "overloaded")
            assert refused.headers["retry-after"] == "1"
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


def memory(process_id: int) -> int:
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


@pytest.mark.parametrize("trusted_proxies", [[], ["127.0.0.1"]], ids=["direct", "behind a proxy"])
def test_shutdown_waits_neither_for_streams_nor_for_stalled_readers(
    small_bundle: Path, small_model: Model, tmp_path: Path, trusted_proxies: list[str]
) -> None:
    settings = settings_for(
        small_bundle, tmp_path / "data", shutdown_timeout=10 * PATIENCE, trusted_proxies=trusted_proxies
    )
    settings.roots()[0].mkdir(parents=True)
    with CollectionStore(settings.data_dir / "collections") as library:
        collection = library.create("a", small_model)
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
        resident = memory(server.pid)
        with ExitStack() as open_, stream(client, "/v1/collections/a/jobs/1") as response:
            for _ in range(STALLED_READERS):
                stalled = open_.enter_context(socket.socket())
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.connect(("127.0.0.1", client.base_url.port))
                headers = "Host: localhost\r\nLast-Event-ID: 0\r\nX-Forwarded-For: 192.0.2.7"
                stalled.sendall(f"GET {listed}/events HTTP/1.1\r\n{headers}\r\n\r\n".encode())
            coming = events(response)
            assert next(coming).data["state"] == "paused"
            wait_for(lambda: f"vitascope_event_streams {STALLED_READERS + 1}.0" in client.get("/metrics").text)
            while has_computed(server.pid, seconds=0.5):
                pass  # until all buffers on the way to those readers are full
            assert memory(server.pid) - resident < STALLED_READERS * 6 * 1024**2  # of 12 MB for each of them
            server.send_signal(signal.SIGTERM)
            assert list(coming) == []
            assert server.wait(PATIENCE) == 0
