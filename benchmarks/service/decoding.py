"""Benchmark of twelve frames spread over a film: our sampler, PyAV, torchcodec, decord and OpenCV.

Each library is measured by its fastest reader on that film. Readers take turns, and all must return the same frames.
"""

from __future__ import annotations

import bisect
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.ingest import write_film
from benchmarks.service.readers import SIDE, Reader, ReadFrames, other_readers, our_readers, sampling_times, small_rgb
from vitascope.media.frame import Pixels

FRAMES = 12
KEY_FRAME_INTERVALS = (250, 30)
"""Frames between key frames: x264's default, and a film encoded for seeking."""
MAX_DIFFERENCE = 5.0
"""Mean difference, of 255, by which libraries may scale and convert the same frame differently."""


class Reference(NamedTuple):
    """Pixels (F, SIDE, SIDE, 3) int16 of the frames before the expected ones, the expected ones, and those after."""

    before: NDArray[np.int16]
    expected: NDArray[np.int16]
    after: NDArray[np.int16]


@dataclass
class Measurement:
    """The durations of a reader's turns in seconds."""

    reader: Reader
    seconds: list[float] = field(default_factory=list)
    difference: float = 0.0
    """Mean difference of its pixels from the reference, of 255."""

    def quantile(self, fraction: float) -> float:
        """Return a quantile of the durations, in seconds."""
        return float(np.quantile(self.seconds, fraction))

    def median(self) -> float:
        """Return the median duration, in seconds."""
        return self.quantile(0.5)


def write_films(folder: Path, seconds: float, width: int = 1280, height: int = 720) -> dict[str, Path]:
    """Write films of the same scene, keyed by their description."""
    films = {}
    for interval in KEY_FRAME_INTERVALS:
        path = folder / f"gop-{interval}.mp4"
        write_film(path, seconds, 1, width, height, gop=interval)
        films[f"a key frame every {interval} frames"] = path
    return films


def measure(film: Path, duration: float, rounds: int) -> tuple[list[Measurement], list[str]]:
    """Measure each library's fastest reader and both of ours.

    Returns:
        The measurements, and a note for each reader that is missing or wrong.
    """
    times = sampling_times(duration, FRAMES)
    reference = _reference(film, times)
    with our_readers() as ours:
        others, notes = other_readers()
        measurements = []
        for library in dict.fromkeys(reader.library for reader in others):
            candidates = []
            for reader in (reader for reader in others if reader.library == library):
                measurement, defect = _try(reader, film, times, reference)
                if defect:
                    notes.append(f"{reader.library} ({reader.method}): {defect}")
                else:
                    candidates.append(measurement)
            if candidates:
                measurements.append(min(candidates, key=lambda candidate: min(candidate.seconds)))
        for reader in ours:
            measurement, defect = _try(reader, film, times, reference)
            if defect:
                raise RuntimeError(f"{reader.library} ({reader.method}): {defect}")
            measurements.append(measurement)
        for measurement in measurements:
            measurement.seconds.clear()
        rng = random.Random(0)
        for _ in range(rounds):
            for measurement in rng.sample(measurements, len(measurements)):
                measurement.seconds.append(_timed(measurement.reader.read, film, times)[0])
    return measurements, notes


def _try(reader: Reader, film: Path, times: Sequence[float], reference: Reference) -> tuple[Measurement, str | None]:
    """Two turns of a reader, and what is wrong with its frames."""
    measurement = Measurement(reader)
    for _ in range(2):
        try:
            seconds, pixels = _timed(reader.read, film, times)
        except (RuntimeError, ValueError, IndexError, av.error.FFmpegError) as error:
            return measurement, f"fails: {str(error).strip().splitlines()[0]}"
        measurement.seconds.append(seconds)
    differences = (np.abs(pixels.astype(np.int16) - frames).mean(axis=(1, 2, 3)) for frames in reference)
    before, expected, after = differences
    measurement.difference = float(expected.mean())
    if wrong := int((expected >= np.minimum(before, after)).sum()):
        return measurement, f"{wrong} of {len(times)} frames are not the requested ones"
    if measurement.difference > MAX_DIFFERENCE:
        return measurement, f"its pixels differ by {measurement.difference:.1f} of 255 on average"
    return measurement, None


def _timed(read: ReadFrames, film: Path, times: Sequence[float]) -> tuple[float, Pixels]:
    started_at = time.perf_counter()
    pixels = read(film, times)
    return time.perf_counter() - started_at, pixels


def _reference(film: Path, times: Sequence[float]) -> Reference:
    """The frames on screen at ``times`` and their neighbours, from decoding all frames in sequence."""
    with av.open(str(film)) as container:
        starts = sorted(p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None)
    indices = [bisect.bisect_right(starts, time) - 1 for time in times]
    needed = {index + offset for index in indices for offset in (-1, 0, 1)}
    with av.open(str(film)) as container:
        frames = {i: small_rgb(frame) for i, frame in enumerate(container.decode(video=0)) if i in needed}
    offsets = (-1, 0, 1)
    return Reference(*(np.stack([frames[i + offset] for i in indices]).astype(np.int16) for offset in offsets))


def report_decoding(check: Callable[[str, bool], None], seconds: float = 60.0, rounds: int = 11) -> None:
    """Print a table for each film, and check that the service's reader is no slower than the fastest library."""
    print(f"\n## {FRAMES} frames of a {seconds:.0f} s film in 1280x720, H.264, as {SIDE}x{SIDE} pixels")
    with tempfile.TemporaryDirectory() as folder:
        for name, film in write_films(Path(folder), seconds).items():
            measurements, notes = measure(film, seconds, rounds)
            print(f"\n{name}:\n\n| | | median ms | quartiles ms | pixels differ by |\n|---|---|---|---|---|")
            for measurement in sorted(measurements, key=Measurement.median):
                reader = measurement.reader
                low, median, high = (1000 * measurement.quantile(fraction) for fraction in (0.25, 0.5, 0.75))
                print(
                    f"| {reader.library} | {reader.method} | {median:,.0f} | {low:,.0f} to {high:,.0f} "
                    f"| {measurement.difference:.1f} of 255 |"
                )
            print("".join(f"\nnot measured: {note}" for note in notes))
            ours = next(m for m in measurements if m.reader.is_service)
            fastest = min((m for m in measurements if not m.reader.is_ours), key=Measurement.median)
            ratio = ours.median() / fastest.median()
            check(f"{name}: the service takes {ratio:.2f} <= 1 times {fastest.reader.library}, the fastest", ratio <= 1)
