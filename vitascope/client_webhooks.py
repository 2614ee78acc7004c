"""The part of the client that has ended jobs told to URLs."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from vitascope.client_http import JSON, Caller, given

EVENTS = ("job.succeeded", "job.failed", "job.cancelled")


class Webhooks(Caller):
    """Endpoints that are told; `vitascope.webhooks` is for those who receive. Needs a key with the scope admin."""

    def create_webhook(self, url: str, events: Sequence[str] = EVENTS) -> JSON:
        """Have ended jobs told to ``url`` from now on. This answer alone has the ``secret`` that signs the messages."""
        return self._call("POST", "/v1/webhooks", json={"url": url, "events": list(events)})

    def webhooks(self) -> JSON:
        return self._call("GET", "/v1/webhooks")

    def delete_webhook(self, webhook_id: str) -> None:
        self._call("DELETE", _webhook(webhook_id))

    def rotate_webhook(self, webhook_id: str) -> JSON:
        """A new ``secret``; messages are signed with the present one, too, for 24 hours."""
        return self._call("POST", f"{_webhook(webhook_id)}/rotate")

    def webhook_deliveries(self, webhook_id: str, *, state: str | None = None, cursor: str | None = None) -> JSON:
        """One page of what was sent there, newest first, of one ``state`` (pending, delivered, failed) if given."""
        return self._call("GET", f"{_webhook(webhook_id)}/deliveries", params=given(state=state, cursor=cursor))


def _webhook(webhook_id: str) -> str:
    return f"/v1/webhooks/{quote(webhook_id, safe='')}"
