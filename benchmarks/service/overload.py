"""Overload: goodput, latency of accepted and rejected requests, and liveness, at a multiple of the service's capacity.

Capacity is the throughput of a closed loop of 16 clients, the mean of before and after the flood. In the flood,
requests are sent at a multiple of that rate, whether or not earlier ones have finished. Meanwhile other processes poll
`/livez` twenty times a second on new connections, on the main port and on the health port, and a file of an idle
server, which shows the noise of the machine.

Server and load generator share the machine, so the generator's own processor time lowers the goodput. Therefore the
capacity is measured again while the same generator sends the rejected part of the flood to a location of nginx that
answers 503 without the service. Goodput compared with that reference is the loss in the service alone. It is also given
per second of processor time of the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import uvloop

from benchmarks.service.load import Checks, Outcome, closed_loop, open_loop, polling, post_bytes, quantile, sentences
from benchmarks.service.servers import create_collection, free_port, idle_server, nginx, processor_seconds, service
from vitascope.model import Model

CLIENTS = 16
REJECT_PATH = "/reject"
REJECT_LOCATION = {
    "        location / {\n": f"        location = {REJECT_PATH} {{ return 502; }}\n        location / {{\n",
}
"""A location that is answered like a request beyond the limit of connections: with 503, without the service."""
T = TypeVar("T")


@dataclass(frozen=True)
class Capacity:
    """Throughput in requests per second, and processor time of the service in seconds per request."""

    rate: float
    cost: float


@dataclass(frozen=True)
class Target:
    """The service under load.

    Attributes:
        url: The service, or the proxy in front of it.
        process_id: The process of the service.
        requests: Searches, sent in turn.
        health: URLs to poll during each load, by the name of their row.
    """

    url: str
    process_id: int
    requests: Sequence[bytes]
    health: Mapping[str, str]

    def run(self, load: Coroutine[None, None, T]) -> tuple[T, float, dict[str, list[float]]]:
        """Run a load while the health URLs are polled.

        Returns:
            Its result, the processor seconds of the service, and the latencies of the polls.
        """
        with ExitStack() as stack:
            polls = {name: stack.enter_context(polling(url)) for name, url in self.health.items()}
            before = processor_seconds(self.process_id)
            result = uvloop.run(load)
            seconds = processor_seconds(self.process_id) - before
        return result, seconds, polls

    def measure_capacity(self, seconds: float) -> Capacity:
        outcome, processor, _ = self.run(closed_loop(self.url, self.requests, CLIENTS, seconds))
        return Capacity(outcome.rate, processor / max(1, len(outcome.latencies)))

    def measure_capacity_with_rejections(self, rejecting_url: str, rate: float, seconds: float) -> tuple[Capacity, int]:
        """Measure the capacity while ``rate`` further requests per second are rejected at another URL.

        Returns:
            The capacity, and the number of rejections.
        """
        body = self.requests[0].partition(b"\r\n\r\n")[2]
        rejected = [post_bytes(f"{rejecting_url}{REJECT_PATH}", body)]

        async def both() -> tuple[Outcome, Outcome]:
            return await asyncio.gather(
                closed_loop(self.url, self.requests, CLIENTS, seconds),
                open_loop(rejecting_url, rejected, rate, seconds),
            )

        (outcome, rejections), processor, _ = self.run(both())
        if rejections.latencies or rejections.failed:
            raise RuntimeError(f"{rejecting_url}{REJECT_PATH}: {rejections.failed} responses were not rejections")
        return Capacity(outcome.rate, processor / max(1, len(outcome.latencies))), len(rejections.refused)


def measure(target: Target, rejecting_url: str | None, overload: float, seconds: float) -> None:
    """Print the goodput and a table of latencies.

    Args:
        target: The service under load.
        rejecting_url: nginx with ``REJECT_LOCATION``; None to omit that reference.
        overload: Rate of the flood as a multiple of the capacity.
        seconds: Duration of the flood.
    """
    url, requests = target.url, target.requests
    uvloop.run(closed_loop(url, requests, 4, 2.0))
    before = target.measure_capacity(seconds / 4)
    rate = overload * before.rate
    light = uvloop.run(open_loop(url, requests, before.rate / 10, seconds / 2))
    flood, processor, polls = target.run(open_loop(url, requests, rate, seconds))
    cost = processor / max(1, len(flood.latencies))
    ended_at = time.perf_counter()
    while uvloop.run(open_loop(url, requests, before.rate / 10, 1.0)).quantile(0.99) > 2 * light.quantile(0.99) + 0.1:
        pass
    recovery = time.perf_counter() - ended_at
    after = target.measure_capacity(seconds / 4)

    capacity, capacity_cost = (before.rate + after.rate) / 2, (before.cost + after.cost) / 2
    print(f"\n{rate:,.0f} requests/s for {seconds:.0f} s; goodput {flood.rate:,.0f}/s:\n")
    print("| compared with the capacity | requests/s | goodput | by processor time |\n|---|---|---|---|")
    print(
        f"| alone, before and after | {before.rate:,.0f} and {after.rate:,.0f} "
        f"| {flood.rate / capacity:.0%} | {capacity_cost / cost:.0%} |"
    )
    if rejecting_url is not None:
        reference, count = target.measure_capacity_with_rejections(rejecting_url, rate - before.rate, seconds)
        print(
            f"| with {count / seconds:,.0f} requests/s rejected by nginx alone | {reference.rate:,.0f} "
            f"| {flood.rate / reference.rate:.0%} | {reference.cost / cost:.0%} |"
        )
    print(
        f"\n{flood.failed} failed, {flood.refusals_without_retry_after} rejected without Retry-After; "
        f"recovered after {recovery:.1f} s\n"
    )
    print("| | count | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")
    _print_row("accepted at a tenth of the capacity", light.latencies)
    _print_row("accepted in the flood", flood.latencies)
    _print_row("rejected", flood.refused)
    for name, latencies in polls.items():
        _print_row(name, latencies)


def _print_row(name: str, latencies: Sequence[float]) -> None:
    if not latencies:
        print(f"| {name} | 0 | | | |")
        return
    median, high = (1000 * quantile(latencies, fraction) for fraction in (0.5, 0.99))
    print(f"| {name} | {len(latencies)} | {median:,.0f} | {high:,.0f} | {1000 * max(latencies):,.0f} |")


@contextmanager
def rejecting_nginx(service_url: str, health_port: int) -> Iterator[str | None]:
    """Run nginx with ``REJECT_LOCATION`` in front of the service; None if nginx is not installed."""
    if shutil.which("nginx") is None:
        print("nginx is not installed: the capacity with rejections is not measured")
        yield None
        return
    with nginx(urlsplit(service_url).port or 80, health_port, REJECT_LOCATION) as url:
        yield url


def run_overload(args: argparse.Namespace, checks: Checks) -> None:
    """Measure a flood of searches, directly or through nginx."""
    model = Model.open(args.bundle, threads=args.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        create_collection(Path(folder), "bench", model, args.clips, tokens=args.rerank > 0)
        health_port = free_port()
        url, process_id = stack.enter_context(service(args.bundle, Path(folder), args.threads, health_port=health_port))
        rejecting_url = stack.enter_context(rejecting_nginx(url, health_port))
        if args.proxy:
            if rejecting_url is None:
                raise FileNotFoundError("nginx is not installed")
            url = rejecting_url
        health = {
            "/livez": f"{url}/livez",
            "/livez at the health port": f"http://127.0.0.1:{health_port}/livez",
            "an idle server": stack.enter_context(idle_server(Path(folder))),
        }
        path = f"{url}/v1/collections/bench/search"
        bodies = [json.dumps({"rerank": args.rerank, "text": text}).encode() for text in sentences(1000, seed=1)]
        requests = [post_bytes(path, body) for body in bodies]
        measure(Target(url, process_id, requests, health), rejecting_url, args.overload, args.seconds)
