"""A client of a service that a function plays."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from vitascope.client import Client, RetryConfig

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler) -> Client:
    """A client whose requests go to ``handler`` instead of the network, once."""
    return Client("http://service", transport=httpx.MockTransport(handler), retries=RetryConfig(max_attempts=1))


def problem(status: int, code: str, detail: str) -> httpx.Response:
    body = {
        "type": f"urn:vitascope:problem:{code}",
        "title": "x",
        "status": status,
        "detail": detail,
        "code": code,
    }
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})
