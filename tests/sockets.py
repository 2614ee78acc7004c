"""Reserved ports, and the connections that this process opens."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_recordings: list[list[tuple[object, ...]]] = []
_hooked = threading.Event()


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and _recordings:
        for records in list(_recordings):
            records.append(arguments)


@contextmanager
def record_connections() -> Iterator[list[tuple[object, ...]]]:
    """Yield the list of (socket, address) of every ``connect`` in this process until the end of the context."""
    if not _hooked.is_set():
        _hooked.set()
        sys.addaudithook(_record)  # cannot be removed
    records: list[tuple[object, ...]] = []
    _recordings.append(records)
    try:
        yield records
    finally:
        _recordings.remove(records)


def connected_addresses(records: list[tuple[object, ...]]) -> set[tuple[str, int]]:
    """Return the addresses and ports of recorded connections."""
    result = set()
    for _, address in records:
        assert isinstance(address, tuple), address  # a Unix socket
        result.add((str(address[0]), int(address[1])))
    return result


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections until a server with SO_REUSEADDR listens on it.

    No other program gets this port during the context.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
