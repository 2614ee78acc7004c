"""Messages between the service and a decoding process: a JSON header and raw bytes, and nothing that is executed.

A message is the header's length (4 bytes, big-endian), the header, and the blobs whose lengths the header states.
Neither end believes a length before it has checked it. The descriptor of the file that a request is about goes with the
first byte of the request.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

Header = dict[str, Any]
Buffer = bytes | bytearray | memoryview
MAX_REQUEST = 4 * 1024**2
_LENGTH = struct.Struct(">I")


class Malformed(Exception):
    """What came is not a message, or not one that was asked for."""


def send(channel: socket.socket, header: Header, blobs: Sequence[Buffer] = (), descriptor: int | None = None) -> None:
    """Send a message; ``blobs`` are noted in the header under that name. Raises OSError."""
    views = [memoryview(blob).cast("B") for blob in blobs]
    written = json.dumps({**header, "blobs": [view.nbytes for view in views]}).encode()
    message = _LENGTH.pack(len(written)) + written
    sent = 0 if descriptor is None else socket.send_fds(channel, [message], [descriptor])
    channel.sendall(message[sent:])
    for view in views:
        channel.sendall(view)


def receive_header(channel: socket.socket, most: int, on_wait: Callable[[], None]) -> Header:
    """The next header, of at most ``most`` bytes. Raises Malformed, EOFError, OSError and what ``on_wait`` raises."""
    start = bytearray(_LENGTH.size)
    receive_into(channel, memoryview(start), on_wait)
    return _header(channel, start, most, on_wait)


def receive_request(channel: socket.socket) -> tuple[Header, int | None]:
    """The next request and the descriptor that goes with it, which is the caller's to close. It is waited for however
    long it takes. Raises Malformed, EOFError and OSError.
    """
    start, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, 1)
    if not start:
        raise EOFError
    rest = bytearray(_LENGTH.size - len(start))
    receive_into(channel, memoryview(rest), _wait)
    return _header(channel, start + rest, MAX_REQUEST, _wait), descriptors[0] if descriptors else None


def _wait() -> None:
    """Nothing but the end of the socket ends the wait for a request."""


def _header(channel: socket.socket, start: bytes | bytearray, most: int, on_wait: Callable[[], None]) -> Header:
    """The header whose length is ``start``."""
    (length,) = _LENGTH.unpack(start)
    if length > most:
        raise Malformed(f"a header of {length} bytes; at most {most} were expected")
    written = bytearray(length)
    receive_into(channel, memoryview(written), on_wait)
    try:
        header = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a header that is not JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("blobs"), list):
        raise Malformed("a header without a list of blobs")
    return header


def receive_into(channel: socket.socket, target: memoryview, on_wait: Callable[[], None]) -> None:
    """Fill ``target``. ``on_wait`` is called again and again meanwhile, and may raise to end it.

    Raises EOFError when the other end is gone, OSError.
    """
    while target:
        on_wait()
        try:
            count = channel.recv_into(target)
        except TimeoutError:
            continue
        if not count:
            raise EOFError
        target = target[count:]
