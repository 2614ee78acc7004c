"""Jobs: creation, control, events over lost connections, waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.vitascope.local_server import client_of, problem
from vitascope import errors


@pytest.mark.parametrize(
    "refused",
    [
        problem(404, "route_not_found", "an earlier version"),
        problem(429, "too_many_at_once", "20 event streams of this client are open"),
        httpx.Response(200, json={"id": "1", "state": "queued"}),
    ],
)
def test_wait_for_job_polls_a_service_without_event_streams(refused: httpx.Response) -> None:
    states = iter(["queued", "running", "succeeded"])
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return refused
        return httpx.Response(200, json={"id": "1", "state": next(states)})

    with client_of(answer) as client:
        job = client.wait_for_job("videos", "1", interval=0, on_change=lambda job: seen.append(job["state"]))
    assert job["state"] == "succeeded"
    assert seen == ["queued", "running", "succeeded"]


def told(number: int | None, event: str, state: str) -> str:
    identity = "" if number is None else f"id: {number}\n"
    return f'{identity}event: {event}\ndata: {{"state": "{state}"}}\n\n'


class Lost(httpx.SyncByteStream):
    """Stream that ends with a lost connection."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self.text.encode()
        raise httpx.ReadError("reset")


def test_job_events_resume_after_lost_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitascope.client._sync.jobs.RECONNECT_SECONDS", 0.0)
    begun = []
    pages = iter(
        [
            Lost(
                f"retry: 2000\n\n{told(1, 'state', 'running')}:\n\n{told(2, 'item', 'succeeded')}id: 3\nevent: item\n"
            ),
            Lost(told(3, "item", "failed") + told(None, "progress", "running")),
            httpx.ByteStream(told(4, "item", "succeeded").encode()),  # the service stopped
            httpx.ByteStream((told(5, "state", "succeeded")).encode()),
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        begun.append(request.headers.get("Last-Event-ID"))
        return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=next(pages))

    with client_of(answer) as client:
        events = list(client.iter_job_events("videos", "1"))
    assert [(event["id"], event["event"], event["data"]["state"]) for event in events] == [
        ("1", "state", "running"),
        ("2", "item", "succeeded"),
        ("3", "item", "failed"),
        (None, "progress", "running"),
        ("4", "item", "succeeded"),
        ("5", "state", "succeeded"),
    ]
    assert begun == [None, "2", "3", "4"]
    with client_of(lambda request: httpx.Response(204)) as client:
        assert list(client.iter_job_events("videos", "1", after=5)) == []


def test_jobs_are_created_and_controlled_by_their_paths() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, str(request.url.raw_path, "ascii"), json.loads(request.content or b"null")))
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.create_job("a", "films", recursive=False)
        client.create_job("a", source={"kind": "url", "url": "s3://b/"}, metadata={"year": 2024})
        client.list_jobs("a", state="paused")
        client.pause_job("a", "1")
        client.resume_job("a", "1")
        client.retry_job("a", "1")
        with pytest.raises(errors.InvalidInput, match="exactly one"):
            client.create_job("a")
    jobs = "/v1/collections/a/jobs"
    assert sent == [
        ("POST", jobs, {"folder": "films", "recursive": False, "metadata": {}}),
        ("POST", jobs, {"source": {"kind": "url", "url": "s3://b/"}, "metadata": {"year": 2024}}),
        ("GET", f"{jobs}?state=paused", None),
        ("POST", f"{jobs}/1/pause", None),
        ("POST", f"{jobs}/1/resume", None),
        ("POST", f"{jobs}/1/retry", None),
    ]


def test_add_video_raises_conflict_if_its_job_is_cancelled(tmp_path: Path) -> None:
    (tmp_path / "dog.mp4").write_bytes(b"not really a video")
    job = {"id": "7", "state": "cancelled", "error": None}
    items = [{"path": "dog.mp4", "state": "cancelled", "reason": "not tried", "video_id": None}]
    preferred = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            preferred.append(request.headers["Prefer"])
            return httpx.Response(202, json={**job, "state": "queued"})
        if request.url.path.endswith("/events"):
            return problem(404, "route_not_found", "x")
        return httpx.Response(200, json={"items": items} if request.url.path.endswith("/items") else job)

    with client_of(answer) as client:
        with pytest.raises(errors.Conflict, match="job 7: cancelled"):
            client.add_video("videos", tmp_path / "dog.mp4")
        items.clear()
        job["error"] = "the bundle cannot embed"
        with pytest.raises(errors.Conflict, match="job 7: cancelled: the bundle cannot embed"):
            client.add_video("videos", tmp_path / "dog.mp4")
        assert client.submit_video("videos", tmp_path / "dog.mp4")["id"] == "7"
    assert preferred == ["respond-async, wait=20"] * 2 + ["respond-async"]
