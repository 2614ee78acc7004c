"""Overload: excess requests are rejected, and uploads, jobs and deletes leave capacity for interactive requests.

Counts are asserted on any machine, durations by `make chaos` only, which runs on an idle one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TypeVar

import httpx
import pytest

from benchmarks.service.load import Client, Outcome, closed_loop, open_loop, post_bytes
from tests.chaos import is_chaos, rounds
from tests.service.conftest import fill, settings_for
from tests.service.jobs import all_events
from tests.service.running import JSON, Running, problem_of, process, serving
from tests.service.uploading import picture
from tests.sockets import reserved_port
from tests.waiting import PATIENCE, wait_for

T = TypeVar("T")
OVERLOAD = 10
MAX_REQUESTS = 8
"""The service's limit on concurrent requests."""
TEXTS_PER_REQUEST = 256
REQUESTS = rounds(200, 6000)
"""All at once, or in `make chaos` at ten times the capacity. More need more connections than one process can open."""
LIVENESS_SECONDS, REJECTION_SECONDS, RECOVERY_SECONDS = 0.1, 0.05, 5.0


async def poll_liveness(url: str, finished: asyncio.Event) -> list[float]:
    """Return the latencies of `/livez` in seconds, polled twenty times a second on new connections."""
    latencies = []
    while not finished.is_set():
        client, started_at = Client(url), time.perf_counter()
        status, *_ = await client.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        latencies.append(time.perf_counter() - started_at)
        assert status == 200
        client.close()
        await asyncio.sleep(0.05)
    return latencies


def test_under_overload_excess_requests_are_rejected_and_the_service_recovers(
    small_bundle: Path, tmp_path: Path
) -> None:
    options = {"max_requests": MAX_REQUESTS, "text_cache_bytes": 0, "log_level": "warning", "header_timeout": PATIENCE}
    with (
        reserved_port() as port,
        process(settings_for(small_bundle, tmp_path / "data", health_port=port, **options)) as (client, _),
    ):
        url, health = str(client.base_url), f"http://127.0.0.1:{port}"
        body = {"input": ["a red thing"] * TEXTS_PER_REQUEST, "encoding_format": "base64"}
        requests = [post_bytes(f"{url}/v1/embeddings", json.dumps(body).encode())]
        rate = REQUESTS * 1000.0
        if is_chaos():
            capacity = asyncio.run(closed_loop(url, requests, MAX_REQUESTS // 2, 1.0))
            assert not capacity.failed
            rate = OVERLOAD * capacity.rate

        async def flood() -> tuple[list[float], Outcome]:
            finished = asyncio.Event()
            polls = [asyncio.create_task(poll_liveness(address, finished)) for address in (url, health)]
            outcome = await open_loop(url, requests, rate, REQUESTS / rate)
            finished.set()
            _, latencies = [await poll for poll in polls]
            return latencies, outcome

        liveness, outcome = asyncio.run(flood())
        ended_at = time.monotonic()
        wait_for(lambda: "vitascope_requests_in_flight 1.0" in client.get("/metrics").text)
        responses = [client.post("/v1/embeddings", json={"input": ["a red thing"]}) for _ in range(20)]
        recovery = time.monotonic() - ended_at
    assert outcome.failed == 0
    assert outcome.latencies
    assert outcome.refused
    assert outcome.refusals_without_retry_after == 0
    assert [response.status_code for response in responses] == [200] * 20
    if is_chaos():
        assert recovery < RECOVERY_SECONDS
        assert quantiles(liveness, n=100)[-1] < LIVENESS_SECONDS
        assert median(outcome.refused) < REJECTION_SECONDS


UPLOAD_THREADS, MAX_UPLOADS = 2, 4
"""Uploads that are indexed at a time, and those that may wait besides."""


@pytest.fixture(scope="module")
def small(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with few threads and low limits, and the collection `palette`."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("narrow"),
        decode_processes=2,
        inference_workers=2,
        request_threads=2,
        io_threads=2,
        write_threads=3,
        upload_threads=UPLOAD_THREADS,
        max_uploads=MAX_UPLOADS,
        max_writes=12,
        max_requests=16,
    )
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@contextmanager
def held_indexing(running: Running) -> Iterator[Callable[[], bool]]:
    """Block indexing at the first run of the video graph; yields whether it is blocked."""
    engine = running.service.model._graphs.engine("video")  # type: ignore[attr-defined]
    run, release, held, runs = engine.run, threading.Event(), threading.Event(), itertools.count()

    def hold_first(inputs: JSON) -> object:
        if next(runs) == 0:
            held.set()
            assert release.wait(PATIENCE)
        return run(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", hold_first)
        try:
            yield held.is_set
        finally:
            release.set()


@contextmanager
def in_progress(
    block: AbstractContextManager[T], sends: Sequence[Callable[[], httpx.Response]]
) -> Iterator[tuple[T, list[Future[httpx.Response]]]]:
    """Requests that are sent once ``block`` is entered; waits for their responses after it has ended."""
    with ThreadPoolExecutor(len(sends)) as threads, block as entered:
        yield entered, [threads.submit(send) for send in sends]


def check_interactive(running: Running) -> None:
    """Send each kind of interactive request."""
    client, video = running.client, {"collection": "palette", "video_id": "1"}
    path = "/v1/collections/palette"
    for response in (
        client.post(f"{path}/search", json={"text": "a red thing"}),
        client.post(f"{path}/search", json={"text": "a blue thing", "rerank": 3}),
        client.post("/v1/rerank", json={"collection": "palette", "query": "a thing", "documents": [{"video_id": "1"}]}),
        client.post("/v1/caption-scores", json={**video, "captions": ["a red thing"]}),
        client.post("/v1/answers", json={**video, "question": "what color is it?"}),
        client.post("/v1/embeddings", json={"input": ["a text that is not cached"]}),
        client.get(f"{path}/videos/1/thumbnail", params={"t": 0.3}),
        client.get(f"{path}/videos/1/media"),
        client.get(f"{path}/videos"),
    ):
        assert response.status_code == 200, response.text


def upload_picture(running: Running, folder: Path, number: int, **headers: str) -> httpx.Response:
    form = {"file": ("a.png", picture(folder, number))}
    return running.client.post("/v1/collections/palette/videos", files=form, headers=headers)


@contextmanager
def blocked_uploads(running: Running, folder: Path, numbers: Sequence[int]) -> Iterator[list[Future[httpx.Response]]]:
    """Uploads in progress that are blocked in the context, and succeed after it."""
    sends = [partial(upload_picture, running, folder, number) for number in numbers]
    with in_progress(held_indexing(running), sends) as (is_held, responses):
        wait_for(is_held)
        wait_for(lambda: running.service.upload_pool.active == len(numbers))
        yield responses
        assert not any(response.done() for response in responses)
    assert [response.result().status_code for response in responses] == [201] * len(numbers)


def wait_for_success(running: Running, response: httpx.Response) -> None:
    assert response.status_code == 202, response.text
    *_, last = all_events(running.client, response.headers["location"])
    assert last.data["state"] == "succeeded"


def test_interactive_requests_are_answered_while_uploads_jobs_and_deletes_are_blocked(
    small: Running, tmp_path: Path
) -> None:
    client = small.client
    (folder := small.settings.data_dir / "incoming" / "some").mkdir()
    (folder / "a.png").write_bytes(picture(tmp_path, 0))
    base = f"{client.base_url}/v1/collections/palette"
    videos = [upload_picture(small, tmp_path, number).json()["id"] for number in range(1, 5)]
    deletes = [partial(httpx.delete, f"{base}/videos/{video}", timeout=PATIENCE) for video in videos]
    with blocked_uploads(small, tmp_path, range(5, 5 + MAX_UPLOADS)):
        job = client.post("/v1/collections/palette/jobs", json={"folder": "some"})
        write_lock = small.service.library.open("palette").catalogue._write_lock
        with in_progress(write_lock, deletes) as (_, deleted):
            wait_for(lambda: small.service.write_pool.active == len(deletes))
            check_interactive(small)
            assert not any(response.done() for response in deleted)
        assert [response.result().status_code for response in deleted] == [204] * len(deletes)
        assert client.get(job.headers["location"]).json()["state"] in ("queued", "running")
    wait_for_success(small, job)


def test_an_upload_beyond_the_limit_is_rejected_unless_it_accepts_a_job(small: Running, tmp_path: Path) -> None:
    with blocked_uploads(small, tmp_path, range(20, 20 + MAX_UPLOADS)):
        response = upload_picture(small, tmp_path, 30)
        problem_of(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        preferences = ("respond-async", "respond-async, wait=100")
        jobs = [upload_picture(small, tmp_path, 31 + n, Prefer=each) for n, each in enumerate(preferences)]
    for job in jobs:
        wait_for_success(small, job)


def test_a_queued_upload_becomes_a_job_or_ends_at_its_deadline(small: Running, tmp_path: Path) -> None:
    with blocked_uploads(small, tmp_path, range(40, 40 + UPLOAD_THREADS)):
        job = upload_picture(small, tmp_path, 50, Prefer="respond-async, wait=1")
        late = upload_picture(small, tmp_path, 51, **{"X-Request-Timeout": "0.2"})
        assert "respond-async" in problem_of(late, 504, "deadline_exceeded")["detail"]
    wait_for_success(small, job)
