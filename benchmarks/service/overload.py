"""A service under far more load than it can do: what is answered, what is refused, and whether it still says it lives.

    python -m benchmarks.service.overload --times 8

Capacity is what a closed loop of 16 clients gets; then requests come at ``--times`` that rate, whether or not earlier
ones are answered. Meanwhile other processes ask for ``/livez`` twenty times a second, by a new connection each time, at
the main port and at the health port, and for a file of an idle server: what that takes is the machine's own noise.
Server and load share the machine, so goodput is also given per second that the server computes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from select import select
from urllib.parse import urlsplit

import numpy as np
import uvloop

from benchmarks.service.bench import sentences
from benchmarks.service.collection import fill
from benchmarks.service.load import closed_loop, open_loop, post_bytes
from benchmarks.service.servers import free_port, nginx, our_process, running
from vitascope.cli.options import default_bundle
from vitascope.model import Model

WATCH_SECONDS = 0.05
"""Between two requests for the health."""
GIVEN_UP_SECONDS = 30.0


@contextmanager
def watched(url: str) -> Iterator[list[float]]:
    """How many seconds ``url`` took each time in the block; there after it."""
    took: list[float] = []
    command = [sys.executable, "-m", "benchmarks.service.overload", "--watch", url]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    watcher.stdout.readline()  # it has begun
    try:
        yield took
    finally:
        written, _ = watcher.communicate("")
        took += json.loads(written)


def watch(url: str) -> None:
    """Ask ``url`` until standard input ends; write the seconds that each answer took as JSON."""
    took = []
    print("begun", flush=True)
    while not select([sys.stdin], [], [], WATCH_SECONDS)[0]:
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(url, timeout=GIVEN_UP_SECONDS):
                pass
        except OSError:
            took.append(GIVEN_UP_SECONDS)
            continue
        took.append(time.perf_counter() - began)
    print(json.dumps(took))


@contextmanager
def idle_server(folder: Path) -> Iterator[str]:
    """The URL of a server that has nothing else to do."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with running(command, {}, url, "/", quiet=True):
        yield url


def computing(process: int) -> float:
    """Seconds that a process and those that it has started have computed."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                facts = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(entry.name) == process or int(facts[1]) == process:
                ticks += int(facts[11]) + int(facts[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _row(name: str, times: Sequence[float]) -> None:
    if not times:
        print(f"| {name} | 0 | | | |")
        return
    median, high = np.quantile(times, (0.5, 0.99))
    print(f"| {name} | {len(times)} | {1000 * median:,.0f} | {1000 * high:,.0f} | {1000 * max(times):,.0f} |")


def measure(
    url: str, process: int, health: Mapping[str, str], body: dict[str, object], times: float, seconds: float
) -> None:
    """Print what became of a flood of searches."""
    path = f"{url}/v1/collections/bench/search"
    asked = [post_bytes(path, json.dumps({**body, "text": text}).encode()) for text in sentences(1000, seed=1)]
    uvloop.run(closed_loop(url, asked, 4, 2.0))
    with ExitStack() as stack:  # which costs here what it does below
        for place in health.values():
            stack.enter_context(watched(place))
        began = computing(process)
        full = uvloop.run(closed_loop(url, asked, 16, seconds / 2))
        each = (computing(process) - began) / len(full.latencies)
    light = uvloop.run(open_loop(url, asked, full.rate / 10, seconds / 2))
    with ExitStack() as stack:
        took = {name: stack.enter_context(watched(place)) for name, place in health.items()}
        began = computing(process)
        flood = uvloop.run(open_loop(url, asked, times * full.rate, seconds))
        in_flood = (computing(process) - began) / max(1, len(flood.latencies))
    ended = time.perf_counter()
    while uvloop.run(open_loop(url, asked, full.rate / 10, 1.0)).quantile(0.99) > 2 * light.quantile(0.99) + 0.1:
        pass
    print(f"\n{times * full.rate:,.0f} requests/s, capacity {full.rate:,.0f}/s;", end=" ")
    print(f"goodput {flood.rate / full.rate:.0%} of it, {each / in_flood:.0%} by what the server computes;", end=" ")
    print(f"{flood.failed} failed, {flood.refusals_without_retry_after} refused without Retry-After;", end=" ")
    print(f"normal {time.perf_counter() - ended:.1f} s after\n")
    print("| | number | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|")
    _row("answered at a tenth of the capacity", light.latencies)
    _row("answered in the flood", flood.latencies)
    _row("refused", flood.refused)
    for name, seconds_each in took.items():
        _row(name, seconds_each)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.overload",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="of the model (0: one a core)")
    parser.add_argument("--times", type=float, default=8.0, help="the capacity")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the flood")
    parser.add_argument("--rerank", type=int, default=0, help="clips of every search that are reranked")
    parser.add_argument("--clips", type=int, default=10_000, help="in the collection that is searched")
    parser.add_argument("--proxy", choices=["nginx"], help="send the load through nginx with deploy/nginx/nginx.conf")
    parser.add_argument("--watch", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.watch:
        watch(args.watch)
        return 0
    model = Model.open(args.bundle, threads=args.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fill(Path(folder), "bench", model, args.clips, tokens=args.rerank > 0)
        port = free_port()
        process = our_process(args.bundle, Path(folder), args.threads, health_port=port)
        url, number = stack.enter_context(process)
        if args.proxy:
            url = stack.enter_context(nginx(urlsplit(url).port or 80, port))
        health = {
            "/livez": f"{url}/livez",
            "/livez at the health port": f"http://127.0.0.1:{port}/livez",
            "an idle server": stack.enter_context(idle_server(Path(folder))),
        }
        measure(url, number, health, {"rerank": args.rerank}, args.times, args.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
