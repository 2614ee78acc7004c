# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""Jobs as they go on: server-sent events, read as the HTML standard says."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from typing import cast

import httpx

from vitascope.client.options import JobEvent
from vitascope.client.problems import ServiceError
from vitascope.client.retries import Retries
from vitascope.client.synchronous.caller import Caller
from vitascope.client.waits import pause

STREAM = "text/event-stream"
QUIET_SECONDS = 45.0
"""Without a sign of life, after which a connection counts as lost; the service gives one every 15 s."""
RECONNECT_SECONDS = 1.0


class Following(Caller):
    """What happens at the service, as it happens."""

    def _follow(
        self, path: str, after: int | None, ends: frozenset[str], retries: Retries | None
    ) -> Generator[JobEvent, None, None]:
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
                    with closing(_events(response)) as events:
                        for event in events:
                            after = after if event["id"] is None else int(event["id"])
                            if event["event"] == "state":
                                is_over = event["data"]["state"] in ends
                            yield event
                    if is_over:
                        return
                except httpx.HTTPError:
                    pass  # what was missed comes with the next connection
            pause(RECONNECT_SECONDS)

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


def _events(response: httpx.Response) -> Generator[JobEvent, None, None]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            event = {"id": fields.get("id"), "event": fields["event"], "data": json.loads(fields["data"])}
            yield cast(JobEvent, event)
            fields = {}
