"""The client: all its parts in one, and whether the service is there."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from vitascope.client.asynchronous.keys import Keys
from vitascope.client.asynchronous.models import Models
from vitascope.client.asynchronous.operations import Operations
from vitascope.client.asynchronous.search import Search
from vitascope.client.asynchronous.tasks import Tasks
from vitascope.client.asynchronous.uploads import Uploads
from vitascope.client.asynchronous.webhooks import Webhooks
from vitascope.client.compat import pause_async
from vitascope.client.errors import ServiceError


class AsyncClient(Uploads, Operations, Search, Tasks, Models, Webhooks, Keys):
    """Speaks version 1 of the HTTP interface: see `vitascope.client`."""

    async def is_ready(self) -> bool:
        """Whether the service is up, its model loaded and its collections open. Never raises."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def wait_until_ready(self, timeout: float = 60.0, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Return when the service is ready.

        Raises `ServiceError` after ``timeout`` seconds, or as soon as ``alive`` (is the server still
        there?) says no.
        """
        deadline = time.monotonic() + timeout
        while not await self.is_ready():
            if not alive():
                raise ServiceError(f"the service at {self.url} ended before it was ready")
            if time.monotonic() > deadline:
                raise ServiceError(f"the service at {self.url} was not ready within {timeout:g} s")
            await pause_async(0.05)
