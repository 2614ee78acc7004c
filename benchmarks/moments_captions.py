"""Time of moments and captions, compared with the text embeddings of searches.

    python -m benchmarks.moments_captions --bundle FOLDER

Moments: time for an hour of video whose windows are already embedded, as after the first request about a video, minus
the time to embed the sentence. Captions: time for a clip of a synthetic film, with greedy search and with three beams,
divided by the time of the text graph for a text of 12 words. Calls alternate; medians are reported.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from benchmarks import run_main
from benchmarks.ingest import write_film
from vitascope.captions import CaptionOptions
from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table, print_text_or_json
from vitascope.model import Model

T = TypeVar("T")

TEXT = "a small red square moves to the left and then turns around"
"""A text of `WORDS` words, the length of caption that is reported."""
WORDS = len(TEXT.split())
HOUR_SECONDS = 3600
MOMENTS_BOUND_MS, CAPTION_BOUND = 50, 8
BEAMS = (1, 3)
CLIPS, CLIP_SECONDS = 4, 8.0


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a call and its seconds."""
    started_at = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started_at


def measure_moments(model: Model, rounds: int) -> dict[str, float]:
    """Return the time in ms of the moments of one sentence in an hour, and of the embedding of the sentence."""
    count = round(HOUR_SECONDS / model.moment_windows.window_seconds)
    windows = np.random.default_rng(0).standard_normal((count, model.bundle.manifest.vector_width)).cumsum(axis=0)
    windows = (windows / np.linalg.norm(windows, axis=1, keepdims=True)).astype(np.float32)
    pairs = [
        (timed(lambda: model.embed_text([TEXT]))[1], timed(lambda: model.find_moments([TEXT], windows))[1])
        for _ in range(rounds + 1)
    ][1:]
    return {
        "windows": count,
        "text_ms": 1000 * statistics.median(text for text, _ in pairs),
        "moments_ms": 1000 * statistics.median(both - text for text, both in pairs),
        "bound_ms": MOMENTS_BOUND_MS,
    }


def measure_captions(model: Model, rounds: int) -> dict[str, Any]:
    """Return, by number of beams, the time of a caption of `WORDS` words divided by the time of the text graph.

    The time is computed from that of the first token and of each further word, since the film's captions are short.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_film(film := Path(folder) / "film.mp4", CLIPS * CLIP_SECONDS, seed=0)
        clips = [(clip * CLIP_SECONDS, (clip + 1) * CLIP_SECONDS) for clip in range(CLIPS)]
        tokens = model.embed_video_file(film, clips).visual_tokens
    ratios: dict[int, list[float]] = {beams: [] for beams in BEAMS}
    words: list[int] = []
    for number in range(rounds + 1):
        clip = tokens[number % CLIPS][None]
        _, text = timed(lambda: model.embed_text([TEXT]))
        for beams in BEAMS:
            first = timed(partial(model.generate_captions, clip, options=CaptionOptions(beams=beams, max_tokens=1)))[1]
            generate = partial(model.generate_captions, clip, options=CaptionOptions(beams=beams))
            [[caption, *_]], spent = timed(generate)
            words.append(len(caption.text.split()))
            ratios[beams].append((first + (spent - first) * WORDS / words[-1]) / text)
    return {
        "words": statistics.mean(words),
        "text_graph_runs": {beams: statistics.median(values[1:]) for beams, values in ratios.items()},
        "bound": CAPTION_BOUND,
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("", ">measured", ">at most", "")
    if moments := result.get("moments"):
        verdict = "met" if moments["moments_ms"] <= moments["bound_ms"] else "MISSED"
        name = f"moments of an hour ({moments['windows']} windows), beyond its text, ms"
        table.add_row(name, f"{moments['moments_ms']:.1f}", f"{moments['bound_ms']}", verdict)
    if captions := result.get("captioning"):
        for beams, runs in captions["text_graph_runs"].items():
            verdict = "met" if runs <= captions["bound"] else "MISSED"
            name = f"a caption of {WORDS} words with {beams} beams, runs of the text graph"
            table.add_row(name, f"{runs:.1f}", f"{captions['bound']}", verdict)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle",
        type=Path,
        default=default_bundle(),
        metavar="FOLDER",
        help="bundle with the task moments or captioning",
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of a graph (default: as in the service)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1 was expected")
    model = Model.open(args.bundle, threads=args.threads, device="cpu")
    measured: dict[str, Callable[[Model, int], dict[str, Any]]] = {
        "moments": measure_moments,
        "captioning": measure_captions,
    }
    result = {task: measure(model, args.rounds) for task, measure in measured.items() if task in model.tasks}
    if not result:
        parser.error(f"--bundle: {args.bundle}: a bundle with the task moments or captioning was expected")
    print_text_or_json(result, show, as_json=args.json)


if __name__ == "__main__":
    run_main(main)
