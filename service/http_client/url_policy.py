"""What may be asked for, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass

from service.http_client.addresses import Network


@dataclass(frozen=True, slots=True)
class Rules:
    """Sizes in bytes, times in seconds.

    ``hosts``: only these names, such as ``media.example`` or ``*.media.example`` (which is everything below it, not
    it itself); none: any. ``refused``: networks that are not connected to besides those that are not public.
    ``allowed``: networks that are although they are not public, as whoever runs the service said.
    ``redirects``: how many are followed, each judged as the first URL was.
    ``connect_seconds``: for the name, the connection and TLS; ``answer_seconds``: then for the request and the head of
    the answer; ``idle_seconds``: without a byte of the body; ``total_seconds``: for all of it, redirects included.
    """

    schemes: frozenset[str] = frozenset({"https"})
    ports: frozenset[int] = frozenset({443})
    hosts: tuple[str, ...] = ()
    refused: tuple[Network, ...] = ()
    allowed: tuple[Network, ...] = ()
    redirects: int = 0
    max_bytes: int = 512 * 1024**2
    connect_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: float = 30.0
    total_seconds: float = 900.0

    def permits_host(self, host: str) -> bool:
        """Whether a name, in lower case, is one of ``hosts``."""
        if not self.hosts:
            return True
        return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in self.hosts)
