"""File uploads, streamed from disk, and downloads that resume after a lost connection."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import httpx

from vitascope.client.api import ServiceError
from vitascope.client.compat import run_blocking_async, sleep_async
from vitascope.client.retry import RetryConfig
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput

MAX_STALLS = 5
"""Maximum number of consecutive connections of a download that are lost without progress."""
MAX_RESTARTS = 5
"""Maximum number of responses with the whole file although a range was requested."""
MAX_CONNECTIONS = 1000
"""Maximum number of connections of one download."""
RECONNECT = RetryConfig()
"""Delays between the connections of a download."""

OpenResponse = Callable[[Mapping[str, str]], Awaitable[httpx.Response]]
"""Sends the request with additional headers and returns the response with its body unread."""


class UploadStream(httpx.AsyncByteStream):
    """Body of a multipart request that reads the file chunk by chunk."""

    def __init__(self, request: httpx.Request, file: Path, on_progress: Callable[[int, int], None]) -> None:
        """Wrap the body of ``request``; ``on_progress`` is called with the bytes sent and the total per chunk."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        self._form = request.stream
        self._size = int(request.headers["Content-Length"])
        self._file = file
        self._on_progress = on_progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks, sent = iter(self._form), 0
        while (chunk := await run_blocking_async(self._read, chunks)) is not None:
            sent += len(chunk)
            if sent > self._size:
                break
            yield chunk
            self._on_progress(sent, self._size)
        if sent != self._size:  # the announced size cannot be corrected
            raise InvalidInput(f"file: {str(self._file)!r} changed while it was sent; a complete file was expected")

    def _read(self, chunks: Iterator[bytes]) -> bytes | None:
        try:
            return next(chunks, None)
        except OSError as error:
            raise _read_error(self._file, error) from error


def open_for_upload(file: Path) -> BinaryIO:
    """Open a regular file for reading. Raises InvalidInput if that fails."""
    try:
        mode = file.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe may block
            raise InvalidInput(f"file: {str(file)!r}; a regular file was expected")
        return file.open("rb")
    except (OSError, ValueError) as error:
        raise _read_error(file, error) from error


def _read_error(file: Path, error: OSError | ValueError) -> InvalidInput:
    reason = error.strerror if isinstance(error, OSError) else None
    return InvalidInput(f"file: {str(file)!r} cannot be read ({reason or error})")


async def download(open_response: OpenResponse, request: str, target: Path) -> None:
    """Write a file of the service to ``target``, which is replaced when the download is complete.

    Args:
        open_response: sends the request.
        request: description of the request, for error messages.
        target: path of the file.
    Raises:
        InvalidInput: ``target`` cannot be written.
        ServiceError: the connection was lost too often.
        VitascopeError: the errors of ``open_response``.
    """
    try:
        with atomic_path(target) as temp_path, temp_path.open("xb") as file:
            await _download_resumable(open_response, _DownloadState(request), file)
            file.flush()
            await run_blocking_async(os.fsync, file.fileno())  # in a thread; atomic_path would block the loop
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InvalidInput(f"file: {str(target)!r} cannot be written ({reason or error})") from error


async def _download_resumable(open_response: OpenResponse, state: _DownloadState, file: BinaryIO) -> None:
    while True:
        offset = file.tell()
        headers = {"Accept-Encoding": "identity", **state.range_headers(offset)}
        async with aclosing(await open_response(headers)) as response:
            file.seek(state.first_byte(response, offset))
            file.truncate()
            try:
                async for chunk in response.aiter_bytes():
                    await run_blocking_async(file.write, chunk)
                return
            except httpx.TransportError as error:
                stalls = state.connection_lost(file.tell(), error)
        await sleep_async(RECONNECT.delay_after(1 + stalls))


class _DownloadState:
    """Progress of a download over its connections, and the limits on them."""

    def __init__(self, request: str) -> None:
        self._request = request
        self._connections = 0
        self._restarts = 0
        self._stalls = 0
        self._max_offset = 0
        self._etag = ""

    def range_headers(self, offset: int) -> dict[str, str]:
        """Return the headers that request the file from ``offset`` on, or all of it if it has changed meanwhile."""
        if not offset:
            return {}
        is_strong = self._etag.startswith('"')  # If-Range allows no weak ones (RFC 9110, 13.1.5)
        return {"Range": f"bytes={offset}-", **({"If-Range": self._etag} if is_strong else {})}

    def first_byte(self, response: httpx.Response, offset: int) -> int:
        """Return the file offset of the first byte of a response to a request from ``offset`` on.

        That is ``offset``, or 0 if the service ignores ranges or the file has changed. Raises ServiceError for other
        responses and after `MAX_RESTARTS`.
        """
        self._connections += 1
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            content_range = response.headers.get("content-range", "")
            if not content_range.startswith(f"bytes {offset}-"):
                raise ServiceError(
                    f"{self._request}: Content-Range {content_range!r}; 'bytes {offset}-…' was expected", 206
                )
            return offset
        if response.status_code != httpx.codes.OK:
            status = response.status_code
            raise ServiceError(f"{self._request}: HTTP {status}; a file was expected", status)
        if offset:
            self._restarts += 1
            if self._restarts > MAX_RESTARTS:
                raise ServiceError(
                    f"{self._request}: the connection was lost {self._connections - 1} times, and the service does not "
                    "resume downloads (it ignores Range, or the file changes)"
                )
        self._etag = response.headers.get("etag", "")
        return 0

    def connection_lost(self, offset: int, error: httpx.TransportError) -> int:
        """Record that a connection was lost at ``offset``; return the consecutive losses without progress.

        Raises ServiceError after `MAX_STALLS` and `MAX_CONNECTIONS`.
        """
        self._stalls = 0 if offset > self._max_offset else self._stalls + 1
        self._max_offset = max(self._max_offset, offset)
        if self._stalls == MAX_STALLS or self._connections == MAX_CONNECTIONS:
            raise ServiceError(
                f"{self._request}: the connection was lost {self._connections} times; {self._max_offset} bytes were "
                f"received, not the whole file: {error}"
            ) from error
        return self._stalls
