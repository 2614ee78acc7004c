"""Jobs followed live: every event in order over a real connection, and exactly the rest after coming back."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from pathlib import Path

import httpx
import pytest

from index.collection_store import CollectionStore
from index.jobs import events as job_events
from index.jobs.jobs import pause
from index.storage.job_transitions import finish
from service import events as service_events
from service.events import Broadcaster
from service.http.api_keys import KeyStore
from tests.index.folder_jobs import create_folder_job
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.following import Told, events, followed, stream
from tests.service.holding import not_begun
from tests.service.running import Running, problem_of, process, serving
from tests.waiting import PATIENCE, wait_for
from vitascope import AsyncClient, Client
from vitascope.model import Model

WATCHERS = 50
DEAF = 10


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_picture(folder / f"{number:03}.png", solid((number * 20 % 256, 255 - number, number), 48, 48))


def begin(client: httpx.Client, collection: str, folder: Path) -> str:
    """The address of a new job."""
    asked = client.post(f"/v1/collections/{collection}/jobs", json={"folder": folder.name})
    assert asked.status_code == 202, asked.text
    return str(asked.headers["location"])


def kept(told: list[Told]) -> list[Told]:
    """Without progress, which is not numbered."""
    return [event for event in told if event.kind != "progress"]


def words(told: list[Told]) -> list[str]:
    return [
        event.data["state"] if event.kind == "state" else f"{Path(event.data['path']).name} {event.data['state']}"
        for event in kept(told)
    ]


def test_a_job_is_followed_from_its_first_event_to_its_end(
    running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 6)
    (incoming / "broken.mp4").write_bytes(b"no video")
    with not_begun(running.service.worker) as waiting:
        job = begin(running.client, collection, incoming)
    with stream(running.client, job, 0) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        told: list[Told] = []
        for event in events(response):
            told.append(event)
            if event.number == 1:
                waiting[0]()  # now that somebody follows it, there is progress to tell
            if event.kind == "progress":
                held()
    assert [event.number for event in kept(told)] == list(range(1, 12))
    assert words(told)[:3] == ["queued", "running", "running"]
    assert sorted(words(told)[3:-1]) == [*(f"{n:03}.png succeeded" for n in range(6)), "broken.mp4 failed"]
    assert [told[-1].kind, told[-1].data] == ["state", running.client.get(job).json()]
    items = {item["path"]: item for item in running.client.get(f"{job}/items", params={"limit": 9}).json()["items"]}
    for event in told:
        if event.kind == "item":
            assert event.data == items[event.data["path"]]
    done = [event.data["done"] for event in told if event.kind == "progress"]
    assert done == sorted(done)
    assert done
    for number in range(11):  # whoever comes back at any moment gets exactly the rest
        assert kept(followed(running.client, job, number)) == kept(told)[number:]


def test_a_name_with_line_separators_is_told_to_clients_that_end_a_line_there(
    running: Running, collection: str, incoming: Path
) -> None:
    name = "a\u2028b\u2029c\x85d.png"
    incoming.mkdir(parents=True, exist_ok=True)
    write_picture(incoming / name, solid((3, 60, 200), 48, 48))
    job = begin(running.client, collection, incoming)
    # `followed` reads with httpx's iter_lines, as vitascope.client did up to 0.2.0.
    assert [Path(told.data["path"]).name for told in followed(running.client, job, 0) if told.kind == "item"] == [name]
    with Client(str(running.client.base_url)) as client:
        assert client.wait_for_job(collection, job.rsplit("/", 1)[1])["state"] == "succeeded"


def test_a_finished_job_tells_its_end_and_then_that_there_is_no_more(
    running: Running, collection: str, incoming: Path
) -> None:
    pictures(incoming, 1)
    job = begin(running.client, collection, incoming)
    end = followed(running.client, job)[-1]
    assert followed(running.client, job) == [end]
    assert end.data == running.client.get(job).json()
    with stream(running.client, job, end.number) as response:
        assert (response.status_code, response.content) == (204, b"")
    # A number that this job never gave out: the collection had another history.
    assert followed(running.client, job, 1000) == [end]


def test_who_comes_back_in_the_middle_misses_nothing(
    running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 4)
    job = begin(running.client, collection, incoming)
    with stream(running.client, job) as response:
        first = next(events(response))
    wait_for(lambda: running.service.broadcaster.open_streams == 0)
    assert running.service.broadcaster.followed_jobs == 0  # nobody reads for who has gone
    held()
    rest = followed(running.client, job, first.number)
    assert [event.number for event in kept(rest)] == list(range((first.number or 0) + 1, 9))
    assert words(rest)[-1] == "succeeded"


def test_the_asynchronous_client_can_leave_early_and_come_back(
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


def test_who_comes_back_after_a_restart_misses_nothing(
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
        rest = followed(running.client, job, first[-1].number)
    told = kept(first) + kept(rest)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    assert sorted(word for word in words(told) if " " in word) == [f"{n:03}.png succeeded" for n in range(4)]
    assert words(told)[-1] == "succeeded"


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
            assert words(list(coming)) == ["queued", "cancelled"]


def test_many_watchers_get_the_same_and_the_catalogue_is_read_once_for_all(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", client_streams=WATCHERS)
    pictures(settings.data_dir / "incoming" / "many", 8)
    reads: list[int] = []
    read = job_events.events_after
    monkeypatch.setattr(job_events, "events_after", lambda *given: reads.append(1) or read(*given))
    with serving(settings) as running, ThreadPoolExecutor(WATCHERS) as threads:
        running.client.post("/v1/collections", json={"name": "videos"})
        with not_begun(running.service.worker) as waiting:
            job = begin(running.client, "videos", Path("many"))
        futures = [threads.submit(follow_alone, str(running.client.base_url), job) for _ in range(WATCHERS)]
        wait_for(lambda: running.service.broadcaster.open_streams == WATCHERS)
        with stream(running.client, job) as response:
            problem_of(response, 429, "too_many_at_once")
        waiting[0]()
        told = [kept(future.result(PATIENCE)) for future in futures]
        assert all(each == told[0] for each in told)
        assert [event.number for event in told[0]] == list(range(1, 13))
        assert len(reads) <= 12
        wait_for(lambda: running.service.broadcaster.open_streams == 0)


def follow_alone(url: str, job: str) -> list[Told]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        return followed(client, job)


def test_a_reader_that_is_far_behind_gets_everything_from_the_catalogue(
    running: Running, collection: str, incoming: Path, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_events, "BUFFER_BYTES", 1)
    monkeypatch.setattr(service_events, "PAGE_SIZE", 2)
    pictures(incoming, 5)
    job = begin(running.client, collection, incoming)
    with stream(running.client, job, 0) as response:
        coming = events(response)
        told = [next(coming)]
        held()
        wait_for(lambda: running.client.get(job).json()["state"] == "succeeded")
        told += coming
    assert [event.number for event in kept(told)] == list(range(1, 10))


def test_a_quiet_stream_shows_that_it_is_alive_and_ends_after_its_time(
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


def test_what_cannot_be_followed_is_a_problem(running: Running, collection: str) -> None:
    job = f"/v1/collections/{collection}/jobs/1"
    with stream(running.client, job) as response:
        problem_of(response, 404, "job_not_found")
    answer = running.client.get(f"{job}/events", headers={"Last-Event-ID": "latest"})
    problem_of(answer, 400, "bad_request")


def test_streams_are_for_keys_that_may_read_the_collection_and_are_limited_in_all(
    small_bundle: Path, tmp_path: Path
) -> None:
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


def test_a_service_that_stood_still_while_it_stopped_cuts_no_reader_off() -> None:
    broadcaster, ended = Broadcaster(pytest.fail, 1, 1), asyncio.Event()

    async def read() -> None:
        with broadcaster.stream("client", "address", PATIENCE):
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
            time.sleep(0.6)  # nobody's turn comes: the process stands still
            assert await closing == []

    asyncio.run(stop())


def memory(process_id: int) -> int:
    """Bytes of it that are in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_stop_does_not_wait_for_followers_nor_for_one_that_does_not_read(
    small_bundle: Path, small_model: Model, tmp_path: Path
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", shutdown_timeout=10 * PATIENCE)
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
            for _ in range(DEAF):
                deaf = open_.enter_context(socket.socket())
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", client.base_url.port))
                deaf.sendall(f"GET {listed}/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n".encode())
            coming = events(response)
            assert next(coming).data["state"] == "paused"
            wait_for(lambda: f"vitascope_event_streams {DEAF + 1}.0" in client.get("/metrics").text)
            assert memory(server.pid) - resident < DEAF * 4 * 1024**2  # of 12 MB for each of them
            server.send_signal(signal.SIGTERM)
            assert list(coming) == []
            assert server.wait(PATIENCE) == 0
