"""Upload distinct pictures to a service, and check what it has stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import numpy as np

from tests.media_files import write_picture
from tests.service.running import JSON

SIDE = 96


def picture(folder: Path, number: int) -> bytes:
    """Return a PNG of about 28 KB, a different one for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = write_picture(folder / f"{number}.png", noise)
    content = file.read_bytes()
    file.unlink()
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def upload(client: httpx.Client, collection: str, content: bytes, *, by_job: bool = False) -> httpx.Response:
    """Upload ``content``; with ``by_job``, the response does not wait for the job."""
    headers = {"Prefer": "respond-async"} if by_job else {}
    return client.post(f"/v1/collections/{collection}/videos", files={"file": ("a.png", content)}, headers=headers)


def stored_hashes(collection: Path) -> list[str]:
    """Return the sorted SHA-256 of the uploaded files in a collection's folder."""
    return sorted(sha256(file.read_bytes()) for file in collection.glob("media/*"))


def stored_videos(client: httpx.Client, collection: str) -> dict[str, str]:
    """Return the SHA-256 of all listed videos by id; each must be playable and searchable."""
    videos = _all_pages(client, "GET", f"/v1/collections/{collection}/videos", "videos", {"limit": 100})
    for video in videos:
        media = client.get(video["media_url"])
        assert media.status_code == 200
        assert sha256(media.content) == video["content_sha256"]
    by_id = {video["id"]: video["content_sha256"] for video in videos}
    assert len(by_id) == len(set(by_id.values())) == len(videos)
    search = {"text": "a red thing", "limit": 100, "rerank": 0}
    results = _all_pages(client, "POST", f"/v1/collections/{collection}/search", "results", search)
    assert len({result["clip_id"] for result in results}) == len(results)
    assert {result["video"]["id"] for result in results} == set(by_id)
    return by_id


def _all_pages(client: httpx.Client, method: str, path: str, key: str, options: JSON) -> list[JSON]:
    entries: list[JSON] = []
    while True:
        response = client.request(method, path, **{"params" if method == "GET" else "json": options})
        assert response.status_code == 200, response.text
        entries += response.json()[key]
        if response.json()["next_cursor"] is None:
            return entries
        options = {**options, "cursor": response.json()["next_cursor"]}
