"""SIGTERM: accepted requests get their responses, no connection breaks, and jobs continue at the next start."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from index.collection_store import CollectionStore
from index.jobs.jobs import list_jobs
from service.routes import collections
from tests.chaos import is_chaos, rounds
from tests.media_files import solid, write_picture
from tests.service.altered_service import FREE_FILES
from tests.service.conftest import settings_for
from tests.service.running import Process, problem_of, process, serving, start
from tests.service.uploading import picture, sha256, stored_videos, upload
from tests.waiting import PATIENCE, wait_for

STOPS = rounds(1, 20)
MANY = rounds(20, 200)
"""Files of the job, more than are indexed before the last stop."""
READINESS_CHECKED = "readiness-checked"
"""Name of the file that ends the service's shutdown delay."""
EXIT_SECONDS = 30.0
READY_SECONDS = 1.0
"""Until `/readyz` reports the shutdown. Both are asserted by `make chaos` only, on an idle machine."""


@dataclass
class Observations:
    """Responses and errors that the clients of a stopping service received."""

    statuses: Counter[int] = field(default_factory=Counter)
    uploaded: set[str] = field(default_factory=set)
    """SHA-256 of acknowledged files."""
    broken: list[str] = field(default_factory=list)
    not_ready: list[float] = field(default_factory=list)
    """Times of 503 from `/readyz`."""

    def repeat_until_refused(self, send: Callable[[], httpx.Response]) -> None:
        """Send requests until no connection can be opened."""
        while True:
            try:
                response = send()
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:
                self.broken.append(f"{send.__name__}: {error!r}")
                continue
            if response.request.url.path != "/readyz":
                self.statuses[response.status_code] += 1
            elif response.status_code == 503:
                self.not_ready.append(time.monotonic())


def post_until_refused(address: str, path: str, body: dict[str, object], observed: Observations) -> None:
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        observed.repeat_until_refused(lambda: client.post(path, json=body))


def upload_until_refused(address: str, folder: Path, numbers: itertools.count[int], observed: Observations) -> None:
    folder.mkdir()
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:

        def send() -> httpx.Response:
            content = picture(folder, next(numbers))
            response = upload(client, "uploads", content)
            if response.status_code == 201:
                observed.uploaded.add(sha256(content))
            return response

        observed.repeat_until_refused(send)


def stop_under_load(
    address: str, health: httpx.Client, server: Process, folder: Path, numbers: itertools.count[int]
) -> set[str]:
    """Stop the service under load, and check how it stops. Returns the SHA-256 of uploaded files.

    Args:
        health: Client of the health port.
    """
    observed = Observations()
    search = ("/v1/collections/many/search", {"text": "a red thing"})
    embed = ("/v1/embeddings", {"input": ["a red thing", "a green ball"]})
    with ThreadPoolExecutor(7) as threads:
        loads = [threads.submit(post_until_refused, address, *request, observed) for request in [search, embed] * 2]
        loads += [threads.submit(upload_until_refused, address, folder / str(n), numbers, observed) for n in range(2)]
        poll = partial(httpx.get, f"{address}/readyz", timeout=PATIENCE)
        loads.append(threads.submit(observed.repeat_until_refused, lambda: poll()))
        wait_for(lambda: observed.statuses[200] > 20 and observed.statuses[201] > 1)
        stopped_at = time.monotonic()
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: observed.not_ready)
        assert [health.get(path).status_code for path in ("/readyz", "/livez")] == [503, 200]
        (folder / READINESS_CHECKED).touch()
        assert server.wait(PATIENCE) == 0
        seconds = time.monotonic() - stopped_at
        for load in loads:
            load.result(PATIENCE)
    assert observed.broken == []
    assert set(observed.statuses) == {200, 201}, observed.statuses
    if is_chaos():
        assert seconds < EXIT_SECONDS
        assert observed.not_ready[0] - stopped_at < READY_SECONDS
    return observed.uploaded


def start_job(client: httpx.Client, films: Path) -> str:
    """Create the collections and a job; return its address once it is held back."""
    for name in ("many", "uploads"):
        client.post("/v1/collections", json={"name": name}).raise_for_status()
    job = client.post("/v1/collections/many/jobs", json={"folder": str(films)}).headers["location"]
    wait_for(lambda: client.get(job).json()["done"] == FREE_FILES)
    return job


def test_accepted_requests_get_responses_and_the_job_resumes_without_repeating_work(
    small_bundle: Path, tmp_path: Path, port: int
) -> None:
    films = tmp_path / "many"
    films.mkdir()
    for number in range(MANY):
        write_picture(films / f"{number:03}.png", solid((number % 256, number // 256, 90), 48, 48))
    options = {"allowed_roots": [films], "job_concurrency": 1, "shutdown_delay": 0.1, "health_port": port}
    settings = settings_for(small_bundle, tmp_path / "data", **options)
    health = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
    numbers = itertools.count()
    uploaded: set[str] = set()
    for stop in range(STOPS):
        folder = tmp_path / str(stop)
        folder.mkdir()
        with process(settings, "tests.service.altered_service", "stopping", str(folder / READINESS_CHECKED)) as (
            client,
            server,
        ):
            if stop == 0:
                job = start_job(client, films)
            for path in ("/livez", "/readyz"):
                assert health.get(path).json() == client.get(path).json()
            client.close()  # the service would wait for its connection
            uploaded |= stop_under_load(str(client.base_url), health, server, folder, numbers)
        if stop == 0:
            with CollectionStore(settings.data_dir / "collections") as library:
                (job_left,) = list_jobs(library.open("many"), 10)
                assert job_left.state in ("queued", "running")
                assert FREE_FILES <= job_left.counts.succeeded < MANY
    with serving(settings) as running:
        client = running.client
        wait_for(lambda: client.get(job).json()["state"] == "succeeded")
        counts = client.get(job).json()["counts"]
        assert (counts["succeeded"], counts["skipped"], counts["failed"]) == (MANY, 0, 0)
        assert client.get("/v1/collections/many").json()["videos"] == MANY
        assert uploaded <= set(stored_videos(client, "uploads").values())
    health.close()


def test_a_signal_just_before_the_server_runs_is_not_lost(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    server, log = start(settings, "tests.service.altered_service", "terminated")
    try:
        assert server.wait(PATIENCE) == 0, log.read_text()
    finally:
        server.kill()


def test_a_request_that_outlasts_the_shutdown_gets_a_problem(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, released = threading.Event(), threading.Event()

    def list_later(*_: object) -> None:
        begun.set()
        released.wait(PATIENCE)

    monkeypatch.setattr(collections, "_list", list_later)
    with ThreadPoolExecutor(1) as threads:
        with serving(settings_for(small_bundle, tmp_path / "data", shutdown_timeout=0.0)) as running:
            request = threads.submit(httpx.get, f"{running.client.base_url}/v1/collections", timeout=PATIENCE)
            request.add_done_callback(lambda _: released.set())
            wait_for(begun.is_set)
        response = request.result(PATIENCE)
    problem_of(response, 503, "interrupted")
    assert (response.headers.get("retry-after"), response.headers["connection"]) == (None, "close")
    assert not any(record.exc_info for record in caplog.records)
