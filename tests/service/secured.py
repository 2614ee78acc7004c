"""A service that requires API keys; conftest.py offers its fixture to all tests."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.running import Running, serving
from tests.waiting import PATIENCE

_TRUSTED = ssl.create_default_context()  # to read it again for each request takes longer than the request
ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"


@pytest.fixture(scope="session")
def locked(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service that requires keys, with the collections `palette` and `other`; its client has the admin key."""
    from tests.service.conftest import fill, settings_for

    settings = settings_for(
        small_bundle, tmp_path_factory.mktemp("locked"), allow_unauthenticated=False, admin_key=ADMIN
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        for name in ("palette", "other"):
            assert running.client.post("/v1/collections", json={"name": name}).status_code == 201
        fill(running, "palette", files)
        yield running


def make_key(running: Running, *scopes: str, **given: object) -> str:
    """Create a key and return its text."""
    made = running.client.post("/v1/keys", json={"name": "a test", "scopes": scopes, **given})
    assert made.status_code == 201, made.text
    text: str = made.json()["key"]
    return text


def secret_of(key: str) -> str:
    """Return the secret part of a key, which may contain underscores."""
    return key.split("_", 2)[2]


def ask(running: Running, method: str, path: str, key: str | None, **request: Any) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    address = f"{running.client.base_url}{path}"
    return httpx.request(method, address, headers=headers, timeout=PATIENCE, verify=_TRUSTED, **request)
