"""Recall, speed and size of the index kinds, compared with FAISS used directly and with usearch, on clustered vectors.

    python -m benchmarks.index --sizes 10000 100000 1000000

The engines take turns in one process and answer the same queries. "ours" is the index of a collection: a memory-mapped
snapshot, searched by ``SegmentedVectors``. "faiss" is the same index, read into memory and searched by FAISS with the
same parameters. usearch (``pip install --editable '.[bench]'``) is omitted if it is not installed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.vectors.faiss_kinds import (
    AUTO,
    FLAT,
    HNSW,
    INDEX_KINDS,
    IVFPQ,
    Float32,
    Index,
    Int64,
    build,
    ef_search,
    ivfpq_parameters,
    k_factor,
    kind_to_build,
    nprobe,
)
from index.vectors.segmented_vectors import SegmentedVectors
from index.vectors.snapshot import SnapshotHeader, read_snapshot, write_snapshot

K = 10
BATCH = 64
ROUNDS = 5
SHARES = (0.01, 0.1, 0.5)
PER_VIDEO = 10  # neighbouring ids that a filter takes or leaves together
LEAST_RECALL, LEAST_FILTERED, MOST_TIMES, TIMED_FROM = 0.99, 0.95, 1.15, 100_000
MIB = 2**20
_engine: Any = faiss
Search = Callable[[Float32], Int64]


@dataclass
class Engine:
    """A search engine and its measurements. Sizes in bytes, times in seconds."""

    name: str
    search: Search
    built: float
    memory: int
    disk: int
    recall: float = 0.0
    single: float = 0.0
    batch: float = 0.0


def clustered(count: int, queries: int, width: int, seed: int = 0) -> tuple[Float32, Float32]:
    """Return (vectors, queries) of length 1 around the same cluster centres, with about 100 vectors per centre."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(16, count // 100), width), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)

    def draw(rows: int) -> Float32:
        noise = random.standard_normal((rows, width), dtype=np.float32) * np.float32(0.7 / width**0.5)
        noise += centres[random.integers(0, len(centres), rows)]
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return noise

    return draw(count), draw(queries)


def recall(actual: Int64, expected: Int64) -> float:
    """Return the mean fraction of the ids in each expected row that are in the actual row."""
    shares = [np.isin(e, f).mean() for f, e in zip(actual, expected, strict=True)]
    return float(np.mean(shares))


def private_bytes() -> int:
    """Return the anonymous resident memory of this process, without mapped files, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measured_load(load: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of ``load`` and the anonymous memory that it allocated, in bytes."""
    gc.collect()
    # Freed memory is returned to the system first. Otherwise it would be reused and not be counted.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    before = private_bytes()
    loaded = load()
    return loaded, max(0, private_bytes() - before)


def our_engine(kind: str, vectors: Float32, path: Path) -> tuple[Engine, SegmentedVectors]:
    """Build, write and memory-map the index as a collection does."""
    start = time.perf_counter()
    index = build(kind, vectors.shape[1], [vectors], lambda: False)
    ids = np.arange(len(vectors), dtype=np.int64)
    write_snapshot(path, index, ids, SnapshotHeader("bench", 0, 0, vectors.shape[1], len(vectors), kind))
    built = time.perf_counter() - start
    del index

    def load() -> SegmentedVectors:
        actual = read_snapshot(path)
        assert actual is not None
        return SegmentedVectors(vectors.shape[1], actual[0], actual[1])

    ours, memory = measured_load(load)
    return Engine("ours", lambda queries: ours.search(queries, K)[1], built, memory, path.stat().st_size), ours


def plain_engine(kind: str, path: Path, built: float) -> Engine:
    """Load the same index into memory, to search it with FAISS alone."""
    index, memory = measured_load(lambda: faiss.read_index(str(path)))
    parameters = None
    if kind == HNSW:
        index.hnsw.efSearch = ef_search(index.ntotal)
    elif kind == IVFPQ:
        parameters = ivfpq_parameters(nprobe(index.ntotal), k_factor(K))
    return Engine("faiss", lambda q: _second(index.search(q, K, params=parameters)), built, memory, path.stat().st_size)


def usearch_engine(vectors: Float32, path: Path) -> Engine | None:
    """Build usearch's graph over float32 with its defaults; None if usearch is not installed."""
    try:
        from usearch.index import Index as Graph
    except ImportError:
        return None
    start = time.perf_counter()
    index = Graph(ndim=vectors.shape[1], metric="ip", dtype="f32")
    _, memory = measured_load(lambda: index.add(np.arange(len(vectors)), vectors))
    built = time.perf_counter() - start
    index.save(str(path))

    def search(queries: Float32) -> Int64:
        result = index.search(queries[0] if len(queries) == 1 else queries, K)
        keys: Int64 = np.asarray(result.keys, np.int64).reshape(len(queries), -1)
        return keys

    return Engine("usearch", search, built, memory, path.stat().st_size)


def _second(pair: tuple[Any, Index]) -> Int64:
    result: Int64 = pair[1]
    return result


def measure(engines: Sequence[Engine], queries: Float32, truth: Int64) -> None:
    """Measure recall, and the median seconds for 1 and for ``BATCH`` queries; the engines take turns."""
    batches = [queries[i : i + BATCH] for i in range(0, len(queries) - BATCH + 1, BATCH)]
    singles: dict[str, list[float]] = {engine.name: [] for engine in engines}
    seconds_by_engine: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for engine in engines:
        engine.recall = recall(np.concatenate([engine.search(q) for q in batches]), truth[: len(batches) * BATCH])
        engine.search(queries[:1])
    for turn in range(ROUNDS * len(engines)):
        engine = engines[turn % len(engines)]
        for query in range(len(queries)):
            start = time.perf_counter()
            engine.search(queries[query : query + 1])
            singles[engine.name].append(time.perf_counter() - start)
        for batch in batches:
            start = time.perf_counter()
            engine.search(batch)
            seconds_by_engine[engine.name].append(time.perf_counter() - start)
    for engine in engines:
        engine.single = statistics.median(singles[engine.name])
        engine.batch = statistics.median(seconds_by_engine[engine.name])


def filtered(ours: SegmentedVectors, exact: Index, queries: Float32) -> list[tuple[float, float, float]]:
    """Return (fraction of clips that pass, recall, median seconds per query) for each filter."""
    rows = []
    for share in SHARES:
        allowed = np.repeat(np.random.default_rng(7).random(exact.ntotal // PER_VIDEO + 1) < share, PER_VIDEO)
        allowed = allowed[: exact.ntotal]
        selector = _engine.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        truth = exact.search(queries, K, params=_engine.SearchParameters(sel=selector))[1]
        times, ids = [], []
        for query in range(len(queries)):
            start = time.perf_counter()
            ids.append(ours.search(queries[query : query + 1], K, allowed)[1][0])
            times.append(time.perf_counter() - start)
        rows.append((share, recall(np.stack(ids), truth), statistics.median(times)))
    return rows


def run(size: int, setting: str, width: int, query_count: int, folder: Path, *, with_usearch: bool = True) -> bool:
    """Measure one size, print its tables and the comparison with the bounds; return whether all bounds are met."""
    kind = kind_to_build(setting, size)
    vectors, queries = clustered(size, max(BATCH, query_count), width)
    exact = build(FLAT, width, [vectors], lambda: False)
    truth = exact.search(queries, K)[1]
    ours, vectors_held = our_engine(kind, vectors, folder / "ours")
    engines = [ours, plain_engine(kind, folder / "ours", ours.built)]
    other = usearch_engine(vectors, folder / "usearch") if with_usearch else None
    measure([*engines, *([other] if other else [])], queries, truth)
    print(f"\n## {size:,} x {width}, {kind}\n")
    print("| engine | recall@10 | queries/s, 1 at a time | queries/s, 64 at a time | build s | memory MiB | disk MiB |")
    print("|---|---|---|---|---|---|---|")
    for engine in [*engines, *([other] if other else [])]:
        print(
            f"| {engine.name} | {engine.recall:.4f} | {1 / engine.single:,.0f} | {BATCH / engine.batch:,.0f} "
            f"| {engine.built:.1f} | {engine.memory / MIB:.0f} | {engine.disk / MIB:.0f} |"
        )
    if other is None and with_usearch:
        print("\nusearch is not installed; it comes with the extra `bench`.")
    print("\n| passes the filter | recall@10 | ms per query |\n|---|---|---|")
    rows = filtered(vectors_held, exact, queries)
    for share, recalls, seconds in rows:
        print(f"| {share:.0%} | {recalls:.4f} | {1000 * seconds:.2f} |")
    return _print_bars(size, engines, rows)


def _print_bars(size: int, engines: Sequence[Engine], rows: Sequence[tuple[float, float, float]]) -> bool:
    ours, plain = engines[0], engines[1]
    bars = [(f"recall@10 {ours.recall:.4f} >= {LEAST_RECALL}", ours.recall >= LEAST_RECALL)]
    bars += [(f"recall@10 {r:.4f} >= {LEAST_FILTERED} where {s:.0%} pass", r >= LEAST_FILTERED) for s, r, _ in rows]
    if size >= TIMED_FROM:
        for name, times in (("1", ours.single / plain.single), (str(BATCH), ours.batch / plain.batch)):
            bars.append(
                (f"{times:.2f} <= {MOST_TIMES} times as long as FAISS alone, {name} at a time", times <= MOST_TIMES)
            )
    print()
    for text, met in bars:
        print(f"{'pass' if met else 'MISS'}: {text}")
    return all(met for _, met in bars)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 if a bound is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__, allow_abbrev=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--kind", choices=INDEX_KINDS, default=AUTO, help="default: chosen by size")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument(
        "--no-usearch", action="store_true", help="omit usearch, which takes 13 minutes to add a million vectors"
    )
    args = parser.parse_args(arguments)
    met = True
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            met &= run(size, args.kind, args.width, args.queries, Path(folder), with_usearch=not args.no_usearch)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
