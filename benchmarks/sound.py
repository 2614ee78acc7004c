"""Processor time of indexing with and without sound.

    python -m benchmarks.sound --bundle FOLDER --videos FOLDER

Indexes the same videos, by default synthetic ones, in pairs of runs: into a collection with the signals visual and
audio, and into one with visual alone. If other programs use the machine, processor seconds are more reliable than wall
time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import run_main
from benchmarks.ingest import write_film
from index.clips.rules import Segmentation
from index.collection import Collection
from index.collection_store import TOKEN_ENCODING, CollectionStore, initial_metadata
from index.jobs.jobs import create_job
from index.jobs.pipeline import PipelineConfig
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FolderSource
from index.storage.catalogue import CATALOGUE_NAME, create_catalogue
from index.vectors.interface import SIGNALS_KEY
from vitascope.audio_windows import read_sounds
from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table, print_text_or_json
from vitascope.errors import InvalidInput
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.model import Model

BOUND = 1.25
"""Largest processor time with sound, as a multiple of that without."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Processor seconds of a job with sound and of a job without, the clips of each job, and how many have sound."""

    with_sound: float
    without: float
    clips: int
    clips_with_sound: int


def measure(
    library: CollectionStore, videos: Path, model: Model, rounds: int, segmentation: Segmentation
) -> list[Pair]:
    """Index the videos in pairs of runs in alternating order, after a first pair that is not counted."""
    pairs = []
    for number in range(rounds + 1):
        seconds: dict[bool, float] = {}
        for sound in (True, False) if number % 2 else (False, True):
            collection = _create(library, f"round-{number}{'-sound' if sound else ''}", model, sound=sound)
            job = create_job(collection, FolderSource(str(videos)), JobOptions(segmentation))
            started_at = time.process_time()
            done = run_job(collection, model, job.id, config=PipelineConfig(decoders=1))
            seconds[sound] = time.process_time() - started_at
            if done.counts.succeeded != done.counts.total or not done.counts.total:
                raise InvalidInput(f"{videos}: {done.counts.failed} of {done.counts.total} videos failed")
        with_sound = library.open(f"round-{number}-sound")
        clips = [clip for video in with_sound.videos() for clip in with_sound.clips(video.id)]
        pairs.append(Pair(seconds[True], seconds[False], len(clips), sum(clip.has_sound for clip in clips)))
    return pairs[1:]


def _create(library: CollectionStore, name: str, model: Model, *, sound: bool) -> Collection:
    """Create a collection; without sound, it is like one that was created before the bundle had an audio graph."""
    if sound:
        return library.create(name, model)
    metadata = initial_metadata(model.bundle.manifest, TOKEN_ENCODING, library.vectors)
    with library.create_folder(name) as folder:
        create_catalogue(folder / CATALOGUE_NAME, {k: v for k, v in metadata.items() if k != SIGNALS_KEY})
    return library.open(name)


def audio_graph_seconds(library: CollectionStore, model: Model) -> float:
    """Return the processor seconds of the audio graph per clip with sound, without decoding."""
    stream = model.bundle.manifest.audio
    assert stream is not None
    collection, spent, count = library.open("round-0-sound"), 0.0, 0
    for video in collection.videos():
        spans = [(clip.start, clip.end) for clip in collection.clips(video.id)]
        file = collection.media.file(video.path)
        sounds = [sound for _, sound in read_sounds(model.decoder, file, spans, stream, DEFAULT_LIMITS)]
        started_at = time.process_time()
        model.embed_audio(sounds)
        spent, count = spent + time.process_time() - started_at, count + len(sounds)
    return spent / max(count, 1)


def report(pairs: list[Pair], graph_seconds: float) -> dict[str, Any]:
    """Return medians over the pairs of runs; times are in ms per clip."""
    clips = pairs[0].clips
    return {
        "clips": clips,
        "clips_with_sound": pairs[0].clips_with_sound,
        "ratio": statistics.median(pair.with_sound / pair.without for pair in pairs),
        "bound": BOUND,
        "clip_ms": statistics.median(1000 * pair.without / clips for pair in pairs),
        "sound_ms": statistics.median(1000 * (pair.with_sound - pair.without) / clips for pair in pairs),
        "audio_graph_ms": 1000 * graph_seconds,
        "pairs": [asdict(pair) for pair in pairs],
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("", ">ms of processor time")
    table.add_row("a clip without sound", f"{result['clip_ms']:.1f}")
    table.add_row("what sound adds", f"{result['sound_ms']:.1f}")
    table.add_row("of these the audio graph", f"{result['audio_graph_ms']:.1f}")
    console.print(table)
    verdict = "met" if result["ratio"] <= BOUND else "MISSED"
    ratios = ", ".join(f"{pair['with_sound'] / pair['without']:.3f}" for pair in result["pairs"])
    console.print(f"{result['clips_with_sound']} of {result['clips']} clips have sound")
    console.print(f"with sound {result['ratio']:.3f} times the processor time ({ratios}); at most {BOUND}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER", help="with a graph `audio`")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="videos with sound (default: synthetic ones)")
    parser.add_argument("--films", type=int, default=16, metavar="N", help="number of synthetic videos")
    parser.add_argument("--seconds", type=float, default=32.0, metavar="S", help="duration of each")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="number of pairs of runs")
    parser.add_argument("--clip-length", type=float, default=8.0, metavar="S")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if min(args.films, args.rounds, args.seconds) < 1:
        parser.error("--films, --rounds, --seconds: at least 1 was expected")
    model = Model.open(args.bundle, threads=1, device="cpu")
    if not {"video", "audio"} <= model.bundle.manifest.graphs.keys():
        parser.error(f"--bundle: {args.bundle}: a bundle with graphs of video and audio was expected")
    model.warm_up()
    with tempfile.TemporaryDirectory() as folder, CollectionStore(Path(folder) / "library") as library:
        videos = args.videos or Path(folder) / "films"
        if args.videos is None:
            videos.mkdir()
            for number in range(args.films):
                write_film(videos / f"{number:04}.mp4", args.seconds, number, sound=True)
        pairs = measure(library, videos.resolve(), model, args.rounds, Segmentation(args.clip_length))
        result = report(pairs, audio_graph_seconds(library, model))
    print_text_or_json(result, show, as_json=args.json)


if __name__ == "__main__":
    run_main(main)
