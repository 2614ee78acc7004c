"""The HTTP client for user-supplied URLs: rejected URLs, the addresses that it connects to, and its limits."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import UrlFailed, UrlRefused
from service.http_client.client import Cancelled, SafeClient, is_own_address
from service.http_client.url_policy import Address, UrlPolicy, block_reason, parse_url
from tests.chaos import rounds
from tests.service.fake_server import LOCALHOST, FakeServer, dripping, fake_server, page, redirect, tls_contexts
from tests.waiting import PATIENCE
from vitascope.errors import InvalidInput

OK = b"HTTP/1.1 200 OK\r\n"


def resolve_locally(host: str) -> list[Address]:
    """Resolve every name to this machine."""
    return [LOCALHOST]


def policy(server: FakeServer, **changes: object) -> UrlPolicy:
    default = UrlPolicy(schemes=frozenset({"http", "https"}), ports=frozenset({server.port}), max_bytes=100_000)
    return replace(default, **changes)  # type: ignore[arg-type]


def client(server: FakeServer, **changes: object) -> SafeClient:
    """A client that may connect to this machine."""
    return SafeClient(policy(server, **changes), resolve=resolve_locally, address_filter=lambda address: None)


def fetch(client: SafeClient, url: str) -> bytes:
    client.fetch(url, body := io.BytesIO())
    return body.getvalue()


def url(server: FakeServer, path: str = "/film.mp4") -> str:
    return f"http://media.example:{server.port}{path}"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        running.pages["/film.mp4"] = page(b"a film")
        yield running


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        *((a, True) for a in ("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.63.255.255")),
        *((a, True) for a in ("100.128.0.0", "2606:4700::1111", "2a00:1450:4001::", "2001:4860::8888")),
        ("64:ff9b::8.8.8.8", True),
        *((a, False) for a in ("0.0.0.0", "0.1.2.3", "10.0.0.1", "127.0.0.1", "127.255.255.254", "100.64.0.1")),
        *((a, False) for a in ("100.100.100.200", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1")),
        *((a, False) for a in ("192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255")),
        *((a, False) for a in ("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1")),
        *((a, False) for a in ("255.255.255.255", "168.63.129.16")),
        *((a, False) for a in ("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8")),
        *((a, False) for a in ("::ffff:0:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254")),
        *((a, False) for a in ("64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2")),
        *((a, False) for a in ("2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:808:808::1", "3fff::1")),
        *((a, False) for a in ("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "5f00::1")),
        *((a, False) for a in ("2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:10.0.0.1", "4000::1", "2001:20::1")),
    ],
)
def test_only_public_addresses_are_allowed(address: str, is_public: bool) -> None:
    assert (block_reason(ip_address(address)) is None) == is_public


@given(st.ip_addresses())
@example(IPv4Address("192.0.0.8"))
@example(IPv6Address("2001:1::1"))
def test_every_address_that_is_not_global_is_blocked(address: Address) -> None:
    assert address.is_global or block_reason(address) is not None


def test_additional_networks_can_be_blocked_also_behind_nat64() -> None:
    blocked = [IPv4Network("8.8.8.0/24")]
    assert block_reason(IPv4Address("8.8.8.8"), blocked) is not None
    assert block_reason(IPv6Address("64:ff9b::8.8.8.8"), blocked) is not None
    assert block_reason(IPv4Address("8.8.4.4"), blocked) is None


def test_single_private_networks_can_be_allowed() -> None:
    allowed = [ip_network("10.20.0.0/16")]
    assert block_reason(ip_address("10.20.1.2"), allowed=allowed) is None
    assert block_reason(ip_address("10.21.1.2"), allowed=allowed) == "private"
    assert block_reason(ip_address("::ffff:10.20.1.2"), allowed=allowed) is not None
    assert block_reason(ip_address("10.20.1.2"), [ip_network("10.20.1.0/24")], allowed) is not None


def test_addresses_of_this_machine_are_recognised() -> None:
    assert is_own_address(LOCALHOST)
    assert not is_own_address(IPv4Address("192.0.2.77"))


def test_a_url_is_normalised() -> None:
    url = parse_url("HTTPS://Media.Example:443/ä/b c%20d?q=ü&r=%C3%A4#frag".replace(" ", ""), UrlPolicy())
    assert (url.scheme, url.host, url.port, url.authority) == ("https", "media.example", 443, "media.example")
    assert url.path == "/%C3%A4/bc%20d?q=%C3%BC&r=%C3%A4"
    assert parse_url("https://media.example?q", UrlPolicy()).url == "https://media.example/?q"
    assert parse_url("https://[2606:4700::1111]/", UrlPolicy()).authority == "[2606:4700::1111]"


@pytest.mark.parametrize("host", ["media.example", "a.videos.example", "a.b.videos.example"])
def test_hosts_can_be_restricted(host: str) -> None:
    restricted = UrlPolicy(hosts=("media.example", "*.videos.example"))
    parse_url(f"https://{host}/", restricted)
    for other in (f"x{host}", f"{host}.evil.example", "videos.example", "8.8.8.8"):
        with pytest.raises(UrlRefused, match="host"):
            parse_url(f"https://{other}/", UrlPolicy(hosts=(host,) if other.startswith("x") else restricted.hosts))


@given(st.text(st.sampled_from("ab.1@:/\\#?%[]x0-_~&=;, \t\r\nüⓛ。\uff11"), max_size=40))
@example("media.example")
@example("media.example:443/a?b#c")
@example("a.b%2f@c.d")
@settings(max_examples=rounds(80, 5_000))
def test_all_parsers_agree_about_an_accepted_url(rest: str) -> None:
    """urllib, httpx and the policy parse the normalised URL to the same parts."""
    open_rules = UrlPolicy(ports=frozenset(range(1, 65536)))
    try:
        target = parse_url(f"https://{rest}", open_rules)
    except (UrlRefused, InvalidInput):
        return
    assert target.address is None or block_reason(target.address) is None
    assert target.url.isascii()
    parsed = urlsplit(target.url)
    assert (parsed.scheme, parsed.hostname, parsed.port or 443) == ("https", target.host, target.port)
    by_httpx = httpx.URL(target.url)
    assert (by_httpx.host, by_httpx.port or 443, by_httpx.userinfo) == (target.host, target.port, b"")
    assert parse_url(target.url, open_rules) == target


def test_a_fetch_sends_no_credentials_and_uses_no_proxy(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://user:secret@127.0.0.1:9")
    assert fetch(client(server), url(server, "/film.mp4?x=1")) == b"a film"
    head, *headers = server.requests[0].split("\r\n")
    assert head == "GET /film.mp4?x=1 HTTP/1.1"
    assert {line.partition(":")[0].lower() for line in headers if line} == {
        *("host", "user-agent", "connection", "accept", "accept-encoding")
    }
    assert f"Host: media.example:{server.port}" in headers


def test_a_post_returns_status_and_headers(server: FakeServer) -> None:
    server.pages["/hook"] = page(b"later", "Retry-After: 7", "X-A: 1", "x-a: 2", status="503 Service Unavailable")
    response = client(server).post(url(server, "/hook"), b'{"a": 1}', {"Content-Type": "application/json"})
    assert (response.status, response.headers["retry-after"], response.headers["x-a"]) == (503, "7", "2")
    assert "Content-Length: 8" in server.requests[0]
    assert server.requests[0].endswith('\r\n\r\n{"a": 1}')
    server.pages["/hook"] = redirect(url(server))
    assert client(server, max_redirects=5).post(url(server, "/hook"), b"", {}).status == 302
    assert len(server.requests) == 2


def test_the_connection_goes_to_the_checked_address(server: FakeServer) -> None:
    """The name resolves to another address the second time; it is resolved once."""
    resolutions = iter([[IPv4Address("127.0.0.1")], [IPv4Address("127.0.0.2")]])
    checked = []

    def record(address: Address) -> None:
        checked.append(address)

    SafeClient(policy(server), resolve=lambda host: next(resolutions), address_filter=record).fetch(
        url(server), content := io.BytesIO()
    )
    assert (content.getvalue(), checked) == (b"a film", [LOCALHOST])


def test_messages_do_not_distinguish_unknown_from_internal_names_or_reveal_addresses(server: FakeServer) -> None:
    def unknown(host: str) -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(UrlFailed, match="is unknown, or has an address that is not public") as failed:
        SafeClient(policy(server), resolve=unknown).fetch(url(server), io.BytesIO())
    assert failed.value.is_temporary
    internal = SafeClient(policy(server), resolve=lambda host: [ip_address("10.0.0.1")])
    with pytest.raises(UrlRefused, match="not public") as refused:
        internal.fetch(url(server), io.BytesIO())
    assert "10.0.0.1" not in str(refused.value)


def test_a_hanging_resolver_times_out(server: FakeServer) -> None:
    released = threading.Event()
    resolved: list[str] = []

    def never(host: str) -> list[Address]:
        released.wait(PATIENCE)
        resolved.append(host)
        return []

    with pytest.raises(UrlFailed, match=r"connecting took more than 0\.2 s"):
        SafeClient(policy(server, connect_timeout=0.2), resolve=never).fetch(url(server), io.BytesIO())
    assert resolved == []
    released.set()


def test_the_next_address_is_tried_if_one_is_unreachable(server: FakeServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.2", server.port))  # not listening
        fallback = SafeClient(
            policy(server),
            resolve=lambda host: [IPv4Address("127.0.0.2"), LOCALHOST],
            address_filter=lambda address: None,
        )
        assert fetch(fallback, url(server)) == b"a film"


def test_the_certificate_must_match_the_name(tmp_path: Path) -> None:
    server_tls, client_tls = tls_contexts(tmp_path, "media.example")
    names: list[str | None] = []
    server_tls.sni_callback = lambda connection, name, context: names.append(name)
    with fake_server(server_tls) as server:
        server.pages["/film.mp4"] = page(b"a film")
        trusting = SafeClient(
            policy(server), resolve=resolve_locally, address_filter=lambda address: None, tls=client_tls
        )
        assert fetch(trusting, f"https://media.example:{server.port}/film.mp4") == b"a film"
        assert names == ["media.example"]  # not the address
        server.pages["/cut.mp4"] = lambda connection: connection.sendall(OK + b"\r\nhalf a film")
        with pytest.raises(UrlFailed, match="broke off after 11 bytes"):
            trusting.fetch(f"https://media.example:{server.port}/cut.mp4", io.BytesIO())
        with pytest.raises(UrlFailed, match="certificate verify failed"):
            trusting.fetch(f"https://other.example:{server.port}/film.mp4", io.BytesIO())
        with pytest.raises(UrlFailed, match="certificate verify failed"):
            client(server).fetch(f"https://media.example:{server.port}/film.mp4", io.BytesIO())
        assert len(server.requests) == 2


def test_redirects_are_followed_up_to_the_limit(server: FakeServer) -> None:
    server.pages |= {"/a": redirect("/b"), "/b": redirect(url(server)), "/loop": redirect("loop")}
    with pytest.raises(UrlRefused, match="redirects are not followed"):
        client(server).fetch(url(server, "/a"), io.BytesIO())
    with pytest.raises(UrlRefused, match="more than 1 redirects"):
        client(server, max_redirects=1).fetch(url(server, "/a"), io.BytesIO())
    assert fetch(client(server, max_redirects=2), url(server, "/a")) == b"a film"
    with pytest.raises(UrlRefused, match="more than 5 redirects"):
        client(server, max_redirects=5).fetch(url(server, "/loop"), io.BytesIO())


def test_a_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    server_tls, client_tls = tls_contexts(tmp_path, "media.example")
    with fake_server(server_tls) as server:
        server.pages["/a"] = redirect(url(server))
        following = SafeClient(
            policy(server, max_redirects=3),
            resolve=resolve_locally,
            address_filter=lambda address: None,
            tls=client_tls,
        )
        with pytest.raises(UrlRefused, match="from https to http"):
            following.fetch(f"https://media.example:{server.port}/a", io.BytesIO())


def test_an_error_status_fails_and_states_whether_it_is_temporary(server: FakeServer) -> None:
    for status, is_temporary in (("404 Not Found", False), ("503 Busy", True), ("429 Slow", True), ("206 Some", False)):
        server.pages["/film.mp4"] = page(b"words", status=status)
        with pytest.raises(UrlFailed, match=f"status {status[:3]}; 200 was expected") as failed:
            client(server).fetch(url(server), io.BytesIO())
        assert failed.value.is_temporary == is_temporary
    server.pages["/film.mp4"] = page(gzip.compress(bytes(20_000_000), 1), "Content-Encoding: gzip")
    with pytest.raises(UrlFailed, match="Content-Encoding 'gzip'"):
        client(server).fetch(url(server), content := io.BytesIO())
    assert content.getvalue() == b""


@pytest.mark.parametrize("garbage", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"])
def test_a_response_that_is_not_http_fails(server: FakeServer, garbage: bytes) -> None:
    server.pages["/film.mp4"] = lambda connection: connection.sendall(garbage)
    with pytest.raises(UrlFailed):
        client(server).fetch(url(server), io.BytesIO())


def test_endless_headers_are_cut_off(server: FakeServer) -> None:
    server.pages["/film.mp4"] = dripping(OK, b"X-A: " + b"a" * 10_000 + b"\r\n", 0, server)
    with pytest.raises(UrlFailed):
        client(server).fetch(url(server), io.BytesIO())


def test_a_wrong_content_length_is_detected(server: FakeServer) -> None:
    server.pages["/film.mp4"] = page(b"a film", length=50)
    with pytest.raises(UrlFailed, match="broke off after 6 bytes"):
        client(server).fetch(url(server), io.BytesIO())
    server.pages["/film.mp4"] = page(b"a film, and more", length=6)
    assert fetch(client(server), url(server)) == b"a film"
    server.pages["/film.mp4"] = page(b"", length=10**15)
    with pytest.raises(UrlFailed, match=r"1000000000000000 bytes; at most 100000"):
        client(server).fetch(url(server), io.BytesIO())


@pytest.mark.parametrize("head", [OK, OK + b"Transfer-Encoding: chunked\r\n"])
def test_an_endless_body_is_cut_off_at_the_limit(server: FakeServer, head: bytes) -> None:
    drop = b"2710\r\n" + bytes(10_000) + b"\r\n" if b"chunked" in head else bytes(10_000)
    server.pages["/film.mp4"] = dripping(head + b"\r\n", drop, 0, server)
    with pytest.raises(UrlFailed, match="more than 100000 bytes; at most 100000"):
        client(server).fetch(url(server), content := io.BytesIO())
    assert len(content.getvalue()) <= 100_000


@pytest.mark.parametrize(
    ("head", "drop", "pause", "changes", "message"),
    [
        (b"HTTP/1.1 200", b"", 1, {"response_timeout": 0.2}, "the response took more than 0.2 s"),
        (OK, b"X: 1\r\n", 0.05, {"response_timeout": 0.2}, "the response took more than 0.2 s"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            0.01,
            {"response_timeout": 0.2},
            "the response",
        ),
        (OK + b"\r\nab", b"", 1, {"read_timeout": 0.2}, "waiting for the next byte took more than 0.2 s"),
        (OK + b"\r\n", b"a", 0.05, {"total_timeout": 0.25}, "not done within 0.25 s"),
    ],
)
def test_slow_responses_time_out(
    server: FakeServer, head: bytes, drop: bytes, pause: float, changes: dict[str, float], message: str
) -> None:
    server.pages["/film.mp4"] = dripping(head, drop, pause, server)
    started_at = time.monotonic()
    with pytest.raises(UrlFailed, match=message) as failed:
        client(server, **changes).fetch(url(server), io.BytesIO())
    assert failed.value.is_temporary
    assert time.monotonic() - started_at < PATIENCE / 2


def test_a_server_without_tls_times_out(server: FakeServer) -> None:
    with pytest.raises(UrlFailed, match=r"timed out|connecting took more"):
        client(server, connect_timeout=0.2).fetch(url(server).replace("http:", "https:"), io.BytesIO())


def test_a_server_that_reads_nothing_times_out(server: FakeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unread:
        port = unread.getsockname()[1]
        posting = client(server, ports=frozenset({port}), response_timeout=0.2)
        with pytest.raises(UrlFailed, match="the response took more than"):
            posting.post(f"http://media.example:{port}/", bytes(10_000_000), {})


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_request_is_cancelled_while_it_connects(server: FakeServer, scheme: str) -> None:
    """The queue of the listener is full, or it does not answer the handshake of TLS."""
    with socket.create_server(("127.0.0.1", 0), backlog=0 if scheme == "http" else 1) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(4 if scheme == "http" else 0):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        posting = client(server, ports=frozenset({port}), connect_timeout=PATIENCE)
        started_at = time.monotonic()
        with pytest.raises(Cancelled):
            posting.post(f"{scheme}://media.example:{port}/", b"", {}, lambda: time.monotonic() > started_at + 0.5)
        assert time.monotonic() - started_at < PATIENCE / 2


def test_a_cancelled_fetch_ends_at_once(server: FakeServer) -> None:
    cancelled = threading.Event()
    server.pages["/film.mp4"] = dripping(OK + b"\r\n", b"a", 0.05, server)

    class Film(io.BytesIO):
        def write(self, block: bytes) -> int:  # type: ignore[override]
            cancelled.set()
            return super().write(block)

    started_at = time.monotonic()
    with pytest.raises(Cancelled):
        client(server).fetch(url(server), Film(), cancelled.is_set)
    assert time.monotonic() - started_at < PATIENCE / 2
