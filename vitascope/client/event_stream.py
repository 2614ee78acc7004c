"""Parse server-sent events: `text/event-stream`, as the HTML standard defines it.

httpx's ``iter_lines`` also ends a line at U+0085, U+2028 and U+2029, which file names may contain.
"""

from __future__ import annotations

import codecs
import json
from typing import cast

from vitascope.client.errors import ServiceError
from vitascope.client.request_types import JobEvent

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Of one event, with its line ends. A job's event has a few kilobytes."""


class EventStreamParser:
    """Bytes of one stream, in any pieces, to its events."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._fields: dict[str, str] = {}
        self._size = 0
        self._is_first = True
        self._after_cr = False

    def feed(self, piece: bytes) -> list[JobEvent]:
        """Return the events that end in ``piece``, the next bytes of the stream.

        Raises ServiceError for an event that is too large or cannot be read.
        """
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")  # the second half of a CRLF
        events = []
        for line in piece.splitlines(keepends=True):  # of bytes: ends at CR, LF and CRLF alone
            self._size += len(line)
            if self._size > MAX_EVENT_BYTES:
                raise ServiceError(f"an event of the service has more than {MAX_EVENT_BYTES} bytes")
            self._line += line.rstrip(b"\r\n")
            if line.endswith((b"\r", b"\n")) and (event := self._end_line()) is not None:
                events.append(event)
        self._after_cr = piece.endswith(b"\r")
        return events

    def _end_line(self) -> JobEvent | None:
        """Take the line that is complete now. Returns the event that it ends, if it ends one."""
        line = bytes(self._line)
        self._line.clear()
        if self._is_first:
            line, self._is_first = line.removeprefix(codecs.BOM_UTF8), False
        if line:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data" and name in self._fields:
                value = f"{self._fields[name]}\n{value}"
            self._fields[name] = value
            return None
        fields, self._fields, self._size = self._fields, {}, 0
        return _event_of(fields) if fields.get("data") else None


def _event_of(fields: dict[str, str]) -> JobEvent:
    """The event of these fields; its ``id`` is None where there is nothing to continue after."""
    number = fields.get("id")
    try:
        if number is not None:
            int(number)
        data = json.loads(fields["data"])
    except ValueError as error:
        raise ServiceError(f"the service sent an event that cannot be read: {error}") from error
    if not isinstance(data, dict) or "state" not in data:
        raise ServiceError("the service sent an event whose data is no JSON object with a state")
    return cast(JobEvent, {"id": number, "event": fields.get("event", "message"), "data": data})
