"""Idempotency-Key: a repeated request runs once, also over restarts and kills."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.idempotency import RETENTION_SECONDS, IdempotencyStore, RequestDigest, StoredResponse
from service.routes import videos
from tests.service.conftest import settings_for
from tests.service.running import Running, make_key, problem_of, process, send, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client
from vitascope.errors import CollectionExists, StorageError


def create(client: httpx.Client, name: str, key: str) -> httpx.Response:
    return client.post("/v1/collections", json={"name": name}, headers={"Idempotency-Key": key})


def upload(client: httpx.Client, collection: str, file: Path, key: str, title: str = "a") -> httpx.Response:
    path = f"/v1/collections/{collection}/videos"
    form = {"file": (file.name, file.read_bytes())}
    return client.post(path, files=form, data={"title": title}, headers={"Idempotency-Key": key})


def assert_replayed(first: httpx.Response, repeated: httpx.Response) -> None:
    assert first.is_success
    assert "idempotency-replayed" not in first.headers
    assert repeated.headers["idempotency-replayed"] == "true"
    assert (repeated.status_code, repeated.content) == (first.status_code, first.content)
    for name in ("location", "content-type"):
        assert repeated.headers[name] == first.headers[name]
    assert repeated.headers["x-request-id"] != first.headers["x-request-id"]


def test_a_repeated_request_gets_the_stored_response(running: Running, incoming: Path, files: Path) -> None:
    client = running.client
    assert_replayed(create(client, "idem-a", '"quoted-1"'), create(client, "idem-a", "quoted-1"))
    first = upload(client, "idem-a", files / "red.mp4", "up-1")
    assert first.status_code == 201
    # With another form boundary; without the key it would be 200, since the content is stored already.
    assert_replayed(first, upload(client, "idem-a", files / "red.mp4", "up-1"))
    assert upload(client, "idem-a", files / "red.mp4", "up-2").status_code == 200
    path, headers = "/v1/collections/idem-a/jobs", {"Idempotency-Key": "job-1"}
    assert_replayed(*(client.post(path, json={"folder": str(incoming)}, headers=headers) for _ in range(2)))
    assert [job["source"]["kind"] for job in client.get(path).json()["jobs"]] == ["folder", "upload"]
    assert client.delete("/v1/collections/idem-a").status_code == 204
    assert_replayed(first, upload(client, "idem-a", files / "red.mp4", "up-1"))


def test_a_key_reused_for_a_different_request_is_rejected(running: Running, files: Path) -> None:
    client = running.client
    assert create(client, "idem-b", "other-1").status_code == 201
    problem_of(create(client, "idem-c", "other-1"), 422, "idempotency_key_reused")
    assert client.get("/v1/collections/idem-c").status_code == 404
    assert upload(client, "idem-b", files / "red.mp4", "other-2").status_code == 201
    for file, title in (("green", "a"), ("red", "b")):
        response = upload(client, "idem-b", files / f"{file}.mp4", "other-2", title)
        problem_of(response, 422, "idempotency_key_reused")
    assert client.get("/v1/collections/idem-b").json()["videos"] == 1


def test_a_failed_request_may_be_repeated(running: Running, collection: str, tmp_path: Path, files: Path) -> None:
    client = running.client
    assert upload(client, "idem-nowhere", files / "red.mp4", "failed-1").status_code == 404
    letter = tmp_path / "letter.mp4"
    letter.write_text("Dear reader, this is no video.")
    assert upload(client, collection, letter, "failed-1").status_code == 415
    assert upload(client, collection, files / "red.mp4", "failed-1").status_code == 201


def test_a_repetition_during_the_first_request_is_a_conflict(
    running: Running, collection: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()
    add_upload = videos.add_upload

    def add_later(*args: Any) -> object:
        entered.set()
        release.wait(PATIENCE)
        return add_upload(*args)

    monkeypatch.setattr(videos, "add_upload", add_later)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(upload, running.client, collection, files / "red.mp4", "way-1")
        try:
            assert entered.wait(PATIENCE)
            for _ in range(2):
                response = upload(running.client, collection, files / "red.mp4", "way-1")
                problem_of(response, 409, "idempotency_in_progress")
                assert response.headers["retry-after"] == "1"
        finally:
            release.set()
        assert_replayed(first.result(), upload(running.client, collection, files / "red.mp4", "way-1"))


@pytest.mark.parametrize("key", ["", '""', "a b", "a" * 256, '"a', "a;b"])
def test_an_invalid_idempotency_key_is_rejected(running: Running, key: str) -> None:
    problem_of(create(running.client, "idem-bad", key), 400, "bad_request")
    assert running.client.get("/v1/collections/idem-bad").status_code == 404


def test_a_repetition_with_a_too_large_body_is_rejected(running: Running) -> None:
    assert create(running.client, "idem-large", "large-1").status_code == 201

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 50_000

    headers = {"content-type": "application/json", "Idempotency-Key": "large-1"}
    response = running.client.post("/v1/collections", content=endless(), headers=headers)
    problem_of(response, 413, "payload_too_large")


def test_a_response_that_cannot_be_stored_is_not_sent(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(IdempotencyStore, "put", fail)
        problem_of(create(running.client, "idem-full", "full-1"), 507, "storage_error")
    problem_of(create(running.client, "idem-full", "full-1"), 409, "collection_exists")


def test_idempotency_keys_are_separate_for_each_client(locked: Running) -> None:
    first, second = (make_key(locked, "admin") for _ in range(2))

    def create_as(key: str, name: str) -> httpx.Response:
        return send(locked, "POST", "/v1/collections", key, json={"name": name}, idempotency_key="one")

    assert create_as(first, "idem-shared").status_code == 201
    problem_of(create_as(second, "idem-shared"), 409, "collection_exists")
    assert create_as(second, "idem-own").status_code == 201


def test_stored_responses_survive_a_restart_and_a_kill(small_bundle: Path, tmp_path: Path, files: Path) -> None:
    """The process dies while an upload waits for the model; the repetition runs it."""
    settings = settings_for(small_bundle, tmp_path / "data")
    with process(settings, "tests.service.altered_service", "stalling", "0") as (client, server):
        first = create(client, "kept", "kill-1")
        with ThreadPoolExecutor(1) as thread:
            interrupted = thread.submit(upload, client, "kept", files / "red.mp4", "kill-2")
            size = (files / "red.mp4").stat().st_size

            def is_received() -> bool:
                with suppress(FileNotFoundError):  # moved from the uploads to the collection
                    paths = (path for path in (tmp_path / "data").rglob("*") if path.is_file())
                    return any(path.stat().st_size == size for path in paths)
                return False

            wait_for(is_received)
            server.kill()
            with pytest.raises(httpx.TransportError):
                interrupted.result()
    with serving(settings) as running:
        assert_replayed(first, create(running.client, "kept", "kill-1"))
        done = upload(running.client, "kept", files / "red.mp4", "kill-2")
        assert done.status_code in (200, 201)  # 200 where the job was stored, which the service has continued
        assert_replayed(done, upload(running.client, "kept", files / "red.mp4", "kill-2"))
        assert running.client.get("/v1/collections/kept").json()["videos"] == 1


def test_responses_are_kept_for_a_day_and_limited_per_client(tmp_path: Path) -> None:
    store = IdempotencyStore(tmp_path, max_responses=3)
    response = StoredResponse(b"f" * 32, 201, {"Content-Type": "application/json", "Location": "/v1/x"}, b"{}")
    store.put("other", "a", response, 1000.0)
    for number in range(5):
        store.put("one", f"key-{number}", response, 1001.0 + number)
    kept = [number for number in range(5) if store.get("one", f"key-{number}", 1010.0)]
    assert kept == [2, 3, 4]
    assert store.get("other", "a", 1010.0) == response
    assert store.get("other", "a", 1000.0 + RETENTION_SECONDS) is None
    store.put("one", "later", response, 1000.0 + 2 * RETENTION_SECONDS)
    store.close()
    store = IdempotencyStore(tmp_path, max_responses=3)
    assert store.get("one", "key-4", 1010.0) is None  # swept out
    assert store.get("one", "later", 1000.0 + 2 * RETENTION_SECONDS) == response
    store.close()


def form(boundary: str, content: bytes) -> bytes:
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
    return start + content + f"\r\n--{boundary}--\r\n".encode()


def request_digest(body: bytes, boundary: str, size: int) -> bytes:
    scope = {"method": "POST", "path": "/a", "query_string": b""}
    created = RequestDigest(scope, f"multipart/form-data; boundary={boundary}")
    for start in range(0, len(body), size):
        created.update(body[start : start + size])
    return created.digest()


@pytest.mark.parametrize("size", [1, 2, 7, 33, 1000])
def test_the_request_digest_depends_on_content_and_not_on_chunks_or_boundary(size: int) -> None:
    content = b"--aaaab\r\n--bound" * 20
    expected = request_digest(form("boundary-one", content), "boundary-one", 10_000)
    assert request_digest(form("boundary-one", content), "boundary-one", size) == expected
    assert request_digest(form("another", content), "another", size) == expected
    assert request_digest(form("another", content + b"!"), "another", size) != expected


def test_the_python_client_sends_the_idempotency_key(running: Running, files: Path) -> None:
    with Client(str(running.client.base_url)) as client:
        created = client.create_collection("idem-client", idempotency_key="client-1")
        assert client.create_collection("idem-client", idempotency_key="client-1") == created
        with pytest.raises(CollectionExists):
            client.create_collection("idem-client")
        added = [client.add_video("idem-client", files / "red.mp4", idempotency_key="client-2") for _ in range(2)]
        assert added[0] == added[1]
