"""Small packed corpora under the names that the shipped recipes ask for, drawn here: nothing is fetched.

No lossy file is in between, so that every machine has the same pixels: scenes are those of the project's generator,
kept without loss; the rest are its objects on its backgrounds, with sentences and questions about them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path

from PIL import Image

from training.data.example import Example, Question
from training.data.packed import STILL_STREAMS, VIDEO_STREAMS, Media, Origin, write_packed
from training.data.scenes.generate import make_example, read_scenes
from training.data.scenes.render import draw_background, draw_thing, render
from training.data.scenes.world import COLOURS, FPS, Background, Thing

COUNT = 4
"""Examples of each corpus."""
ORIGIN = Origin(source="drawn in the test", licence="CC0-1.0", split_rule="all")
SHAPES = ("circle", "square", "star", "heart", "triangle")
PATTERNS = ("plain", "striped", "dotted")
GROUNDS = ("gradient", "checker", "stripes", "noise")
KINDS = [
    (shape, colour, pattern, GROUNDS[i % len(GROUNDS)])
    for i, (pattern, shape, colour) in enumerate(islice(product(PATTERNS, SHAPES, list(COLOURS)[:6]), 0, None, 23))
][:COUNT]
Kind = tuple[str, str, str, str]


def write_corpora(data: Path, folder: Path) -> None:
    """All corpora of the shipped recipes, split train, into `data`; media go to `folder`."""
    write_packed(data / "scenes" / "train", VIDEO_STREAMS, _scenes(folder / "scenes"), ORIGIN)
    stills: dict[str, Callable[[int, Kind], Example]] = {
        "flickr8k": _photograph,
        "daquar": _questioned_picture,
        "pictogram_stills": _pictogram,
    }
    for corpus, example in stills.items():
        write_packed(data / corpus / "train", STILL_STREAMS, _drawn(folder / corpus, example, frames=1), ORIGIN)
    moving = _drawn(folder / "pictogram_videos", _pictogram, frames=6)
    write_packed(data / "pictogram_videos" / "train", VIDEO_STREAMS, moving, ORIGIN)


def _scenes(folder: Path) -> Iterator[tuple[Example, Media]]:
    (folder / "train").mkdir(parents=True)
    lines = []
    for index in range(COUNT):
        world, record = make_example(0, "train", index)
        record["media"] = f"{record['key']}.webp"
        _save(folder / "train" / record["media"], list(render(world)), 1000 / FPS)
        lines.append(json.dumps(record) + "\n")
    (folder / "train" / "examples.jsonl").write_text("".join(lines))
    return read_scenes(folder, "train")


def _drawn(folder: Path, example: Callable[[int, Kind], Example], frames: int) -> Iterator[tuple[Example, Media]]:
    folder.mkdir(parents=True)
    for i, kind in enumerate(KINDS):
        shape, colour, pattern, ground = kind
        thing = Thing(shape, colour, "large", pattern, None, 160, 90, 120, events=())
        back = draw_background(Background(ground, (90 + 10 * i, 110, 130), (180, 170 - 8 * i, 140), 24, i))
        pictures = [back.copy() for _ in range(frames)]
        for number, picture in enumerate(pictures):
            sprite = draw_thing(thing, angle=12.0 * number)
            picture.paste(sprite, (20 + 9 * i + 6 * number, 15), sprite.getchannel("A"))
        path = folder / f"{i:03d}.webp"
        _save(path, pictures, 100)
        yield example(i, kind), path


def _save(path: Path, pictures: list[Image.Image], milliseconds: float) -> None:
    first, *rest = pictures
    if rest:
        first.save(path, save_all=True, append_images=rest, duration=round(milliseconds), lossless=True, method=0)
    else:
        first.save(path, lossless=True, method=0)


def _photograph(i: int, kind: Kind) -> Example:
    shape, colour, pattern, ground = kind
    captions = (
        f"A {colour} {shape} lies on a {ground} .",
        f"a {pattern} {shape} in front of a wall",
        f"Somebody has painted a large {colour} {shape} , {pattern} all over , on the {ground} of a room .",
    )
    return Example(f"photograph-{i}", captions=captions, still=True)


def _questioned_picture(i: int, kind: Kind) -> Example:
    shape, colour, pattern, ground = kind
    questions = (
        Question("what is on the wall?", (shape, ground), "object"),
        Question(f"what color is the {shape}?", (colour,), "colour"),
        Question("how many objects are there on the left side of the wall?", (str(i % 3),), "count"),
        Question(f"what is the pattern of the {colour} object?", (pattern,), "object"),
    )
    return Example(f"room-{i}", questions=questions, still=True)


def _pictogram(i: int, kind: Kind) -> Example:
    """Two in a row are of one concept, as two vendors draw it."""
    shape, colour, pattern, _ = KINDS[i - i % 2]
    captions = (f"{colour} {shape}", f"a small cartoon of a {pattern} {shape}", f"an icon: {colour} {shape}, {pattern}")
    questions = (
        Question("what does this show?", (f"{colour} {shape}",), "what"),
        Question(f"does this show a {shape}?", ("yes",), "yesno"),
        Question("what group is this in?", ("symbols",), "group"),
    )
    return Example(
        f"drawn-{i}", captions=captions, questions=questions, still=True, attributes={"hexcode": f"1f{i // 2:03x}"}
    )
