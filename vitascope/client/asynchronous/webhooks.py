"""The part of the client that has ended jobs told to URLs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from vitascope.client import response_types
from vitascope.client.asynchronous.caller import Caller
from vitascope.client.request_building import address, given
from vitascope.client.request_types import DeliveryState, WebhookEvent

EVENTS: tuple[WebhookEvent, ...] = ("job.succeeded", "job.failed", "job.cancelled")


class Webhooks(Caller):
    """Endpoints that are told; `vitascope.webhooks` is for those who receive. Needs a key with the scope admin."""

    async def create_webhook(self, url: str, events: Sequence[WebhookEvent] = EVENTS) -> response_types.MadeWebhook:
        """Have ended jobs told to ``url`` from now on. This answer alone has the ``secret`` that signs the messages."""
        return await self._call(
            response_types.MadeWebhook, "POST", address("webhooks"), json={"url": url, "events": list(events)}
        )

    async def webhooks(self) -> response_types.Webhooks:
        return await self._call(response_types.Webhooks, "GET", address("webhooks"))

    async def webhook(self, webhook_id: str) -> response_types.Webhook:
        return await self._call(response_types.Webhook, "GET", address("webhooks", webhook_id))

    async def delete_webhook(self, webhook_id: str) -> None:
        await self._do("DELETE", address("webhooks", webhook_id))

    async def rotate_webhook(self, webhook_id: str) -> response_types.MadeWebhook:
        """A new ``secret``; messages are signed with the present one, too, for 24 hours."""
        return await self._call(response_types.MadeWebhook, "POST", address("webhooks", webhook_id, "rotate"))

    async def webhook_deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> response_types.Deliveries:
        """One page of what was sent there, newest first, of one ``state`` if given."""
        params = given(state=state, limit=limit, cursor=cursor)
        return await self._call(
            response_types.Deliveries, "GET", address("webhooks", webhook_id, "deliveries"), params=params
        )

    async def all_webhook_deliveries(
        self, webhook_id: str, *, state: DeliveryState | None = None
    ) -> AsyncIterator[response_types.Delivery]:
        """All that was sent there, newest first, one by one."""
        async for page in self._pages(lambda cursor: self.webhook_deliveries(webhook_id, state=state, cursor=cursor)):
            for delivery in page["deliveries"]:
                yield delivery
