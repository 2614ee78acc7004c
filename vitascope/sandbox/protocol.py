"""Wire protocol between the service and a decoding worker: framed messages over a socket.

A message is the length of its header (4 bytes, big-endian), the header (JSON), and blobs whose sizes the header lists.
The descriptor of the file to decode accompanies the first byte of a request. Lengths are checked before memory is
allocated for them, and nothing that is received is executed.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

Header = dict[str, Any]
Buffer = bytes | bytearray | memoryview
MAX_REQUEST_BYTES = 4 * 1024**2
_LENGTH = struct.Struct(">I")


class ProtocolError(Exception):
    """A message is malformed, or is not a valid response to its request."""


def send(channel: socket.socket, header: Header, blobs: Sequence[Buffer] = (), descriptor: int | None = None) -> None:
    """Send a message. Raises OSError.

    Args:
        channel: Socket to send on.
        header: JSON values; frozensets are converted to lists, dataclasses to objects.
        blobs: Binary data; the sizes are added to the header.
        descriptor: File descriptor to pass to the receiver.
    """
    views = [memoryview(blob).cast("B") for blob in blobs]
    encoded = json.dumps({**header, "blobs": [view.nbytes for view in views]}, default=_to_json).encode()
    message = _LENGTH.pack(len(encoded)) + encoded
    sent = 0 if descriptor is None else socket.send_fds(channel, [message], [descriptor])
    channel.sendall(message[sent:])
    for view in views:
        channel.sendall(view)


def receive_header(channel: socket.socket, max_bytes: int, poll: Callable[[], None]) -> Header:
    """Receive the header of a message.

    Args:
        channel: Socket with a timeout.
        max_bytes: Largest header to accept.
        poll: Called repeatedly while waiting; it stops the wait by raising an exception.

    Raises:
        ProtocolError: The message is malformed.
        EOFError: The other end closed the socket.
        OSError: The socket failed.
    """
    prefix = bytearray(_LENGTH.size)
    receive_into(channel, memoryview(prefix), poll)
    return _receive_header(channel, prefix, max_bytes, poll)


def receive_request(channel: socket.socket) -> tuple[Header, int | None]:
    """Receive a request and its file descriptor, if any. The caller must close the descriptor.

    Waits without a timeout. Raises ProtocolError, EOFError and OSError.
    """
    prefix, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, 1)
    if not prefix:
        raise EOFError
    rest = bytearray(_LENGTH.size - len(prefix))
    receive_into(channel, memoryview(rest), _no_poll)
    header = _receive_header(channel, prefix + rest, MAX_REQUEST_BYTES, _no_poll)
    return header, descriptors[0] if descriptors else None


def receive_into(channel: socket.socket, target: memoryview, poll: Callable[[], None]) -> None:
    """Receive data until ``target`` is full. Raises EOFError, OSError, and the exceptions of ``poll``.

    Args:
        channel: Socket with a timeout, or without one.
        target: Buffer to fill.
        poll: Called before each attempt to receive; it stops the wait by raising an exception.
    """
    while target:
        poll()
        try:
            count = channel.recv_into(target)
        except TimeoutError:
            continue
        if not count:
            raise EOFError
        target = target[count:]


def _to_json(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _no_poll() -> None:
    pass


def _receive_header(
    channel: socket.socket, prefix: bytes | bytearray, max_bytes: int, poll: Callable[[], None]
) -> Header:
    (length,) = _LENGTH.unpack(prefix)
    if length > max_bytes:
        raise ProtocolError(f"header: {length} bytes; at most {max_bytes} were expected")
    encoded = bytearray(length)
    receive_into(channel, memoryview(encoded), poll)
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"header: not JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("blobs"), list):
        raise ProtocolError("header: an object with a list of blobs was expected")
    return header
