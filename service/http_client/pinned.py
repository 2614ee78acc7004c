"""The network under an HTTP client: it connects to addresses that were judged, whatever name it is told."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from typing import Any

import httpcore

from service.http_client.addresses import Address
from service.http_client.deadline import Clock


class PinnedNetwork(httpcore.NetworkBackend):
    """Connects to the first of ``addresses`` that takes the connection, and keeps to the clock."""

    def __init__(self, addresses: Sequence[Address], clock: Clock) -> None:
        self._addresses = addresses
        self._clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """The name was resolved already, so ``host`` is not looked at. Raises httpcore.ConnectError."""
        failed: OSError | None = None
        for number, address in enumerate(self._addresses):
            family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                # Each gets its share of the time, so that one that does not answer leaves some to the next.
                connection.settimeout(self._clock.left() / (len(self._addresses) - number))
                connection.connect((str(address), port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Stream(connection, self._clock)
            except OSError as error:
                connection.close()
                failed = error
            except BaseException:
                connection.close()
                raise
        raise httpcore.ConnectError(str(failed))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        """There is no way to a socket of this machine."""
        raise httpcore.ConnectError("sockets of this machine are not connected to")

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, self._clock.left()))


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait is bounded by the clock; the client's own time limits are not needed."""

    def __init__(self, connection: socket.socket, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            self._connection.settimeout(self._clock.moment())
            try:
                return self._connection.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            self._connection.settimeout(self._clock.moment())
            try:
                rest = rest[self._connection.send(rest) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._connection.settimeout(self._clock.left())
            # An end that is not announced may be the work of somebody on the way: a body without a length is not
            # taken for whole then.
            secured = ssl_context.wrap_socket(
                self._connection, server_hostname=server_hostname, suppress_ragged_eofs=False
            )
            return _Stream(secured, self._clock)
        except OSError as error:  # a certificate of another name among them
            self.close()
            raise httpcore.ConnectError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._connection if isinstance(self._connection, ssl.SSLSocket) else None
        return self._connection if info == "socket" else None
