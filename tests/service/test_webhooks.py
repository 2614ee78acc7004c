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
from pathlib import Path

import httpx
import pytest

from service.http.api_keys import KeyStore
from service.webhooks import dispatcher as dispatcher_module
from service.webhooks import store as store_module
from service.webhooks.dispatcher import Dispatcher, retry_delay
from service.webhooks.store import Endpoint, WebhookStore
from tests.service.blocked_jobs import not_begun
from tests.service.conftest import settings_for
from tests.service.running import JSON, ROOT, Running, problem_of, process, serving
from tests.service.test_job_stream import begin, pictures
from tests.service.webhook_receiver import Receiver, client_to, receiving
from tests.waiting import PATIENCE, wait_for
from vitascope.webhooks import SignatureInvalid, generate_secret, sign, verify

ALL = ["job.succeeded", "job.failed", "job.cancelled"]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


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
            pictures(settings.roots()[0] / "good", 2)
            yield running


@pytest.fixture(autouse=True)
def reset(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start each test without endpoints, received messages and pending deliveries."""
    if "sender" in request.fixturenames:
        sender: Running = request.getfixturevalue("sender")
        receiver: Receiver = request.getfixturevalue("receiver")
        receiver.got, receiver.answers = [], []
        yield
        for each in sender.client.get("/v1/webhooks").json()["webhooks"]:
            assert sender.client.delete(f"/v1/webhooks/{each['id']}").status_code == 204
        wait_for(lambda: not dispatcher_of(sender)._busy)
    else:
        yield


def dispatcher_of(running: Running) -> Dispatcher:
    assert running.service.webhooks is not None
    return running.service.webhooks


def hook(client: httpx.Client, url: str, events: list[str] | None = None) -> JSON:
    answer = client.post("/v1/webhooks", json={"url": url, "events": events or ALL})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made: JSON = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{made['id']}"
    return made


def deliveries(client: httpx.Client, made: JSON) -> list[JSON]:
    result: list[JSON] = client.get(f"/v1/webhooks/{made['id']}/deliveries").json()["deliveries"]
    return result


def test_an_ended_job_is_delivered_with_its_failures(sender: Running, receiver: Receiver) -> None:
    made = hook(sender.client, receiver.url)
    folder = sender.settings.roots()[0] / "mixed"
    pictures(folder, 1)
    (folder / "broken.mp4").write_bytes(b"no video")
    job = begin(sender.client, "videos", folder)
    wait_for(lambda: receiver.got)
    headers = {name.lower(): value for name, value in receiver.got[0][0].items()}
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"receiver.example:{receiver.port}"
    message = receiver.read(made["secret"])
    assert message["type"] == "job.succeeded"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["timestamp"])
    assert message["data"]["collection"] == "videos"
    assert message["data"]["job"] == sender.client.get(job).json()
    (failure,) = message["data"]["failures"]
    assert (Path(failure["path"]).name, failure["state"]) == ("broken.mp4", "failed")
    assert "broken.mp4" in failure["reason"]
    wait_for(lambda: deliveries(sender.client, made)[0]["state"] == "delivered")
    (delivery,) = deliveries(sender.client, made)
    assert delivery["id"] == headers["webhook-id"]
    assert (delivery["type"], delivery["attempts"], delivery["status"], delivery["error"]) == (
        "job.succeeded",
        1,
        204,
        None,
    )
    assert delivery["next_at"] is None

    headers, body = receiver.got[0]
    for changed in (body.replace(b"succeeded", b"cancelled"), body + b" "):
        with pytest.raises(SignatureInvalid):
            verify(made["secret"], headers, changed)
    with pytest.raises(SignatureInvalid):
        verify(generate_secret(), headers, body)


def test_endpoints_receive_their_event_types_since_their_creation(sender: Running, receiver: Receiver) -> None:
    client = sender.client
    failing = sender.settings.roots()[0] / "leaving"
    failing.mkdir()
    before = begin(client, "videos", Path("good"))
    wait_for(lambda: client.get(before).json()["state"] == "succeeded")
    everything, failed = hook(client, receiver.url), hook(client, receiver.url, ["job.failed"])
    good = begin(client, "videos", Path("good"))
    wait_for(lambda: client.get(good).json()["state"] == "succeeded")
    with not_begun(sender.service.worker) as waiting:
        cancelled, lost = (begin(client, "videos", failing) for _ in range(2))
        assert client.delete(cancelled).json()["state"] == "cancelled"
        failing.rmdir()
    waiting[-1]()
    wait_for(lambda: client.get(lost).json()["state"] == "failed")
    wait_for(lambda: [each["state"] for each in deliveries(client, everything)] == ["delivered"] * 3)
    wait_for(lambda: [each["state"] for each in deliveries(client, failed)] == ["delivered"])
    assert [each["type"] for each in deliveries(client, everything)] == ["job.failed", "job.cancelled", "job.succeeded"]
    (delivery,) = deliveries(client, failed)
    got = [body for headers, body in receiver.got if headers["webhook-id"] == delivery["id"]]
    assert len(got) == 1
    assert json.loads(got[0])["data"]["job"]["error"]
    assert len(receiver.got) == 4


def test_a_failed_delivery_is_retried_under_the_same_id(sender: Running, receiver: Receiver) -> None:
    seen = threading.Event()
    receiver.answers = [500, seen, 302, 429]
    made = hook(sender.client, receiver.url)
    begin(sender.client, "videos", Path("good"))
    wait_for(lambda: (each := deliveries(sender.client, made)) and each[0]["status"] == 500)
    seen.set()
    wait_for(lambda: (each := deliveries(sender.client, made)) and each[0]["state"] == "delivered")
    (delivery,) = deliveries(sender.client, made)
    assert delivery["attempts"] == 4
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {delivery["id"]}
    assert len({body for _, body in receiver.got}) == 1


def test_an_unreachable_receiver_gets_the_message_later(sender: Running, port: int) -> None:
    dispatcher = dispatcher_of(sender)
    client, dispatcher._client = dispatcher._client, client_to(port)
    try:
        made = hook(sender.client, f"http://receiver.example:{port}/")
        begin(sender.client, "videos", Path("good"))
        wait_for(lambda: (each := deliveries(sender.client, made)) and each[0]["attempts"] >= 2)
        (waiting,) = deliveries(sender.client, made)
        assert (waiting["state"], waiting["status"]) == ("pending", None)
        assert "refused" in waiting["error"]
        assert waiting["next_at"] > waiting["last_at"]
        assert "vitascope_webhooks_pending 1.0" in sender.client.get("/metrics").text
        with receiving(port) as back:
            wait_for(lambda: back.got)
            back.read(made["secret"])
            wait_for(lambda: deliveries(sender.client, made)[0]["state"] == "delivered")
    finally:
        dispatcher._client = client


def test_a_message_is_given_up_after_its_time_or_status_410(
    sender: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hook(sender.client, receiver.url)
    receiver.answers = [410]
    begin(sender.client, "videos", Path("good"))
    wait_for(lambda: [each["state"] for each in deliveries(sender.client, made)] == ["failed"])
    assert len(receiver.got) == 1
    receiver.answers = [503] * 1000
    begin(sender.client, "videos", Path("good"))
    wait_for(lambda: deliveries(sender.client, made)[0]["attempts"] >= 2)
    assert deliveries(sender.client, made)[0]["state"] == "pending"
    monkeypatch.setattr(dispatcher_of(sender), "_retry_seconds", 0.0)
    wait_for(lambda: [each["state"] for each in deliveries(sender.client, made)] == ["failed"] * 2)
    page = sender.client.get(f"/v1/webhooks/{made['id']}/deliveries", params={"limit": 1, "state": "failed"}).json()
    rest = sender.client.get(f"/v1/webhooks/{made['id']}/deliveries", params={"cursor": page["next_cursor"]}).json()
    assert [each["status"] for each in page["deliveries"] + rest["deliveries"]] == [503, 410]


def test_a_hanging_receiver_delays_neither_jobs_nor_other_receivers(sender: Running, receiver: Receiver) -> None:
    with receiving() as slow:
        release = threading.Event()
        slow.answers = [release]
        dispatcher = dispatcher_of(sender)
        client, dispatcher._client = dispatcher._client, client_to(slow.port, receiver.port)
        try:
            hook(sender.client, slow.url)
            quick = hook(sender.client, receiver.url)
            for _ in range(3):
                job = begin(sender.client, "videos", Path("good"))
                wait_for(lambda job=job: sender.client.get(job).json()["state"] == "succeeded")  # type: ignore[misc]
            wait_for(lambda: slow.got)
            wait_for(lambda: [each["state"] for each in deliveries(sender.client, quick)] == ["delivered"] * 3)
            assert len(slow.got) == 1
        finally:
            release.set()
            dispatcher._client = client


def test_an_endpoint_created_during_a_poll_misses_no_event(
    sender: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher, polling, release = dispatcher_of(sender), threading.Event(), threading.Event()
    endpoints = dispatcher.store.endpoints

    def look() -> list[Endpoint]:
        result = endpoints()
        if threading.current_thread() is dispatcher._thread and result:
            polling.set()
            assert release.wait(PATIENCE)
        return result

    monkeypatch.setattr(dispatcher.store, "endpoints", look)
    hook(sender.client, receiver.url)
    assert polling.wait(PATIENCE)
    late = hook(sender.client, receiver.url)
    job = begin(sender.client, "videos", Path("good"))
    wait_for(lambda: sender.client.get(job).json()["state"] == "succeeded")
    release.set()
    wait_for(lambda: [each["state"] for each in deliveries(sender.client, late)] == ["delivered"])


def test_after_a_rotation_both_secrets_sign(sender: Running, receiver: Receiver) -> None:
    made = hook(sender.client, receiver.url)
    renewed = sender.client.post(f"/v1/webhooks/{made['id']}/rotate").json()
    assert renewed["secret"] != made["secret"]
    assert renewed["previous_secret_until"] > time.time() + 23 * 3600
    begin(sender.client, "videos", Path("good"))
    wait_for(lambda: receiver.got)
    assert receiver.read(made["secret"]) == receiver.read(renewed["secret"])


def test_both_secrets_of_two_concurrent_rotations_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = WebhookStore(tmp_path)
    made = store.create("https://portal.example/hook", ["job.succeeded"])
    inner: list[Endpoint] = []

    def secret_after_another() -> str:
        monkeypatch.setattr(store_module, "generate_secret", generate_secret)
        inner.append(store.rotate(made.id))
        return generate_secret()

    monkeypatch.setattr(store_module, "generate_secret", secret_after_another)
    outer = store.rotate(made.id)
    kept = store.endpoint(made.id)
    assert (kept.secret, kept.previous_secret) == (outer.secret, inner[0].secret)
    store.close()


def test_secrets_and_urls_are_neither_listed_nor_logged(
    sender: Running, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        receiver.answers = [500]
        made = hook(sender.client, receiver.url)
        begin(sender.client, "videos", Path("good"))
        wait_for(lambda: (each := deliveries(sender.client, made)) and each[0]["state"] == "delivered")
    assert made["secret"].startswith("whsec_")
    for path in ("", f"/{made['id']}", f"/{made['id']}/deliveries"):
        assert made["secret"] not in sender.client.get(f"/v1/webhooks{path}").text
    assert "status 500" in caplog.text
    assert made["secret"] not in caplog.text
    assert "token=hidden" not in caplog.text
    assert made["secret"] not in repr(sender.service.webhooks and sender.service.webhooks.store.endpoints())
    assert (sender.settings.data_dir / store_module.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_undelivered_messages_survive_a_kill(
    small_bundle: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver is down at the first event, and the service is killed before it polls for the second."""
    settings = settings_for(small_bundle, tmp_path / "data", webhooks="on")
    pictures(settings.roots()[0] / "good", 1)
    blind = tmp_path / "blind"
    with process(settings, "tests.service.webhook_service", str(port), str(blind)) as (client, server):
        client.post("/v1/collections", json={"name": "videos"})
        made = hook(client, f"http://receiver.example:{port}/")
        begin(client, "videos", Path("good"))
        wait_for(lambda: deliveries(client, made))
        blind.touch()
        job = begin(client, "videos", Path("good"))
        wait_for(lambda: client.get(job).json()["state"] == "succeeded")
        server.send_signal(signal.SIGKILL)
        server.wait(PATIENCE)
    monkeypatch.setattr(dispatcher_module, "POLL_SECONDS", 0.05)
    with receiving(port) as back, serving(settings, webhook_client=client_to(port)) as running:
        wait_for(lambda: [each["state"] for each in deliveries(running.client, made)] == ["delivered"] * 2)
        delivery = [back.read(made["secret"], number)["data"]["job"] for number in range(2)]
        assert sorted((job["id"], job["state"]) for job in delivery) == [("1", "succeeded"), ("2", "succeeded")]
        assert len(back.got) == 2


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
    answer = restricted.client.post("/v1/webhooks", json={"url": url, "events": ALL}, headers=KEY)
    assert "sesame" not in problem_of(answer, status, code)["detail"]
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
    """The real way out, without an injected address filter."""
    monkeypatch.setattr(dispatcher_module, "POLL_SECONDS", 0.05)
    named = {"webhook_networks": ["127.0.0.0/30"], "webhook_schemes": ["http"], "webhook_ports": [receiver.port]}
    settings = settings_for(small_bundle, tmp_path / "data", webhooks="on", **named)
    receiver.got, receiver.answers = [], []
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"}).raise_for_status()
        pictures(settings.roots()[0] / "good", 1)
        elsewhere = running.client.post(
            "/v1/webhooks", json={"url": f"http://127.0.0.9:{receiver.port}/", "events": ALL}
        )
        problem_of(elsewhere, 403, "url_refused")
        hook(running.client, f"http://127.0.0.1:{receiver.port}/hook")
        begin(running.client, "videos", settings.roots()[0] / "good")
        wait_for(lambda: bool(receiver.got))


def test_webhooks_require_the_scope_admin(restricted: Running) -> None:
    store = KeyStore(restricted.settings.data_dir)
    keys = [store.create("w", ["read", "write"])[1], store.create("one", ["admin"], collections=["videos"])[1]]
    store.close()
    for key in keys:
        for request in ("POST ", "GET ", "DELETE /1", "POST /1/rotate", "GET /1/deliveries"):
            method, path = request.split(" ")
            answer = restricted.client.request(method, f"/v1/webhooks{path}", headers={"X-API-Key": key})
            problem_of(answer, 403, "scope_missing")


def test_invalid_webhook_requests_are_problems(restricted: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = restricted.client
    for method, path in (("GET", "/no"), ("DELETE", "/no"), ("POST", "/no/rotate"), ("GET", "/no/deliveries")):
        problem_of(ask.request(method, f"/v1/webhooks{path}", headers=KEY), 404, "webhook_not_found")
    wanted = {"url": "https://portal.example/hook", "events": ["job.succeeded"]}
    unknown = {**wanted, "events": ["job.begun"]}
    problem_of(ask.post("/v1/webhooks", json=unknown, headers=KEY), 422, "validation_failed")
    monkeypatch.setattr(store_module, "MAX_ENDPOINTS", 1)
    made = ask.post("/v1/webhooks", json=wanted, headers=KEY).json()
    problem_of(ask.post("/v1/webhooks", json=wanted, headers=KEY), 409, "too_many_webhooks")
    assert ask.get(f"/v1/webhooks/{made['id']}", headers=KEY).json()["events"] == ["job.succeeded"]
    ask.delete(f"/v1/webhooks/{made['id']}", headers=KEY)


def test_webhooks_are_off_by_default(running: Running) -> None:
    answer = running.client.post("/v1/webhooks", json={"url": "https://portal.example/", "events": ALL})
    assert "VITASCOPE_WEBHOOKS" in problem_of(answer, 409, "webhooks_off")["detail"]
    assert not (running.settings.data_dir / store_module.FILE_NAME).exists()


def test_retries_back_off_with_jitter_and_respect_retry_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher_module, "BASE_DELAY", 5.0)
    monkeypatch.setattr(dispatcher_module, "MAX_DELAY", 3600.0)
    waits = [[retry_delay(tries, {}) for _ in range(50)] for tries in range(1, 40)]
    for tries, some in enumerate(waits, 1):
        longest = min(3600.0, 5.0 * 2 ** (tries - 1))
        assert longest / 2 <= min(some) < max(some) <= longest
    assert retry_delay(1, {"retry-after": "120"}) == 120
    assert retry_delay(1, {"retry-after": "999999"}) == 3600
    assert retry_delay(1, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}) <= 5


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
        wait_for(lambda: _answers(url))
        assert httpx.post(url, content=body, headers=headers, timeout=PATIENCE).status_code == 204
        assert httpx.post(url, content=body + b" ", headers=headers, timeout=PATIENCE).status_code == 400
        assert example.stdout is not None
        assert example.stdout.readline().split() == ["job.succeeded", "films", "7"]
    finally:
        example.kill()
        example.wait(PATIENCE)


EXAMPLE = {"type": "job.succeeded", "data": {"collection": "films", "job": {"id": "7"}}}


def _answers(url: str) -> bool:
    try:
        return httpx.post(url, content=b"", timeout=PATIENCE).status_code == 400
    except httpx.HTTPError:
        return False
