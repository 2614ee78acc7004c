"""A TCP proxy that loses connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Forwarder:
    """Forwards connections to a local port."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        """Refuses connections until ``listen``."""
        self.answers_to_lose = 0
        """Number of next responses that are cut off before their first byte."""
        self._clients: list[socket.socket] = []
        self._open: list[socket.socket] = [self._listener]

    def listen(self) -> None:
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close the connections of clients, but not those to the service."""
        clients, self._clients = self._clients, []
        for client in clients:
            _end(client)

    def close(self) -> None:
        for each in self._open:
            _end(each)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._clients.append(client)
                self._open += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_back, args=(server, client), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if self.answers_to_lose:
                    self.answers_to_lose -= 1
                    _end(client)
                    while server.recv(65536):  # the rest of the response
                        pass
                    return
                with suppress(OSError):
                    client.sendall(data)
        _end(client)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarding(to: int, *, listening: bool = True) -> Iterator[Forwarder]:
    """A forwarder, closed at the end."""
    forwarder = Forwarder(to)
    if listening:
        forwarder.listen()
    try:
        yield forwarder
    finally:
        forwarder.close()
