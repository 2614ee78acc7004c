"""Endpoints, and messages to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

EventType = Literal["job.succeeded", "job.failed", "job.cancelled"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
DeliveryState = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where messages of these types go, since ``created_at`` (Unix seconds). The former secret signs, too, until
    ``former_until``.
    """

    id: str
    url: str
    events: tuple[EventType, ...]
    created_at: float
    secret: str = field(repr=False)
    former_secret: str | None = field(default=None, repr=False)
    former_until: float | None = None

    def secrets_at(self, now: float) -> list[str]:
        """What a message is signed with at ``now``."""
        is_former_good = self.former_secret is not None and now < (self.former_until or 0.0)
        return [self.secret, *([self.former_secret] if is_former_good and self.former_secret else [])]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to one endpoint, and what came of it. ``status``: of the last answer, ``error``: why there was none, or
    what was wrong with it. Times in Unix seconds.
    """

    number: int
    id: str
    endpoint: str
    type: EventType
    body: bytes
    created_at: float
    state: DeliveryState
    tries: int
    next_at: float | None
    last_at: float | None
    status: int | None
    error: str | None
