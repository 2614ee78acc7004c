"""Text embedding and search over HTTP, compared with the graph and FAISS alone; and search as a command."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import uvloop

from benchmarks.service.load import (
    Checks,
    arrivals,
    closed_loop,
    milliseconds,
    open_loop,
    post_bytes,
    quantile,
    sentences,
)
from benchmarks.service.servers import create_collection, processor_seconds, service
from index.vectors.faiss_kinds import FLAT, HNSW, build, ef_search
from vitascope.embeddings import Floats
from vitascope.model import Model

K = 10
BATCH = 32
COMMAND_BOUND = 1.0
"""Seconds of processor time from the start of `vitascope search` to its first result."""
COMMAND_ARGUMENTS = {
    "a text of known words": ["a dog runs on the beach"],
    "a text with a word that the model does not know": ["a dog runs on the beach of Swakopmund"],
    "a text of another language": ["ein Hund rennt am Strand"],
    "`--rerank 20`": ["a dog runs on the beach", "--rerank=20"],
}
"""All but the last have the bound. With the extra `language`, the language of texts with unknown words is detected."""


def graph_throughput(model: Model, texts: Sequence[str], seconds: float) -> float:
    """Return texts per second of the text graph alone, with tokenized texts in full batches of similar length."""
    ids, mask = model.bundle.tokenizer().encode(texts)
    order = np.argsort(mask.sum(axis=1), kind="stable")
    batches = []
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        length = int(mask[rows].sum(axis=1).max())
        batches.append({"input_ids": ids[rows, :length], "attention_mask": mask[rows, :length]})
    np.random.default_rng(0).shuffle(batches)  # a run that ends early must not contain only short texts
    done, number, started_at = 0, 0, time.perf_counter()
    while time.perf_counter() - started_at < seconds:
        batch = batches[number % len(batches)]
        model.run_graph("text", batch)
        done, number = done + len(batch["input_ids"]), number + 1
    return done / (time.perf_counter() - started_at)


def run_embedding(args: argparse.Namespace, checks: Checks) -> None:
    """Compare the throughput of text embedding with the graph alone."""
    model, texts = _warm_model(args), sentences(2048)
    print("\n## Text embedding\n\n| | texts/s | share of the graph alone |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as data, service(args.bundle, Path(data), args.threads) as (url, _):
        shares = {}
        for size, clients in ((BATCH, 4), (1, 64)):
            requests = [
                post_bytes(f"{url}/v1/embeddings", json.dumps({"input": texts[i : i + size]}).encode())
                for i in range(0, len(texts), size)
            ]
            uvloop.run(closed_loop(url, requests, clients, 2.0))
            # The graph before and after, so that other load on the machine concerns both.
            before = graph_throughput(model, texts, args.seconds / 2)
            outcome = uvloop.run(closed_loop(url, requests, clients, args.seconds))
            alone = (before + graph_throughput(model, texts, args.seconds / 2)) / 2
            if outcome.failed:
                raise RuntimeError(f"{outcome.failed} requests failed")
            shares[size] = outcome.rate * size / alone
            print(f"| the graph alone, batches of {BATCH} | {alone:,.0f} | |")
            print(f"| HTTP, {clients} clients, {size} per request | {outcome.rate * size:,.0f} | {shares[size]:.0%} |")
    print()
    checks.check(f"{shares[BATCH]:.0%} >= 85% of the graph alone, {BATCH} texts per request", shares[BATCH] >= 0.85)
    print(f"      {shares[1]:.0%} with one text per request")


def local_search(model: Model, embeddings: Floats) -> Callable[[str], None]:
    """Return a function that embeds a sentence and searches it with FAISS."""
    kind = HNSW if len(embeddings) >= 25_000 else FLAT
    index = build(kind, embeddings.shape[1], [embeddings], lambda: False)
    if kind == HNSW:
        index.hnsw.efSearch = ef_search(len(embeddings))
    faiss.omp_set_num_threads(1)
    return lambda text: index.search(model.embed_text([text]), K)


def closed_loop_latencies(search: Callable[[str], None], texts: Sequence[str]) -> list[float]:
    """Return the seconds of each call, one after another, without the first tenth."""
    latencies = []
    for text in texts:
        started_at = time.perf_counter()
        search(text)
        latencies.append(time.perf_counter() - started_at)
    return latencies[len(latencies) // 10 :]


def open_loop_latencies(
    search: Callable[[str], None], texts: Sequence[str], rate: float, seconds: float
) -> list[float]:
    """Return the seconds of each call since it was due, at the arrivals of ``open_loop``, in order of arrival."""
    latencies, started_at = [], time.perf_counter()
    for number, due in enumerate(arrivals(rate, seconds)):
        time.sleep(max(0.0, started_at + due - time.perf_counter()))
        search(texts[number % len(texts)])
        latencies.append(time.perf_counter() - started_at - due)
    return latencies


def run_search(args: argparse.Namespace, checks: Checks) -> None:
    """Compare search at half load with encoding and FAISS alone, and measure it at ten times its capacity."""
    model, texts, seconds = _warm_model(args), sentences(1000, seed=1), args.seconds
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        embeddings = create_collection(data, "bench", model, args.clips)
        search = local_search(model, embeddings)
        del embeddings
        in_turn = closed_loop_latencies(search, texts)
        with service(args.bundle, data, args.threads) as (url, _):
            path = f"{url}/v1/collections/bench/search"
            requests = [post_bytes(path, json.dumps({"text": text, "limit": K}).encode()) for text in texts]
            uvloop.run(closed_loop(url, requests, 4, 2.0))
            max_rate = uvloop.run(closed_loop(url, requests, 16, seconds)).rate
            half = uvloop.run(open_loop(url, requests, max_rate / 2, 2 * seconds))
            alone = open_loop_latencies(search, texts, max_rate / 2, 2 * seconds)
            light = uvloop.run(open_loop(url, requests, max_rate / 10, seconds))
            generator_seconds = time.process_time()
            flood = uvloop.run(open_loop(url, requests, 10 * max_rate, seconds))
            generator_seconds = time.process_time() - generator_seconds
            after = uvloop.run(open_loop(url, requests, max_rate / 10, seconds))
    print(f"\n## Search in {args.clips:,} clips\n\n| | requests/s | p50 ms | p99 ms |\n|---|---|---|---|")
    for name, rate, latencies in (
        ("encoding and FAISS alone, one after another", 1 / float(np.mean(in_turn)), in_turn),
        ("encoding and FAISS alone, at the arrivals of half load", max_rate / 2, alone),
        ("HTTP, a tenth of the capacity", light.rate, light.latencies),
        (f"HTTP, half of the capacity ({max_rate:,.0f}/s)", half.rate, half.latencies),
        ("HTTP, ten times the capacity", flood.rate, flood.latencies),
        ("HTTP, after that", after.rate, after.latencies),
    ):
        median, high = (milliseconds(quantile(latencies, fraction)) for fraction in (0.5, 0.99))
        print(f"| {name} | {rate:,.0f} | {median} | {high} |")
    rejection = milliseconds(quantile(flood.refused or [0.0], 0.99))
    print(f"\nAt ten times the capacity {len(flood.refused)} were rejected, 99% within {rejection} ms.")
    share = generator_seconds / flood.seconds / (os.cpu_count() or 1)
    print(f"The load generator took {share:.0%} of the processors.")
    for fraction, bound in ((0.5, 1.5), (0.99, 4)):
        ratio = half.quantile(fraction) / quantile(alone, fraction)
        name = f"p{100 * fraction:.0f} at half load"
        checks.check(f"{name} {ratio:.2f} <= {bound} times encoding and FAISS alone at that load", ratio <= bound)
        print(f"      {half.quantile(fraction) / quantile(in_turn, fraction):.2f} times one after another")
    goodput = flood.rate / max_rate
    checks.check(f"goodput at ten times the capacity {goodput:.0%} >= 90%", goodput >= 0.9)
    checks.check(f"{flood.failed} others failed", flood.failed == 0)
    missing = flood.refusals_without_retry_after
    checks.check(f"{missing} rejections lacked Retry-After", missing == 0)


def first_output(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its processor time and the wall time until it printed something, in seconds."""
    started_at = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        times = processor_seconds(process.pid), time.perf_counter() - started_at
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command}: {errors.decode()}")
    return times


def run_command(args: argparse.Namespace, checks: Checks) -> None:
    """Check the processor time, which on an idle machine is close to the wall time: little waits or is parallel."""
    command = [sys.executable, "-m", "vitascope", "search", "--bundle", str(args.bundle)]
    with tempfile.TemporaryDirectory() as folder:
        create_collection(Path(folder), "bench", Model.open(args.bundle), args.clips, tokens=True)
        command += ["--data", folder, "--collection", "bench", "--threads", str(args.threads)]
        print(f"\n## First result of `vitascope search` in {args.clips:,} clips, medians of {args.starts} starts\n")
        print("| | processor s | wall s |\n|---|---|---|")
        medians = {}
        for name, arguments in COMMAND_ARGUMENTS.items():
            starts = [first_output([*command, *arguments]) for _ in range(args.starts + 1)]
            # The first start reads files from disk.
            medians[name], wall = (statistics.median(times) for times in zip(*starts[1:], strict=True))
            print(f"| {name} | {medians[name]:.2f} | {wall:.2f} |")
    print()
    for name, median in list(medians.items())[:-1]:
        checks.check(f"{name}: first result after {median:.2f} <= {COMMAND_BOUND} s", median <= COMMAND_BOUND)


def _warm_model(args: argparse.Namespace) -> Model:
    model = Model.open(args.bundle, threads=args.threads)
    model.warm_up()
    return model
