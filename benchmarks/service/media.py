"""Decoding compared with other libraries, and answers about uploaded films compared with the model alone.

Decoding: twelve frames spread over a film. Each library is measured by its fastest reader on that film; readers take
turns, and all must return the same frames.
"""

from __future__ import annotations

import argparse
import bisect
import math
import os
import random
import struct
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
from benchmarks.service.load import Checks, quantile
from benchmarks.service.readers import SIDE, Reader, ReadFrames, other_readers, our_readers, sampling_times, small_rgb
from benchmarks.service.servers import service
from vitascope.answering import answer_question
from vitascope.client import Client
from vitascope.media.frame import Pixels
from vitascope.model import Model
from vitascope.sandbox.decoder import IN_PROCESS

QUESTION = "what color is the square?"
ANSWER_FILMS = {"8 s of 640x360": (8.0, 640, 360), "60 s of 1280x720": (60.0, 1280, 720)}
"""Seconds, width and height, by description."""
ANSWER_ROUNDS = 15
DECODING_ROUNDS = 11
DECODING_SECONDS = 60.0
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

    def median(self) -> float:
        """Return the median duration, in seconds."""
        return quantile(self.seconds, 0.5)


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
    """Let a reader read twice; return its measurement, and a defect of its frames or None."""
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
    """Return the frames on screen at ``times`` and their neighbours, by decoding all frames in sequence."""
    with av.open(str(film)) as container:
        starts = sorted(p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None)
    indices = [bisect.bisect_right(starts, time) - 1 for time in times]
    needed = {index + offset for index in indices for offset in (-1, 0, 1)}
    with av.open(str(film)) as container:
        frames = {i: small_rgb(frame) for i, frame in enumerate(container.decode(video=0)) if i in needed}
    offsets = (-1, 0, 1)
    return Reference(*(np.stack([frames[i + offset] for i in indices]).astype(np.int16) for offset in offsets))


def run_decode(args: argparse.Namespace, checks: Checks) -> None:
    """Check that the service's reader is no slower than the fastest library."""
    print(f"\n## {FRAMES} frames of a {DECODING_SECONDS:.0f} s film in 1280x720, H.264, as {SIDE}x{SIDE} pixels")
    with tempfile.TemporaryDirectory() as folder:
        for name, film in write_films(Path(folder), DECODING_SECONDS).items():
            measurements, notes = measure(film, DECODING_SECONDS, DECODING_ROUNDS)
            print(f"\n{name}:\n\n| | | median ms | quartiles ms | pixels differ by |\n|---|---|---|---|---|")
            for measurement in sorted(measurements, key=Measurement.median):
                reader = measurement.reader
                low, median, high = (1000 * quantile(measurement.seconds, fraction) for fraction in (0.25, 0.5, 0.75))
                print(
                    f"| {reader.library} | {reader.method} | {median:,.0f} | {low:,.0f} to {high:,.0f} "
                    f"| {measurement.difference:.1f} of 255 |"
                )
            print("".join(f"\nnot measured: {note}" for note in notes))
            ours = next(m for m in measurements if m.reader.is_service)
            fastest = min((m for m in measurements if not m.reader.is_ours), key=Measurement.median)
            ratio = ours.median() / fastest.median()
            library = fastest.reader.library
            checks.check(f"{name}: the service takes {ratio:.2f} <= 1 times {library}, the fastest", ratio <= 1)


def _make_unique(film: Path, number: int) -> None:
    """Change the content of a film, but not its frames, so that the service has not cached it."""
    with film.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(struct.pack(">Q", number))


def measure_answers(model: Model, url: str, film: Path, seconds: float) -> tuple[list[float], list[float]]:
    """Return the seconds of each answer by upload, and by decoding and inference alone, measured in turn.

    Raises:
        RuntimeError: The answers differ.
    """
    with film.open("ab") as file:
        file.write(struct.pack(">I4sQ", 16, b"free", 0))  # a box that players ignore

    def answer_alone() -> dict[str, float]:
        sampled = IN_PROCESS.sample(film, model.streams, [(0.0, seconds)])
        embedded = model.embed_video({name: frames[:, None] for name, frames in sampled.frames.items()})
        answers = answer_question(model, QUESTION, embedded.visual_tokens).answers
        return {answer.text: answer.probability for answer in answers}

    with Client(url) as client:

        def answer_upload() -> dict[str, float]:
            answers = client.ask_file(film, QUESTION)["answers"]
            return {answer["text"]: answer["probability"] for answer in answers}

        alone, uploaded = answer_alone(), answer_upload()
        if alone.keys() != uploaded.keys() or not all(
            math.isclose(alone[text], uploaded[text], abs_tol=1e-4) for text in alone
        ):
            raise RuntimeError(f"the service answers {uploaded}, the model alone {alone}; equal answers were expected")
        turns: list[tuple[Callable[[], dict[str, float]], list[float]]] = [(answer_upload, []), (answer_alone, [])]
        rng = random.Random(0)
        for number in range(ANSWER_ROUNDS):
            _make_unique(film, number + 1)
            for answer, durations in rng.sample(turns, 2):
                started_at = time.perf_counter()
                answer()
                durations.append(time.perf_counter() - started_at)
    return turns[0][1], turns[1][1]


def run_answers(args: argparse.Namespace, checks: Checks) -> None:
    """Check that an answer about an uploaded film takes little longer than decoding and inference alone."""
    model = Model.open(args.bundle, threads=args.threads)
    model.warm_up()
    print("\n## From a film to the answer\n")
    print("| film | decoding and inference alone, ms | uploaded, ms | |\n|---|---|---|---|")
    ratios = {}
    with tempfile.TemporaryDirectory() as data, service(args.bundle, Path(data), args.threads) as (url, _):
        for number, (name, (seconds, width, height)) in enumerate(ANSWER_FILMS.items()):
            film = Path(data) / f"answer-{number}.mp4"
            write_film(film, seconds, number, width, height)
            uploaded, alone = measure_answers(model, url, film, seconds)
            ratios[name] = quantile(uploaded, 0.5) / quantile(alone, 0.5)
            print(f"| {name} | {_quartiles(alone)} | {_quartiles(uploaded)} | {ratios[name]:.2f} times |")
    print()
    for name, ratio in ratios.items():
        checks.check(f"{name}: upload to answer {ratio:.2f} <= 1.2 times decoding and inference alone", ratio <= 1.2)


def _quartiles(seconds: list[float]) -> str:
    low, middle, high = (1000 * quantile(seconds, fraction) for fraction in (0.25, 0.5, 0.75))
    return f"{middle:,.1f} ({low:,.1f} to {high:,.1f})"
