"""URL policy: which URLs and network addresses outgoing requests may use."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote, urljoin, urlsplit

from index.jobs.sources.access_policy import MAX_URL_LENGTH
from service.errors import UrlRefused
from vitascope.errors import InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_DEFAULT_PORTS = {"https": 443, "http": 80}
_FORBIDDEN_CHARACTERS = re.compile(r"[\s\\\x00-\x20\x7f-\x9f]")
"""Characters that some URL parsers drop or treat as '/'."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_NUMERIC_LABEL = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
"""Last label of a host that resolvers parse as an IPv4 address: 127.1, 0x7f.1, 2130706433."""

# ``ipaddress.is_global`` is not enough: it ignores IPv4 addresses embedded in IPv6 addresses (NAT64, 6to4 and Teredo
# connect to the embedded address), and it treats multicast and internal services of clouds as global. Blocked are the
# IANA special-purpose registries (RFC 6890) and all other networks that are not clearly public.
_BLOCKED_V4 = [
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this host"),  # 0.0.0.0 connects to the machine itself
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by carriers"),  # includes 100.100.100.200, a cloud's metadata service
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's own services"),  # a public address that leads to the host of the machine
        ("169.254.0.0/16", "link-local"),  # includes 169.254.169.254, most clouds' metadata service
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),  # includes 192.0.0.192, a cloud's metadata service
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112, for names of private addresses"),
        ("192.52.193.0/24", "multicast tunnels"),
        ("192.88.99.0/24", "6to4 relays"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112, for names of private addresses"),
        ("198.18.0.0/15", "benchmarks"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved, broadcast"),
    )
]
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
"""Everything else is loopback, unassigned, v4-mapped, unique local, link-local, site-local or multicast."""
_BLOCKED_V6 = [
    (IPv6Network(network), reason)
    for network, reason in (
        ("2001::/23", "protocol assignments"),  # Teredo 2001::/32, benchmarks 2001:2::/48, ORCHID
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),  # embeds an IPv4 address
        ("2620:4f:8000::/48", "AS112, for names of private addresses"),
        ("3fff::/20", "documentation"),
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")
"""Prefix of IPv6 addresses that translate to the IPv4 address in their last four bytes, which is checked instead."""
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""Third group of 32 bits of an ISATAP address, which tunnels to the IPv4 address in its last 32 bits."""


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Limits of outgoing requests: allowed URLs, sizes in bytes, timeouts in seconds.

    Attributes:
        schemes: Allowed schemes.
        ports: Allowed ports.
        hosts: Allowed host names, such as ``media.example`` or ``*.media.example`` (subdomains only); empty: any.
        blocked_networks: Networks that are blocked in addition to all non-public ones.
        allowed_networks: Non-public networks that are allowed.
        max_redirects: Maximum number of redirects. Each target is checked like the first URL.
        max_bytes: Maximum size of a response body.
        connect_timeout: Limit for name resolution, connection and TLS handshake.
        response_timeout: Limit from then until the response headers are complete.
        read_timeout: Maximum pause while the body is received.
        total_timeout: Limit for the whole request, including redirects.
    """

    schemes: frozenset[str] = frozenset({"https"})
    ports: frozenset[int] = frozenset({443})
    hosts: tuple[str, ...] = ()
    blocked_networks: tuple[Network, ...] = ()
    allowed_networks: tuple[Network, ...] = ()
    max_redirects: int = 0
    max_bytes: int = 512 * 1024**2
    connect_timeout: float = 10.0
    response_timeout: float = 30.0
    read_timeout: float = 30.0
    total_timeout: float = 900.0

    def allows_host(self, host: str) -> bool:
        """Return whether a lower-case host name is in ``hosts``."""
        if not self.hosts:
            return True
        return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in self.hosts)

    def block_reason(self, address: Address) -> str | None:
        """Return why connections to an address are blocked; None if they are allowed."""
        return block_reason(address, self.blocked_networks, self.allowed_networks)


def block_reason(address: Address, blocked: Sequence[Network] = (), allowed: Sequence[Network] = ()) -> str | None:
    """Return why connections to an address are blocked; None if they are allowed.

    Args:
        address: The address.
        blocked: Networks that are blocked in addition to all non-public ones.
        allowed: Non-public networks that are allowed.
    """
    if isinstance(address, IPv6Address) and address in _NAT64:
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if any(address in network for network in blocked):
        return "blocked by the settings"
    if any(address in network for network in allowed):
        return None
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _BLOCKED_V4 if address in network), None)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST_V6:
        return "not global unicast"
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "ISATAP"
    return next((reason for network, reason in _BLOCKED_V6 if address in network), None)


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    """Parts of a checked URL. Requests are built from them, as another parser might split the URL differently.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Host name or address in lower case, without brackets.
        port: Port; the default port of the scheme if the URL has none.
        path: Path and query, as percent-encoded ASCII.
        address: The host as an address; None if it is a name.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port, for messages and logs: paths and queries may contain secrets."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        return f"{self.origin}{self.path}"


def parse_url(url: str, policy: UrlPolicy) -> ParsedUrl:
    """Parse a URL and check it against the policy. Names are not resolved.

    Args:
        url: The URL.
        policy: The policy.

    Raises:
        InvalidInput: The URL is malformed.
        UrlRefused: The policy forbids the URL.
    """
    if not 1 <= len(url) <= MAX_URL_LENGTH:
        raise InvalidInput(f"url: {len(url)} characters; 1 to {MAX_URL_LENGTH} were expected")
    if _FORBIDDEN_CHARACTERS.search(url):
        raise InvalidInput(f"url: {url[:200]!r} has spaces, backslashes or control characters; none were expected")
    try:
        parts = urlsplit(url)
        stated_port = parts.port
    except ValueError as error:
        raise InvalidInput(
            f"url: {url[:200]!r}: {error}; a URL such as https://media.example/film.mp4 was expected"
        ) from error
    if parts.scheme not in policy.schemes or parts.scheme not in _DEFAULT_PORTS:
        raise UrlRefused(f"url: scheme {parts.scheme!r}; {' or '.join(sorted(policy.schemes))} was expected")
    if "@" in parts.netloc:
        raise UrlRefused(f"url: it has a user name or password for {parts.hostname!r}; none was expected")
    address, host = _parse_host(parts.hostname or "", is_bracketed=parts.netloc.startswith("["))
    port = _DEFAULT_PORTS[parts.scheme] if stated_port is None else stated_port
    if port not in policy.ports:
        raise UrlRefused(f"url: port {port}; {' or '.join(map(str, sorted(policy.ports)))} was expected")
    if not policy.allows_host(host):
        raise UrlRefused(f"url: host {host!r}; one of {', '.join(policy.hosts)} was expected")
    if address is not None and (reason := policy.block_reason(address)) is not None:
        raise UrlRefused(f"url: host {host!r} is not a public address ({reason})")
    path = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=string.punctuation)
    return ParsedUrl(parts.scheme, host, port, path, address)


def parse_redirect(url: ParsedUrl, location: str, policy: UrlPolicy) -> ParsedUrl:
    """Parse the target of a redirect and check it against the policy.

    Args:
        url: The URL that redirects.
        location: Value of the Location header.
        policy: The policy.

    Raises:
        InvalidInput: The target is malformed.
        UrlRefused: The policy forbids the target, or it leads from https to http.
    """
    try:
        joined = urljoin(url.url, location)
    except ValueError as error:
        raise UrlRefused(f"url: {url.origin} redirects to an invalid URL") from error
    target = parse_url(joined, policy)
    if url.scheme == "https" and target.scheme != "https":
        raise UrlRefused(f"url: {url.origin} redirects from https to {target.scheme}; https was expected")
    return target


def _parse_host(host: str, *, is_bracketed: bool) -> tuple[Address | None, str]:
    if is_bracketed:
        try:
            if "%" in host:
                raise AddressValueError("zone identifiers are not allowed")
            address = IPv6Address(host)
        except AddressValueError as error:
            raise InvalidInput(f"url: host {host!r}: {error}; an IPv6 address was expected in brackets") from error
        return address, address.compressed
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        try:
            return IPv4Address(host), host
        except AddressValueError as error:
            raise InvalidInput(f"url: host {host!r}; four decimal numbers were expected, or a name") from error
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise InvalidInput(
            f"url: host {host[:253]!r}; a full name such as media.example was expected, of letters a to z, digits, '-' "
            "and '.' (other letters are written as xn--…)"
        )
    return None, host
