"""The part of the client that follows jobs: server-sent events, read as the HTML standard says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing

import httpx

from vitascope.client_http import JSON, Caller, ServiceError
from vitascope.client_retries import Retries

STREAM = "text/event-stream"
QUIET_SECONDS = 45.0
"""Without a sign of life, after which a connection counts as lost; the service gives one every 15 s."""
RECONNECT_SECONDS = 1.0


class Following(Caller):
    """What happens at the service, as it happens."""

    def _follow(self, path: str, after: int | None, ends: frozenset[str], retries: Retries | None) -> Iterator[JSON]:
        """Events of the stream at ``path`` to its end, over as many connections as that takes.

        ``ends``: states after which a stream that ends has ended for good. Raises as other calls do when it cannot be
        opened, or opened again.
        """
        is_over = False
        while True:
            response = self._open(path, after, retries)
            with closing(response):
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                try:
                    for event in _events(response):
                        after = after if event["id"] is None else int(event["id"])
                        if event["event"] == "state":
                            is_over = event["data"]["state"] in ends
                        yield event
                    if is_over:
                        return
                except httpx.HTTPError:
                    pass  # what was missed comes with the next connection
            time.sleep(RECONNECT_SECONDS)

    def _open(self, path: str, after: int | None, retries: Retries | None) -> httpx.Response:
        headers = {"Accept": STREAM} | ({} if after is None else {"Last-Event-ID": str(after)})

        def send() -> httpx.Response:
            usual = self._http.timeout
            timeout = httpx.Timeout(connect=usual.connect, read=QUIET_SECONDS, write=usual.write, pool=usual.pool)
            request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
                response.raise_for_status()
            return response

        response = self._try("GET", path, send, "always", retries)
        if response.status_code != httpx.codes.NO_CONTENT and STREAM not in response.headers.get("content-type", ""):
            response.close()
            raise ServiceError(f"the service at {self.url} did not answer GET {path} with events", response.status_code)
        return response


def _events(response: httpx.Response) -> Iterator[JSON]:
    """``{"id": …, "event": …, "data": …}``; an id of None belongs to an event that cannot be come back to."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield {"id": fields.get("id"), "event": fields["event"], "data": json.loads(fields["data"])}
            fields = {}
