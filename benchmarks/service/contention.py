"""Latency of interactive requests while uploads, deletes and jobs keep the service busy, compared with an idle service.

A real server with a few indexed films. Every kind of interactive request is sent ``--rate`` times a second, whether or
not earlier ones have finished, and latency counts from when a request was due. Server and load share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
from PIL import Image

from benchmarks.ingest import write_film
from benchmarks.service.load import Checks, milliseconds, quantile, sentences
from benchmarks.service.servers import service

COLLECTION = "contention"
PATH = f"/v1/collections/{COLLECTION}"
INDEXED_FILMS, FILM_SECONDS = 4, 24.0
"""Films that interactive requests are about, and their length."""
SHORT_FILM_SECONDS, LONG_FILM_SECONDS = 8.0, 100.0
TIMEOUT = 300.0
COMPARED, MAX_RATIO = ("search", "answer"), 2.0
"""Requests whose median under load is at most so many times that of an idle service."""

Send = Callable[[], Awaitable[httpx.Response]]


@dataclass
class Latencies:
    """Latencies in seconds by kind of request, and unexpected statuses."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, Counter[str]] = field(default_factory=dict)

    async def record(self, kind: str, due: float, send: Send, expected: tuple[int, ...] = (200,)) -> None:
        """Send a request and record its latency since ``due``."""
        try:
            response = await send()
        except httpx.HTTPError as error:
            self.failures.setdefault(kind, Counter())[type(error).__name__] += 1
            return
        if response.status_code in expected:
            self.seconds.setdefault(kind, []).append(time.perf_counter() - due)
        else:
            self.failures.setdefault(kind, Counter())[str(response.status_code)] += 1

    def row(self, kind: str) -> str:
        """Return a row of a Markdown table: median, 99th percentile and maximum in seconds."""
        latencies = self.seconds.get(kind, [])
        failures = ", ".join(f"{count} x {status}" for status, count in self.failures.get(kind, Counter()).items())
        if not latencies:
            return f"| {kind} | 0 | | | | {failures} |"
        high = quantile(latencies, 0.99)
        return (
            f"| {kind} | {len(latencies)} | {self.median(kind):.3f} | {high:.3f} | {max(latencies):.3f} | {failures} |"
        )

    def median(self, kind: str) -> float:
        return quantile(self.seconds.get(kind, []), 0.5)


@dataclass
class Workload:
    """A server with indexed films, and the films to upload."""

    client: httpx.AsyncClient
    videos: list[str]
    short: bytes
    long: bytes
    uploads: int
    """Films of the load of uploads."""
    texts: list[str] = field(default_factory=lambda: sentences(500))
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def interactive(self) -> dict[str, Send]:
        """Return one request of every kind, which no cache can answer."""
        post, text = self.client.post, self.rng.choice(self.texts)
        video = self.rng.choice(self.videos)
        starts = [round(self.rng.uniform(0.0, FILM_SECONDS - 5.0), 2) for _ in range(3)]
        score_clip, answer_clip = (
            {"collection": COLLECTION, "video_id": video, "start": start, "end": start + 4.0} for start in starts[:2]
        )
        return {
            "search": lambda: post(f"{PATH}/search", json={"text": text}),
            "reranked search": lambda: post(f"{PATH}/search", json={"text": text, "rerank": 10}),
            "caption score": lambda: post("/v1/caption-scores", json={**score_clip, "captions": [text]}),
            "answer": lambda: post("/v1/answers", json={**answer_clip, "question": "what is it?"}),
            "thumbnail": lambda: self.client.get(f"{PATH}/videos/{video}/thumbnail", params={"t": starts[2]}),
            "text embedding": lambda: post("/v1/embeddings", json={"input": text}),
            "livez": lambda: self.client.get("/livez"),
        }

    def upload(self, film: bytes) -> Send:
        """Return an upload of unique content: ``film`` with a box at its end that players ignore.

        As the page and the command do, it follows the job of an upload that is not indexed within 20 seconds.
        """
        files = {"file": ("film.mp4", film + b"\x00\x00\x00\x18free" + uuid4().bytes)}

        async def send() -> httpx.Response:
            headers = {"Prefer": "respond-async, wait=20"}
            response = await self.client.post(f"{PATH}/videos", files=files, headers=headers)
            while response.is_success and response.json().get("state") in ("queued", "running"):
                await asyncio.sleep(2.0)
                response = await self.client.get(f"{PATH}/jobs/{response.json()['id']}")
            return response

        return send


async def measure(
    workload: Workload, rate: float, seconds: float, background: Sequence[Awaitable[None]] = ()
) -> Latencies:
    """Send ``rate`` requests of each kind per second until ``background`` ends, for ``seconds`` at most."""
    latencies, tasks = Latencies(), set[asyncio.Task[None]]()
    background_done = asyncio.gather(*background)
    started_at = due = time.perf_counter()
    while due - started_at < seconds and not (background and background_done.done()):
        requests = workload.interactive()
        for kind, send in requests.items():
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(asyncio.create_task(latencies.record(kind, due, send)))
            due += 1 / rate / len(requests)
    await asyncio.gather(background_done, *tasks)
    return latencies


async def no_load(workload: Workload, rate: float, seconds: float) -> tuple[Latencies, Latencies]:
    """Send only interactive requests, for a quarter of the time."""
    return await measure(workload, rate, seconds / 4), Latencies()


async def uploads(workload: Workload, rate: float, seconds: float) -> tuple[Latencies, Latencies]:
    """Upload many short films at once."""
    background, now = Latencies(), time.perf_counter()
    requests = [
        background.record("upload, short", now, workload.upload(workload.short), (200, 201))
        for _ in range(workload.uploads)
    ]
    return await measure(workload, rate, seconds, requests), background


async def deletes(workload: Workload, rate: float, seconds: float) -> tuple[Latencies, Latencies]:
    """Upload long films while videos are deleted."""
    background = Latencies()
    pictures = await asyncio.gather(*(_add_picture(workload) for _ in range(60)))
    now = time.perf_counter()
    requests = [background.record("upload, long", now, workload.upload(workload.long), (200, 201)) for _ in range(16)]

    async def delete(video: str) -> None:
        await asyncio.sleep(2.0)  # the uploads are being indexed by then
        started_at = time.perf_counter()
        await background.record("delete", started_at, lambda: workload.client.delete(f"{PATH}/videos/{video}"), (204,))

    return await measure(workload, rate, seconds, [*requests, *map(delete, pictures)]), background


LOADS = {"uploads": uploads, "deletes": deletes}


async def _add_picture(workload: Workload) -> str:
    pixels = np.random.default_rng(list(uuid4().bytes)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        response = await workload.client.post(f"{PATH}/videos", files={"file": ("picture.png", file.getvalue())})
    response.raise_for_status()
    return str(response.json()["id"])


async def _run(
    url: str, films: tuple[bytes, bytes, bytes], loads: Sequence[str], args: argparse.Namespace
) -> dict[str, Latencies]:
    """Print a table for each load; return the latencies of interactive requests by load, "none" first."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
        (await client.post("/v1/collections", json={"name": COLLECTION})).raise_for_status()
        indexed, short, long = films
        workload, results = Workload(client, [], short, long, args.uploads), {}
        for _ in range(INDEXED_FILMS):
            response = await workload.upload(indexed)()
            response.raise_for_status()
            workload.videos.append(response.json()["id"])
        await measure(workload, args.rate, 3.0)  # warms up
        for name in ("none", *loads):
            started_at = time.perf_counter()
            interactive, background = await LOADS.get(name, no_load)(workload, args.rate, args.seconds)
            results[name] = interactive
            print(f"\n## {name}, {time.perf_counter() - started_at:.0f} s\n")
            print("| request | succeeded | p50 s | p99 s | max s | failed |\n|---|---|---|---|---|---|")
            for latencies in (interactive, background):
                for kind in dict.fromkeys([*latencies.seconds, *latencies.failures]):
                    print(latencies.row(kind), flush=True)
    return results


def _film(folder: Path, seconds: float) -> bytes:
    write_film(folder / "film.mp4", seconds, 0, 640, 360)
    return (folder / "film.mp4").read_bytes()


def run_contention(args: argparse.Namespace, checks: Checks) -> None:
    """Print a table for each background load, and compare it with none."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        loads = args.load or list(LOADS)
        long = _film(data, LONG_FILM_SECONDS) if "deletes" in loads else b""
        films = (_film(data, FILM_SECONDS), _film(data, SHORT_FILM_SECONDS), long)
        with service(args.bundle, data / "data", args.threads) as (url, _):
            results = asyncio.run(_run(url, films, loads, args))
    idle = results.pop("none")
    print("\n| request | load | p50 ms without | p50 ms with | ratio |\n|---|---|---|---|---|")
    ratios = {}
    for load, latencies in results.items():
        label = f"{args.uploads} uploads" if load == "uploads" else load
        for kind in COMPARED:
            before, during = idle.median(kind), latencies.median(kind)
            ratios[f"{kind} during {label}"] = during / before
            print(f"| {kind} | {label} | {milliseconds(before)} | {milliseconds(during)} | {during / before:.2f} |")
    print()
    for name, ratio in ratios.items():
        checks.check(f"{name}: {ratio:.2f} <= {MAX_RATIO} times the median without", ratio <= MAX_RATIO)
