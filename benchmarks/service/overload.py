"""Overload: goodput, latency of accepted and rejected requests, and liveness, at a multiple of the service's capacity.

    python -m benchmarks.service.overload --overload 8 --proxy nginx

Capacity is the throughput of a closed loop of 16 clients, the mean of before and after. Then requests are sent at
``--overload`` times that rate, whether or not earlier ones have finished. Meanwhile other processes poll ``/livez``
twenty times a second on new connections, on the main port and on the health port, and a file of an idle server, which
shows the noise of the machine. Server and load share the machine, so goodput is also given per second of processor time
of the server.
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

POLL_SECONDS = 0.05
POLL_TIMEOUT = 30.0


@contextmanager
def polling(url: str) -> Iterator[list[float]]:
    """Poll ``url`` from another process during the context; the list then holds the latencies in seconds."""
    latencies: list[float] = []
    command = [sys.executable, "-m", "benchmarks.service.overload", "--poll", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it has started
    try:
        yield latencies
    finally:
        output, _ = process.communicate("")
        latencies += json.loads(output)


def poll(url: str) -> None:
    """Poll ``url`` until standard input ends; print the latencies in seconds as JSON."""
    latencies = []
    print("started", flush=True)
    while not select([sys.stdin], [], [], POLL_SECONDS)[0]:
        started_at = time.perf_counter()
        try:
            with urllib.request.urlopen(url, timeout=POLL_TIMEOUT):
                pass
        except OSError:
            latencies.append(POLL_TIMEOUT)
            continue
        latencies.append(time.perf_counter() - started_at)
    print(json.dumps(latencies))


@contextmanager
def idle_server(folder: Path) -> Iterator[str]:
    """Run a server without any other load; yield its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with running(command, {}, url, "/", quiet=True):
        yield url


def processor_seconds(process_id: int) -> float:
    """Return the processor time of a process and its children in seconds."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(entry.name) == process_id or int(fields[1]) == process_id:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _print_row(name: str, latencies: Sequence[float]) -> None:
    if not latencies:
        print(f"| {name} | 0 | | | |")
        return
    median, high = 1000 * np.quantile(latencies, (0.5, 0.99))
    print(f"| {name} | {len(latencies)} | {median:,.0f} | {high:,.0f} | {1000 * max(latencies):,.0f} |")


def measure(
    url: str, process_id: int, health: Mapping[str, str], body: dict[str, object], overload: float, seconds: float
) -> None:
    """Print a table of a flood of searches.

    Args:
        url: The service, or the proxy in front of it.
        process_id: The process of the service.
        health: URLs to poll, by the name of their row.
        body: Fields of the searches besides their text.
        overload: Rate of the flood as a multiple of the capacity.
        seconds: Duration of the flood.
    """
    path = f"{url}/v1/collections/bench/search"
    requests = [post_bytes(path, json.dumps({**body, "text": text}).encode()) for text in sentences(1000, seed=1)]

    def measure_capacity() -> tuple[float, float]:
        """Return requests per second, and processor seconds per request."""
        with ExitStack() as stack:
            for address in health.values():  # as costly as during the flood
                stack.enter_context(polling(address))
            before = processor_seconds(process_id)
            outcome = uvloop.run(closed_loop(url, requests, 16, seconds / 4))
            return outcome.rate, (processor_seconds(process_id) - before) / len(outcome.latencies)

    uvloop.run(closed_loop(url, requests, 4, 2.0))
    rate_before, cost_before = measure_capacity()
    light = uvloop.run(open_loop(url, requests, rate_before / 10, seconds / 2))
    with ExitStack() as stack:
        polls = {name: stack.enter_context(polling(address)) for name, address in health.items()}
        before = processor_seconds(process_id)
        flood = uvloop.run(open_loop(url, requests, overload * rate_before, seconds))
        cost = (processor_seconds(process_id) - before) / max(1, len(flood.latencies))
    ended_at = time.perf_counter()
    while uvloop.run(open_loop(url, requests, rate_before / 10, 1.0)).quantile(0.99) > 2 * light.quantile(0.99) + 0.1:
        pass
    recovery = time.perf_counter() - ended_at
    rate_after, cost_after = measure_capacity()
    capacity, capacity_cost = (rate_before + rate_after) / 2, (cost_before + cost_after) / 2
    print(
        f"\n{overload * rate_before:,.0f} requests/s, capacity {rate_before:,.0f}/s and {rate_after:,.0f}/s;", end=" "
    )
    print(f"goodput {flood.rate / capacity:.0%}, {capacity_cost / cost:.0%} by processor time;", end=" ")
    print(f"{flood.failed} failed, {flood.refusals_without_retry_after} rejected without Retry-After;", end=" ")
    print(f"recovered after {recovery:.1f} s\n")
    print("| | count | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")
    _print_row("accepted at a tenth of the capacity", light.latencies)
    _print_row("accepted in the flood", flood.latencies)
    _print_row("rejected", flood.refused)
    for name, latencies in polls.items():
        _print_row(name, latencies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.overload",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="threads of the model (0: one per core)")
    parser.add_argument("--overload", type=float, default=8.0, help="rate of the flood as a multiple of the capacity")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of the flood")
    parser.add_argument("--rerank", type=int, default=0, help="clips that every search reranks")
    parser.add_argument("--clips", type=int, default=10_000, help="clips in the collection")
    parser.add_argument("--proxy", choices=["nginx"], help="send the load through nginx with deploy/nginx/nginx.conf")
    parser.add_argument("--poll", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.poll:
        poll(args.poll)
        return 0
    model = Model.open(args.bundle, threads=args.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fill(Path(folder), "bench", model, args.clips, tokens=args.rerank > 0)
        health_port = free_port()
        url, process_id = stack.enter_context(
            our_process(args.bundle, Path(folder), args.threads, health_port=health_port)
        )
        if args.proxy:
            url = stack.enter_context(nginx(urlsplit(url).port or 80, health_port))
        health = {
            "/livez": f"{url}/livez",
            "/livez at the health port": f"http://127.0.0.1:{health_port}/livez",
            "an idle server": stack.enter_context(idle_server(Path(folder))),
        }
        measure(url, process_id, health, {"rerank": args.rerank}, args.overload, args.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
