# Generated from vitascope/client/_async: change that, then run python -m tests.vitascope.client.test_generated
"""Methods for models, API keys and webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vitascope import errors
from vitascope.client import response_types
from vitascope.client._sync.transport import BaseClient
from vitascope.client.api import DeliveryState, Scope, WebhookEvent, api_path, drop_none, to_list
from vitascope.client.compat import sleep

WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = ("job.succeeded", "job.failed", "job.cancelled")


class Admin(BaseClient):
    """Models, API keys and webhooks. Only `list_models`, `get_model`, `get_key_permissions` need no scope admin."""

    def list_models(self) -> response_types.Models:
        """Return all models, the default first."""
        return self._call(response_types.Models, "GET", api_path("models"))

    def get_model(self, fingerprint: str) -> response_types.ModelInfo:
        """Return a model."""
        return self._call(response_types.ModelInfo, "GET", api_path("models", fingerprint))

    def add_model(self, folder: str) -> response_types.ModelInfo:
        """Load a bundle from a folder on the service's machine; see `wait_for_model`. Raises `BundleError`."""
        return self._call(response_types.ModelInfo, "POST", api_path("models"), json={"folder": folder})

    def wait_for_model(self, fingerprint: str, *, interval: float = 0.2) -> response_types.ModelInfo:
        """Poll every ``interval`` seconds until a model is ready. Raises `BundleError` if it cannot be loaded."""
        while True:
            model = self.get_model(fingerprint)
            if model["state"] == "failed":
                raise errors.BundleError(f"model {model['name']}@{model['version']}: {model['error']}")
            if model["state"] == "ready":
                return model
            sleep(interval)

    def set_default_model(self, fingerprint: str) -> response_types.ModelInfo:
        """Use a model for requests that name none, also after a restart."""
        return self._call(response_types.ModelInfo, "POST", api_path("models", fingerprint, "default"))

    def remove_model(self, fingerprint: str, *, force: bool = False) -> None:
        """Unload a model. Raises `Conflict` for the default, and without ``force`` for one that collections use."""
        self._delete(api_path("models", fingerprint), {"force": force})

    def list_keys(self) -> response_types.Keys:
        """Return all API keys, also revoked ones, without their secrets."""
        return self._call(response_types.Keys, "GET", api_path("keys"))

    def get_key_permissions(self) -> response_types.KeyPermissions:
        """Return the permissions of the key that this client uses."""
        return self._call(response_types.KeyPermissions, "GET", api_path("keys", "self"))

    def create_key(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        collections: Sequence[str] | None = None,
        rate: float | None = None,
        concurrency: int | None = None,
        expires_in: float | None = None,
    ) -> response_types.CreatedKey:
        """Create an API key; only this response contains the secret ``key``.

        Args:
            name: describes the key.
            scopes: ``read``, ``write``, ``admin``.
            collections: restrict the key to these collections.
            rate: requests per second.
            concurrency: concurrent requests.
            expires_in: seconds from now.
        """
        names = None if collections is None else to_list("collections", collections)
        options = drop_none(collections=names, rate=rate, concurrency=concurrency, expires_in=expires_in)
        body = {"name": name, "scopes": to_list("scopes", scopes), **options}
        return self._call(response_types.CreatedKey, "POST", api_path("keys"), json=body)

    def revoke_key(self, key_id: str) -> response_types.KeyInfo:
        """Revoke an API key."""
        return self._call(response_types.KeyInfo, "DELETE", api_path("keys", key_id))

    def create_webhook(
        self, url: str, events: Sequence[WebhookEvent] = WEBHOOK_EVENTS
    ) -> response_types.CreatedWebhook:
        """Send events of finished jobs to ``url``; only this response contains the signing ``secret``.

        `vitascope.webhooks` verifies the signatures.
        """
        body = {"url": url, "events": to_list("events", events)}
        return self._call(response_types.CreatedWebhook, "POST", api_path("webhooks"), json=body)

    def list_webhooks(self) -> response_types.Webhooks:
        """Return all webhooks."""
        return self._call(response_types.Webhooks, "GET", api_path("webhooks"))

    def get_webhook(self, webhook_id: str) -> response_types.Webhook:
        """Return a webhook."""
        return self._call(response_types.Webhook, "GET", api_path("webhooks", webhook_id))

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook."""
        self._delete(api_path("webhooks", webhook_id))

    def rotate_webhook_secret(self, webhook_id: str) -> response_types.CreatedWebhook:
        """Replace the signing secret; for 24 hours messages are signed with both."""
        return self._call(response_types.CreatedWebhook, "POST", api_path("webhooks", webhook_id, "rotate"))

    def list_webhook_deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> response_types.Deliveries:
        """Return a page of deliveries, newest first, optionally of one state."""
        params = drop_none(state=state, limit=limit, cursor=cursor)
        path = api_path("webhooks", webhook_id, "deliveries")
        return self._call(response_types.Deliveries, "GET", path, params=params)

    def iter_webhook_deliveries(
        self, webhook_id: str, *, state: DeliveryState | None = None
    ) -> Iterator[response_types.Delivery]:
        """Iterate over all deliveries, newest first, optionally of one state."""
        for page in self._pages(lambda cursor: self.list_webhook_deliveries(webhook_id, state=state, cursor=cursor)):
            yield from page["deliveries"]
