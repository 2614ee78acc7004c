"""People and programs that use a service all at once, each in a way of their own, again and again.

What they add they take away: the service holds as much at the end as near the beginning. Each takes what it must get
for granted and reports anything else.
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
KEPT = 30
"""Uploads that are there at a time."""
PER_JOB = 6
"""Files of one indexing job."""
TIMEOUT = 60.0
NAMED = 10
"""Surprises whose words are kept."""
REFUSED = (429, 503)

JSON = dict[str, Any]
Films = Sequence[bytes]


@dataclass
class Tally:
    """What came back, over all users. Safe to use from many threads."""

    answers: Counter[int] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    """Rounds, by user."""
    surprises: int = 0
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: httpx.Response, *expected: int) -> None:
        """An answer; with another status than those it is a surprise, but for a refusal that says when to return."""
        is_refusal = answer.status_code in REFUSED and "retry-after" in answer.headers
        with self._lock:
            self.answers[answer.status_code] += 1
        if answer.status_code not in expected and not is_refusal:
            self.surprise(
                f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
            )

    def surprise(self, what: str) -> None:
        with self._lock:
            self.surprises += 1
            if len(self.errors) < NAMED:
                self.errors.append(what)

    def round(self, user: str) -> None:
        with self._lock:
            self.done[user] += 1


@dataclass
class World:
    """What the users share. ``incoming``: the folder that jobs may name; ``films``: MP4 files, alike in length."""

    url: str
    incoming: Path
    films: Films
    sentences: Sequence[str]
    tally: Tally
    pause: float
    """Seconds between the rounds of one user, about."""
    over: threading.Event = field(default_factory=threading.Event)
    uploaded: deque[str] = field(default_factory=deque)
    """Ids of the videos that one user uploaded, the oldest first."""


User = Callable[[World, httpx.Client, random.Random], None]


@contextmanager
def at_work(world: World) -> Iterator[None]:
    """All users at once, until the end of the context."""
    threads = [
        threading.Thread(target=_vector_index, args=(world, user, seed), name=user.__name__)
        for seed, user in enumerate([search, search, embed, embed, upload, index, ask, vanish, mistake, operate])
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        world.over.set()
        for thread in threads:
            thread.join(2 * TIMEOUT)


def _vector_index(world: World, user: User, seed: int) -> None:
    chance = random.Random(seed)
    with httpx.Client(base_url=world.url, timeout=TIMEOUT) as client:
        while not world.over.is_set():
            try:
                user(world, client, chance)
                world.tally.round(user.__name__)
            except Exception as error:  # a user whom something befell goes on, and what befell them is told
                world.tally.surprise(f"{user.__name__}: {error!r}")
            world.over.wait(chance.uniform(0.5, 1.5) * world.pause)


def own_film(world: World, chance: random.Random) -> bytes:
    """A film that nobody has seen: one of few, and a box at its end that players pass over."""
    return chance.choice(world.films) + b"\x00\x00\x00\x18free" + uuid4().bytes


def own_picture() -> bytes:
    """A PNG of noise."""
    noise = np.random.default_rng().integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()


def search(world: World, client: httpx.Client, chance: random.Random) -> None:
    """By sentences, words, clips and pictures, page by page."""
    path = f"/v1/collections/{COLLECTION}/search"
    text = chance.choice(world.sentences)
    bodies: list[JSON] = [
        {"text": text},
        {"text": text, "rerank": 10},
        {"text": text, "hybrid": True, "group": "video"},
        {"text": text, "group": "event", "min_similarity": 0.0},
        {"text": text, "filter": {"number": {"gte": 3}}, "limit": 3},
    ]
    body = chance.choice(bodies)
    answer = client.post(path, json=body)
    world.tally.note(answer, 200)
    page: JSON = answer.json() if answer.status_code == 200 else {"results": [], "next_cursor": None}
    if page["next_cursor"] is not None and "rerank" not in body:
        world.tally.note(client.post(path, json={**body, "cursor": page["next_cursor"]}), 200)
    if page["results"]:
        result = chance.choice(page["results"])
        parts = [{"kind": "clip", "value": result["clip_id"]}, {"kind": "text", "value": text, "weight": 0.5}]
        world.tally.note(client.post(path, json={"query": parts}), 200, 404)  # it may have been deleted meanwhile
        world.tally.note(client.get(result["thumbnail_url"]), 200, 404)
    if chance.random() < 0.2:
        files = {"file": ("a.png", own_picture())}
        world.tally.note(client.post(path, files=files, data={"text": text}), 200)


def embed(world: World, client: httpx.Client, chance: random.Random) -> None:
    """Texts, many or few, as numbers or as base64; now and then a picture."""
    body: JSON = {"input": chance.choices(world.sentences, k=chance.choice([1, 4, 32]))}
    if chance.random() < 0.5:
        body["encoding_format"] = "base64"
    if chance.random() < 0.1:
        picture = base64.b64encode(own_picture()).decode()
        body["input"].append({"type": "image", "data": f"data:image/png;base64,{picture}"})
    world.tally.note(client.post("/v1/embeddings", json=body), 200)


def upload(world: World, client: httpx.Client, chance: random.Random) -> None:
    """A film or a picture; the oldest one is deleted."""
    content = own_film(world, chance) if chance.random() < 0.5 else own_picture()
    path = f"/v1/collections/{COLLECTION}/videos"
    metadata = f'{{"number": {chance.randrange(10)}}}'
    answer = client.post(path, files={"file": ("a", content)}, data={"title": "a thing", "metadata": metadata})
    world.tally.note(answer, 201)
    if answer.status_code != 201:
        return
    video = answer.json()
    world.uploaded.append(video["id"])
    world.tally.note(client.get(video["media_url"], headers={"range": "bytes=0-999"}), 206)
    world.tally.note(client.get(f"{path}/{video['id']}"), 200)
    if len(world.uploaded) > KEPT:
        world.tally.note(client.delete(f"{path}/{world.uploaded.popleft()}"), 204)


def index(world: World, client: httpx.Client, chance: random.Random) -> None:
    """A folder of pictures and a film by a job; one of its files is damaged. Then all of it goes."""
    folder = world.incoming / uuid4().hex
    folder.mkdir(parents=True)
    try:
        for number in range(PER_JOB - 2):
            (folder / f"{number}.png").write_bytes(own_picture())
        (folder / "film.mp4").write_bytes(own_film(world, chance))
        (folder / "damaged.mp4").write_bytes(world.films[0][: len(world.films[0]) // 2])
        answer = client.post(f"/v1/collections/{COLLECTION}/jobs", json={"folder": folder.name})
        world.tally.note(answer, 202)
        if answer.status_code == 202:
            _see_through(world, client, answer.headers["location"])
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _see_through(world: World, client: httpx.Client, job: str) -> None:
    while client.get(job).json()["state"] in ("queued", "running"):
        if world.over.wait(0.1):
            return
    items = client.get(f"{job}/items", params={"limit": PER_JOB}).json()["items"]
    states = Counter(item["state"] for item in items)
    if states != {"succeeded": PER_JOB - 1, "failed": 1}:
        world.tally.surprise(f"{job}: {states}")
    for item in items:
        if item["video_id"] is not None:
            path = f"/v1/collections/{COLLECTION}/videos/{item['video_id']}"
            world.tally.note(client.delete(path), 204)


def ask(world: World, client: httpx.Client, chance: random.Random) -> None:
    """Scores of captions and answers to questions, about what is there and about files that come along."""
    text = chance.choice(world.sentences)
    videos = client.get(f"/v1/collections/{COLLECTION}/videos", params={"limit": 20}).json()["videos"]
    if videos:
        clip = {"collection": COLLECTION, "video_id": chance.choice(videos)["id"]}
        scores = {**clip, "captions": [text, "a red thing"], "frames": 4}
        world.tally.note(client.post("/v1/caption-scores", json=scores), 200, 404)
        world.tally.note(client.post("/v1/answers", json={**clip, "question": "what is it?"}), 200, 404)
    files = {"file": ("a", own_film(world, chance))}
    world.tally.note(client.post("/v1/answers", files=files, data={"question": "what is it?"}), 200)
    world.tally.note(client.post("/v1/caption-scores", files=files, data={"captions": [text, text]}), 200)


def vanish(world: World, client: httpx.Client, chance: random.Random) -> None:
    """Somebody who asks and is gone before the answer, or in the middle of the question."""
    text = chance.choice(world.sentences).encode()
    body = b'{"rerank": 10, "text": "' + text + b'"}'
    head = f"POST /v1/collections/{COLLECTION}/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    form = (
        f"POST /v1/collections/{COLLECTION}/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ).encode() + bytes(100_000)
    parts = [whole, whole, form, whole[: chance.randrange(1, len(whole))]]
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(chance.choice(parts))
        time.sleep(chance.choice([0.0, 0.002, 0.05]))


def mistake(world: World, client: httpx.Client, chance: random.Random) -> None:
    """Everything that can be wrong about a request."""
    note, path = world.tally.note, f"/v1/collections/{COLLECTION}"
    json_type = {"content-type": "application/json"}
    noise = chance.randbytes(5000)
    note(client.post(f"{path}/search", content=b'{"text": ', headers=json_type), 422)
    note(client.post(f"{path}/search", json={"text": "", "limit": 0, "nonsense": 1}), 422)
    note(client.post(f"{path}/search", content=b" " * 2_000_000, headers=json_type), 413)
    note(client.post(f"{path}/videos", files={"file": ("a.mp4", noise)}), 415, 422)
    damaged = bytearray(chance.choice(world.films))
    for _ in range(50):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    files = {"file": ("a.mp4", bytes(damaged))}
    note(client.post("/v1/answers", files=files, data={"question": "what?"}), 200, 413, 415, 422)
    note(client.get(f"{path}/videos/0"), 404)
    note(client.put(path), 405)
    note(client.get("/v1/collections/no%00thing"), 404)
    note(client.get("/v1/models", headers={"host": "elsewhere.example"}), 421)
    note(client.post("/v1/embeddings", json={"input": "a" * 10_000}), 422)


def operate(world: World, client: httpx.Client, chance: random.Random) -> None:
    """A collection made and dropped, a backup or an export made, fetched and deleted, metrics read."""
    note, name = world.tally.note, f"of-{uuid4().hex[:8]}"
    note(client.post("/v1/collections", json={"name": name}), 201)
    note(client.delete(f"/v1/collections/{name}"), 204)
    note(client.get("/metrics"), 200)
    operation_request = {"kind": chance.choice(["backup", "export"]), "collection": COLLECTION}
    answer = client.post("/v1/operations", json=operation_request)
    note(answer, 202)
    if answer.status_code != 202:
        return
    location = answer.headers["location"]
    while (operation := client.get(location).json())["state"] in ("queued", "running"):
        if world.over.wait(0.1):
            break
    if operation["state"] == "failed":
        world.tally.surprise(f"{operation_request}: {operation['error']}")
    for file in operation["files"]:
        note(client.get(file["url"]), 200)
    with suppress(httpx.TransportError):
        note(client.delete(location), 204)
