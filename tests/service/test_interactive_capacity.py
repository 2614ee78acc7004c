"""Searches, scores, answers and pictures are answered while uploads, jobs and deletes take all that they may."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.service.conftest import fill, settings_for
from tests.service.jobs import all_events
from tests.service.running import JSON, Running, problem_of, serving
from tests.service.uploading import picture, upload
from tests.waiting import PATIENCE, wait_for

WORKERS, UPLOADS = 2, 4
"""Uploads that are indexed at a time, and those that may wait besides."""


@pytest.fixture(scope="module")
def narrow(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with few threads and places of each kind, with the collection `palette`."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("narrow"),
        decode_processes=2,
        inference_workers=2,
        request_threads=2,
        io_threads=2,
        write_threads=3,
        upload_threads=WORKERS,
        max_uploads=UPLOADS,
        max_writes=12,
        max_requests=16,
    )
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@contextmanager
def held_ingestion(running: Running) -> Iterator[Callable[[], bool]]:
    """The first run of the graph that sees videos stands still in the block, and with it all that is indexed.

    Gives whether it stands still.
    """
    engine = running.service.model._graphs.engine("video")  # type: ignore[attr-defined]
    run, going, held, runs = engine.run, threading.Event(), threading.Event(), itertools.count()

    def hold_first(inputs: JSON) -> object:
        if next(runs) == 0:
            held.set()
            assert going.wait(PATIENCE)
        return run(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", hold_first)
        try:
            yield held.is_set
        finally:
            going.set()


@contextmanager
def held_writes(running: Running, name: str) -> Iterator[None]:
    """Nothing is written to the catalogue of a collection in the block."""
    with running.service.library.open(name).catalogue._write_lock:
        yield


@contextmanager
def all_at_once(*sends: Callable[[], httpx.Response]) -> Iterator[list[Future[httpx.Response]]]:
    """Requests under way, answered at the latest after the block."""
    with ThreadPoolExecutor(len(sends)) as threads:
        yield [threads.submit(send) for send in sends]


def check_interactive(running: Running) -> None:
    """Every kind of interactive request is answered."""
    client, video = running.client, {"collection": "palette", "video_id": "1"}
    path = "/v1/collections/palette"
    for answer in (
        client.post(f"{path}/search", json={"text": "a red thing"}),
        client.post(f"{path}/search", json={"text": "a blue thing", "rerank": 3}),
        client.post("/v1/rerank", json={"collection": "palette", "query": "a thing", "documents": [{"video_id": "1"}]}),
        client.post("/v1/caption-scores", json={**video, "captions": ["a red thing"]}),
        client.post("/v1/answers", json={**video, "question": "what color is it?"}),
        client.post("/v1/embeddings", json={"input": ["a text that nobody sent before"]}),
        client.get(f"{path}/videos/1/thumbnail", params={"t": 0.3}),
        client.get(f"{path}/videos/1/media"),
        client.get(f"{path}/videos"),
    ):
        assert answer.status_code == 200, answer.text


def test_interactive_requests_are_answered_while_uploads_jobs_and_deletes_are_blocked(
    narrow: Running, files: Path, tmp_path: Path
) -> None:
    client, uploads = narrow.client, narrow.service.upload_pool
    (folder := narrow.settings.data_dir / "incoming" / "some").mkdir()
    (folder / "a.png").write_bytes(picture(tmp_path, 0))
    doomed = [upload(client, "palette", picture(tmp_path, n)).json()["id"] for n in range(1, 5)]
    base = f"{client.base_url}/v1/collections/palette"
    sends = [lambda n=n: upload(client, "palette", picture(tmp_path, n)) for n in range(5, 5 + UPLOADS)]
    deletes = [lambda video=video: httpx.delete(f"{base}/videos/{video}", timeout=PATIENCE) for video in doomed]
    with all_at_once(*sends) as answers, held_ingestion(narrow) as is_held:
        wait_for(is_held)
        wait_for(lambda: uploads.active == UPLOADS)
        job = client.post("/v1/collections/palette/jobs", json={"folder": "some"}).headers["location"]
        with all_at_once(*deletes) as deleted, held_writes(narrow, "palette"):
            wait_for(lambda: narrow.service.write_pool.active == len(deletes))
            check_interactive(narrow)
            assert not any(answer.done() for answer in (*answers, *deleted))
        assert [answer.result().status_code for answer in deleted] == [204] * len(deletes)
        assert client.get(job).json()["state"] in ("queued", "running")
    assert [answer.result().status_code for answer in answers] == [201] * UPLOADS
    *_, last = all_events(client, job)
    assert last.data["state"] == "succeeded"


def test_an_upload_beyond_the_limit_is_rejected_unless_it_accepts_a_job(narrow: Running, tmp_path: Path) -> None:
    client, uploads = narrow.client, narrow.service.upload_pool
    sends = [lambda n=n: upload(client, "palette", picture(tmp_path, n)) for n in range(20, 20 + UPLOADS)]
    with all_at_once(*sends) as answers, held_ingestion(narrow) as is_held:
        wait_for(is_held)
        wait_for(lambda: uploads.active == UPLOADS)
        refused = upload(client, "palette", picture(tmp_path, 30))
        problem_of(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        jobs = [
            client.post(
                "/v1/collections/palette/videos",
                files={"file": ("a.png", picture(tmp_path, number))},
                headers={"Prefer": preference},
            )
            for number, preference in ((31, "respond-async"), (32, "respond-async, wait=100"))
        ]
        assert [answer.status_code for answer in jobs] == [202, 202]
        assert not any(answer.done() for answer in answers)
    assert [answer.result().status_code for answer in answers] == [201] * UPLOADS
    for answer in jobs:
        *_, last = all_events(client, answer.headers["location"])
        assert last.data["state"] == "succeeded"


def test_a_queued_upload_becomes_a_job_or_ends_at_its_deadline(narrow: Running, tmp_path: Path) -> None:
    client, uploads = narrow.client, narrow.service.upload_pool
    sends = [lambda n=n: upload(client, "palette", picture(tmp_path, n)) for n in range(40, 40 + WORKERS)]
    with all_at_once(*sends) as answers, held_ingestion(narrow) as is_held:
        wait_for(is_held)
        wait_for(lambda: uploads.active == WORKERS)
        answer = client.post(
            "/v1/collections/palette/videos",
            files={"file": ("a.png", picture(tmp_path, 50))},
            headers={"Prefer": "respond-async, wait=1"},
        )
        assert answer.status_code == 202, answer.text
        late = client.post(
            "/v1/collections/palette/videos",
            files={"file": ("a.png", picture(tmp_path, 51))},
            headers={"X-Request-Timeout": "0.2"},
        )
        assert "respond-async" in problem_of(late, 504, "deadline_exceeded")["detail"]
    assert [answer.result().status_code for answer in answers] == [201] * WORKERS
    *_, last = all_events(client, answer.headers["location"])
    assert last.data["state"] == "succeeded"
