# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""The form of an upload, read from disk as it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from vitascope.client.compat import blocking
from vitascope.errors import InvalidInput


class Sending(httpx.SyncByteStream):
    """The body of a request with a file: a piece is read when the one before it has gone."""

    def __init__(self, request: httpx.Request, file: Path, on_progress: Callable[[int, int], None]) -> None:
        """``on_progress``: told the bytes that have gone and all of them, with every piece."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        self._form = request.stream
        self._size = int(request.headers["Content-Length"])
        self._file = file
        self._on_progress = on_progress

    def __iter__(self) -> Iterator[bytes]:
        pieces, sent = iter(self._form), 0
        while (piece := blocking(self._read, pieces)) is not None:
            yield piece
            sent += len(piece)
            self._on_progress(sent, self._size)

    def _read(self, pieces: Iterator[bytes]) -> bytes | None:
        try:
            return next(pieces, None)
        except OSError as error:
            raise _unreadable(self._file, error) from error


def opened(file: Path) -> BinaryIO:
    """Raises InvalidInput where it cannot be opened."""
    try:
        return file.open("rb")
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"file: {str(file)!r} cannot be read ({error.strerror or error})")
