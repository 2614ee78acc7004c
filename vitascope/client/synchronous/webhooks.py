# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""The part of the client that has ended jobs told to URLs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vitascope.client import response_types
from vitascope.client.request_building import address, given
from vitascope.client.request_types import DeliveryState, WebhookEvent
from vitascope.client.synchronous.caller import Caller

EVENTS: tuple[WebhookEvent, ...] = ("job.succeeded", "job.failed", "job.cancelled")


class Webhooks(Caller):
    """Endpoints that are told; `vitascope.webhooks` is for those who receive. Needs a key with the scope admin."""

    def create_webhook(self, url: str, events: Sequence[WebhookEvent] = EVENTS) -> response_types.MadeWebhook:
        """Have ended jobs told to ``url`` from now on. This answer alone has the ``secret`` that signs the messages."""
        return self._call(
            response_types.MadeWebhook, "POST", address("webhooks"), json={"url": url, "events": list(events)}
        )

    def webhooks(self) -> response_types.Webhooks:
        return self._call(response_types.Webhooks, "GET", address("webhooks"))

    def webhook(self, webhook_id: str) -> response_types.Webhook:
        return self._call(response_types.Webhook, "GET", address("webhooks", webhook_id))

    def delete_webhook(self, webhook_id: str) -> None:
        self._do("DELETE", address("webhooks", webhook_id))

    def rotate_webhook(self, webhook_id: str) -> response_types.MadeWebhook:
        """A new ``secret``; messages are signed with the present one, too, for 24 hours."""
        return self._call(response_types.MadeWebhook, "POST", address("webhooks", webhook_id, "rotate"))

    def webhook_deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> response_types.Deliveries:
        """One page of what was sent there, newest first, of one ``state`` if given."""
        params = given(state=state, limit=limit, cursor=cursor)
        return self._call(
            response_types.Deliveries, "GET", address("webhooks", webhook_id, "deliveries"), params=params
        )

    def all_webhook_deliveries(
        self, webhook_id: str, *, state: DeliveryState | None = None
    ) -> Iterator[response_types.Delivery]:
        """All that was sent there, newest first, one by one."""
        for page in self._pages(lambda cursor: self.webhook_deliveries(webhook_id, state=state, cursor=cursor)):
            yield from page["deliveries"]
