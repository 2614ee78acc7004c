# Generated from vitascope/client/_async: change that, then run python -m tests.vitascope.client.test_generated
"""The client with all its methods."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from vitascope.client._sync.admin import Admin
from vitascope.client._sync.collections import Collections
from vitascope.client._sync.inference import Inference
from vitascope.client._sync.search import Search
from vitascope.client._sync.videos import Videos
from vitascope.client.api import ServiceError
from vitascope.client.compat import sleep


class Client(Collections, Videos, Search, Inference, Admin):
    """Client of version 1 of the HTTP API; see `vitascope.client`."""

    def is_ready(self) -> bool:
        """Return whether the service responds, its model is loaded and its collections are open."""
        return self._is_ready(self._http.timeout)

    def _is_ready(self, timeout: float | httpx.Timeout) -> bool:
        try:
            return (self._http.get("/readyz", timeout=timeout)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait_until_ready(self, timeout: float = 60.0, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait until the service is ready.

        Args:
            timeout: seconds.
            alive: returns whether the server process still runs.
        Raises:
            ServiceError: after ``timeout``, or as soon as ``alive`` returns False.
        """
        deadline = time.monotonic() + timeout
        while not self._is_ready(max(0.05, deadline - time.monotonic())):
            if not alive():
                raise ServiceError(f"the service at {self.url} exited before it was ready")
            if time.monotonic() > deadline:
                raise ServiceError(f"the service at {self.url} was not ready within {timeout:g} s")
            sleep(0.05)
