"""Limits of a download that needs several connections."""

from __future__ import annotations

import httpx

from vitascope.client.errors import ServiceError

MAX_STALLS = 5
"""Connections in a row that break off without a byte beyond those that came before."""
MAX_RESTARTS = 5
"""Responses that begin with the first byte although the rest was requested: at most six times its size is read."""
MAX_CONNECTIONS = 1000
"""Of one download."""


class Transfer:
    """Progress of one download over its connections, and when to give it up."""

    def __init__(self, name: str) -> None:
        """``name``: of the request, for messages."""
        self._name = name
        self._connections = 0
        self._restarts = 0
        self._stalls = 0
        self._furthest = 0

    def first_byte(self, response: httpx.Response, offset: int) -> int:
        """Return the position of the first byte of a response to a request for what follows ``offset`` bytes.

        That is ``offset``, or 0 where the service ignores ranges. Raises ServiceError for any other response, and after
        ``MAX_RESTARTS``.
        """
        self._connections += 1
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            stated = response.headers.get("content-range", "")
            if not stated.startswith(f"bytes {offset}-"):
                raise ServiceError(f"{self._name}: Content-Range {stated!r}; 'bytes {offset}-…' was expected", 206)
            return offset
        if response.status_code != httpx.codes.OK:
            raise ServiceError(f"{self._name}: HTTP {response.status_code}; a file was expected", response.status_code)
        if offset:
            self._restarts += 1
            if self._restarts > MAX_RESTARTS:
                raise ServiceError(
                    f"{self._name}: the connection broke off {self._connections - 1} times, and the service does not "
                    "continue a download (it ignores Range)"
                )
        return 0

    def broke_off(self, offset: int, error: httpx.TransportError) -> int:
        """Note that a connection broke off after ``offset`` bytes of the file. Returns how many did so in a row without
        progress.

        Raises ServiceError after ``MAX_STALLS`` and ``MAX_CONNECTIONS``.
        """
        self._stalls = 0 if offset > self._furthest else self._stalls + 1
        self._furthest = max(self._furthest, offset)
        if self._stalls == MAX_STALLS or self._connections == MAX_CONNECTIONS:
            raise ServiceError(
                f"{self._name}: the connection broke off {self._connections} times; {self._furthest} bytes came, not "
                f"the whole file: {error}"
            ) from error
        return self._stalls
