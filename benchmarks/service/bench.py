"""The service beside what it is made of, and beside others: ratios, in one run on one machine.

    python -m benchmarks.service.bench

Load is open: requests begin when they are due, and latency counts from then (``benchmarks.service.load``). Server, load
and reference share the machine. A bar that is missed is printed as such, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import uvloop

from benchmarks.service.answers import report_answers
from benchmarks.service.collection import fill
from benchmarks.service.decoding import report_decoding
from benchmarks.service.load import Outcome, arrivals, closed_loop, open_loop, post_bytes
from benchmarks.service.peers import PEERS
from benchmarks.service.servers import our_server, plain_server
from index.vectors.faiss_kinds import FLAT, HNSW, build, ef_search
from vitascope.cli.options import default_bundle
from vitascope.model import Floats, Model

WORDS = (
    "a man woman child dog cat bird red blue green car ball house tree street water runs jumps walks sits plays",
    "throws catches eats holds on under beside two three small large wooden old young smiling through park beach",
)
K = 10
Body = Callable[[list[str]], bytes]
PLAIN = "plain FastAPI handler"
PARTS = ("embedding", "search", "peers", "answers", "decode")


@dataclass
class Bars:
    """What was measured against what was asked for."""

    missed: int = 0

    def check(self, text: str, met: bool) -> None:
        print(f"{'pass' if met else 'MISS'}: {text}")
        self.missed += not met


def sentences(count: int, seed: int = 0) -> list[str]:
    """Captions of 4 to 20 words."""
    random, words = np.random.default_rng(seed), " ".join(WORDS).split()
    return [" ".join(random.choice(words, random.integers(4, 21))) for _ in range(count)]


def perfect_batches(model: Model, texts: Sequence[str], size: int, seconds: float) -> float:
    """Texts per second of the text graph alone: tokens ready, sorted by length, in full batches, one after another."""
    ids, mask = model.bundle.tokenizer().encode(texts)
    order = np.argsort(mask.sum(axis=1), kind="stable")
    batches = []
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        longest = int(mask[rows].sum(axis=1).max())
        batches.append({"input_ids": ids[rows, :longest], "attention_mask": mask[rows, :longest]})
    # Not from short to long: a stop half way would have measured the short ones.
    np.random.default_rng(0).shuffle(batches)
    done, number, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        batch = batches[number % len(batches)]
        model.run_graph("text", batch)
        done, number = done + len(batch["input_ids"]), number + 1
    return done / (time.perf_counter() - began)


def embedding(bars: Bars, model: Model, bundle: Path, threads: int, seconds: float) -> None:
    """Text embedding over HTTP beside the graph alone."""
    texts = sentences(2048)
    print("\n## Text embedding\n\n| | texts/s | share of the graph alone |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as data, our_server(bundle, Path(data), threads) as url:
        shares = {}
        for size, clients in ((32, 4), (1, 64)):
            requests = [
                post_bytes(f"{url}/v1/embeddings", json.dumps({"input": texts[i : i + size]}).encode())
                for i in range(0, len(texts), size)
            ]
            uvloop.run(closed_loop(url, requests, clients, 2.0))
            # The graph before and after: what else the machine does meanwhile concerns both.
            before = perfect_batches(model, texts, 32, seconds / 2)
            outcome = uvloop.run(closed_loop(url, requests, clients, seconds))
            alone = (before + perfect_batches(model, texts, 32, seconds / 2)) / 2
            if outcome.failed:
                raise RuntimeError(f"{outcome.failed} requests failed")
            shares[size] = outcome.rate * size / alone
            print(f"| the graph alone, batches of 32 | {alone:,.0f} | |")
            print(f"| HTTP, {clients} clients, {size} a request | {outcome.rate * size:,.0f} | {shares[size]:.0%} |")
    print()
    bars.check(f"{shares[32]:.0%} >= 85% of the graph alone, 32 texts a request", shares[32] >= 0.85)
    print(f"      {shares[1]:.0%} with one text a request: every text pays for its HTTP")


def raw_search(model: Model, vectors: Floats) -> Callable[[str], None]:
    """Encodes one sentence and finds its nearest in FAISS, in this process."""
    kind = HNSW if len(vectors) >= 25_000 else FLAT
    index = build(kind, vectors.shape[1], [vectors], lambda: False)
    if kind == HNSW:
        index.hnsw.efSearch = ef_search(len(vectors))
    faiss.omp_set_num_threads(1)

    def find(text: str) -> None:
        index.search(model.embed_text([text]), K)

    return find


def one_after_another(find: Callable[[str], None], texts: Sequence[str]) -> list[float]:
    """Seconds of each, the next begun as soon as one has ended."""
    times = []
    for text in texts:
        began = time.perf_counter()
        find(text)
        times.append(time.perf_counter() - began)
    return times[len(times) // 10 :]


def as_they_come(find: Callable[[str], None], texts: Sequence[str], rate: float, seconds: float) -> list[float]:
    """Seconds from when each was due: the arrivals of ``open_loop``, first come first served."""
    due = arrivals(rate, seconds)
    times, began = [], time.perf_counter()
    for number, at in enumerate(due):
        time.sleep(max(0.0, began + at - time.perf_counter()))
        find(texts[number % len(texts)])
        times.append(time.perf_counter() - began - at)
    return times


def searching(bars: Bars, model: Model, bundle: Path, threads: int, seconds: float, clips: int) -> None:
    """Search over HTTP at half load beside encoding and FAISS alone; then ten times too much."""
    texts = sentences(1000, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        vectors = fill(data, "bench", model, clips)
        find = raw_search(model, vectors)
        del vectors
        hot = one_after_another(find, texts)
        with our_server(bundle, data, threads) as url:
            path = f"{url}/v1/collections/bench/search"
            requests = [post_bytes(path, json.dumps({"text": text, "limit": K}).encode()) for text in texts]
            uvloop.run(closed_loop(url, requests, 4, 2.0))
            max_rate = uvloop.run(closed_loop(url, requests, 16, seconds)).rate
            half = uvloop.run(open_loop(url, requests, max_rate / 2, 2 * seconds))
            alone = as_they_come(find, texts, max_rate / 2, 2 * seconds)
            light = uvloop.run(open_loop(url, requests, max_rate / 10, seconds))
            used = time.process_time()
            flood = uvloop.run(open_loop(url, requests, 10 * max_rate, seconds))
            share = (time.process_time() - used) / flood.seconds / (os.cpu_count() or 1)
            after = uvloop.run(open_loop(url, requests, max_rate / 10, seconds))
    print(f"\n## Search on {clips:,} clips\n\n| | requests/s | p50 ms | p99 ms |\n|---|---|---|---|")
    for name, rate, times in (
        ("encode + FAISS alone, one after another", 1 / float(np.mean(hot)), hot),
        ("encode + FAISS alone, the requests of half load as they come", max_rate / 2, alone),
    ):
        print(f"| {name} | {rate:,.0f} | {_ms(_quantile(times, 0.5))} | {_ms(_quantile(times, 0.99))} |")
    for name, outcome in (
        ("a tenth of the most", light),
        (f"half of the most ({max_rate:,.0f}/s)", half),
        ("ten times the most", flood),
        ("after", after),
    ):
        print(f"| HTTP, {name} | {outcome.rate:,.0f} | {_ms(outcome.quantile(0.5))} | {_ms(outcome.quantile(0.99))} |")
    refused = _quantile(flood.refused or [0.0], 0.99)
    print(f"\nOf ten times too much {len(flood.refused)} were refused, 99% within {_ms(refused)} ms.")
    print(f"To send that much took {share:.0%} of the machine's processors.")
    for share, most_times in ((0.5, 1.5), (0.99, 4)):
        ratio = half.quantile(share) / _quantile(alone, share)
        what = (
            f"p{100 * share:.0f} at half load {ratio:.2f} <= {most_times} times encode + FAISS alone at the same load"
        )
        bars.check(what, ratio <= most_times)
        print(f"      {half.quantile(share) / _quantile(hot, share):.2f} times encode + FAISS one after another")
    bars.check(f"goodput under ten times the most {flood.rate / max_rate:.0%} >= 90%", flood.rate >= 0.9 * max_rate)
    bars.check(f"{flood.failed} of the others failed", flood.failed == 0)
    bars.check(
        f"{flood.refusals_without_retry_after} refusals lacked Retry-After", flood.refusals_without_retry_after == 0
    )


def peers(bars: Bars, bundle: Path, threads: int, seconds: float, bound: float) -> None:
    """The most requests a second with a p99 within ``bound`` seconds: ours, the plain handler's, and those of others
    whose commands are named.

    1.5 times each of the others is asked for, or 1.5 times the plain handler where no other is at hand.
    """
    texts = sentences(1000, seed=2)
    max_rates = {}
    print(f"\n## One text a request, the most with p99 <= {_ms(bound)} ms\n")
    for name, path, server, body in _servers(bundle, threads):
        with server as url:
            requests = [post_bytes(f"{url}{path}", body([text])) for text in texts]
            uvloop.run(closed_loop(url, requests, 8, 2.0))
            top = uvloop.run(closed_loop(url, requests, 64, seconds)).rate

            def within(rate: float, url: str = url, requests: list[bytes] = requests) -> bool:
                outcome: Outcome = uvloop.run(open_loop(url, requests, rate, seconds))
                return not outcome.failed and not outcome.refused and outcome.quantile(0.99) <= bound

            max_rates[name] = highest(within, top * 1.2)
            print(f"- {name}: {max_rates[name]:,.0f} requests/s (closed loop of 64: {top:,.0f})")
    for peer in PEERS:
        if peer.variable not in os.environ:
            print(f"- {peer.name}: not measured; {peer.variable} names no command")
    print()
    ours = max_rates.pop("ours")
    others = {name: rate for name, rate in max_rates.items() if name != PLAIN}
    for name, rate in max_rates.items():
        ratio = ours / rate if rate else float("inf")
        if name == PLAIN and others:
            print(f"      {ratio:.2f} times the {name} at equal p99")
        else:
            bars.check(f"{ratio:.2f} >= 1.5 times {name} at equal p99", ratio >= 1.5)


def _servers(bundle: Path, threads: int) -> Iterator[tuple[str, str, AbstractContextManager[str], Body]]:
    """Each service's name, the path and body that ask it for vectors, and the context that runs it."""

    def body(texts: list[str]) -> bytes:
        return json.dumps({"input": texts}).encode()

    with tempfile.TemporaryDirectory() as data:
        yield "ours", "/v1/embeddings", our_server(bundle, Path(data), threads), body
    yield PLAIN, "/v1/embeddings", plain_server(bundle, threads), body
    for peer in PEERS:
        if peer.variable in os.environ:
            yield peer.name, peer.path, peer.server(os.environ[peer.variable], bundle, threads), peer.body


def highest(within: Callable[[float], bool], upper: float, steps: int = 6) -> float:
    """The highest rate that is within bounds, by halving."""
    low, high = 0.0, upper
    for _ in range(steps):
        middle = (low + high) / 2
        if within(middle):
            low = middle
        else:
            high = middle
    return low


def _quantile(times: Sequence[float], share: float) -> float:
    return float(np.quantile(times, share))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.bench",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="of the model, in the service and alone (0: one a core)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--clips", type=int, default=100_000, help="in the collection that is searched")
    parser.add_argument("--bound", type=float, default=0.25, metavar="S", help="p99 at which peers are compared")
    parser.add_argument("--only", choices=PARTS, action="append")
    args = parser.parse_args(arguments)
    bars = Bars()
    model = Model.open(args.bundle, threads=args.threads)
    model.warm_up()
    parts_to_run = args.only or PARTS
    if "embedding" in parts_to_run:
        embedding(bars, model, args.bundle, args.threads, args.seconds)
    if "search" in parts_to_run:
        searching(bars, model, args.bundle, args.threads, args.seconds, args.clips)
    if "peers" in parts_to_run:
        peers(bars, args.bundle, args.threads, args.seconds, args.bound)
    if "answers" in parts_to_run:
        report_answers(bars.check, model, args.bundle, args.threads)
    if "decode" in parts_to_run:
        report_decoding(bars.check)
    return 1 if bars.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
