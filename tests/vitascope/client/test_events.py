"""Server-sent events of jobs (parsing, reconnection, waiting without them) and signed webhook messages."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitascope.client.services import Caller, Exchange, copy_of, problem, server
from vitascope.client import ServiceError, sse
from vitascope.client.sse import EventStreamParser
from vitascope.errors import InvalidInput
from vitascope.webhooks import SignatureInvalid, sign, verify

NAME = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei é 映.mp4"
"""Contains every line separator of ``str.splitlines`` except CR and LF."""


def event(number: int | None, kind: str, state: str, **data: str) -> bytes:
    header = "" if number is None else f"id: {number}\n"
    return f"{header}event: {kind}\ndata: {json.dumps({'state': state, **data}, ensure_ascii=False)}\n\n".encode()


STREAM = b"".join(
    [
        b"retry: 2000\n\n:\n\n",
        event(1, "state", "running"),
        event(2, "item", "succeeded", path=NAME),
        b'data: {"state":\r\ndata:"done"}\r\r\n',
        b"id: 4\nevent: state\n\nevent: item\ndata:\n\n",
        b'event:state\rdata:{"state": "succeeded"}\r\r',
    ]
)


def parse(*chunks: bytes) -> list[Any]:
    parser = EventStreamParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_fields_and_line_ends_follow_the_standard() -> None:
    assert parse(b"\xef\xbb\xbf" + STREAM) == [
        {"id": "1", "event": "state", "data": {"state": "running"}},
        {"id": "2", "event": "item", "data": {"state": "succeeded", "path": NAME}},
        {"id": None, "event": "message", "data": {"state": "done"}},
        {"id": None, "event": "state", "data": {"state": "succeeded"}},
    ]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_chunk_boundaries(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    assert parse(*(STREAM[a:b] for a, b in itertools.pairwise(ends))) == parse(STREAM)


@pytest.mark.parametrize("stream", [b"id: one\ndata: {}\n\n", b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n"])
def test_malformed_event_is_reported(stream: bytes) -> None:
    with pytest.raises(ServiceError, match="malformed event of the service"):
        parse(stream)


@pytest.mark.parametrize("chunk", [b"data: x", b"data: x\n"])
def test_size_of_an_event_is_limited(chunk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(ServiceError, match="more than 1000 bytes"):
        parse(*[chunk] * 200)


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("_sync", "_async"):
        for module in ("jobs", "transport"):
            monkeypatch.setattr(f"vitascope.client.{kind}.{module}.RECONNECT_SECONDS", 0.0)


class LostStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Stream that ends with a lost connection."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise httpx.ReadError("reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def test_job_events_resume_after_lost_connections(call: Caller) -> None:
    last_ids = []
    streams = iter(
        [
            LostStream(
                b"retry: 2000\n\n"
                + event(1, "state", "running")
                + b":\n\n"
                + event(2, "item", "succeeded", path=NAME)
                + b"id: 3\nevent: item\n"
            ),
            LostStream(event(3, "item", "failed") + event(None, "progress", "running")),
            httpx.ByteStream(event(4, "item", "succeeded")),  # the service stopped
            httpx.ByteStream(event(5, "state", "succeeded")),
        ]
    )

    def respond(request: httpx.Request) -> httpx.Response:
        last_ids.append(request.headers.get("Last-Event-ID"))
        return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=next(streams))

    events = call(respond, "iter_job_events", "videos", "1")
    assert [(event["id"], event["event"], event["data"]["state"]) for event in events] == [
        ("1", "state", "running"),
        ("2", "item", "succeeded"),
        ("3", "item", "failed"),
        (None, "progress", "running"),
        ("4", "item", "succeeded"),
        ("5", "state", "succeeded"),
    ]
    assert events[1]["data"]["path"] == NAME
    assert last_ids == [None, "2", "3", "4"]
    assert call(lambda request: httpx.Response(204), "iter_job_events", "videos", "1", after=5) == []


@pytest.mark.parametrize(
    "response",
    [
        problem(404, "route_not_found"),
        problem(429, "too_many_at_once"),
        httpx.Response(200, json={"id": "1", "state": "queued"}),
    ],
)
def test_wait_for_job_polls_a_service_without_event_streams(response: httpx.Response, call: Caller) -> None:
    states = iter(["queued", "running", "succeeded"])
    changes = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return copy_of(response)
        return httpx.Response(200, json={"id": "1", "state": next(states)})

    job = call(respond, "wait_for_job", "videos", "1", interval=0, on_change=lambda job: changes.append(job["state"]))
    assert job["state"] == "succeeded"
    assert changes == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("has_events", [True, False])
def test_a_wait_outlasts_a_restart_of_the_service(has_events: bool, call: Caller) -> None:
    restart = [502, None, 503, None, 504]
    running, succeeded = ({"id": "1", "state": state} for state in ("running", "succeeded"))
    responses = iter([None, running, *restart, succeeded] if not has_events else [running, *restart, succeeded])

    def respond(request: httpx.Request) -> httpx.Response:
        if not has_events and request.url.path.endswith("/events"):
            return httpx.Response(404)
        while (response := next(responses)) is None:
            if has_events or len(changes):
                raise httpx.ConnectError("connection refused")
        if isinstance(response, int):
            return httpx.Response(response, text="a page of the proxy")
        if not has_events:
            return httpx.Response(200, json=response)
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=event(None, "state", str(response["state"]))
        )

    changes: list[str] = []
    job = call(respond, "wait_for_job", "videos", "1", interval=0, on_change=lambda job: changes.append(job["state"]))
    assert job["state"] == "succeeded"
    assert changes == ["running", "succeeded"]


def test_a_wait_ends_if_the_service_does_not_return(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"vitascope.client.{call.kind}.transport.MAX_OUTAGE", 0.0)
    responses = iter([httpx.Response(200, json={"id": "1", "state": "running", "kind": "backup"})])

    def respond(request: httpx.Request) -> httpx.Response:
        return next(responses, httpx.Response(502))

    with pytest.raises(ServiceError, match="HTTP 502"):
        call(respond, "wait_for_operation", "1", interval=0)


def test_short_streams_are_reopened_a_limited_number_of_times(call: Caller) -> None:
    opened = []

    def respond(exchange: Exchange) -> None:
        if not exchange.path.endswith("/events"):
            exchange.json(200, {"id": "1", "state": "succeeded"})
            return
        opened.append(exchange.path)
        assert len(opened) < 1000
        exchange.head(200, Content_Type="text/event-stream")
        exchange.body(b"retry: 2000\n\n:\n\n")

    with server(respond) as url:
        with pytest.raises(ServiceError, match="ended GET /v1/collections/films/jobs/1/events 10 times without an"):
            call(url, "iter_job_events", "films", "1")
        assert len(opened) == 10
        assert call(url, "wait_for_job", "films", "1")["state"] == "succeeded"  # polled instead


def test_the_example_of_the_specification() -> None:
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == signature
    headers = {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": f"v1a,other v1,bm90IHRoaXM= {signature}",
    }
    for now in (1614265330 - 299, 1614265330 + 299):
        assert verify(secret, headers, body, now=now) == {"test": 2432232314}
    for now in (1614265330 - 301, 1614265330 + 301):
        with pytest.raises(SignatureInvalid, match="301 s from now"):
            verify(secret, headers, body, now=now)
    for changed in (
        {"Webhook-Id": "msg_other"},
        {"Webhook-Timestamp": "1614265331"},
        {"Webhook-Timestamp": "now"},
        {"Webhook-Signature": "v1,bm90IHRoaXM="},
        {"Webhook-Signature": signature.replace("v1,", "v2,")},
        {"Webhook-Signature": "v1,\u00e9"},
        {"Webhook-Signature": ""},
    ):
        with pytest.raises(SignatureInvalid):
            verify(secret, headers | changed, body, now=1614265330)


def test_a_wrong_secret_is_reported_without_repeating_it() -> None:
    with pytest.raises(InvalidInput) as raised:
        sign("whsec_short", "msg_1", 1, b"")
    assert "short" not in str(raised.value)
