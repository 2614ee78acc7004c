"""Pictures that differ from one another, uploaded to a service, and what it must have of them afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import numpy as np

from tests.media_files import write_picture
from tests.service.running import JSON

SIDE = 96


def picture(folder: Path, number: int) -> bytes:
    """A PNG of about 28 KB, another one for every number."""
    noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = write_picture(folder / f"{number}.png", noise)
    content = file.read_bytes()
    file.unlink()
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def upload(client: httpx.Client, collection: str, content: bytes, *, by_job: bool = False) -> httpx.Response:
    """The answer to an upload. ``by_job``: to one that a job goes on with."""
    headers = {"Prefer": "respond-async"} if by_job else {}
    return client.post(f"/v1/collections/{collection}/videos", files={"file": ("a.png", content)}, headers=headers)


def held(collection: Path) -> list[str]:
    """Content (SHA-256) of the files of uploads that the folder of a collection holds, in order."""
    return sorted(sha256(file.read_bytes()) for file in collection.glob("media/*"))


def kept(client: httpx.Client, collection: str) -> dict[str, str]:
    """Content (SHA-256) by id of every video that the collection lists; each can be looked at, found and played."""
    videos: list[JSON] = []
    cursor: JSON = {}
    while True:
        page = client.get(f"/v1/collections/{collection}/videos", params={"limit": 100, **cursor}).json()
        videos += page["videos"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    for video in videos:
        played = client.get(video["media_url"])
        assert played.status_code == 200
        assert sha256(played.content) == video["content_sha256"]
    by_id = {video["id"]: video["content_sha256"] for video in videos}
    assert len(by_id) == len(set(by_id.values())) == len(videos)
    assert found(client, collection) == set(by_id)
    return by_id


def found(client: httpx.Client, collection: str) -> set[str]:
    """Ids of all videos that searches lead to; no clip is found twice."""
    results: list[JSON] = []
    cursor: JSON = {}
    while True:
        asked = {"text": "a red thing", "limit": 100, "rerank": 0, **cursor}
        answer = client.post(f"/v1/collections/{collection}/search", json=asked)
        assert answer.status_code == 200, answer.text
        results += answer.json()["results"]
        if answer.json()["next_cursor"] is None:
            break
        cursor = {"cursor": answer.json()["next_cursor"]}
    assert len({result["clip_id"] for result in results}) == len(results)
    return {result["video"]["id"] for result in results}
