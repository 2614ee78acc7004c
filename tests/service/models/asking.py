"""What tests ask a service of several models."""

from __future__ import annotations

import httpx

from tests.service.running import JSON
from tests.waiting import wait_for

TEXT = "a red thing"


def added(client: httpx.Client, folder: str, state: str = "ready") -> str:
    """The fingerprint of a bundle that was added, and is in this state now."""
    answer = client.post("/v1/models", json={"folder": folder})
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "loading"
    address = answer.headers["location"]
    wait_for(lambda: client.get(address).json()["state"] == state)
    fingerprint: str = answer.json()["fingerprint"]
    return fingerprint


def listed(client: httpx.Client) -> list[tuple[str, str, str, bool]]:
    """(name, version, state, whether it is the default) of every model."""
    return [
        (one["name"], one["version"], one["state"], one["default"]) for one in client.get("/v1/models").json()["models"]
    ]


def embedded(client: httpx.Client, **body: object) -> JSON:
    answer = client.post("/v1/embeddings", json={"input": TEXT, **body})
    assert answer.status_code == 200, answer.text
    found: JSON = answer.json()
    return found


def width(client: httpx.Client, **body: object) -> int:
    return len(embedded(client, **body)["data"][0]["embedding"])


def best(client: httpx.Client, collection: str, text: str = TEXT, **body: object) -> str:
    """The title of the video that is found first."""
    answer = client.post(f"/v1/collections/{collection}/search", json={"text": text, **body})
    assert answer.status_code == 200, answer.text
    title: str = answer.json()["results"][0]["video"]["title"]
    return title
