"""Making the corpus: ``python -m training.data.scenes.generate --out DIR``.

Stopped at any time, it goes on where it was: a finished clip is a whole file under its own name.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from training.data.scenes.captions import captions_of, negatives_of
from training.data.scenes.questions import questions_of
from training.data.scenes.render import encode
from training.data.scenes.sampling import sample_world
from training.data.scenes.splits import SPLITS, as_json
from training.data.scenes.transcripts import transcript_of
from training.data.scenes.vocabulary import DURATION, FPS, HEIGHT, WIDTH
from training.data.scenes.world import World

VERSION = 2
LICENCE = "CC0-1.0"


def example_of(seed: int, split: str, index: int) -> tuple[World, dict[str, Any]]:
    """Clip ``index`` of ``split`` as a world and as the record of examples.jsonl.

    ``negatives[].of`` is the index of the caption that the wrong one was made from. Times are in
    seconds, lengths in pixels.
    """
    world = sample_world(seed, split, index)
    rng = Random(f"scenes language/{seed}/{split}/{index}")
    other = sample_world(seed, split, index ^ (1 + rng.randrange(255)))
    held_out_allowed = split == "test"
    captions = captions_of(world, rng)
    record = {
        "key": f"{index:06d}",
        "media": f"{index:06d}.mp4",
        "still": False,
        "captions": [caption.text for caption in captions],
        "transcript": transcript_of(world, rng),
        "negatives": negatives_of(world, captions, other, held_out_allowed, rng),
        "questions": questions_of(world, held_out_allowed, rng),
        "held_out": world.held_out,
        "scene": asdict(world),
    }
    return world, record


def write_whole(path: Path, content: bytes) -> None:
    """Write the file so that it is there whole or not at all, also when several processes write it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def make_clip(folder: Path, seed: int, split: str, index: int) -> str:
    """Make one clip unless it is there already; its line of examples.jsonl."""
    world, record = example_of(seed, split, index)
    media = folder / str(record["media"])
    if not media.exists():
        write_whole(media, encode(world))
    return json.dumps(record)


def make_split(out: Path, seed: int, split: str, count: int, workers: int) -> None:
    """Make ``count`` clips and the examples.jsonl of a split in ``out/split``; prints how far it is."""
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.part"):
        leftover.unlink()
    start = time.monotonic()
    lines = []
    make = partial(make_clip, folder, seed, split)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for line in pool.imap(make, range(count), chunksize=16):
            lines.append(line)
            if len(lines) % 500 == 0 or len(lines) == count:
                print(f"{split}: {len(lines)} of {count} clips, {time.monotonic() - start:.0f} s", flush=True)
    write_whole(folder / "examples.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _settle_seed(out: Path, seed: int) -> None:
    """Note the seed in the folder. Raises SystemExit where clips of another seed or version are there."""
    note = out / "seed.json"
    expected = {"seed": seed, "version": VERSION}
    if note.exists() and (stored := json.loads(note.read_text())) != expected:
        raise SystemExit(f"{out} holds scenes of {stored}, not of {expected}; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(expected).encode())


def make_corpus(out: Path, counts: dict[str, int], seed: int = 0, workers: int = 1) -> None:
    """Make all splits in ``out``, then corpus.json and split.json.

    Raises SystemExit when the folder holds clips of another seed, and ValueError for an unknown split.
    """
    if unknown := sorted(set(counts) - set(SPLITS)):
        raise ValueError(f"splits {unknown}; expected some of {list(SPLITS)}")
    _settle_seed(out, seed)
    write_whole(out / "split.json", json.dumps(as_json(), indent=2).encode())
    for split, count in counts.items():
        make_split(out, seed, split, count, workers)
    corpus = {
        "name": "scenes",
        "version": VERSION,
        "seed": seed,
        "counts": counts,
        "licence": LICENCE,
        "generator": "training.data.scenes.generate",
        "video": {"width": WIDTH, "height": HEIGHT, "fps": FPS, "seconds": DURATION},
    }
    write_whole(out / "corpus.json", json.dumps(corpus, indent=2).encode())


def main(arguments: Iterable[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Make the scenes corpus: small synthetic videos and what is said of them."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus, made if missing")
    parser.add_argument("--train", type=int, default=8000, help="clips in the train split")
    parser.add_argument("--val", type=int, default=500, help="clips in the val split")
    parser.add_argument("--test", type=int, default=1000, help="clips in the test split")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and encode")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    make_corpus(
        chosen.out,
        {"train": chosen.train, "val": chosen.val, "test": chosen.test},
        chosen.seed,
        chosen.workers,
    )


if __name__ == "__main__":
    main()
