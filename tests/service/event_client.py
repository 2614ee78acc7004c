"""A client for server-sent events, as specified by the HTML standard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.service.running import JSON


@dataclass(frozen=True)
class ReceivedEvent:
    """An event. ``number``: its id, if it has one."""

    number: int | None
    kind: str
    data: JSON


@contextmanager
def stream(client: httpx.Client, job: str, last: int | None = None) -> Iterator[httpx.Response]:
    """Open the event stream of the job at the URL ``job``."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.stream("GET", f"{job}/events", headers=headers) as response:
        if response.status_code != 200:
            response.read()
        yield response


def events(response: httpx.Response) -> Iterator[ReceivedEvent]:
    """Yield the events as they arrive."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            yield ReceivedEvent(number, fields["event"], json.loads(fields["data"]))
            fields = {}


def all_events(client: httpx.Client, job: str, last: int | None = None) -> list[ReceivedEvent]:
    """Return all events until the end of the stream."""
    with stream(client, job, last) as response:
        assert response.status_code == 200, response.text
        return list(events(response))
