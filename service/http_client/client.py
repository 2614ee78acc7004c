"""HTTP client for user-supplied URLs: it connects only to allowed addresses (SSRF-safe), within deadlines."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, BinaryIO

import httpcore
import httpx

from index.jobs.sources.fetcher import FetchInterrupted
from service.errors import UrlFailed, UrlRefused
from service.http_client.url_policy import Address, ParsedUrl, UrlPolicy, parse_redirect, parse_url

_log = logging.getLogger("vitascope.service")

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
USER_AGENT = "vitascope"
_POLL_SECONDS = 0.25
"""Seconds between two checks for cancellation of a waiting request."""

Resolve = Callable[[str], Sequence[Address]]
"""Function that resolves a host name to addresses. Raises OSError if there are none."""
AddressFilter = Callable[[Address], str | None]
"""Function that returns why connections to an address are forbidden; None if they are allowed."""


class Cancelled(FetchInterrupted):
    """The request was cancelled by its caller."""


class Deadline:
    """Time limits of one request, including redirects. Call ``remaining`` before each operation that may wait."""

    def __init__(self, name: str, total_seconds: float, is_cancelled: Callable[[], bool]) -> None:
        """Start the time limit of the whole request.

        Args:
            name: name of the request, for messages.
            total_seconds: time limit of the whole request.
            is_cancelled: returns whether the caller has cancelled the request.
        """
        self._name = name
        self._end = time.monotonic() + total_seconds
        self._total_seconds = total_seconds
        self._is_cancelled = is_cancelled
        self.start_phase("the request", total_seconds)

    def start_phase(self, phase: str, seconds: float) -> None:
        """Start a phase with its own time limit: ``seconds``, or the rest of the total if that is less."""
        self._phase, self._phase_seconds = phase, seconds
        self._phase_end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the remaining seconds, more than 0. Raises UrlFailed after the deadline, Cancelled if cancelled."""
        if self._is_cancelled():
            raise Cancelled(self._name)
        now = time.monotonic()
        if now >= self._end:
            raise UrlFailed(f"{self._name}: not done within {self._total_seconds:g} s", is_temporary=True)
        if now >= self._phase_end:
            raise UrlFailed(f"{self._name}: {self._phase} took more than {self._phase_seconds:g} s", is_temporary=True)
        return min(self._end, self._phase_end) - now

    def poll_seconds(self) -> float:
        """Return ``remaining``, but at most the interval of checks for cancellation."""
        return min(self.remaining(), _POLL_SECONDS)


def resolve_name(host: str) -> Sequence[Address]:
    """Resolve a host name to addresses with the system's resolver. Raises OSError."""
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in entries))


def _resolve_within(host: str, resolve: Resolve, deadline: Deadline) -> Sequence[Address]:
    """Resolve a name in a thread, as the system's resolver has no timeout; return an empty list for an unknown name."""
    addresses: list[Address] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            addresses.extend(resolve(host))
        except (OSError, UnicodeError):
            pass  # unknown name; the error depends on the system
        finally:
            is_done.set()

    threading.Thread(target=run, name="resolver", daemon=True).start()
    while not is_done.wait(deadline.poll_seconds()):
        pass
    return addresses


def is_own_address(address: Address) -> bool:
    """Return whether an address belongs to this machine. Nothing is sent: the kernel only looks up the route."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False  # no route; connecting will fail, too


@dataclass(frozen=True, slots=True)
class PostResponse:
    """Status and headers of a response. Header names are in lower case; a repeated header has its last value."""

    status: int
    headers: Mapping[str, str]


class SafeClient:
    """HTTP client for URLs that a policy allows. It ignores cookies, and credentials and proxies in the environment.

    Thread-safe and blocking. ``resolve``, ``address_filter`` and ``tls`` are for tests, which cannot connect to public
    addresses; no setting changes them.
    """

    def __init__(
        self,
        policy: UrlPolicy,
        *,
        resolve: Resolve = resolve_name,
        address_filter: AddressFilter | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy
        self._resolve = resolve
        self._address_filter = self._block_reason if address_filter is None else address_filter
        self._tls = httpx.create_ssl_context() if tls is None else tls

    def check(self, url: str) -> None:
        """Validate a URL without resolving or requesting it. Raises InvalidInput, and UrlRefused if it is forbidden."""
        parse_url(url, self.policy)

    def fetch(self, url: str, file: BinaryIO, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Download a URL to a file. After an error, the content of the file is undefined.

        Args:
            url: The URL.
            file: File to which the body is written, at most ``max_bytes`` of the policy.
            is_cancelled: Returns whether to cancel the request; called repeatedly while the request waits.

        Raises:
            InvalidInput, UrlRefused: The URL, or a redirect, is malformed or forbidden.
            UrlFailed: The download failed.
            Cancelled: ``is_cancelled`` returned true.
            OSError: The file could not be written.
        """
        target = parse_url(url, self.policy)
        deadline = Deadline(target.origin, self.policy.total_timeout, is_cancelled)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        for _ in range(self.policy.max_redirects + 1):
            with self._request("GET", target, headers, b"", deadline) as response:
                if response.status not in REDIRECT_STATUSES:
                    self._receive(target, response, file, deadline)
                    return
                location = _headers(response).get("location", "")
            if not self.policy.max_redirects:
                raise UrlRefused(f"{target.origin}: status {response.status}; redirects are not followed")
            target = parse_redirect(target, location, self.policy)
        raise UrlRefused(f"{target.origin}: more than {self.policy.max_redirects} redirects")

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], is_cancelled: Callable[[], bool] = lambda: False
    ) -> PostResponse:
        """Send a POST request; return status and headers of the response. Redirects are not followed.

        Args:
            url: The URL.
            body: Body of the request.
            headers: Headers of the request.
            is_cancelled: Returns whether to cancel the request; called repeatedly while the request waits.

        Raises:
            InvalidInput, UrlRefused: The URL is malformed or forbidden.
            UrlFailed: The request failed.
            Cancelled: ``is_cancelled`` returned true.
        """
        target = parse_url(url, self.policy)
        deadline = Deadline(target.origin, self.policy.total_timeout, is_cancelled)
        with self._request("POST", target, headers, body, deadline) as response:
            return PostResponse(response.status, _headers(response))

    @contextmanager
    def _request(
        self, method: str, target: ParsedUrl, headers: Mapping[str, str], body: bytes, deadline: Deadline
    ) -> Iterator[httpcore.Response]:
        """Send a request on a new connection; yield the response before its body is read."""
        deadline.start_phase("connecting", self.policy.connect_timeout)
        network = _PinnedBackend(self._addresses(target, deadline), deadline)
        origin = httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port)
        url = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=target.path.encode())
        sent: list[tuple[bytes | str, bytes | str]] = [
            ("Host", target.authority),
            ("User-Agent", USER_AGENT),
            ("Connection", "close"),
            *headers.items(),
        ]
        if method == "POST":
            sent.append(("Content-Length", str(len(body))))

        def trace(event: str, _: object) -> None:
            if event.endswith(".send_request_headers.started"):
                deadline.start_phase("the response", self.policy.response_timeout)

        request = httpcore.Request(method, url, headers=sent, content=body, extensions={"trace": trace})
        with httpcore.HTTPConnection(origin, self._tls, network_backend=network) as connection:
            try:
                response = connection.handle_request(request)
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                raise UrlFailed(f"{target.origin}: {error or 'the connection broke'}", is_temporary=True) from error
            try:
                yield response
            finally:
                response.close()

    def _addresses(self, target: ParsedUrl, deadline: Deadline) -> list[Address]:
        """Return the addresses of the target. Raises UrlRefused if one is forbidden, UrlFailed if there are none.

        Both have the same message, without addresses, so that users cannot probe for host names in this network.
        """
        if target.address is not None:
            addresses: Sequence[Address] = [target.address]
        else:
            addresses = _resolve_within(target.host, self._resolve, deadline)
        message = f"{target.origin}: {target.host!r} is unknown, or has an address that is not public"
        if not addresses:
            raise UrlFailed(message, is_temporary=True)
        for address in addresses:
            if (reason := self._address_filter(address)) is not None:
                _log.warning("%s: refused, as it has the address %s (%s)", target.origin, address, reason)
                raise UrlRefused(message)
        return list(addresses)

    def _block_reason(self, address: Address) -> str | None:
        reason = self.policy.block_reason(address)
        is_allowlisted = any(address in network for network in self.policy.allowed_networks)
        return "this machine" if reason is None and not is_allowlisted and is_own_address(address) else reason

    def _receive(self, target: ParsedUrl, response: httpcore.Response, file: BinaryIO, deadline: Deadline) -> None:
        headers = _headers(response)
        if response.status != 200:
            is_temporary = response.status in TEMPORARY_STATUSES
            raise UrlFailed(f"{target.origin}: status {response.status}; 200 was expected", is_temporary=is_temporary)
        if (encoding := headers.get("content-encoding", "identity")).lower() != "identity":
            raise UrlFailed(
                f"{target.origin}: Content-Encoding {encoding[:80]!r}; an uncompressed body was expected",
                is_temporary=False,
            )
        if (length := headers.get("content-length", "0")).isdecimal() and int(length[:20]) > self.policy.max_bytes:
            raise self._too_large(target, length[:20])
        total = 0
        deadline.start_phase("waiting for the next byte", self.policy.read_timeout)
        try:
            for block in response.iter_stream():
                total += len(block)
                if total > self.policy.max_bytes:
                    raise self._too_large(target, f"more than {self.policy.max_bytes}")
                file.write(block)
                deadline.start_phase("waiting for the next byte", self.policy.read_timeout)
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise UrlFailed(f"{target.origin}: broke off after {total} bytes: {error}", is_temporary=True) from error

    def _too_large(self, target: ParsedUrl, size: str) -> UrlFailed:
        return UrlFailed(
            f"{target.origin}: {size} bytes; at most {self.policy.max_bytes} bytes were expected "
            "(VITASCOPE_MAX_VIDEO_BYTES)",
            is_temporary=False,
        )


class _PinnedBackend(httpcore.NetworkBackend):
    """Network backend that ignores the host name and connects to the first of ``addresses`` that is reachable."""

    def __init__(self, addresses: Sequence[Address], deadline: Deadline) -> None:
        self._addresses = addresses
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: OSError | None = None
        for index, address in enumerate(self._addresses):
            family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                # The remaining time is divided among the remaining addresses, as the first may be unreachable.
                seconds = self._deadline.remaining() / (len(self._addresses) - index)
                self._connect(connection, (str(address), port), seconds)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Stream(connection, self._deadline)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
        raise httpcore.ConnectError(str(failure))

    def _connect(self, connection: socket.socket, address: tuple[str, int], seconds: float) -> None:
        """Connect within ``seconds``. Raises OSError, and UrlFailed and Cancelled by the deadline."""
        end = time.monotonic() + seconds
        connection.setblocking(False)
        error = connection.connect_ex(address)
        poller = select.poll()
        poller.register(connection, select.POLLOUT)
        while error == errno.EINPROGRESS:
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError("timed out")
            if poller.poll(1000 * min(left, self._deadline.poll_seconds())):
                error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("Unix sockets are not supported")

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, self._deadline.remaining()))


class _Stream(httpcore.NetworkStream):
    """Connection whose operations end at the deadline; httpcore's timeouts are ignored."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            self._connection.settimeout(self._deadline.poll_seconds())
            try:
                return self._connection.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            self._connection.settimeout(self._deadline.poll_seconds())
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
            # The connection must be closed by TLS: otherwise an attacker could truncate a body without a length.
            secured = ssl_context.wrap_socket(
                self._connection,
                server_hostname=server_hostname,
                suppress_ragged_eofs=False,
                do_handshake_on_connect=False,
            )
            while True:
                secured.settimeout(self._deadline.poll_seconds())
                try:
                    secured.do_handshake()
                    return _Stream(secured, self._deadline)
                except TimeoutError:
                    continue
        except OSError as error:  # including invalid certificates
            self.close()
            raise httpcore.ConnectError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._connection if isinstance(self._connection, ssl.SSLSocket) else None
        return self._connection if info == "socket" else None


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
