# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""The client: all its parts in one, and whether the service is there."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from vitascope.client.compat import pause
from vitascope.client.errors import ServiceError
from vitascope.client.synchronous.keys import Keys
from vitascope.client.synchronous.models import Models
from vitascope.client.synchronous.operations import Operations
from vitascope.client.synchronous.search import Search
from vitascope.client.synchronous.tasks import Tasks
from vitascope.client.synchronous.uploads import Uploads
from vitascope.client.synchronous.webhooks import Webhooks


class Client(Uploads, Operations, Search, Tasks, Models, Webhooks, Keys):
    """Speaks version 1 of the HTTP interface: see `vitascope.client`."""

    def is_ready(self) -> bool:
        """Whether the service is up, its model loaded and its collections open. Never raises."""
        try:
            return (self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait_until_ready(self, timeout: float = 60.0, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Return when the service is ready.

        Raises `ServiceError` after ``timeout`` seconds, or as soon as ``alive`` (is the server still
        there?) says no.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if not alive():
                raise ServiceError(f"the service at {self.url} ended before it was ready")
            if time.monotonic() > deadline:
                raise ServiceError(f"the service at {self.url} was not ready within {timeout:g} s")
            pause(0.05)
