"""Processor time of indexing with and without recognition of speech and screen text.

    python -m benchmarks.recognition --talks 4 --seconds 60 --transcribe pocketsphinx --read-text 1

Writes talks (a slide every 10 s; a voice, if espeak-ng is installed), then indexes them without recognition, with each
recogniser and with both. If other programs use the machine, processor seconds are more reliable than wall time.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import shutil
import subprocess
import tempfile
import time
import wave
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from benchmarks import run_main
from index.collection_store import CollectionStore
from index.jobs.jobs import create_job
from index.jobs.recognition import JobRecognition
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FolderSource
from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table, print_text_or_json
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.sandbox.recognition import RecognitionKind
from vitascope.sandbox.recognizers import DEFAULT_TEXT_READER, Recognizers
from vitascope.screen_text.reading import open_text_reader
from vitascope.speech.interface import open_recognizer

WIDTH, HEIGHT, FRAMES_PER_SECOND, SLIDE_SECONDS = 1280, 720, 25, 10
WORDS = "report budget winter market harbour garden engine letter window planet river doctor signal number paper bridge"
"""Words of the slides."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job: wall time, and processor seconds of this process and of recognisers, including loading."""

    seconds: float
    own_processor: float
    recognizer_processor: float


def write_talk(path: Path, seconds: int, seed: int) -> None:
    """Write slides of ten words and, if espeak-ng is installed, a voice that reads them."""
    dice = random.Random(seed)
    slides = [" ".join(dice.sample(WORDS.split(), 10)) for _ in range(-(-seconds // SLIDE_SECONDS))]
    rate, samples = _speak(". ".join(slides))
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio: Any = container.add_stream("aac", rate=rate) if len(samples) else None
        for number in range(seconds * FRAMES_PER_SECOND):
            if number % (SLIDE_SECONDS * FRAMES_PER_SECOND) == 0:
                pixels = _draw_slide(slides[number // FRAMES_PER_SECOND // SLIDE_SECONDS])
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(samples[None, : seconds * rate], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


def _draw_slide(text: str) -> NDArray[np.uint8]:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font, words = ImageDraw.Draw(picture), ImageFont.load_default(40), text.split()
    for row, first in enumerate(range(0, len(words), 2)):
        draw.text((80, 80 + 100 * row), " ".join(words[first : first + 2]), font=font, fill=(40, 40, 40))
    return np.array(picture, np.uint8)


def _speak(text: str) -> tuple[int, NDArray[np.int16]]:
    """Return the sample rate (Hz) and samples (T,) of a voice; no samples if espeak-ng is not installed."""
    if shutil.which("espeak-ng") is None:
        return 16_000, np.zeros(0, np.int16)
    sound = subprocess.run(["espeak-ng", "--stdout", text], check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(sound)) as file:  # the header does not state the length
        return file.getframerate(), np.frombuffer(file.readframes(2**30), np.int16)


def measure(
    library: CollectionStore, name: str, talks: Path, model: Model, options: JobOptions, text_reader: str
) -> Run:
    """Index the talks into a new collection."""
    collection = library.create(name, model)
    configured: dict[RecognitionKind, str] = {"screen_text": text_reader}
    job = create_job(collection, FolderSource(str(talks)), options)
    children = _children_seconds()
    own, started_at = time.process_time(), time.perf_counter()
    with Recognizers(configured) as recognizers:
        done = run_job(collection, model, job.id, recognition=JobRecognition(recognizers))
        seconds, own = time.perf_counter() - started_at, time.process_time() - own
    failed = sum(counts.failed for counts in done.recognitions.values())
    if failed or done.counts.succeeded != done.counts.total:
        raise InvalidInput(f"{talks}: {failed} recognitions failed; all were expected to succeed")
    return Run(seconds, own, _children_seconds() - children)


def _children_seconds() -> float:
    """Return the processor seconds of child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("recognised", ">seconds", ">processor s", ">of recognisers", ">per second of video")
    for name, run in result["runs"].items():
        whole = run["own_processor"] + run["recognizer_processor"]
        cells = (run["seconds"], run["own_processor"], run["recognizer_processor"], whole / result["video_seconds"])
        table.add_row(name, *(f"{value:.2f}" for value in cells))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
    parser.add_argument("--talks", type=int, default=4, metavar="N")
    parser.add_argument("--seconds", type=int, default=60, metavar="S", help="duration of each talk")
    parser.add_argument("--transcribe", metavar="MODEL", help="speech model")
    parser.add_argument("--read-text", type=float, metavar="S", help="seconds between the frames that are read")
    parser.add_argument("--text-reader", default=DEFAULT_TEXT_READER, metavar="MODEL")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.talks < 1 or args.seconds < 1:
        parser.error(f"--talks: {args.talks}, --seconds: {args.seconds}; at least 1 was expected of each")
    options = {"nothing": JobOptions()}
    if args.transcribe is not None:
        options["speech"] = JobOptions(transcribe=args.transcribe)
        open_recognizer(args.transcribe)  # an unusable model is an error before talks are written
    if args.read_text is not None:
        options["screen text"] = JobOptions(read_text=args.read_text)
        open_text_reader(args.text_reader)
    if len(options) == 3:
        options["both"] = JobOptions(transcribe=args.transcribe, read_text=args.read_text)
    model = Model.open(args.bundle, device="cpu")
    model.warm_up()
    with tempfile.TemporaryDirectory() as folder, CollectionStore(Path(folder) / "library") as library:
        talks = Path(folder) / "talks"
        talks.mkdir()
        for number in range(args.talks):
            write_talk(talks / f"{number:03}.mp4", args.seconds, number)
        runs = {
            name: asdict(measure(library, f"run-{number}", talks, model, each, args.text_reader))
            for number, (name, each) in enumerate(options.items())
        }
    result = {"video_seconds": args.talks * args.seconds, "runs": runs}
    print_text_or_json(result, show, as_json=args.json)


if __name__ == "__main__":
    run_main(main)
