"""Everything at once for a long time: does the service keep its memory, its open files and its threads?

    python -m benchmarks.service.soak --seconds 600

A real server, and users who search, embed, upload, index, ask, cancel and make mistakes (``soak_users``).
Sampled every two seconds; judged is the second half, when caches and pools have filled. No measure of speed: other
work on the machine makes fewer rounds, and the same verdict. Exit status 1 where something rose, or an answer was not
what it must be.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.ingest import write_film
from benchmarks.service.bench import Bars, sentences
from benchmarks.service.footprint import Sample, sample, trend
from benchmarks.service.servers import our_process
from benchmarks.service.soak_users import COLLECTION, Tally, World, at_work
from vitascope.cli.options import default_bundle

SAMPLE_SECONDS = 2.0
CACHE_BYTES = 4 * 1024**2
"""Of clips: full after a minute, so that what rises later is no cache that fills."""
FILMS = 4
FILM_SECONDS = 3.0
ROWS = 10
"""Of the table."""
SETTLING_SECONDS = 15.0
"""After the users have gone: connections are closed, and what nobody wants is dropped."""
MIB = 1024**2


def soak(url: str, process: int, data: Path, seconds: float, pause: float) -> tuple[list[Sample], Sample, Tally]:
    """Samples under load, one after the load, and what the users saw."""
    httpx.post(f"{url}/v1/collections", json={"name": COLLECTION}).raise_for_status()
    films = [_film(data / f"{number}.mp4", number) for number in range(FILMS)]
    world = World(url, data / "incoming", films, sentences(500), Tally(), pause)
    samples: list[Sample] = []
    began = time.monotonic()
    _print_head()
    with at_work(world):
        while (passed := time.monotonic() - began) < seconds:
            samples.append(sample(process, passed))
            if int(passed / seconds * ROWS) > int((passed - SAMPLE_SECONDS) / seconds * ROWS) or len(samples) == 1:
                _print_row(samples[-1], world.tally)
            time.sleep(SAMPLE_SECONDS)
    time.sleep(SETTLING_SECONDS)
    last = sample(process, time.monotonic() - began)
    _print_row(last, world.tally)
    return samples, last, world.tally


def judge(samples: Sequence[Sample], last: Sample, tally: Tally) -> Bars:
    """What rose over the second half of the load, or is left over after it."""
    bars = Bars()
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
        bars.check(
            f"{name}: mean {slope.mean:,.1f} {unit}, in the last {times[-1] - times[0]:.0f} s {slope.rise:+.2f} {unit}"
            f" beside a scatter of {slope.noise:.2f} {unit} (or 1%)",
            slope.is_flat,
        )
    most_files, most_threads = max(row.files for row in half), max(row.threads for row in half)
    bars.check(f"{last.files} open files after the load, at most {most_files} under it", last.files < most_files)
    bars.check(f"{last.threads} threads after the load, at most {most_threads} under it", last.threads < most_threads)
    bars.check(f"{tally.surprises} answers or events that should not have been", tally.surprises == 0)
    for error in tally.errors:
        print(f"  {error}")
    return bars


def _film(path: Path, seed: int) -> bytes:
    write_film(path, FILM_SECONDS, seed, 320, 180)
    content = path.read_bytes()
    path.unlink()
    return content


def _print_head() -> None:
    print("| s | answers | service MiB | decoding MiB | open files | threads |")
    print("|---|---|---|---|---|---|", flush=True)


def _print_row(sample: Sample, tally: Tally) -> None:
    memory = f"{sample.service / MIB:,.0f} | {sample.decoding / MIB:,.0f}"
    print(
        f"| {sample.seconds:.0f} | {tally.answers.total():,} | {memory} | {sample.files} | {sample.threads} |",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Use a service for a while; 1 where it did not keep what it takes, or answered wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.soak",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="of the model (0: one a core)")
    parser.add_argument("--seconds", type=float, default=600.0, help="of load")
    parser.add_argument("--pause", type=float, default=0.05, metavar="S", help="between two rounds of one user")
    args = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as data,
        our_process(args.bundle, Path(data), args.threads, clip_cache_bytes=CACHE_BYTES) as (url, process),
    ):
        bars = judge(*soak(url, process, Path(data), args.seconds, args.pause))
    return 1 if bars.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
