"""The last who come to a service that closes are served.

When a socket that listens is closed, the kernel resets every connection in its queue, and to those clients it looks as
if the service had crashed.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import select
import socket
import struct

_log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 0.1
"""For handshakes that had begun when the last one was let in; several times the way across a data centre."""
EMPTYING_SECONDS = 5.0
"""For the loop to take up the rest of the queue."""
SO_ATTACH_FILTER = 26
"""Linux, `socket(7)`; the module `socket` does not name it."""
NO_NEW_CONNECTIONS = [
    (0x30, 0, 0, 13),  # A = byte 13 of the TCP header: the flags
    (0x54, 0, 0, 0x12),  # A &= SYN | ACK
    (0x15, 0, 1, 0x02),  # a SYN alone, which asks for a new connection,
    (0x06, 0, 0, 0),  # is dropped, as if it were lost on the way: who sent it asks again a second later
    (0x06, 0, 0, 0xFFFFFFFF),  # all else is let through, since it ends a handshake that has begun
]
"""A classic BPF program; needs no privilege."""


async def take_up_the_queue(listener: socket.socket) -> None:
    """Let nobody new in, and return once the running loop has taken up all who had come by then.

    After that ``listener`` can be closed without cutting anybody off.
    """
    _let_nobody_in(listener)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(HANDSHAKE_SECONDS)
    end = loop.time() + EMPTYING_SECONDS
    while has_a_queue(listener):
        if loop.time() > end:
            _log.warning("connections were left in the queue: the loop did not take them up in %g s", EMPTYING_SECONDS)
            return
        await asyncio.sleep(0)


def has_a_queue(listener: socket.socket) -> bool:
    """Whether a connection waits to be taken up."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _let_nobody_in(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in NO_NEW_CONNECTIONS)
    memory = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("HP", len(NO_NEW_CONNECTIONS), ctypes.addressof(memory))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_program)
    except OSError as error:  # no Linux, or a sandbox without it: a queue of one is the next best
        _log.info("new connections cannot be kept out while the last are taken up: %s", error)
        listener.listen(0)
