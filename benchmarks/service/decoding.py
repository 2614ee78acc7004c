"""Twelve frames spread over a film: our sampler beside PyAV used plainly, torchcodec, decord and OpenCV.

Of each library the way that is quickest on a film is the one that is measured on it. All of them take turns, and all
must have given the same frames.
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
from benchmarks.service.readers import SIDE, Read, Way, others, our_ways, seconds_of, small
from vitascope.media.frame import Pixels

FRAMES = 12
GOPS = (250, 30)
"""Frames from one key frame to the next at most: what x264 does unless told otherwise, and what is made for seeking."""
MOST_DIFFERENCE = 5.0
"""Of 255, on average: how differently libraries may scale and convert the same frame."""


class Reference(NamedTuple):
    """Pixels (F, SIDE, SIDE, 3) int16 of the frames that are wanted, of those before them and of those after."""

    before: NDArray[np.int16]
    wanted: NDArray[np.int16]
    after: NDArray[np.int16]


@dataclass
class Measured:
    """A way and how many seconds each of its turns took."""

    way: Way
    seconds: list[float] = field(default_factory=list)
    difference: float = 0.0
    """Mean difference of its pixels (of 255) from the reference."""

    def quantile(self, share: float) -> float:
        """Seconds."""
        return float(np.quantile(self.seconds, share))

    def median(self) -> float:
        """Seconds."""
        return self.quantile(0.5)


def write_films(folder: Path, seconds: float, width: int = 1280, height: int = 720) -> dict[str, Path]:
    """Films of the same scene by what is particular about them."""
    films = {}
    for gop in GOPS:
        path = folder / f"gop-{gop}.mp4"
        write_film(path, seconds, 1, width, height, gop=gop)
        films[f"a key frame every {gop} frames"] = path
    return films


def measure(film: Path, duration: float, rounds: int) -> tuple[list[Measured], list[str]]:
    """(each library's quickest way and both of ours, what is missing or wrong with others)."""
    seconds = seconds_of(duration, FRAMES)
    reference = _reference(film, seconds)
    with our_ways() as ours:
        found, notes = others()
        chosen = []
        for library in dict.fromkeys(way.library for way in found):
            tried = []
            for way in (one for one in found if one.library == library):
                measured, wrong = _tried(way, film, seconds, reference)
                if wrong:
                    notes.append(f"{way.library} ({way.manner}): {wrong}")
                else:
                    tried.append(measured)
            if tried:
                chosen.append(min(tried, key=lambda one: min(one.seconds)))
        for way in ours:
            measured, wrong = _tried(way, film, seconds, reference)
            if wrong:
                raise RuntimeError(f"{way.library} ({way.manner}): {wrong}")
            chosen.append(measured)
        for one in chosen:
            one.seconds.clear()
        order = random.Random(0)
        for _ in range(rounds):
            for one in order.sample(chosen, len(chosen)):
                one.seconds.append(_timed(one.way.read, film, seconds)[0])
    return chosen, notes


def _tried(way: Way, film: Path, seconds: Sequence[float], reference: Reference) -> tuple[Measured, str | None]:
    """Two turns of a way, and what is wrong with what it gave."""
    measured = Measured(way)
    for _ in range(2):
        try:
            took, pixels = _timed(way.read, film, seconds)
        except (RuntimeError, ValueError, IndexError, av.error.FFmpegError) as error:
            return measured, f"fails: {str(error).strip().splitlines()[0]}"
        measured.seconds.append(took)
    before, wanted, after = (np.abs(pixels.astype(np.int16) - one).mean(axis=(1, 2, 3)) for one in reference)
    measured.difference = float(wanted.mean())
    if others := int((wanted >= np.minimum(before, after)).sum()):
        return measured, f"{others} of {len(seconds)} frames are not those that were asked for"
    if measured.difference > MOST_DIFFERENCE:
        return measured, f"its pixels differ by {measured.difference:.1f} of 255 on average"
    return measured, None


def _timed(read: Read, film: Path, seconds: Sequence[float]) -> tuple[float, Pixels]:
    began = time.perf_counter()
    pixels = read(film, seconds)
    return time.perf_counter() - began, pixels


def _reference(film: Path, seconds: Sequence[float]) -> Reference:
    """The frames on screen at ``seconds`` and their neighbours, out of all frames decoded one after another."""
    with av.open(str(film)) as container:
        starts = sorted(p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None)
    wanted = [bisect.bisect_right(starts, second) - 1 for second in seconds]
    near = {number + step for number in wanted for step in (-1, 0, 1)}
    with av.open(str(film)) as container:
        found = {number: small(frame) for number, frame in enumerate(container.decode(video=0)) if number in near}
    return Reference(*(np.stack([found[number + step] for number in wanted]).astype(np.int16) for step in (-1, 0, 1)))


def report_decoding(check: Callable[[str, bool], None], seconds: float = 60.0, rounds: int = 11) -> None:
    """Print a table for each film and check that ours, as it serves, is no slower than the quickest library."""
    print(f"\n## {FRAMES} frames of a {seconds:.0f} s film in 1280x720, H.264, as {SIDE}x{SIDE} pixels")
    with tempfile.TemporaryDirectory() as folder:
        for name, film in write_films(Path(folder), seconds).items():
            measured, notes = measure(film, seconds, rounds)
            print(f"\n{name}:\n\n| | | median ms | quartiles ms | pixels differ by |\n|---|---|---|---|---|")
            for one in sorted(measured, key=Measured.median):
                low, high = (1000 * one.quantile(share) for share in (0.25, 0.75))
                print(
                    f"| {one.way.library} | {one.way.manner} | {1000 * one.median():,.0f} | {low:,.0f} to {high:,.0f} "
                    f"| {one.difference:.1f} of 255 |"
                )
            print("".join(f"\nnot measured: {note}" for note in notes))
            ours = next(one for one in measured if one.way.as_served)
            best = min((one for one in measured if not one.way.ours), key=Measured.median)
            ratio = ours.median() / best.median()
            check(f"{name}: as served {ratio:.2f} <= 1 times the quickest other, {best.way.library}", ratio <= 1)
