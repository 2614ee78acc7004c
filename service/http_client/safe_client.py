"""Asking for a URL: a body streamed into a file, or bytes posted."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import httpcore
import httpx

from service.errors import UrlFailed, UrlRefused
from service.http_client.addresses import Address, why_not_allowed
from service.http_client.deadline import Clock
from service.http_client.lookup import Resolve, addresses_of, is_this_machine, system_addresses
from service.http_client.pinned import PinnedNetwork
from service.http_client.url_policy import Rules
from service.http_client.urls import Target, next_url, read_url

_log = logging.getLogger("vitascope.service")

REDIRECTS = frozenset({301, 302, 303, 307, 308})
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
AGENT = "vitascope"

Judge = Callable[[Address], str | None]
"""Why an address may not be connected to; None if it may."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a POST was answered: the status, and the headers by name in lower case (the last, where one is repeated)."""

    status: int
    headers: Mapping[str, str]


def _never() -> bool:
    return False


class Door:
    """Asks for URLs by ``rules``. No cookie or credential goes along, and no proxy of the environment is used. For many
    threads at once, outside the event loop.

    ``resolve``, ``judge`` and ``tls`` are there for tests, which have no public address to connect to; no setting
    leads to them.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        resolve: Resolve = system_addresses,
        judge: Judge | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.rules = rules
        self._resolve = resolve
        self._judge = self._why_refused if judge is None else judge
        self._tls = httpx.create_ssl_context() if tls is None else tls

    def check(self, url: str) -> None:
        """Raise InvalidInput or UrlRefused for a URL that can never be asked for. Nothing is looked up or sent."""
        read_url(url, self.rules)

    def fetch(self, url: str, file: BinaryIO, should_stop: Callable[[], bool] = _never) -> int:
        """Write what a GET of ``url`` gives into ``file``, at most ``max_bytes``; how many bytes that were.

        Raises InvalidInput, UrlRefused, UrlFailed, Cancelled, and OSError from writing the file. What is in the file
        then is of no use.
        """
        target = read_url(url, self.rules)
        clock = Clock(target.origin, self.rules.total_seconds, should_stop)
        for _ in range(self.rules.redirects + 1):
            with self._asked("GET", target, {"Accept": "*/*", "Accept-Encoding": "identity"}, b"", clock) as response:
                if response.status not in REDIRECTS:
                    return self._receive(target, response, file, clock)
                location = _headers(response).get("location", "")
            if not self.rules.redirects:
                raise UrlRefused(f"{target.origin}: answered {response.status}; redirects are not followed here")
            target = next_url(target, location, self.rules)
        raise UrlRefused(f"{target.origin}: more than {self.rules.redirects} redirects; at most that many are followed")

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], should_stop: Callable[[], bool] = _never
    ) -> Answer:
        """POST ``body`` and return the answer's head, whatever its status; its body is not read, no redirect followed.

        Raises InvalidInput, UrlRefused, UrlFailed and Cancelled.
        """
        target = read_url(url, self.rules)
        clock = Clock(target.origin, self.rules.total_seconds, should_stop)
        with self._asked("POST", target, headers, body, clock) as response:
            return Answer(response.status, _headers(response))

    @contextmanager
    def _asked(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes, clock: Clock
    ) -> Iterator[httpcore.Response]:
        """The answer, its body not read yet, on a connection of its own that ends with the block."""
        clock.begin("connecting", self.rules.connect_seconds)
        network = PinnedNetwork(self._addresses(target, clock), clock)
        origin = httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port)
        url = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=target.path.encode())
        sent: list[tuple[bytes | str, bytes | str]] = [
            ("Host", target.authority),
            ("User-Agent", AGENT),
            ("Connection", "close"),
            *headers.items(),
        ]
        if method == "POST":
            sent.append(("Content-Length", str(len(body))))

        def connected(event: str, _: object) -> None:
            if event.endswith(".send_request_headers.started"):
                clock.begin("the answer", self.rules.answer_seconds)

        request = httpcore.Request(method, url, headers=sent, content=body, extensions={"trace": connected})
        with httpcore.HTTPConnection(origin, self._tls, network_backend=network) as connection:
            try:
                response = connection.handle_request(request)
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                raise UrlFailed(f"{target.origin}: {error or 'the connection broke off'}", is_temporary=True) from error
            try:
                yield response
            finally:
                response.close()

    def _addresses(self, target: Target, clock: Clock) -> list[Address]:
        """The target's addresses, all of which may be connected to. Raises UrlRefused, and UrlFailed without any.

        Whoever asked is told neither the addresses nor which it was: which names this network has is not for him.
        """
        found = addresses_of(target.host, self._resolve, clock) if target.address is None else [target.address]
        message = f"{target.origin}: {target.host!r} is unknown, or leads to an address that is not public"
        if not found:
            raise UrlFailed(message, is_temporary=True)
        for address in found:
            if (reason := self._judge(address)) is not None:
                _log.warning("%s: refused, as it leads to %s (%s)", target.origin, address, reason)
                raise UrlRefused(message)
        return list(found)

    def _why_refused(self, address: Address) -> str | None:
        reason = why_not_allowed(address, self.rules.refused, self.rules.allowed)
        is_allowed = any(address in network for network in self.rules.allowed)
        return "this machine" if reason is None and not is_allowed and is_this_machine(address) else reason

    def _receive(self, target: Target, response: httpcore.Response, file: BinaryIO, clock: Clock) -> int:
        headers = _headers(response)
        if response.status != 200:
            is_temporary = response.status in TEMPORARY
            raise UrlFailed(f"{target.origin}: answered {response.status}; 200 was expected", is_temporary=is_temporary)
        if (encoding := headers.get("content-encoding", "identity")).lower() != "identity":
            raise UrlFailed(
                f"{target.origin}: Content-Encoding {encoding[:80]!r}; the file itself was expected", is_temporary=False
            )
        if (stated := headers.get("content-length", "0")).isdecimal() and int(stated[:20]) > self.rules.max_bytes:
            raise self._too_large(target, stated[:20])
        total = 0
        clock.begin("waiting for the next byte", self.rules.idle_seconds)
        try:
            for block in response.iter_stream():
                total += len(block)
                if total > self.rules.max_bytes:
                    raise self._too_large(target, f"more than {self.rules.max_bytes}")
                file.write(block)
                clock.begin("waiting for the next byte", self.rules.idle_seconds)
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise UrlFailed(f"{target.origin}: broke off after {total} bytes: {error}", is_temporary=True) from error
        return total

    def _too_large(self, target: Target, size: str) -> UrlFailed:
        return UrlFailed(
            f"{target.origin}: {size} bytes; at most {self.rules.max_bytes} were expected", is_temporary=False
        )


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
