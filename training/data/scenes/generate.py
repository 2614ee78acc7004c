"""Generation of the corpus, and the reader of its files: `python -m training.data.scenes.generate --out DIR`.

An interrupted run continues where it stopped: a finished clip is a complete file under its own name. A split is
DIR/<split>/examples.jsonl and its media files. Each line is an object with "key", "media" (a file name) and the fields
of an Example; "held_out" (true for combinations that occur in the test split only), "scene" and "sound" become
attributes. With --sound the same scenes have soundtracks, and texts about them: the corpus `sound_scenes`. With --depth
each file has a second video track, with the exact depth of each frame. With --varied the objects have any outline and
colour, and there are no texts: the corpus `varied_scenes`, for the objective `objects`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from training.data.corpus import SPLITS, CorpusError, read_json_lines
from training.data.example import Example, ExampleError, example_of, required_text
from training.data.packed import Media, Origin
from training.data.scenes.captions import captions_of, negatives_of, transcript_of
from training.data.scenes.questions import questions_of
from training.data.scenes.render import encode
from training.data.scenes.sampling import sample_world
from training.data.scenes.sound_captions import texts_of
from training.data.scenes.sound_questions import questions_of as sound_questions_of
from training.data.scenes.sounds import Soundtrack, sample_soundtrack
from training.data.scenes.synthesis import synthesize
from training.data.scenes.world import DURATION, FPS, HEIGHT, WIDTH, World, as_json

VERSION = 2
LICENCE = "CC0-1.0"


def make_example(seed: int, split: str, index: int) -> tuple[World, dict[str, Any]]:
    """Return clip `index` of a split as a scene and as the record of examples.jsonl.

    `negatives[].of`: index of the caption that the negative was made from. Times are in seconds, lengths in pixels.
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


def make_sound_example(seed: int, split: str, index: int) -> tuple[World, Soundtrack, dict[str, Any]]:
    """Return clip `index` of a split with a soundtrack, and its record; the picture is that of `make_example`.

    Texts are about sight, sound or both. There is no transcript, as nothing is spoken.
    """
    world, record = make_example(seed, split, index)
    rng = Random(f"sound scenes/{seed}/{split}/{index}")
    soundtrack = sample_soundtrack(world, rng)
    texts = texts_of(world, soundtrack, record, split == "test", rng)
    questions = sound_questions_of(world, soundtrack, record["questions"], rng)
    record |= texts | {"transcript": [], "questions": questions, "sound": asdict(soundtrack)}
    return world, soundtrack, record


def make_varied_example(seed: int, split: str, index: int) -> tuple[World, dict[str, Any]]:
    """Return a scene with objects of any outline and colour, and its record, without texts."""
    world = sample_world(seed, split, index, varied=True)
    record = {
        "key": f"{index:06d}",
        "media": f"{index:06d}.mp4",
        "still": False,
        "captions": [],
        "scene": asdict(world),
    }
    return world, record


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically, also when several processes write it; without fsync, since clips can be made again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def make_clip(folder: Path, seed: int, split: str, sound: bool, depth: bool, varied: bool, index: int) -> str:
    """Generate a clip unless it exists, and return its line of examples.jsonl."""
    soundtrack = None
    if sound:
        world, soundtrack, record = make_sound_example(seed, split, index)
    elif varied:
        world, record = make_varied_example(seed, split, index)
    else:
        world, record = make_example(seed, split, index)
    media = folder / str(record["media"])
    if not media.exists():
        write_atomically(media, encode(world, synthesize(soundtrack) if soundtrack else None, depth=depth))
    return json.dumps(record)


def make_split(make: Callable[[int], str], folder: Path, listing: Path, count: int, workers: int) -> None:
    """Generate `count` clips in `folder`, which is created, write their listing, and print progress.

    Args:
        make: Generates the clip of an index and returns its lines of the listing, without the last line end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.part"):
        leftover.unlink()
    start = time.monotonic()
    lines = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for line in pool.imap(make, range(count), chunksize=16):
            lines.append(line)
            if len(lines) % 500 == 0 or len(lines) == count:
                print(f"{listing}: {len(lines)} of {count} clips, {time.monotonic() - start:.0f} s", flush=True)
    write_atomically(listing, "".join(f"{line}\n" for line in lines).encode())


def check_seed(out: Path, expected: Mapping[str, Any]) -> None:
    """Store seed and version in the folder. Raises SystemExit if it has clips of another seed or version."""
    note = out / "seed.json"
    if note.exists() and (stored := json.loads(note.read_text())) != expected:
        raise SystemExit(f"{out}: has scenes of {stored}; {expected} or another folder was expected")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(expected).encode())


def make_corpus(
    out: Path,
    counts: dict[str, int],
    seed: int = 0,
    workers: int = 1,
    sound: bool = False,
    depth: bool = False,
    varied: bool = False,
) -> None:
    """Generate all splits in `out`, then corpus.json and split.json.

    Raises SystemExit when the folder has clips of another seed, and ValueError for an unknown split.
    """
    if unknown := sorted(set(counts) - set(SPLITS)):
        raise ValueError(f"splits {unknown}; expected some of {list(SPLITS)}")
    kinds = {name: True for name, chosen in (("sound", sound), ("depth", depth), ("varied", varied)) if chosen}
    check_seed(out, {"seed": seed, "version": VERSION} | kinds)
    write_atomically(out / "split.json", json.dumps(as_json(), indent=2).encode())
    for split, count in counts.items():
        folder = out / split
        make = partial(make_clip, folder, seed, split, sound, depth, varied)
        make_split(make, folder, folder / "examples.jsonl", count, workers)
    corpus = {
        "name": "sound_scenes" if sound else "varied_scenes" if varied else "scenes",
        "version": VERSION,
        "seed": seed,
        "counts": counts,
        "licence": LICENCE,
        "generator": "training.data.scenes.generate",
        "video": {"width": WIDTH, "height": HEIGHT, "fps": FPS, "seconds": DURATION},
    }
    write_atomically(out / "corpus.json", json.dumps(corpus, indent=2).encode())


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Generate the scenes corpus: small synthetic videos with captions, questions and transcripts."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--train", type=int, default=8000, help="clips in the train split")
    parser.add_argument("--val", type=int, default=500, help="clips in the val split")
    parser.add_argument("--test", type=int, default=1000, help="clips in the test split")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and encode")
    parser.add_argument("--sound", action="store_true", help="give the scenes soundtracks: the corpus sound_scenes")
    parser.add_argument("--depth", action="store_true", help="give the files a second video track with the exact depth")
    parser.add_argument(
        "--varied", action="store_true", help="objects of any outline and colour, without texts: varied_scenes"
    )
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.varied and chosen.sound:
        parser.error("--varied with --sound; one of them was expected")
    make_corpus(
        chosen.out,
        {"train": chosen.train, "val": chosen.val, "test": chosen.test},
        chosen.seed,
        chosen.workers,
        chosen.sound,
        chosen.depth,
        chosen.varied,
    )


if __name__ == "__main__":
    main()


ORIGIN = Origin(
    source="training.data.scenes, the generator of this project",
    licence="that of this project",
    split_rule="by the generator: some combinations of color, shape and motion occur in the test split alone",
)
_ATTRIBUTES = ("held_out", "scene", "sound")


def read_scenes(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every generated scene of a split, in file order. Raises CorpusError naming file, line and field."""
    path = folder / split / "examples.jsonl"
    for record in read_json_lines(path):
        try:
            yield _scene(path.parent, record.fields)
        except ExampleError as error:
            raise CorpusError(f"{record.where}{error}") from None


def _scene(folder: Path, record: Mapping[str, Any]) -> tuple[Example, Media]:
    media = folder / required_text(record, "media")
    if not media.is_file():
        raise ExampleError(f"media: {media} is missing")
    attributes = {name: record[name] for name in _ATTRIBUTES if name in record}
    fields = {name: value for name, value in record.items() if name not in (*_ATTRIBUTES, "media")}
    return example_of({**fields, "attributes": attributes}), media
