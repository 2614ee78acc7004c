"""Latency of interactive requests while uploads, deletes and jobs keep the service busy.

    python -m benchmarks.service.contention --load uploads --load deletes

A real server with a few indexed films. Every kind of interactive request is sent ``--rate`` times a second, whether or
not earlier ones are answered, and its latency counts from when it was due. Server and load share the machine.
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
from benchmarks.service.bench import sentences
from benchmarks.service.servers import our_process
from vitascope.cli.options import default_bundle

COLLECTION = "contention"
PATH = f"/v1/collections/{COLLECTION}"
KEPT, FILM_SECONDS = 4, 24.0
"""Films that are asked about, and how long each lasts."""
LONG_SECONDS = 100.0
TIMEOUT = 300.0

Send = Callable[[], Awaitable[httpx.Response]]


@dataclass
class Times:
    """Seconds of answers by kind of request, and the statuses other than the expected."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, Counter[str]] = field(default_factory=dict)

    async def note(self, kind: str, due: float, send: Send, expected: tuple[int, ...] = (200,)) -> None:
        """Send a request and note how long after ``due`` it was answered."""
        try:
            answer = await send()
        except httpx.HTTPError as error:
            self.others.setdefault(kind, Counter())[type(error).__name__] += 1
            return
        if answer.status_code in expected:
            self.seconds.setdefault(kind, []).append(time.perf_counter() - due)
        else:
            self.others.setdefault(kind, Counter())[str(answer.status_code)] += 1

    def row(self, kind: str) -> str:
        """A row of a markdown table: median, 99th percentile and maximum in seconds."""
        times = self.seconds.get(kind, [])
        others = ", ".join(f"{count} x {status}" for status, count in self.others.get(kind, Counter()).items())
        if not times:
            return f"| {kind} | 0 | | | | {others} |"
        median, high = np.quantile(times, (0.5, 0.99))
        return f"| {kind} | {len(times)} | {median:.3f} | {high:.3f} | {max(times):.3f} | {others} |"


@dataclass
class World:
    """A server with indexed films, and what is uploaded to it."""

    client: httpx.AsyncClient
    videos: list[str]
    short: bytes
    long: bytes
    texts: list[str] = field(default_factory=lambda: sentences(500))
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def interactive(self) -> dict[str, Send]:
        """One request of every kind, none of which any cache can answer."""
        post, text = self.client.post, self.chance.choice(self.texts)
        start = round(self.chance.uniform(0.0, FILM_SECONDS - 5.0), 2)
        video = self.chance.choice(self.videos)
        clip = {"collection": COLLECTION, "video_id": video, "start": start, "end": start + 4.0}
        picture = f"{PATH}/videos/{video}/thumbnail"
        return {
            "search": lambda: post(f"{PATH}/search", json={"text": text}),
            "reranked search": lambda: post(f"{PATH}/search", json={"text": text, "rerank": 10}),
            "caption score": lambda: post("/v1/caption-scores", json={**clip, "captions": [text]}),
            "answer": lambda: post("/v1/answers", json={**clip, "question": "what is it?"}),
            "thumbnail": lambda: self.client.get(picture, params={"t": start}),
            "text embedding": lambda: post("/v1/embeddings", json={"input": text}),
            "livez": lambda: self.client.get("/livez"),
        }

    def upload(self, film: bytes) -> Send:
        """An upload that no other has the content of; ``film`` with a box at its end that players pass over."""
        content = film + b"\x00\x00\x00\x18free" + uuid4().bytes
        return lambda: self.client.post(f"{PATH}/videos", files={"file": ("film.mp4", content)})


async def measure(world: World, rate: float, seconds: float, background: Sequence[Awaitable[None]] = ()) -> Times:
    """Send ``rate`` requests of each kind a second until ``background`` has ended, for ``seconds`` at most."""
    times, tasks = Times(), set[asyncio.Task[None]]()
    working = asyncio.gather(*background)
    began = due = time.perf_counter()
    while due - began < seconds and not (background and working.done()):
        requests = world.interactive()
        for kind, send in requests.items():
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(asyncio.create_task(times.note(kind, due, send)))
            due += 1 / rate / len(requests)
    await asyncio.gather(working, *tasks)
    return times


async def without(world: World, rate: float, seconds: float) -> tuple[Times, Times]:
    """Nothing but the interactive requests, for a tenth of the time."""
    return await measure(world, rate, seconds / 10), Times()


async def uploads(world: World, rate: float, seconds: float, count: int = 110) -> tuple[Times, Times]:
    """Many short films uploaded at once."""
    others, now = Times(), time.perf_counter()
    work = [others.note("upload, short", now, world.upload(world.short), (200, 201)) for _ in range(count)]
    return await measure(world, rate, seconds, work), others


async def deletes(world: World, rate: float, seconds: float) -> tuple[Times, Times]:
    """Long films uploaded, and videos deleted meanwhile."""
    others = Times()
    pictures = await asyncio.gather(*(_add_picture(world) for _ in range(60)))
    now = time.perf_counter()
    work = [others.note("upload, long", now, world.upload(world.long), (200, 201)) for _ in range(16)]

    async def delete(video: str) -> None:
        await asyncio.sleep(2.0)  # the uploads are being indexed by then
        began = time.perf_counter()
        await others.note("delete", began, lambda: world.client.delete(f"{PATH}/videos/{video}"), (204,))

    return await measure(world, rate, seconds, [*work, *map(delete, pictures)]), others


LOADS = {"none": without, "uploads": uploads, "deletes": deletes}


async def _add_picture(world: World) -> str:
    pixels = np.random.default_rng(list(uuid4().bytes)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        answer = await world.client.post(f"{PATH}/videos", files={"file": ("picture.png", file.getvalue())})
    answer.raise_for_status()
    return str(answer.json()["id"])


async def _run(url: str, films: tuple[bytes, bytes, bytes], names: Sequence[str], rate: float, seconds: float) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
        (await client.post("/v1/collections", json={"name": COLLECTION})).raise_for_status()
        kept, short, long = films
        world = World(client, [], short, long)
        for _ in range(KEPT):
            answer = await world.upload(kept)()
            answer.raise_for_status()
            world.videos.append(answer.json()["id"])
        await measure(world, rate, 3.0)  # what is made once
        for name in names:
            began = time.perf_counter()
            interactive, background = await LOADS[name](world, rate, seconds)
            print(f"\n## {name}, {time.perf_counter() - began:.0f} s\n")
            print("| request | answered | p50 s | p99 s | longest s | otherwise |\n|---|---|---|---|---|---|")
            for times in (interactive, background):
                for kind in dict.fromkeys([*times.seconds, *times.others]):
                    print(times.row(kind), flush=True)


def _film(folder: Path, seconds: float) -> bytes:
    write_film(folder / "film.mp4", seconds, 0, 640, 360)
    return (folder / "film.mp4").read_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each load."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.contention",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="of the model (0: one a core)")
    parser.add_argument("--load", choices=LOADS, action="append", help="default: all, one after the other")
    parser.add_argument("--rate", type=float, default=1.0, help="requests of each kind a second")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each load at most")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        films = (_film(data, FILM_SECONDS), _film(data, 8.0), _film(data, LONG_SECONDS))
        with our_process(args.bundle, data / "data", args.threads) as (url, _):
            asyncio.run(_run(url, films, args.load or list(LOADS), args.rate, args.seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
