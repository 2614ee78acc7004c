"""Functions that check network addresses and parse URLs."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether a host name or address (without port) is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_url(url: str) -> httpx.URL:
    """Parse a URL. Raises ValueError if it is malformed or its host cannot be encoded for name resolution (IDNA)."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from error
    _ = parsed.host, parsed.raw_host.decode().encode("idna")
    return parsed
