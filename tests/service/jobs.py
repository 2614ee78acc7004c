"""Jobs in tests: start, block and wait for them, and read their events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.worker import JobWorker
from tests.media_files import solid, write_picture
from tests.service.running import JSON, Running
from tests.waiting import wait_for


def write_pictures(folder: Path, count: int) -> Path:
    """Write ``count`` small pictures, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_picture(folder / f"{number:03}.png", solid((number * 20 % 256, 255 - number, number), 48, 48))
    return folder


def start_job(client: httpx.Client, collection: str, folder: Path | str = "", **body: object) -> str:
    """Start a job for a folder, or with the body given; return its URL."""
    body = {"folder": str(folder)} if folder else body
    response = client.post(f"/v1/collections/{collection}/jobs", json=body)
    assert response.status_code == 202, response.text
    return str(response.headers["location"])


def finished_job(client: httpx.Client, url: str) -> JSON:
    """Return the job once it is no longer queued or running."""
    wait_for(lambda: client.get(url).json()["state"] not in ("queued", "running"))
    job: JSON = client.get(url).json()
    return job


@pytest.fixture
def release_jobs(monkeypatch: pytest.MonkeyPatch, running: Running) -> Iterator[Callable[[], None]]:
    """Block jobs at every video until the function is called."""
    released = threading.Event()
    embed = running.service.model.embed_video

    def block(*args: object, **options: object) -> object:
        released.wait()  # at most until the test is over
        return embed(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(running.service.model, "embed_video", block)
    yield released.set
    released.set()


@contextmanager
def jobs_kept_queued(worker: JobWorker) -> Iterator[list[Callable[[], None]]]:
    """Keep jobs submitted in the context queued; each function in the list starts one."""
    submit = worker.submit
    waiting: list[Callable[[], None]] = []
    worker.submit = lambda *job: waiting.append(partial(submit, *job))  # type: ignore[method-assign]
    try:
        yield waiting
    finally:
        del worker.submit  # type: ignore[method-assign]


@dataclass(frozen=True)
class ReceivedEvent:
    """A server-sent event. ``number``: its id, if it has one."""

    number: int | None
    kind: str
    data: JSON


@contextmanager
def stream(client: httpx.Client, job: str, last: int | None = None) -> Iterator[httpx.Response]:
    """Open the event stream of the job at the URL ``job``."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.stream("GET", f"{job}/events", headers=headers) as response:
        if response.status_code != 200:
            response.read()
        yield response


def events(response: httpx.Response) -> Iterator[ReceivedEvent]:
    """Yield the events as they arrive, parsed as specified by the HTML standard."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            yield ReceivedEvent(number, fields["event"], json.loads(fields["data"]))
            fields = {}


def all_events(client: httpx.Client, job: str, last: int | None = None) -> list[ReceivedEvent]:
    """Return all events until the end of the stream."""
    with stream(client, job, last) as response:
        assert response.status_code == 200, response.text
        return list(events(response))
