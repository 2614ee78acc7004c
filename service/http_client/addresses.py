"""Which addresses are of the public internet.

``ipaddress.is_global`` does not answer that: it knows nothing of IPv4 addresses carried inside IPv6 ones (those of
NAT64, 6to4 and Teredo lead wherever the inner address does), and holds multicast and a cloud's own services for global.
The table is that of the registries (IANA special-purpose addresses, RFC 6890), everything that is not plainly public.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_V4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this host"),  # 0.0.0.0 connects to the machine itself
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by carriers"),  # and 100.100.100.200, metadata of a cloud
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's own services"),  # a public address that leads to the host of the machine
    ("169.254.0.0/16", "link-local"),  # and 169.254.169.254, metadata of most clouds
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),  # and 192.0.0.192, metadata of a cloud
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
_PUBLIC_V6 = IPv6Network("2000::/3")
"""All else is loopback, unassigned, v4-mapped, unique local (fc00::/7), link-local, site-local or multicast."""
_NOT_PUBLIC_V6: tuple[tuple[str, str], ...] = (
    ("2001::/23", "protocol assignments"),  # Teredo 2001::/32, benchmarks 2001:2::/48, ORCHID
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),  # carries an IPv4 address
    ("2620:4f:8000::/48", "AS112, for names of private addresses"),
    ("3fff::/20", "documentation"),
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches the IPv4 address in the last four bytes, which is judged in its place."""
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""Third quarter of an address whose last quarter is an IPv4 address to tunnel to, below any prefix."""

_V4 = [(IPv4Network(network), reason) for network, reason in _NOT_PUBLIC_V4]
_V6 = [(IPv6Network(network), reason) for network, reason in _NOT_PUBLIC_V6]


def why_not_allowed(address: Address, refused: Sequence[Network] = (), allowed: Sequence[Network] = ()) -> str | None:
    """Why the service may not connect to this address; None for one of the public internet or of ``allowed``, outside
    ``refused``.
    """
    if isinstance(address, IPv6Address) and address in _NAT64:
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if any(address in network for network in refused):
        return "refused by this service's settings"
    if any(address in network for network in allowed):
        return None
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _V4 if address in network), None)
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return "not global unicast"
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "ISATAP"
    return next((reason for network, reason in _V6 if address in network), None)
