"""Soak test: whether the service keeps its memory, open files and threads under every kind of load at once.

A real server, and users that search, embed, upload, index, ask, cancel and make mistakes (``soak_users``). Samples are
taken every two seconds; the second half is checked, when caches and pools are full. The speed of the machine changes
the number of rounds, not the result. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.ingest import write_film
from benchmarks.service.load import Checks, sentences
from benchmarks.service.servers import service
from benchmarks.service.soak_users import COLLECTION, Tally, World, users_at_work

SAMPLE_SECONDS = 2.0
CACHE_BYTES = 4 * 1024**2
"""Clip cache, full after a minute, so that it does not hide a leak."""
FILMS = 4
FILM_SECONDS = 3.0
TABLE_ROWS = 10
SETTLING_SECONDS = 15.0
"""Time after the load for connections to close and caches to be trimmed."""
MIN_RISE = 0.01
"""Share of the mean; a smaller rise is ignored, however little the values scatter."""
MIB = 1024**2


@dataclass(frozen=True)
class Sample:
    """Resources ``seconds`` after the start. Resident memory in bytes; ``decoding``: of all decoding processes."""

    seconds: float
    service: int
    decoding: int
    files: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """Linear fit: its rise from the first to the last value, two standard deviations around it, and the mean."""

    rise: float
    noise: float
    mean: float

    @property
    def is_flat(self) -> bool:
        """Return whether the rise is within the noise or below 1%."""
        return self.rise <= max(self.noise, MIN_RISE * self.mean)


def take_sample(process: int, seconds: float) -> Sample:
    """Return the resources of the process and its children."""
    own = _status(process)
    return Sample(
        seconds,
        own["VmRSS"] * 1024,
        sum(_status(child).get("VmRSS", 0) * 1024 for child in _children(process)),
        len(os.listdir(f"/proc/{process}/fd")),
        own["Threads"],
    )


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Fit at least two values at these times."""
    slope, start = np.polyfit(seconds, values, 1)
    scatter = np.std(np.asarray(values) - (start + slope * np.asarray(seconds)))
    return Trend(float(slope * (seconds[-1] - seconds[0])), float(2 * scatter), float(np.mean(values)))


def _children(process: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            children += map(int, (task / "children").read_text().split())
        except OSError:  # the thread has ended
            continue
    return children


def _status(process: int) -> dict[str, int]:
    """Return the numbers in /proc/PID/status, memory in KiB; empty if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) for name, value in pairs if value.split()[:1] and value.split()[0].isdigit()}


def soak(url: str, process: int, data: Path, seconds: float, pause: float) -> tuple[list[Sample], Sample, Tally]:
    """Return samples under load, a sample after it, and the users' results."""
    httpx.post(f"{url}/v1/collections", json={"name": COLLECTION}).raise_for_status()
    films = [_film(data / f"{number}.mp4", number) for number in range(FILMS)]
    world = World(url, data / "incoming", films, sentences(500), Tally(), pause)
    samples: list[Sample] = []
    started_at = time.monotonic()
    _print_head()
    with users_at_work(world):
        while (passed := time.monotonic() - started_at) < seconds:
            samples.append(take_sample(process, passed))
            if (
                int(passed / seconds * TABLE_ROWS) > int((passed - SAMPLE_SECONDS) / seconds * TABLE_ROWS)
                or len(samples) == 1
            ):
                _print_row(samples[-1], world.tally)
            time.sleep(SAMPLE_SECONDS)
    time.sleep(SETTLING_SECONDS)
    last = take_sample(process, time.monotonic() - started_at)
    _print_row(last, world.tally)
    return samples, last, world.tally


def check_samples(checks: Checks, samples: Sequence[Sample], last: Sample, tally: Tally) -> None:
    """Check the second half of the load, and the state after it."""
    half = [row for row in samples if row.seconds >= samples[-1].seconds / 2]
    times = [row.seconds for row in half]
    print()
    for name, values, unit in (
        ("memory of the service", [row.service / MIB for row in half], "MiB"),
        ("memory of the decoding processes", [row.decoding / MIB for row in half], "MiB"),
        ("open files", [row.files for row in half], ""),
        ("threads", [row.threads for row in half], ""),
    ):
        slope = trend(times, values)
        checks.check(
            f"{name}: mean {slope.mean:,.1f} {unit}, in the last {times[-1] - times[0]:.0f} s {slope.rise:+.2f} {unit}"
            f" with a noise of {slope.noise:.2f} {unit} (or 1%)",
            slope.is_flat,
        )
    max_files, max_threads = max(row.files for row in half), max(row.threads for row in half)
    checks.check(f"{last.files} open files after the load, at most {max_files} under it", last.files < max_files)
    checks.check(f"{last.threads} threads after the load, at most {max_threads} under it", last.threads < max_threads)
    checks.check(f"{tally.unexpected} unexpected responses or events", tally.unexpected == 0)
    for error in tally.errors:
        print(f"  {error}")


def _film(path: Path, seed: int) -> bytes:
    write_film(path, FILM_SECONDS, seed, 320, 180)
    content = path.read_bytes()
    path.unlink()
    return content


def _print_head() -> None:
    print("| s | responses | service MiB | decoding MiB | open files | threads |")
    print("|---|---|---|---|---|---|", flush=True)


def _print_row(sample: Sample, tally: Tally) -> None:
    memory = f"{sample.service / MIB:,.0f} | {sample.decoding / MIB:,.0f}"
    print(
        f"| {sample.seconds:.0f} | {tally.statuses.total():,} | {memory} | {sample.files} | {sample.threads} |",
        flush=True,
    )


def run_soak(args: argparse.Namespace, checks: Checks) -> None:
    """Use a service in every way at once, and check that it keeps its size and responds as it must."""
    with (
        tempfile.TemporaryDirectory() as data,
        service(args.bundle, Path(data), args.threads, clip_cache_bytes=CACHE_BYTES) as (url, process_id),
    ):
        check_samples(checks, *soak(url, process_id, Path(data), args.seconds, args.pause))
