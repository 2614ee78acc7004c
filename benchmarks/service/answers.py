"""From a film on the client's disk to the answer, beside decoding and inference alone in this process."""

from __future__ import annotations

import math
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.ingest import write_film
from benchmarks.service.servers import our_server
from vitascope.answering import answer_question
from vitascope.client import Client
from vitascope.model import Model
from vitascope.sandbox.decoder import IN_PROCESS

QUESTION = "what color is the square?"
FILMS = {"8 s of 640x360": (8.0, 640, 360), "60 s of 1280x720": (60.0, 1280, 720)}
"""Seconds, width and height by what they are called."""
Answers = dict[str, float]
"""Probabilities by answer."""


@dataclass
class Both:
    """Seconds of each turn: uploaded to the service, and alone."""

    uploaded: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return float(np.median(self.uploaded) / np.median(self.alone))


def write_answer_films(folder: Path) -> dict[str, tuple[Path, float]]:
    """Each film of ``FILMS``, and its seconds. The last box of each says nothing, so that it may be changed."""
    films = {}
    for number, (name, (seconds, width, height)) in enumerate(FILMS.items()):
        films[name] = (folder / f"answer-{number}.mp4", seconds)
        write_film(films[name][0], seconds, number, width, height)
        with films[name][0].open("ab") as file:
            file.write(struct.pack(">I4sQ", 16, b"free", 0))
    return films


def renew(film: Path, number: int) -> None:
    """Make another file of a film, whose frames are the same: what the service has seen it need not look at again."""
    with film.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(struct.pack(">Q", number))


def measure_answers(model: Model, url: str, film: Path, seconds: float, rounds: int) -> Both:
    """Both ways in turn. Raises RuntimeError where their answers differ."""
    with Client(url) as client:

        def upload() -> Answers:
            answers = client.ask_file(film, QUESTION)["answers"]
            return {answer["text"]: answer["probability"] for answer in answers}

        def alone() -> Answers:
            sampled = IN_PROCESS.sample(film, model.streams, [(0.0, seconds)])
            embedded = model.embed_video({name: frames[:, None] for name, frames in sampled.frames.items()})
            return {
                answer.text: answer.probability
                for answer in answer_question(model, QUESTION, embedded.visual_tokens).answers
            }

        both = Both()
        turns: list[tuple[Callable[[], Answers], list[float]]] = [(upload, both.uploaded), (alone, both.alone)]
        here, there = alone(), upload()
        if here.keys() != there.keys() or not all(math.isclose(here[a], there[a], abs_tol=1e-4) for a in here):
            raise RuntimeError(f"the service answers {there}, the model alone {here}; the same was expected")
        order = random.Random(0)
        for number in range(rounds):
            renew(film, number + 1)
            for turn, times in order.sample(turns, 2):
                began = time.perf_counter()
                turn()
                times.append(time.perf_counter() - began)
    return both


def report_answers(
    check: Callable[[str, bool], None], model: Model, bundle: Path, threads: int, rounds: int = 15
) -> None:
    """Print both ways for each film and check how much longer the service takes."""
    print("\n## From a film to the answer\n")
    print("| film | decoding and inference alone, ms | uploaded, ms | |\n|---|---|---|---|")
    ratios = {}
    with tempfile.TemporaryDirectory() as data, our_server(bundle, Path(data), threads) as url:
        for name, (film, seconds) in write_answer_films(Path(data)).items():
            both = measure_answers(model, url, film, seconds, rounds)
            ratios[name] = both.ratio
            print(f"| {name} | {_quartiles(both.alone)} | {_quartiles(both.uploaded)} | {both.ratio:.2f} times |")
    print()
    for name, ratio in ratios.items():
        check(f"{name}: upload to answer {ratio:.2f} <= 1.2 times decoding and inference alone", ratio <= 1.2)


def _quartiles(seconds: list[float]) -> str:
    low, middle, high = (1000 * float(np.quantile(seconds, share)) for share in (0.25, 0.5, 0.75))
    return f"{middle:,.1f} ({low:,.1f} to {high:,.1f})"
