"""A client of event streams that reads them as the HTML standard says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.service.running import JSON


@dataclass(frozen=True)
class Told:
    """An event. ``number``: its id; None for one without."""

    number: int | None
    kind: str
    data: JSON


@contextmanager
def stream(client: httpx.Client, job: str, last: int | None = None) -> Iterator[httpx.Response]:
    """The open stream of the job at address ``job``."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.stream("GET", f"{job}/events", headers=headers) as response:
        if response.status_code != 200:
            response.read()
        yield response


def events(response: httpx.Response) -> Iterator[Told]:
    """The events as they come."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            yield Told(number, fields["event"], json.loads(fields["data"]))
            fields = {}


def followed(client: httpx.Client, job: str, last: int | None = None) -> list[Told]:
    """All events, to the end of the stream."""
    with stream(client, job, last) as response:
        assert response.status_code == 200, response.text
        return list(events(response))
