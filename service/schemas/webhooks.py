"""Webhooks and their deliveries. Times are Unix seconds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.schemas.base import Request, Response, example
from service.webhooks.store import DeliveryState, WebhookEvent

WEBHOOK: dict[str, Any] = {
    "id": "5b1f0c2a9d3e",
    "url": "https://portal.example/hooks/vitascope",
    "events": ["job.succeeded", "job.failed"],
    "created_at": 1764000000.0,
    "previous_secret_until": None,
}
DELIVERY: dict[str, Any] = {
    "id": "msg_2c26b46b68ffc68ff99b453c1d304134",
    "type": "job.succeeded",
    "state": "pending",
    "attempts": 2,
    "status": 503,
    "error": "status 503; 200 to 299 was expected",
    "created_at": 1764000000.0,
    "last_at": 1764000006.2,
    "next_at": 1764000014.9,
}


class NewWebhook(Request):
    """A webhook to be created."""

    model_config = example(url=WEBHOOK["url"], events=WEBHOOK["events"])

    url: Annotated[str, Field(min_length=1, max_length=4096, description="receives messages by POST")]
    events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=3)]


class Webhook(Response):
    """A webhook, without its secret."""

    model_config = example(**WEBHOOK)

    id: str
    url: str
    events: list[WebhookEvent]
    created_at: float
    previous_secret_until: Annotated[
        float | None, Field(description="until then, messages are also signed with the previous secret")
    ]


class CreatedWebhook(Webhook):
    """A webhook with its secret."""

    model_config = example(**WEBHOOK, secret="whsec_…")

    secret: Annotated[str, Field(description="signs messages; no other response contains it")]


class Webhooks(Response):
    """All webhooks, oldest first."""

    model_config = example(webhooks=[WEBHOOK])

    webhooks: list[Webhook]


class Delivery(Response):
    """A message and its delivery."""

    model_config = example(**DELIVERY)

    id: Annotated[str, Field(description="`webhook-id`; the same at every attempt")]
    type: WebhookEvent
    state: DeliveryState
    attempts: int
    status: Annotated[int | None, Field(description="HTTP status of the last attempt; null without a response")]
    error: Annotated[str | None, Field(description="why the last attempt failed")]
    created_at: float
    last_at: Annotated[float | None, Field(description="time of the last attempt")]
    next_at: Annotated[float | None, Field(description="time of the next attempt")]


class Deliveries(Response):
    """A page of deliveries, newest first."""

    model_config = example(deliveries=[DELIVERY], next_cursor=None)

    deliveries: list[Delivery]
    next_cursor: str | None
