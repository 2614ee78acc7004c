"""The addresses of a name: the machine's resolver, asked in a thread, as it knows no time limit of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address

from service.http_client.addresses import Address
from service.http_client.deadline import Clock

Resolve = Callable[[str], Sequence[Address]]
"""The addresses of a name. Raises OSError where there are none."""


def system_addresses(host: str) -> Sequence[Address]:
    """What the machine's resolver knows of a name. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


def addresses_of(host: str, resolve: Resolve, clock: Clock) -> Sequence[Address]:
    """The addresses of a name; none where it is unknown. Raises UrlFailed when the time is over, and Cancelled."""
    answer: list[Address] = []
    is_answered = threading.Event()

    def ask() -> None:
        try:
            answer.extend(resolve(host))
        except (OSError, UnicodeError):
            pass  # unknown; which error says so depends on the machine
        finally:
            is_answered.set()

    threading.Thread(target=ask, name="lookup", daemon=True).start()
    while not is_answered.wait(clock.moment()):
        pass
    return answer


def is_this_machine(address: Address) -> bool:
    """Whether a public address is one of this machine's own. Nothing is sent: the kernel only looks for the way."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False  # no way there; connecting will say so
