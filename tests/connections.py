"""What this process connects to, seen at the socket."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_watching: list[list[tuple[object, ...]]] = []
_hooked = threading.Event()


def _note(event: str, given: tuple[object, ...]) -> None:
    if event == "socket.connect" and _watching:
        for seen in list(_watching):
            seen.append(given)


@contextmanager
def connections() -> Iterator[list[tuple[object, ...]]]:
    """Every ``connect`` of a socket in this process until the end of the block: (socket, address)."""
    if not _hooked.is_set():
        _hooked.set()
        sys.addaudithook(_note)  # stays for good, and does nothing while nobody watches
    seen: list[tuple[object, ...]] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


def places(seen: list[tuple[object, ...]]) -> set[tuple[str, int]]:
    """The addresses and ports that were connected to."""
    found = set()
    for _, address in seen:
        assert isinstance(address, tuple), address  # a socket of the file system
        found.add((str(address[0]), int(address[1])))
    return found
