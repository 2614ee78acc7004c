"""Retries of the client; tests/service/test_client_retries.py uses a real service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from tests.vitascope.local_server import CLIENTS, Exchange, answer_json, call, server
from vitascope.client import Client, RetryConfig, ServiceError
from vitascope.errors import InvalidInput, VitascopeError

Failure = Callable[[httpx.Request], httpx.Response]
HASTY = RetryConfig(max_attempts=3, base_delay=0.0)


def refused(status: int, code: str = "x") -> Failure:
    return lambda request: httpx.Response(status, json={"code": code, "detail": "why"})


def broken(kind: type[httpx.TransportError]) -> Failure:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind("broken")

    return fail


CALLS: dict[str, Callable[[Client], object]] = {
    "read": lambda client: client.list_models(),
    "search": lambda client: client.search("a", "red"),
    "write": lambda client: client.create_collection("a"),
    "operation": lambda client: client.create_operation("backup", "a"),
    "change": lambda client: client.update_collection("a", index_kind="flat"),
    "delete": lambda client: client.delete_video("a", "1"),
    "pause": lambda client: client.pause_job("a", "1"),
}
READS_AND_WRITES = {"read", "search", "write", "operation", "change"}


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (refused(429), set(CALLS)),
        (broken(httpx.ConnectError), set(CALLS)),
        (broken(httpx.ConnectTimeout), set(CALLS)),
        (refused(503), READS_AND_WRITES | {"delete"}),
        (refused(409, "idempotency_in_progress"), READS_AND_WRITES),
        (broken(httpx.ReadError), READS_AND_WRITES),
        (broken(httpx.RemoteProtocolError), READS_AND_WRITES),
        (broken(httpx.ReadTimeout), set()),
        (refused(409), set()),
        (refused(500), set()),
        (refused(502), set()),
        (refused(507), set()),
    ],
)
def test_requests_are_retried_by_method_and_failure(failure: Failure, again: set[str]) -> None:
    for name, method in CALLS.items():
        keys = []

        def answer(request: httpx.Request, keys: list[str | None] = keys) -> httpx.Response:
            keys.append(request.headers.get("idempotency-key"))
            return failure(request)

        made = Client("http://service", transport=httpx.MockTransport(answer), retries=HASTY)
        with made as client, pytest.raises(VitascopeError):
            method(client)
        assert len(keys) == (3 if name in again else 1), name
        assert len(set(keys)) == 1  # every try is the same request
        assert (keys[0] is not None) == (name in ("write", "operation"))


def test_every_write_has_its_own_idempotency_key() -> None:
    keys = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return httpx.Response(201, json={"id": "1"})

    with Client("http://service", transport=httpx.MockTransport(answer)) as client:
        client.create_job("a", "films")
        client.create_job("a", "films")
        client.create_job("a", "films", idempotency_key="mine")
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_delays_double_up_to_the_maximum_and_are_random() -> None:
    retries = RetryConfig(base_delay=0.5, max_delay=3.0)
    for tries, most in enumerate((0.5, 1.0, 2.0, 3.0, 3.0), start=1):
        pauses = [retries.delay_after(tries, None) for _ in range(50)]
        assert all(most / 2 <= pause <= most for pause in pauses)
        assert len(set(pauses)) > 1
    assert all(7 + 0.25 <= retries.delay_after(1, 7.0) <= 7 + 0.5 for _ in range(50))
    assert retries.delay_after(10_000, None) <= 3.0


def test_retry_after_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr("vitascope.client.retry.sleep", paused.append)

    def answer(request: httpx.Request) -> httpx.Response:
        if paused:
            return httpx.Response(200, json={})
        stated = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        return httpx.Response(503, headers={"retry-after": stated})

    patient = RetryConfig(max_attempts=3, max_elapsed=7200.0, base_delay=0.0)
    with Client("http://service", transport=httpx.MockTransport(answer), retries=patient) as client:
        client.list_models()
    assert [3400 < seconds <= 3600 for seconds in paused] == [True]


@pytest.mark.parametrize("stated", ["soon", "-1", "", "1e9", "Wed, 99 Nov 2026 21:20:51 GMT"])
def test_malformed_retry_after_is_ignored(stated: str) -> None:
    tries = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        return httpx.Response(503, headers={"retry-after": stated})

    made = Client("http://service", transport=httpx.MockTransport(answer), retries=HASTY)
    with made as client, pytest.raises(ServiceError):
        client.list_models()
    assert tries == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_attempts": 0}, "max_attempts: 0"),
        ({"max_elapsed": -1.0}, "max_elapsed: -1"),
        ({"base_delay": float("nan")}, "base_delay: nan"),
    ],
)
def test_invalid_retry_config_is_rejected(given: dict[str, float], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        RetryConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", CLIENTS)
def test_upload_is_attempted_max_attempts_times(kind: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    requests = []

    def refuse(exchange: Exchange) -> None:
        requests.append(exchange.path)
        exchange.rfile.read(int(exchange.headers["Content-Length"]))
        answer_json(exchange, 503, {"code": "overloaded", "detail": "later"}, Retry_After=0)

    def close(exchange: Exchange) -> None:
        requests.append(exchange.path)
        exchange.rfile.read(int(exchange.headers["Content-Length"]))

    for answer, message in ((refuse, "later"), (close, "cannot be reached")):
        requests.clear()
        with server(answer) as url, pytest.raises(ServiceError, match=message):
            call(kind, url, "add_video", "films", tmp_path / "film.mp4", retries=HASTY)
        assert len(requests) == 3
