"""A URL taken apart once, strictly. What is sent is made of the parts, so that nobody can read the text differently."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

from service.errors import UrlRefused
from service.http_client.addresses import Address, why_not_allowed
from service.http_client.url_policy import Rules
from vitascope.errors import InvalidInput

MAX_URL = 4096
_DEFAULT_PORT = {"https": 443, "http": 80}
_FORBIDDEN = re.compile(r"[\s\\\x00-\x20\x7f-\x9f]")
"""Some parsers drop these or take them for '/'."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_LOOKS_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
"""A last label like this makes resolvers read the whole as an IPv4 address: 127.1, 0x7f.1, 2130706433."""


@dataclass(frozen=True, slots=True)
class Target:
    """``host`` in lower case, without brackets; ``address`` where it is one; ``path`` with the query, in ASCII."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == _DEFAULT_PORT[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """What messages and logs may say: paths and queries can hold secrets of whoever asked."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """The whole, as it is asked for."""
        return f"{self.origin}{self.path}"


def read_url(url: str, rules: Rules) -> Target:
    """The parts of a URL that the rules permit. Raises InvalidInput for no URL, UrlRefused for a forbidden one.

    Nothing is looked up: what the name leads to is judged when it is connected to.
    """
    if not 1 <= len(url) <= MAX_URL:
        raise InvalidInput(f"url: {len(url)} characters; 1 to {MAX_URL} were expected")
    if _FORBIDDEN.search(url):
        raise InvalidInput(f"url: {url[:200]!r} holds spaces, backslashes or control characters; none were expected")
    try:
        parts = urlsplit(url)
        given_port = parts.port
    except ValueError as error:
        raise InvalidInput(
            f"url: {url[:200]!r}: {error}; such as https://media.example/film.mp4 was expected"
        ) from error
    if parts.scheme not in rules.schemes or parts.scheme not in _DEFAULT_PORT:
        raise UrlRefused(f"url: scheme {parts.scheme!r}; {' or '.join(sorted(rules.schemes))} was expected")
    if "@" in parts.netloc:
        raise UrlRefused(f"url: it holds a name or password for {parts.hostname!r}; a URL without was expected")
    address, host = _read_host(parts.hostname or "", is_bracketed=parts.netloc.startswith("["))
    port = _DEFAULT_PORT[parts.scheme] if given_port is None else given_port
    if port not in rules.ports:
        raise UrlRefused(f"url: port {port}; {' or '.join(map(str, sorted(rules.ports)))} was expected")
    if not rules.permits_host(host):
        raise UrlRefused(f"url: host {host!r}; one of {', '.join(rules.hosts)} was expected")
    if address is not None and (reason := why_not_allowed(address, rules.refused, rules.allowed)) is not None:
        raise UrlRefused(f"url: host {host!r} is no public address ({reason})")
    path = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=string.punctuation)
    return Target(parts.scheme, host, port, path, address)


def next_url(target: Target, location: str, rules: Rules) -> Target:
    """Where a redirect leads. Raises as ``read_url``, and UrlRefused for one from https to http."""
    try:
        joined = urljoin(target.url, location)
    except ValueError as error:
        raise UrlRefused(f"url: {target.origin} redirects to what is no URL") from error
    found = read_url(joined, rules)
    if target.scheme == "https" and found.scheme != "https":
        raise UrlRefused(f"url: {target.origin} redirects from https to {found.scheme}; https was expected")
    return found


def _read_host(host: str, *, is_bracketed: bool) -> tuple[Address | None, str]:
    if is_bracketed:
        try:
            if "%" in host:
                raise AddressValueError("a zone is only of this machine")
            address = IPv6Address(host)
        except AddressValueError as error:
            raise InvalidInput(f"url: host {host!r}: {error}; an IPv6 address was expected in brackets") from error
        return address, address.compressed
    if _LOOKS_NUMERIC.fullmatch(host.rpartition(".")[2]):
        try:
            return IPv4Address(host), host
        except AddressValueError as error:
            raise InvalidInput(f"url: host {host!r}; four decimal numbers were expected, or a name") from error
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise InvalidInput(
            f"url: host {host[:253]!r}; a full name such as media.example was expected, of letters a to z, digits, '-' "
            "and '.' (other letters are written as xn--…)"
        )
    return None, host
