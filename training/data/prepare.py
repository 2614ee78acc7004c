"""Pack a corpus for training: `vitascope prepare CORPUS --source DIR --out DIR [--workers 2]`.

Writes OUT/<corpus>/<split>/ (see training.data.packed). flickr8k and daquar are read from shards or from the
official layout in --source; pictograms are npm packages, fetched into --source unless they are there, and
give pictogram_stills and pictogram_videos; scenes are what the generator wrote into --source.
Also `python -m training.data.prepare CORPUS ...`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from training.data import daquar, flickr8k, pictograms, scene_files
from training.data.example import Example
from training.data.packed import STILL_STREAMS, VIDEO_STREAMS, Media, Origin, write_packed
from training.data.webdataset import CorpusError
from vitascope.manifest import FrameStream

CORPORA = ("flickr8k", "daquar", "pictograms", "scenes")
SPLITS = ("train", "val", "test")
Items = Iterable[tuple[Example, Media]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m training.data.prepare", description=__doc__)
    add_arguments(parser)
    try:
        run(parser.parse_args(arguments))
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare`, wherever it is mounted."""
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("--source", "--cache-dir", type=Path, required=True, help="where the corpus is read")
    parser.add_argument("--out", type=Path, default=Path("data/packed"), help="where packed corpora are written")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), metavar="SPLIT")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What `prepare` does with parsed options; the result is for people and scripts. Raises CorpusError."""
    return prepare(options.corpus, options.source, options.out, options.splits, workers=options.workers)


def prepare(
    corpus: str, source: Path, out: Path, splits: Sequence[str] = SPLITS, *, workers: int = 1
) -> dict[str, Any]:
    """Pack the splits of one corpus, showing progress on stderr.

    Returns {"corpus/split": {"count", "skipped": [{"key", "reason"}], "seconds"}}. Raises CorpusError.
    """
    console = Console(stderr=True)
    done: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for name, split, origin, streams, items in _packings(corpus, source, splits):
            started = time.monotonic()
            label = f"{name}/{split}"
            counted = _counted(items, progress, progress.add_task(label, total=None))
            info = write_packed(out / name / split, streams, counted, origin, workers=workers)
            seconds = round(time.monotonic() - started, 1)
            done[label] = {"count": info["count"], "skipped": info["skipped"], "seconds": seconds}
            console.print(
                f"{label}: {info['count']} packed, {len(info['skipped'])} skipped, {seconds} s",
                highlight=False,
            )
    return done


def _counted(items: Items, progress: Progress, task: TaskID) -> Items:
    for item in items:
        yield item
        progress.advance(task)


def _packings(
    corpus: str, source: Path, splits: Sequence[str]
) -> Iterator[tuple[str, str, Origin, Sequence[FrameStream], Items]]:
    """(corpus, split, origin, streams, items) of each folder to be written."""
    if corpus == "pictograms":
        packages = pictograms.fetch_packages(source)
        concepts = pictograms.read_words(packages)
        for split in splits:
            stills = pictograms.stills(packages, concepts, split)
            yield "pictogram_stills", split, pictograms.STILLS, STILL_STREAMS, stills
        for split in splits:
            videos = pictograms.videos(packages, concepts, split)
            yield "pictogram_videos", split, pictograms.VIDEOS, VIDEO_STREAMS, videos
        return
    for split in splits:
        if corpus == "flickr8k":
            yield corpus, split, flickr8k.ORIGIN, STILL_STREAMS, flickr8k.flickr8k(source, split)
        elif corpus == "daquar":
            yield corpus, split, daquar.ORIGIN, STILL_STREAMS, daquar.daquar(source, split)
        elif corpus == "scenes":
            yield corpus, split, scene_files.ORIGIN, VIDEO_STREAMS, scene_files.scenes(source, split)
        else:
            raise CorpusError(f"corpus: {corpus!r}; one of {CORPORA} was expected")


if __name__ == "__main__":
    sys.exit(main())
