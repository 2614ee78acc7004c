"""Endpoints that are told of ended jobs. Times are Unix seconds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.schemas.base import Request, Response, example
from service.webhooks.records import DeliveryState, EventType

WEBHOOK: dict[str, Any] = {
    "id": "5b1f0c2a9d3e",
    "url": "https://portal.example/hooks/vitascope",
    "events": ["job.succeeded", "job.failed"],
    "created_at": 1764000000.0,
    "former_secret_until": None,
}
DELIVERY: dict[str, Any] = {
    "id": "msg_2c26b46b68ffc68ff99b453c1d304134",
    "type": "job.succeeded",
    "state": "pending",
    "tries": 2,
    "status": 503,
    "error": "answered 503; 200 to 299 was expected",
    "created_at": 1764000000.0,
    "last_at": 1764000006.2,
    "next_at": 1764000014.9,
}


class NewWebhook(Request):
    """Who is to be told of what."""

    model_config = example(url=WEBHOOK["url"], events=WEBHOOK["events"])

    url: Annotated[str, Field(min_length=1, max_length=4096, description="that messages are sent to, by POST")]
    events: Annotated[list[EventType], Field(min_length=1, max_length=3)]


class Webhook(Response):
    """An endpoint, without its secret."""

    model_config = example(**WEBHOOK)

    id: str
    url: str
    events: list[EventType]
    created_at: float
    former_secret_until: Annotated[
        float | None, Field(description="until then messages are signed with the former secret, too")
    ]


class MadeWebhook(Webhook):
    """An endpoint with its secret."""

    model_config = example(**WEBHOOK, secret="whsec_…")

    secret: Annotated[str, Field(description="that messages are signed with, which is shown only here")]


class Webhooks(Response):
    """All endpoints, oldest first."""

    model_config = example(webhooks=[WEBHOOK])

    webhooks: list[Webhook]


class Delivery(Response):
    """A message to an endpoint."""

    model_config = example(**DELIVERY)

    id: Annotated[str, Field(description="`webhook-id`; the same at every try")]
    type: EventType
    state: DeliveryState
    tries: int
    status: Annotated[int | None, Field(description="of the last answer; null where there was none")]
    error: Annotated[str | None, Field(description="why the last try was not the end of it")]
    created_at: float
    last_at: Annotated[float | None, Field(description="when it was tried last")]
    next_at: Annotated[float | None, Field(description="when it is tried again")]


class Deliveries(Response):
    """A page of messages, newest first."""

    model_config = example(deliveries=[DELIVERY], next_cursor=None)

    deliveries: list[Delivery]
    next_cursor: str | None
