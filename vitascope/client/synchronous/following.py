# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""Jobs as they go on: server-sent events over as many connections as that takes."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing

import httpx

from vitascope.client.compat import pause
from vitascope.client.errors import ServiceError
from vitascope.client.event_stream import EventStreamParser
from vitascope.client.request_types import JobEvent
from vitascope.client.retries import Retries
from vitascope.client.synchronous.caller import Caller

STREAM = "text/event-stream"
QUIET_SECONDS = 45.0
"""Without a sign of life, after which a connection counts as lost; the service gives one every 15 s."""
RECONNECT_SECONDS = 1.0
SHORT_SECONDS = 5.0
MAX_SHORT_STREAMS = 10
"""Streams in a row that end within ``SHORT_SECONDS`` and without an event, after which the job is not followed on."""


class Following(Caller):
    """What happens at the service, as it happens."""

    def _follow(
        self, path: str, after: int | None, ends: frozenset[str], retries: Retries | None
    ) -> Generator[JobEvent, None, None]:
        """Events of the stream at ``path`` to its end, over as many connections as that takes.

        ``ends``: states after which a stream that ends has ended for good. Raises as other calls do when it cannot be
        opened, or opened again, and ServiceError after ``MAX_SHORT_STREAMS``.
        """
        is_over = False
        short_streams = 0
        while True:
            response = self._open_stream(path, after, retries)
            opened_at = time.monotonic()
            short_streams += 1
            with closing(response):
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                try:
                    with closing(_events(response)) as events:
                        for event in events:
                            short_streams = 0
                            after = after if event["id"] is None else int(event["id"])
                            if event["event"] == "state":
                                is_over = event["data"]["state"] in ends
                            yield event
                    if is_over:
                        return
                except httpx.HTTPError:
                    pass  # what was missed comes with the next connection
            if time.monotonic() - opened_at >= SHORT_SECONDS:
                short_streams = 0
            if short_streams == MAX_SHORT_STREAMS:
                raise ServiceError(f"the service at {self.url} ended GET {path} {short_streams} times without an event")
            pause(RECONNECT_SECONDS)

    def _open_stream(self, path: str, after: int | None, retries: Retries | None) -> httpx.Response:
        headers = {"Accept": STREAM} | ({} if after is None else {"Last-Event-ID": str(after)})
        response = self._open(path, headers, retries=retries, read_seconds=QUIET_SECONDS)
        if response.status_code != httpx.codes.NO_CONTENT and STREAM not in response.headers.get("content-type", ""):
            response.close()
            raise ServiceError(f"the service at {self.url} did not answer GET {path} with events", response.status_code)
        return response


def _events(response: httpx.Response) -> Generator[JobEvent, None, None]:
    parser = EventStreamParser()
    for piece in response.iter_bytes():
        yield from parser.feed(piece)
