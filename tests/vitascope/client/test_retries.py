"""Retries of the clients; tests/service/test_python_client.py uses a real service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.vitascope.client.services import Caller, Exchange, Handler, server
from vitascope.client import Client, RetryConfig, ServiceError
from vitascope.errors import VitascopeError

NO_DELAY = RetryConfig(max_attempts=3, base_delay=0.0)


def reject(status: int, code: str = "x") -> Handler:
    return lambda request: httpx.Response(status, json={"code": code, "detail": "the reason"})


def fail(error: type[httpx.TransportError]) -> Handler:
    def respond(request: httpx.Request) -> httpx.Response:
        raise error("the reason")

    return respond


CALLS: dict[str, tuple[Any, ...]] = {
    "read": ("list_models",),
    "search": ("search", "a", "red"),
    "write": ("create_collection", "a"),
    "operation": ("create_operation", "backup", "a"),
    "change": ("update_collection", "a"),
    "delete": ("delete_video", "a", "1"),
    "pause": ("pause_job", "a", "1"),
}
READS_AND_WRITES = {"read", "search", "write", "operation", "change"}


@pytest.mark.parametrize(
    ("respond", "retried"),
    [
        (reject(429), set(CALLS)),
        (fail(httpx.ConnectError), set(CALLS)),
        (fail(httpx.ConnectTimeout), set(CALLS)),
        (reject(503), READS_AND_WRITES | {"delete"}),
        (reject(503, "interrupted"), {"read"}),
        (reject(409, "idempotency_in_progress"), READS_AND_WRITES),
        (fail(httpx.ReadError), READS_AND_WRITES),
        (fail(httpx.RemoteProtocolError), READS_AND_WRITES),
        (fail(httpx.ReadTimeout), set()),
        (reject(409), set()),
        (reject(500), set()),
        (reject(502), set()),
        (reject(507), set()),
    ],
)
def test_requests_are_retried_by_method_and_failure(respond: Handler, retried: set[str], call: Caller) -> None:
    for name, (method, *arguments) in CALLS.items():
        keys = []

        def record(request: httpx.Request, keys: list[str | None] = keys) -> httpx.Response:
            keys.append(request.headers.get("idempotency-key"))
            return respond(request)

        options = {"index_kind": "flat"} if name == "change" else {}
        with pytest.raises(VitascopeError):
            call(record, method, *arguments, retries=NO_DELAY, **options)
        assert len(keys) == (3 if name in retried else 1), name
        assert len(set(keys)) == 1  # every attempt is the same request
        assert (keys[0] is not None) == (name in ("write", "operation"))


def test_every_write_has_its_own_idempotency_key() -> None:
    keys = []

    def respond(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return httpx.Response(201, json={"id": "1"})

    with Client("http://service", transport=httpx.MockTransport(respond)) as client:
        client.create_job("a", "films")
        client.create_job("a", "films")
        client.create_job("a", "films", idempotency_key="own")
    assert len(set(keys)) == 3
    assert keys[2] == "own"


def test_delays_double_up_to_the_maximum_and_are_random() -> None:
    retries = RetryConfig(base_delay=0.5, max_delay=3.0)
    for attempt, maximum in enumerate((0.5, 1.0, 2.0, 3.0, 3.0), start=1):
        delays = [retries.delay_after(attempt, None) for _ in range(50)]
        assert all(maximum / 2 <= delay <= maximum for delay in delays)
        assert len(set(delays)) > 1
    assert all(7 + 0.25 <= retries.delay_after(1, 7.0) <= 7 + 0.5 for _ in range(50))
    assert retries.delay_after(10_000, None) <= 3.0


def in_one_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [
        (in_one_hour, 3600),
        *((lambda value=value: value, 0) for value in ("soon", "-1", "", "1e9", "Wed, 99 Nov 2026 21:20:51 GMT")),
    ],
)
def test_retry_after_may_be_a_date_and_is_ignored_if_malformed(
    retry_after: Callable[[], str], delay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    monkeypatch.setattr("vitascope.client.retry.sleep", delays.append)

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, headers={"retry-after": retry_after()})

    retries = RetryConfig(max_attempts=3, max_elapsed=7200.0, base_delay=0.0)
    with (
        Client("http://service", transport=httpx.MockTransport(respond), retries=retries) as client,
        pytest.raises(ServiceError),
    ):
        client.list_models()
    assert len(delays) == 2
    assert all(delay - 200 < seconds <= delay for seconds in delays)


def test_upload_is_attempted_max_attempts_times(film: Path, call: Caller) -> None:
    requests = []

    def refuse(exchange: Exchange) -> None:
        close(exchange)
        exchange.json(503, {"code": "overloaded", "detail": "later"}, Retry_After=0)

    def close(exchange: Exchange) -> None:
        requests.append(exchange.path)
        exchange.rfile.read(int(exchange.headers["Content-Length"]))

    for respond, message in ((refuse, "later"), (close, "cannot be reached")):
        requests.clear()
        with server(respond) as url, pytest.raises(ServiceError, match=message):
            call(url, "add_video", "films", film, retries=NO_DELAY)
        assert len(requests) == 3
