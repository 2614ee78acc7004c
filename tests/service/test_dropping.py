"""Requests that are under way when their collection is dropped: it is not found, whatever else they meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.jobs import jobs as index_jobs
from tests.service.running import Running, problem_of
from tests.waiting import PATIENCE, wait_for

ASYNC = {"Prefer": "respond-async"}
Hold = Callable[[object, str, int], None]


class Held:
    """Calls of a function: the one of number ``last``, from 1, waits until it is let go."""

    def __init__(self, function: Callable[..., Any], last: int) -> None:
        self.reached, self.going = threading.Event(), threading.Event()
        self._function, self._last, self._calls = function, last, 0

    def __call__(self, *args: object, **given: object) -> object:
        self._calls += 1
        if self._calls == self._last:
            self.reached.set()
            assert self.going.wait(PATIENCE)
        return self._function(*args, **given)


@pytest.fixture(params=[False, True], ids=["dropped", "dropped and made again"])
def drop(request: pytest.FixtureRequest, running: Running, collection: str) -> Iterator[Callable[[], None]]:
    """Drops the collection, and makes another one of its name."""

    def drop() -> None:
        assert running.client.delete(f"/v1/collections/{collection}").status_code == 204
        if request.param:
            assert running.client.post("/v1/collections", json={"name": collection}).status_code == 201

    yield drop
    if request.param:
        assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0
    folder = running.settings.data_dir / "collections" / collection
    assert folder.exists() == request.param
    assert not any((folder / "media").glob("*"))
    assert list(running.service.media.uploads.iterdir()) == []


@pytest.mark.parametrize(("headers", "step"), [({}, 1), ({}, 2), (ASYNC, 1)], ids=["probe", "decode", "job"])
def test_an_upload_that_is_being_decoded(
    running: Running,
    collection: str,
    files: Path,
    drop: Callable[[], None],
    headers: dict[str, str],
    step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding = running.service.decoding
    held = Held(decoding.run, step)
    monkeypatch.setattr(decoding, "run", held)
    answer = while_held(held, drop, lambda: upload(running, collection, files / "red.mp4", headers))
    problem_of(answer, 404, "collection_not_found")
    wait_for(lambda: not list(running.service.media.uploads.iterdir()))


def test_an_upload_whose_file_is_being_moved_in(
    running: Running, collection: str, files: Path, drop: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    media = running.service.collection(collection).media
    held = Held(media._make_folder, 1)
    monkeypatch.setattr(media, "_make_folder", held)
    dropping = threading.Thread(target=drop)

    def begin_to_drop() -> None:
        dropping.start()  # it waits for the transaction that the file is moved in

    answer = while_held(held, begin_to_drop, lambda: upload(running, collection, files / "red.mp4", {}))
    dropping.join(PATIENCE)
    assert answer.status_code in (201, 404)  # whichever came first
    wait_for(lambda: not list(running.service.media.uploads.iterdir()))


def test_a_job_that_is_being_made(
    running: Running, collection: str, incoming: Path, drop: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(index_jobs.check_source, 1)
    monkeypatch.setattr(index_jobs, "check_source", held)
    path = f"/v1/collections/{collection}/jobs"
    answer = while_held(held, drop, lambda: running.client.post(path, json={"folder": str(incoming)}))
    problem_of(answer, 404, "collection_not_found")


@pytest.mark.parametrize(
    ("method", "rest", "function"),
    [
        ("GET", "", "list_jobs"),
        ("GET", "/1", "get_job"),
        ("GET", "/1/items", "list_items"),
        ("DELETE", "/1", "cancel"),
        ("POST", "/1/pause", "pause"),
        ("POST", "/1/resume", "resume"),
        ("POST", "/1/retry", "retry"),
    ],
)
def test_a_job_that_is_looked_at_or_changed(
    running: Running,
    collection: str,
    drop: Callable[[], None],
    method: str,
    rest: str,
    function: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(getattr(index_jobs, function), 1)
    monkeypatch.setattr(index_jobs, function, held)
    path = f"/v1/collections/{collection}/jobs{rest}"
    answer = while_held(held, drop, lambda: running.client.request(method, path))
    problem_of(answer, 404, "collection_not_found")


def upload(running: Running, collection: str, file: Path, headers: dict[str, str]) -> httpx.Response:
    path = f"/v1/collections/{collection}/videos"
    return running.client.post(path, files={"file": (file.name, file.read_bytes())}, headers=headers)


def while_held(held: Held, act: Callable[[], None], request: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer to a request that is held while something else happens."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(request)
        try:
            assert held.reached.wait(PATIENCE)
            act()
        finally:
            held.going.set()
        return answer.result()
