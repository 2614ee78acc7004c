"""Webhooks: signed messages about ended jobs, delivered at least once."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from service.http.api_keys import KeyStore
from service.webhooks import dispatcher as dispatcher_module
from service.webhooks import store as store_module
from service.webhooks.dispatcher import Dispatcher, retry_delay
from service.webhooks.store import Endpoint, WebhookStore
from tests.service.conftest import settings_for
from tests.service.jobs import jobs_kept_queued, start_job, write_pictures
from tests.service.running import JSON, ROOT, Running, problem_of, process, serving
from tests.service.webhooks import Receiver, client_to, receiving
from tests.waiting import PATIENCE, wait_for
from vitascope.webhooks import SignatureInvalid, generate_secret, sign, verify

ALL = ["job.succeeded", "job.failed", "job.cancelled"]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def sender(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Running]:
    """A service with webhooks, and a collection `videos`."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("sender"), webhooks="on")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatcher_module, "POLL_SECONDS", 0.05)
        patch.setattr(dispatcher_module, "BASE_DELAY", 0.2)
        patch.setattr(dispatcher_module, "MAX_DELAY", 0.4)
        with serving(settings, webhook_client=client_to(receiver.port, 1)) as running:
            running.client.post("/v1/collections", json={"name": "videos"}).raise_for_status()
            write_pictures(settings.roots()[0] / "good", 2)
            yield running


@pytest.fixture(autouse=True)
def reset(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start each test without endpoints, received messages and pending deliveries."""
    if "sender" in request.fixturenames:
        sender: Running = request.getfixturevalue("sender")
        receiver: Receiver = request.getfixturevalue("receiver")
        receiver.requests, receiver.responses = [], []
        yield
        for each in sender.client.get("/v1/webhooks").json()["webhooks"]:
            assert sender.client.delete(f"/v1/webhooks/{each['id']}").status_code == 204
        wait_for(lambda: not dispatcher_of(sender)._busy)
    else:
        yield


def dispatcher_of(running: Running) -> Dispatcher:
    assert running.service.webhooks is not None
    return running.service.webhooks


def create_webhook(client: httpx.Client, url: str, events: list[str] | None = None) -> JSON:
    response = client.post("/v1/webhooks", json={"url": url, "events": events or ALL})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    webhook: JSON = response.json()
    assert response.headers["location"] == f"/v1/webhooks/{webhook['id']}"
    return webhook


def deliveries(client: httpx.Client, webhook: JSON) -> list[JSON]:
    result: list[JSON] = client.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["deliveries"]
    return result


def test_an_ended_job_is_delivered_with_its_failures(sender: Running, receiver: Receiver) -> None:
    webhook = create_webhook(sender.client, receiver.url)
    folder = sender.settings.roots()[0] / "mixed"
    write_pictures(folder, 1)
    (folder / "broken.mp4").write_bytes(b"no video")
    job = start_job(sender.client, "videos", folder)
    wait_for(lambda: receiver.requests)
    headers = {name.lower(): value for name, value in receiver.requests[0][0].items()}
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"receiver.example:{receiver.port}"
    message = receiver.read(webhook["secret"])
    assert message["type"] == "job.succeeded"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["timestamp"])
    assert message["data"]["collection"] == "videos"
    assert message["data"]["job"] == sender.client.get(job).json()
    (failure,) = message["data"]["failures"]
    assert (Path(failure["path"]).name, failure["state"]) == ("broken.mp4", "failed")
    assert "broken.mp4" in failure["reason"]
    wait_for(lambda: deliveries(sender.client, webhook)[0]["state"] == "delivered")
    (delivery,) = deliveries(sender.client, webhook)
    assert delivery["id"] == headers["webhook-id"]
    expected = {"type": "job.succeeded", "attempts": 1, "status": 204, "error": None, "next_at": None}
    assert delivery.items() >= expected.items()

    headers, body = receiver.requests[0]
    for changed in (body.replace(b"succeeded", b"cancelled"), body + b" "):
        with pytest.raises(SignatureInvalid):
            verify(webhook["secret"], headers, changed)
    with pytest.raises(SignatureInvalid):
        verify(generate_secret(), headers, body)


def test_endpoints_receive_their_event_types_since_their_creation(sender: Running, receiver: Receiver) -> None:
    client = sender.client
    failing = sender.settings.roots()[0] / "leaving"
    failing.mkdir()
    before = start_job(client, "videos", Path("good"))
    wait_for(lambda: client.get(before).json()["state"] == "succeeded")
    everything, failed = create_webhook(client, receiver.url), create_webhook(client, receiver.url, ["job.failed"])
    good = start_job(client, "videos", Path("good"))
    wait_for(lambda: client.get(good).json()["state"] == "succeeded")
    with jobs_kept_queued(sender.service.worker) as waiting:
        cancelled, lost = (start_job(client, "videos", failing) for _ in range(2))
        assert client.delete(cancelled).json()["state"] == "cancelled"
        failing.rmdir()
    waiting[-1]()
    wait_for(lambda: client.get(lost).json()["state"] == "failed")
    wait_for(lambda: [each["state"] for each in deliveries(client, everything)] == ["delivered"] * 3)
    wait_for(lambda: [each["state"] for each in deliveries(client, failed)] == ["delivered"])
    assert [each["type"] for each in deliveries(client, everything)] == ["job.failed", "job.cancelled", "job.succeeded"]
    (delivery,) = deliveries(client, failed)
    bodies = [body for headers, body in receiver.requests if headers["webhook-id"] == delivery["id"]]
    assert len(bodies) == 1
    assert json.loads(bodies[0])["data"]["job"]["error"]
    assert len(receiver.requests) == 4


def test_a_failed_delivery_is_retried_under_the_same_id(sender: Running, receiver: Receiver) -> None:
    released = threading.Event()
    receiver.responses = [500, released, 302, 429]
    webhook = create_webhook(sender.client, receiver.url)
    start_job(sender.client, "videos", Path("good"))
    wait_for(lambda: (pending := deliveries(sender.client, webhook)) and pending[0]["status"] == 500)
    released.set()
    wait_for(lambda: (pending := deliveries(sender.client, webhook)) and pending[0]["state"] == "delivered")
    (delivery,) = deliveries(sender.client, webhook)
    assert delivery["attempts"] == 4
    assert {headers["webhook-id"] for headers, _ in receiver.requests} == {delivery["id"]}
    assert len({body for _, body in receiver.requests}) == 1


def test_an_unreachable_receiver_gets_the_message_later(sender: Running, port: int) -> None:
    dispatcher = dispatcher_of(sender)
    client, dispatcher._client = dispatcher._client, client_to(port)
    try:
        webhook = create_webhook(sender.client, f"http://receiver.example:{port}/")
        start_job(sender.client, "videos", Path("good"))
        wait_for(lambda: (pending := deliveries(sender.client, webhook)) and pending[0]["attempts"] >= 2)
        (waiting,) = deliveries(sender.client, webhook)
        assert (waiting["state"], waiting["status"]) == ("pending", None)
        assert "refused" in waiting["error"]
        assert waiting["next_at"] > waiting["last_at"]
        assert "vitascope_webhooks_pending 1.0" in sender.client.get("/metrics").text
        with receiving(port) as back:
            wait_for(lambda: back.requests)
            back.read(webhook["secret"])
            wait_for(lambda: deliveries(sender.client, webhook)[0]["state"] == "delivered")
    finally:
        dispatcher._client = client


def test_a_message_is_given_up_after_its_time_or_status_410(
    sender: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = create_webhook(sender.client, receiver.url)
    receiver.responses = [410]
    start_job(sender.client, "videos", Path("good"))
    wait_for(lambda: [each["state"] for each in deliveries(sender.client, webhook)] == ["failed"])
    assert len(receiver.requests) == 1
    receiver.responses = [503] * 1000
    start_job(sender.client, "videos", Path("good"))
    wait_for(lambda: deliveries(sender.client, webhook)[0]["attempts"] >= 2)
    assert deliveries(sender.client, webhook)[0]["state"] == "pending"
    monkeypatch.setattr(dispatcher_of(sender), "_retry_seconds", 0.0)
    wait_for(lambda: [each["state"] for each in deliveries(sender.client, webhook)] == ["failed"] * 2)
    page = sender.client.get(f"/v1/webhooks/{webhook['id']}/deliveries", params={"limit": 1, "state": "failed"}).json()
    rest = sender.client.get(f"/v1/webhooks/{webhook['id']}/deliveries", params={"cursor": page["next_cursor"]}).json()
    assert [each["status"] for each in page["deliveries"] + rest["deliveries"]] == [503, 410]


def test_a_hanging_receiver_delays_neither_jobs_nor_other_receivers(sender: Running, receiver: Receiver) -> None:
    with receiving() as slow:
        release = threading.Event()
        slow.responses = [release]
        dispatcher = dispatcher_of(sender)
        client, dispatcher._client = dispatcher._client, client_to(slow.port, receiver.port)
        try:
            create_webhook(sender.client, slow.url)
            quick = create_webhook(sender.client, receiver.url)
            for _ in range(3):
                job = start_job(sender.client, "videos", Path("good"))
                wait_for(lambda job=job: sender.client.get(job).json()["state"] == "succeeded")  # type: ignore[misc]
            wait_for(lambda: slow.requests)
            wait_for(lambda: [each["state"] for each in deliveries(sender.client, quick)] == ["delivered"] * 3)
            assert len(slow.requests) == 1
        finally:
            release.set()
            dispatcher._client = client


def test_an_endpoint_created_during_a_poll_misses_no_event(
    sender: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher, polling, release = dispatcher_of(sender), threading.Event(), threading.Event()
    endpoints = dispatcher.store.endpoints

    def read_endpoints() -> list[Endpoint]:
        result = endpoints()
        if threading.current_thread() is dispatcher._thread and result:
            polling.set()
            assert release.wait(PATIENCE)
        return result

    monkeypatch.setattr(dispatcher.store, "endpoints", read_endpoints)
    create_webhook(sender.client, receiver.url)
    assert polling.wait(PATIENCE)
    late = create_webhook(sender.client, receiver.url)
    job = start_job(sender.client, "videos", Path("good"))
    wait_for(lambda: sender.client.get(job).json()["state"] == "succeeded")
    release.set()
    wait_for(lambda: [each["state"] for each in deliveries(sender.client, late)] == ["delivered"])


def test_jobs_that_ended_just_before_their_collection_is_dropped_or_by_that_are_delivered(
    sender: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = create_webhook(sender.client, receiver.url)
    sender.client.post("/v1/collections", json={"name": "dropped"}).raise_for_status()
    with monkeypatch.context() as patch:
        patch.setattr(dispatcher_of(sender), "_queue_messages", lambda: None)  # the next poll is later
        job = start_job(sender.client, "dropped", Path("good"))
        wait_for(lambda: sender.client.get(job).json()["state"] == "succeeded")
        with jobs_kept_queued(sender.service.worker):
            start_job(sender.client, "dropped", Path("good"))
            sender.client.delete("/v1/collections/dropped").raise_for_status()
    wait_for(lambda: len(receiver.requests) == 2)
    messages = [receiver.read(webhook["secret"], number) for number in range(2)]
    assert [each["data"]["collection"] for each in messages] == ["dropped", "dropped"]
    assert {each["type"] for each in messages} == {"job.succeeded", "job.cancelled"}


def test_after_a_rotation_both_secrets_sign(sender: Running, receiver: Receiver) -> None:
    webhook = create_webhook(sender.client, receiver.url)
    renewed = sender.client.post(f"/v1/webhooks/{webhook['id']}/rotate").json()
    assert renewed["secret"] != webhook["secret"]
    assert renewed["previous_secret_until"] > time.time() + 23 * 3600
    start_job(sender.client, "videos", Path("good"))
    wait_for(lambda: receiver.requests)
    assert receiver.read(webhook["secret"]) == receiver.read(renewed["secret"])


def test_both_secrets_of_two_concurrent_rotations_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = WebhookStore(tmp_path)
    webhook = store.create("https://portal.example/hook", ["job.succeeded"])
    inner: list[Endpoint] = []

    def secret_after_another() -> str:
        monkeypatch.setattr(store_module, "generate_secret", generate_secret)
        inner.append(store.rotate(webhook.id))
        return generate_secret()

    monkeypatch.setattr(store_module, "generate_secret", secret_after_another)
    outer = store.rotate(webhook.id)
    stored = store.endpoint(webhook.id)
    assert (stored.secret, stored.previous_secret) == (outer.secret, inner[0].secret)
    store.close()


def test_secrets_and_urls_are_neither_listed_nor_logged(
    sender: Running, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        receiver.responses = [500]
        webhook = create_webhook(sender.client, receiver.url)
        start_job(sender.client, "videos", Path("good"))
        wait_for(lambda: (pending := deliveries(sender.client, webhook)) and pending[0]["state"] == "delivered")
    assert webhook["secret"].startswith("whsec_")
    for path in ("", f"/{webhook['id']}", f"/{webhook['id']}/deliveries"):
        assert webhook["secret"] not in sender.client.get(f"/v1/webhooks{path}").text
    assert "status 500" in caplog.text
    assert webhook["secret"] not in caplog.text
    assert "token=hidden" not in caplog.text
    assert webhook["secret"] not in repr(sender.service.webhooks and sender.service.webhooks.store.endpoints())
    assert (sender.settings.data_dir / store_module.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_undelivered_messages_survive_a_kill(
    small_bundle: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver is down at the first event, and the service is killed before it polls for the second."""
    settings = settings_for(small_bundle, tmp_path / "data", webhooks="on")
    write_pictures(settings.roots()[0] / "good", 1)
    pause_file = tmp_path / "paused"
    with process(settings, "tests.service.webhooks", str(port), str(pause_file)) as (client, server):
        client.post("/v1/collections", json={"name": "videos"})
        webhook = create_webhook(client, f"http://receiver.example:{port}/")
        start_job(client, "videos", Path("good"))
        wait_for(lambda: deliveries(client, webhook))
        pause_file.touch()
        job = start_job(client, "videos", Path("good"))
        wait_for(lambda: client.get(job).json()["state"] == "succeeded")
        server.send_signal(signal.SIGKILL)
        server.wait(PATIENCE)
    monkeypatch.setattr(dispatcher_module, "POLL_SECONDS", 0.05)
    with receiving(port) as back, serving(settings, webhook_client=client_to(port)) as running:
        wait_for(lambda: [each["state"] for each in deliveries(running.client, webhook)] == ["delivered"] * 2)
        delivery = [back.read(webhook["secret"], number)["data"]["job"] for number in range(2)]
        assert sorted((job["id"], job["state"]) for job in delivery) == [("1", "succeeded"), ("2", "succeeded")]
        assert len(back.requests) == 2


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://portal.example/", 403, "url_refused"),
        ("https://portal.example:8443/", 403, "url_refused"),
        ("https://127.0.0.1/", 403, "url_refused"),
        ("https://[::ffff:10.0.0.1]/", 403, "url_refused"),
        ("https://name:sesame@portal.example/", 403, "url_refused"),
        ("https://other.test/", 403, "url_refused"),
        ("https://2130706433/", 422, "invalid_input"),
        ("portal.example", 403, "url_refused"),
    ],
)
def test_only_allowed_public_urls_are_accepted(restricted: Running, url: str, status: int, code: str) -> None:
    response = restricted.client.post("/v1/webhooks", json={"url": url, "events": ALL}, headers=KEY)
    assert "sesame" not in problem_of(response, status, code)["detail"]
    assert restricted.client.get("/v1/webhooks", headers=KEY).json() == {"webhooks": []}


KEY = {"X-API-Key": "a-key-of-more-than-thirty-two-characters"}


@pytest.fixture(scope="module")
def restricted(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with restricted webhook hosts, which sends nothing."""
    overrides = {
        "webhooks": "on",
        "webhook_hosts": ["*.portal.example", "portal.example"],
        "admin_key": KEY["X-API-Key"],
    }
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("sender"), allow_unauthenticated=False, **overrides)
    with serving(settings) as running:
        yield running


def test_receivers_in_an_allowed_network_are_reached(
    small_bundle: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses the default address filter and resolver."""
    monkeypatch.setattr(dispatcher_module, "POLL_SECONDS", 0.05)
    options = {"webhook_networks": ["127.0.0.0/30"], "webhook_schemes": ["http"], "webhook_ports": [receiver.port]}
    settings = settings_for(small_bundle, tmp_path / "data", webhooks="on", **options)
    receiver.requests, receiver.responses = [], []
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"}).raise_for_status()
        write_pictures(settings.roots()[0] / "good", 1)
        elsewhere = running.client.post(
            "/v1/webhooks", json={"url": f"http://127.0.0.9:{receiver.port}/", "events": ALL}
        )
        problem_of(elsewhere, 403, "url_refused")
        create_webhook(running.client, f"http://127.0.0.1:{receiver.port}/hook")
        start_job(running.client, "videos", settings.roots()[0] / "good")
        wait_for(lambda: bool(receiver.requests))


def test_webhooks_require_the_scope_admin_for_all_collections(restricted: Running) -> None:
    store = KeyStore(restricted.settings.data_dir)
    keys = [store.create("w", ["read", "write"])[1], store.create("a", ["admin"], collections=["videos"])[1]]
    store.close()
    for key in keys:
        for method, path in (("POST", ""), ("GET", ""), ("DELETE", "/1"), ("POST", "/1/rotate")):
            response = restricted.client.request(method, f"/v1/webhooks{path}", headers={"X-API-Key": key})
            problem_of(response, 403, "scope_missing")


def test_invalid_webhook_requests_are_problems(restricted: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client = restricted.client
    for method, path in (("GET", "/no"), ("DELETE", "/no"), ("POST", "/no/rotate"), ("GET", "/no/deliveries")):
        problem_of(client.request(method, f"/v1/webhooks{path}", headers=KEY), 404, "webhook_not_found")
    body = {"url": "https://portal.example/hook", "events": ["job.succeeded"]}
    unknown = {**body, "events": ["job.begun"]}
    problem_of(client.post("/v1/webhooks", json=unknown, headers=KEY), 422, "validation_failed")
    monkeypatch.setattr(store_module, "MAX_ENDPOINTS", 1)
    webhook = client.post("/v1/webhooks", json=body, headers=KEY).json()
    problem_of(client.post("/v1/webhooks", json=body, headers=KEY), 409, "too_many_webhooks")
    assert client.get(f"/v1/webhooks/{webhook['id']}", headers=KEY).json()["events"] == ["job.succeeded"]
    client.delete(f"/v1/webhooks/{webhook['id']}", headers=KEY)


def test_webhooks_are_off_by_default(running: Running) -> None:
    response = running.client.post("/v1/webhooks", json={"url": "https://portal.example/", "events": ALL})
    assert "VITASCOPE_WEBHOOKS" in problem_of(response, 409, "webhooks_off")["detail"]
    assert not (running.settings.data_dir / store_module.FILE_NAME).exists()


def test_retries_back_off_with_jitter_and_respect_retry_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher_module, "BASE_DELAY", 5.0)
    monkeypatch.setattr(dispatcher_module, "MAX_DELAY", 3600.0)
    delays = [[retry_delay(tries, {}) for _ in range(50)] for tries in range(1, 40)]
    for attempt, delays_of_attempt in enumerate(delays, 1):
        limit = min(3600.0, 5.0 * 2 ** (attempt - 1))
        assert limit / 2 <= min(delays_of_attempt) < max(delays_of_attempt) <= limit
    assert retry_delay(1, {"retry-after": "120"}) == 120
    assert retry_delay(1, {"retry-after": "999999"}) == 3600
    assert retry_delay(1, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}) <= 5
    in_two_minutes = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)
    assert 110 < retry_delay(1, {"retry-after": in_two_minutes}) < 121
    assert retry_delay(1, {"retry-after": "soon"}) <= 5


def test_the_documented_receiver_accepts_signed_messages_only(port: int) -> None:
    text = (ROOT / "docs" / "jobs.md").read_text("utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "verify(" in block)
    secret = generate_secret()
    code = code.replace("9000", str(port)).replace("whsec_…", secret)
    example = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        url, body = f"http://127.0.0.1:{port}/", json.dumps(EXAMPLE).encode()
        now = int(time.time())
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(now),
            "webhook-signature": sign(secret, "msg_1", now, body),
        }
        wait_for(lambda: _is_running(url))
        assert httpx.post(url, content=body, headers=headers, timeout=PATIENCE).status_code == 204
        assert httpx.post(url, content=body + b" ", headers=headers, timeout=PATIENCE).status_code == 400
        assert example.stdout is not None
        assert example.stdout.readline().split() == ["job.succeeded", "films", "7"]
    finally:
        example.kill()
        example.wait(PATIENCE)


EXAMPLE = {"type": "job.succeeded", "data": {"collection": "films", "job": {"id": "7"}}}


def _is_running(url: str) -> bool:
    try:
        return httpx.post(url, content=b"", timeout=PATIENCE).status_code == 400
    except httpx.HTTPError:
        return False
