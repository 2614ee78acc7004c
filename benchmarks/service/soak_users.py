"""Users of a service for the soak test, each of whom repeats one kind of request.

Users delete what they add, so that the service holds as much at the end as near the beginning. They report every
unexpected response.
"""

from __future__ import annotations

import base64
import io
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
from PIL import Image

COLLECTION = "soak"
MAX_UPLOADS = 30
"""Uploaded videos that exist at a time."""
FILES_PER_JOB = 6
TIMEOUT = 60.0
MAX_ERRORS = 10
"""Unexpected responses that are listed."""
REJECTED = (429, 503)

JSON = dict[str, Any]
Films = Sequence[bytes]


@dataclass
class Tally:
    """Responses to all users. Thread-safe."""

    statuses: Counter[int] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    """Rounds by user."""
    unexpected: int = 0
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, response: httpx.Response, *expected: int) -> None:
        """Count a response, unexpected unless it has one of these statuses or is a rejection with Retry-After."""
        is_rejection = response.status_code in REJECTED and "retry-after" in response.headers
        with self._lock:
            self.statuses[response.status_code] += 1
        if response.status_code not in expected and not is_rejection:
            self.report(
                f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:300]}"
            )

    def report(self, error: str) -> None:
        with self._lock:
            self.unexpected += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(error)

    def count_round(self, user: str) -> None:
        with self._lock:
            self.rounds[user] += 1


@dataclass
class World:
    """State that the users share. ``incoming``: folder for jobs; ``films``: MP4 files of equal length."""

    url: str
    incoming: Path
    films: Films
    sentences: Sequence[str]
    tally: Tally
    pause: float
    """Approximate seconds between two rounds of a user."""
    over: threading.Event = field(default_factory=threading.Event)
    uploaded: deque[str] = field(default_factory=deque)
    """Ids of uploaded videos, oldest first."""


User = Callable[[World, httpx.Client, random.Random], None]


@contextmanager
def users_at_work(world: World) -> Iterator[None]:
    """Run all users, each in a thread, during the context."""
    threads = [
        threading.Thread(target=_run_user, args=(world, user, seed), name=user.__name__)
        for seed, user in enumerate(
            [search, search, embed, embed, upload, index, ask, disconnect, send_invalid, operate]
        )
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        world.over.set()
        for thread in threads:
            thread.join(2 * TIMEOUT)


def _run_user(world: World, user: User, seed: int) -> None:
    rng = random.Random(seed)
    with httpx.Client(base_url=world.url, timeout=TIMEOUT) as client:
        while not world.over.is_set():
            try:
                user(world, client, rng)
                world.tally.count_round(user.__name__)
            except Exception as error:  # reported; the user continues
                world.tally.report(f"{user.__name__}: {error!r}")
            world.over.wait(rng.uniform(0.5, 1.5) * world.pause)


def unique_film(world: World, rng: random.Random) -> bytes:
    """Return a film with a box at its end that players ignore, so that its content is new."""
    return rng.choice(world.films) + b"\x00\x00\x00\x18free" + uuid4().bytes


def unique_picture() -> bytes:
    """Return a PNG of noise."""
    noise = np.random.default_rng().integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()


def search(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Search by texts, clips and pictures, page by page."""
    path = f"/v1/collections/{COLLECTION}/search"
    text = rng.choice(world.sentences)
    bodies: list[JSON] = [
        {"text": text},
        {"text": text, "rerank": 10},
        {"text": text, "signals": {"visual": 1, "name": 0.5}, "group": "video"},
        {"text": text, "group": "event", "min_similarity": 0.0},
        {"text": text, "filter": {"number": {"gte": 3}}, "limit": 3},
    ]
    body = rng.choice(bodies)
    response = client.post(path, json=body)
    world.tally.record(response, 200)
    page: JSON = response.json() if response.status_code == 200 else {"results": [], "next_cursor": None}
    if page["next_cursor"] is not None and "rerank" not in body:
        world.tally.record(client.post(path, json={**body, "cursor": page["next_cursor"]}), 200)
    if page["results"]:
        result = rng.choice(page["results"])
        parts = [{"kind": "clip", "value": result["clip_id"]}, {"kind": "text", "value": text, "weight": 0.5}]
        world.tally.record(client.post(path, json={"query": parts}), 200, 404)  # it may have been deleted meanwhile
        world.tally.record(client.get(result["thumbnail_url"]), 200, 404)
    if rng.random() < 0.2:
        files = {"file": ("a.png", unique_picture())}
        world.tally.record(client.post(path, files=files, data={"text": text}), 200)


def embed(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Embed texts, as numbers or base64, and sometimes a picture."""
    body: JSON = {"input": rng.choices(world.sentences, k=rng.choice([1, 4, 32]))}
    if rng.random() < 0.5:
        body["encoding_format"] = "base64"
    if rng.random() < 0.1:
        picture = base64.b64encode(unique_picture()).decode()
        body["input"].append({"type": "image", "data": f"data:image/png;base64,{picture}"})
    world.tally.record(client.post("/v1/embeddings", json=body), 200)


def upload(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Upload a film or a picture, and delete the oldest upload."""
    content = unique_film(world, rng) if rng.random() < 0.5 else unique_picture()
    path = f"/v1/collections/{COLLECTION}/videos"
    metadata = f'{{"number": {rng.randrange(10)}}}'
    response = client.post(path, files={"file": ("a", content)}, data={"title": "a thing", "metadata": metadata})
    world.tally.record(response, 201)
    if response.status_code != 201:
        return
    video = response.json()
    world.uploaded.append(video["id"])
    world.tally.record(client.get(video["media_url"], headers={"range": "bytes=0-999"}), 206)
    world.tally.record(client.get(f"{path}/{video['id']}"), 200)
    if len(world.uploaded) > MAX_UPLOADS:
        world.tally.record(client.delete(f"{path}/{world.uploaded.popleft()}"), 204)


def index(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Index a folder with a damaged file by a job, and delete its videos."""
    folder = world.incoming / uuid4().hex
    folder.mkdir(parents=True)
    try:
        for number in range(FILES_PER_JOB - 2):
            (folder / f"{number}.png").write_bytes(unique_picture())
        (folder / "film.mp4").write_bytes(unique_film(world, rng))
        (folder / "damaged.mp4").write_bytes(world.films[0][: len(world.films[0]) // 2])
        response = client.post(f"/v1/collections/{COLLECTION}/jobs", json={"folder": folder.name})
        world.tally.record(response, 202)
        if response.status_code == 202:
            _finish_job(world, client, response.headers["location"])
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _finish_job(world: World, client: httpx.Client, job: str) -> None:
    while client.get(job).json()["state"] in ("queued", "running"):
        if world.over.wait(0.1):
            return
    items = client.get(f"{job}/items", params={"limit": FILES_PER_JOB}).json()["items"]
    states = Counter(item["state"] for item in items)
    if states != {"succeeded": FILES_PER_JOB - 1, "failed": 1}:
        world.tally.report(f"{job}: {states}")
    for item in items:
        if item["video_id"] is not None:
            path = f"/v1/collections/{COLLECTION}/videos/{item['video_id']}"
            world.tally.record(client.delete(path), 204)


def ask(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Request caption scores and answers, for indexed videos and for files."""
    text = rng.choice(world.sentences)
    videos = client.get(f"/v1/collections/{COLLECTION}/videos", params={"limit": 20}).json()["videos"]
    if videos:
        clip = {"collection": COLLECTION, "video_id": rng.choice(videos)["id"]}
        scores = {**clip, "captions": [text, "a red thing"], "frames": 4}
        world.tally.record(client.post("/v1/caption-scores", json=scores), 200, 404)
        world.tally.record(client.post("/v1/answers", json={**clip, "question": "what is it?"}), 200, 404)
    files = {"file": ("a", unique_film(world, rng))}
    world.tally.record(client.post("/v1/answers", files=files, data={"question": "what is it?"}), 200)
    world.tally.record(client.post("/v1/caption-scores", files=files, data={"captions": [text, text]}), 200)


def disconnect(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Close the connection before the response, or within the request."""
    text = rng.choice(world.sentences).encode()
    body = b'{"rerank": 10, "text": "' + text + b'"}'
    head = f"POST /v1/collections/{COLLECTION}/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    form = (
        f"POST /v1/collections/{COLLECTION}/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ).encode() + bytes(100_000)
    parts = [whole, whole, form, whole[: rng.randrange(1, len(whole))]]
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(rng.choice(parts))
        time.sleep(rng.choice([0.0, 0.002, 0.05]))


def send_invalid(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Send invalid requests."""
    record, path = world.tally.record, f"/v1/collections/{COLLECTION}"
    json_type = {"content-type": "application/json"}
    noise = rng.randbytes(5000)
    record(client.post(f"{path}/search", content=b'{"text": ', headers=json_type), 422)
    record(client.post(f"{path}/search", json={"text": "", "limit": 0, "nonsense": 1}), 422)
    record(client.post(f"{path}/search", content=b" " * 2_000_000, headers=json_type), 413)
    record(client.post(f"{path}/videos", files={"file": ("a.mp4", noise)}), 415, 422)
    damaged = bytearray(rng.choice(world.films))
    for _ in range(50):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    files = {"file": ("a.mp4", bytes(damaged))}
    record(client.post("/v1/answers", files=files, data={"question": "what?"}), 200, 413, 415, 422)
    record(client.get(f"{path}/videos/0"), 404)
    record(client.put(path), 405)
    record(client.get("/v1/collections/no%00thing"), 404)
    record(client.get("/v1/models", headers={"host": "elsewhere.example"}), 421)
    record(client.post("/v1/embeddings", json={"input": "a" * 10_000}), 422)


def operate(world: World, client: httpx.Client, rng: random.Random) -> None:
    """Create and drop a collection, download a backup or an export, and read the metrics."""
    record, name = world.tally.record, f"temporary-{uuid4().hex[:8]}"
    record(client.post("/v1/collections", json={"name": name}), 201)
    record(client.delete(f"/v1/collections/{name}"), 204)
    record(client.get("/metrics"), 200)
    operation_request = {"kind": rng.choice(["backup", "export"]), "collection": COLLECTION}
    response = client.post("/v1/operations", json=operation_request)
    record(response, 202)
    if response.status_code != 202:
        return
    location = response.headers["location"]
    while (operation := client.get(location).json())["state"] in ("queued", "running"):
        if world.over.wait(0.1):
            break
    if operation["state"] == "failed":
        world.tally.report(f"{operation_request}: {operation['error']}")
    for file in operation["files"]:
        record(client.get(file["url"]), 200)
    with suppress(httpx.TransportError):
        record(client.delete(location), 204)
