"""Parsing of server-sent events, and reconnection."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitascope.local_server import CLIENTS, Exchange, call, server
from vitascope.client import ServiceError, sse
from vitascope.client.sse import EventStreamParser

NAME = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei é 映.mp4"
"""Contains every line separator of ``str.splitlines`` except CR and LF."""


def event(number: int, kind: str, state: str, **data: str) -> bytes:
    data = {"state": state, **data}
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


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


def parsed(*pieces: bytes) -> list[Any]:
    parser = EventStreamParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_fields_and_line_ends_follow_the_standard() -> None:
    assert parsed(b"\xef\xbb\xbf" + STREAM) == [
        {"id": "1", "event": "state", "data": {"state": "running"}},
        {"id": "2", "event": "item", "data": {"state": "succeeded", "path": NAME}},
        {"id": None, "event": "message", "data": {"state": "done"}},
        {"id": None, "event": "state", "data": {"state": "succeeded"}},
    ]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_chunk_boundaries(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    assert parsed(*(STREAM[a:b] for a, b in itertools.pairwise(ends))) == parsed(STREAM)


@pytest.mark.parametrize("stream", [b"id: one\ndata: {}\n\n", b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n"])
def test_malformed_event_is_reported(stream: bytes) -> None:
    with pytest.raises(ServiceError, match="malformed event of the service"):
        parsed(stream)


@pytest.mark.parametrize("piece", [b"data: x", b"data: x\n"])
def test_size_of_an_event_is_limited(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(ServiceError, match="more than 1000 bytes"):
        parsed(*[piece] * 200)


@pytest.mark.parametrize("kind", CLIENTS)
def test_file_names_may_contain_unicode_line_separators(kind: str) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.head(200, Content_Type="text/event-stream")
        exchange.body(event(1, "item", "succeeded", path=NAME))
        exchange.body(event(2, "state", "succeeded"))

    with server(answer) as url:
        events = call(kind, url, "iter_job_events", "films", "1")
        assert [(e["id"], e["data"].get("path")) for e in events] == [("1", NAME), ("2", None)]
        assert call(kind, url, "wait_for_job", "films", "1") == {"state": "succeeded"}


@pytest.mark.parametrize("kind", CLIENTS)
def test_short_streams_are_reopened_a_limited_number_of_times(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_sync", "_async"):
        monkeypatch.setattr(f"vitascope.client.{module}.jobs.RECONNECT_SECONDS", 0.0)
    opened = []

    def answer(exchange: Exchange) -> None:
        if not exchange.path.endswith("/events"):
            job = b'{"id": "1", "state": "succeeded"}'
            exchange.head(200, Content_Length=len(job))
            exchange.body(job)
            return
        opened.append(exchange.path)
        assert len(opened) < 1000
        exchange.head(200, Content_Type="text/event-stream")
        exchange.body(b"retry: 2000\n\n:\n\n")

    with server(answer) as url:
        with pytest.raises(ServiceError, match="ended GET /v1/collections/films/jobs/1/events 10 times without an"):
            call(kind, url, "iter_job_events", "films", "1")
        assert len(opened) == 10
        assert call(kind, url, "wait_for_job", "films", "1")["state"] == "succeeded"  # asked for instead
