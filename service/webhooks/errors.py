"""What only webhooks can be wrong about."""

from __future__ import annotations

from vitascope.errors import Conflict, NotFound


class WebhookNotFound(NotFound):
    """There is no endpoint of this id."""

    code = "webhook_not_found"


class WebhooksOff(Conflict):
    """The service tells nobody anything."""

    code = "webhooks_off"


class TooManyWebhooks(Conflict):
    """As many endpoints as there may be."""

    code = "too_many_webhooks"
