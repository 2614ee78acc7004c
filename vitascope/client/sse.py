"""Parser for server-sent events (`text/event-stream`), as the HTML standard defines them.

httpx-sse is not used: it has no limit on the size of an event, does not remove a byte order mark, and returns comments
after an ``id`` as empty events.
"""

from __future__ import annotations

import codecs
import json
from typing import cast

from vitascope.client.api import JobEvent, ServiceError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Maximum size of an event, including line ends. Job events have a few kilobytes."""


class EventStreamParser:
    """Incremental parser of one event stream."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._fields: dict[str, str] = {}
        self._size = 0
        self._is_first_line = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[JobEvent]:
        """Parse the next bytes of the stream; return the events that they complete.

        Raises ServiceError if an event is too large or malformed.
        """
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF
        events = []
        # bytes.splitlines splits at CR, LF and CRLF only; str.splitlines and httpx's iter_lines also split at U+0085,
        # U+2028 and U+2029, which file names may contain.
        for line in chunk.splitlines(keepends=True):
            self._size += len(line)
            if self._size > MAX_EVENT_BYTES:
                raise ServiceError(f"an event of the service has more than {MAX_EVENT_BYTES} bytes")
            self._line += line.rstrip(b"\r\n")
            if line.endswith((b"\r", b"\n")) and (event := self._end_line()) is not None:
                events.append(event)
        self._after_cr = chunk.endswith(b"\r")
        return events

    def _end_line(self) -> JobEvent | None:
        """Process the complete line; return the event that it ends, if any."""
        line = bytes(self._line)
        self._line.clear()
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix(codecs.BOM_UTF8), False
        if line:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data" and name in self._fields:
                value = f"{self._fields[name]}\n{value}"
            self._fields[name] = value
            return None
        fields, self._fields, self._size = self._fields, {}, 0
        return _parse_event(fields) if fields.get("data") else None


def _parse_event(fields: dict[str, str]) -> JobEvent:
    event_id = fields.get("id")
    try:
        if event_id is not None:
            int(event_id)
        data = json.loads(fields["data"])
    except ValueError as error:
        raise ServiceError(f"malformed event of the service: {error}") from error
    if not isinstance(data, dict) or "state" not in data:
        raise ServiceError("malformed event of the service: a JSON object with 'state' was expected as data")
    return cast(JobEvent, {"id": event_id, "event": fields.get("event", "message"), "data": data})
