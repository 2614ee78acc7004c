"""The form of an upload, read from disk as it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx

from vitascope.client.waits import blocking_async


class Sending(httpx.AsyncByteStream):
    """The body of a request with a file: a piece is read when the one before it has gone."""

    def __init__(self, request: httpx.Request, on_progress: Callable[[int, int], None]) -> None:
        """``on_progress``: told the bytes that have gone and all of them, with every piece."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        self._form = request.stream
        self._size = int(request.headers["Content-Length"])
        self._on_progress = on_progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces, sent = iter(self._form), 0
        while (piece := await blocking_async(next, pieces, None)) is not None:
            yield piece
            sent += len(piece)
            self._on_progress(sent, self._size)
