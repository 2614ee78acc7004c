"""Who comes while a service closes is served, or finds nobody: no connection in the queue is reset."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import ExitStack

import pytest

from service import last_connections
from service.last_connections import has_a_queue, take_up_the_queue
from tests.waiting import PATIENCE

WAITING = 40
"""Connections in the queue: many more than are taken up in one turn of the loop."""
REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=["kept out", "a queue of one"])
def is_kept_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel keeps new connections out; else it is one without such filters."""
    if request.param == "a queue of one":
        monkeypatch.setattr(last_connections, "SO_ATTACH_FILTER", 0x7FFF)
    return request.param == "kept out"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(len(REQUEST)))
    await writer.drain()
    writer.close()


def test_everybody_in_the_queue_of_a_socket_is_served_before_it_is_closed(
    is_kept_out: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.last_connections")

    async def close_among_clients(stack: ExitStack) -> list[bytes]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=2 * WAITING)
        address = listener.getsockname()
        server = await asyncio.start_server(echo, sock=listener, backlog=2 * WAITING)
        clients = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(WAITING)]
        for client in clients:
            client.sendall(REQUEST)
        assert has_a_queue(listener), "they do not wait: this shows nothing"
        await take_up_the_queue(listener)
        if is_kept_out:
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.3)
        server.close()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)
        return await asyncio.gather(*(asyncio.to_thread(client.recv, len(REQUEST)) for client in clients))

    with ExitStack() as stack:
        assert asyncio.run(close_among_clients(stack)) == [REQUEST] * WAITING
    said = [each for each in caplog.records if each.name == "service.last_connections"]
    assert [each.getMessage()[:32] for each in said] == ([] if is_kept_out else ["new connections cannot be kept o"])


def test_a_queue_that_nobody_takes_up_holds_nobody_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(last_connections, "EMPTYING_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        asyncio.run(take_up_the_queue(listener))
    assert "connections were left in the queue" in caplog.text
