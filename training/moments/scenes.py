"""Long synthetic scenes with exact moments: `python -m training.moments.scenes --out DIR`.

A video of 40 to 60 s shows objects that appear, move, turn, change their size and disappear, in 10 to 30 events of 1 to
5 s that overlap and repeat. Sentences, objects, motions, rendering, files and held-out combinations are those of
`training.data.scenes`. A sentence names one event; its moments are all times at which any matching object has such an
event. Negative sentences are made by changing one or two words until nothing in the scene matches.

DIR has the layout of QVHighlights, see `training.moments.annotations`. An interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from training.data.corpus import SPLITS
from training.data.scenes.captions import CHANGES, mentions_held_out
from training.data.scenes.description import Clause, Description, Mention, event_matches, matches, phrase
from training.data.scenes.generate import check_seed, make_split, write_atomically
from training.data.scenes.render import encode
from training.data.scenes.sampling import BORDER, REACH, sample_background
from training.data.scenes.world import (
    COLOURS,
    DIRECTIONS,
    FPS,
    GROWTH,
    HEIGHT,
    HORIZONTAL_SPEED,
    MOTION_WEIGHTS,
    PATTERNS,
    SHAPES,
    SHRINKAGE,
    SIZES,
    TURN_SENSE,
    TURN_SPEED,
    TURNING,
    VERTICAL_SPEED,
    WIDTH,
    Event,
    Thing,
    World,
    state_at,
)
from vitascope.moments import Span

VERSION = 3
SECONDS, EVENT_SECONDS = (40, 60), (1.0, 5.0)
"""Minimum and maximum length of a video and of an event, in seconds."""
EVENTS = {"train": (20, 30), "val": (10, 30), "test": (10, 30)}
"""Minimum and maximum number of events of a video. More events give more training data for the same cost of embedding.
"""
VISIBLE = 4
"""Maximum number of objects that are visible at the same time."""
REPEATED = 0.3
"""Probability that an event repeats a motion that has occurred before."""


class _Amount(NamedTuple):
    """Maximum numbers of wordings per event, and of sentences with and without moments per video."""

    wordings: int
    positive: int
    negative: int


AMOUNTS = {"train": _Amount(9, 160, 60), "val": _Amount(1, 12, 4), "test": _Amount(1, 12, 4)}
"""Amounts by split. Compared with a video, a sentence costs little, and the head learns from each of them."""
CHECKS_PER_SECOND = 4
"""Checks per second that objects do not touch. In between, the fastest object moves 36 pixels, less than the extent of
a small object."""
NEGATIVE_CHANGES = ("colour", "shape", "direction", "motion")
_ATTEMPTS = 60


class _Stage:
    """The objects of a video while it is sampled, with the path of each: x, y, radius (pixels), 0 while invisible."""

    def __init__(self, rng: Random, seconds: int, held_out: bool) -> None:
        self.rng, self.seconds, self.held_out = rng, seconds, held_out
        self.times = np.arange(0, seconds, 1 / CHECKS_PER_SECOND)
        self.things: list[Thing] = []
        self.paths: list[np.ndarray] = []
        self.motions: list[tuple[str, str | None]] = []
        """Motions and directions so far."""

    def enter(self, start: float | None) -> bool:
        """Add an object that appears at `start` (seconds; None: visible from the beginning). Return success."""
        rng = self.rng
        colour, shape, size = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(("small", "small", "large"))
        if any((colour, shape) == (thing.colour, thing.shape) for thing in self.things):
            return False
        x, y = float(rng.randint(20, WIDTH - 20)), float(rng.randint(20, HEIGHT - 20))
        events = () if start is None else (Event("appears", start, start + rng.uniform(1, 2)),)
        pattern = rng.choices(PATTERNS, (0.6, 0.2, 0.2))[0]
        thing = Thing(shape, colour, size, pattern, None, rng.randint(*SIZES[size]), x, y, events)
        return self._put(len(self.things), thing)

    def act(self, start: float) -> bool:
        """Start an event of a resting object at `start` (seconds), or let a new object appear. Return success."""
        visible = [i for i, path in enumerate(self.paths) if path[2, int(start * CHECKS_PER_SECOND)] > 0]
        resting = [i for i in visible if all(event.end + 0.2 <= start for event in self.things[i].events)]
        motion, direction = self._motion()
        if motion == "appears":
            return len(visible) < VISIBLE and self.enter(start)
        if not resting or (motion == "disappears" and len(visible) == 1):
            return False
        index = self.rng.choice(resting)
        thing = self.things[index]
        event = self._event(thing, motion, direction, start)
        if event is None or event.end > self.seconds - 0.2:
            return False
        return self._put(index, replace(thing, events=(*thing.events, event)))

    def _motion(self) -> tuple[str, str | None]:
        if self.motions and self.rng.random() < REPEATED:
            return self.rng.choice(self.motions)
        motion = self.rng.choices(list(MOTION_WEIGHTS), list(MOTION_WEIGHTS.values()))[0]
        return motion, self.rng.choice(DIRECTIONS) if motion == "moves" else None

    def _event(self, thing: Thing, motion: str, direction: str | None, start: float) -> Event | None:
        rng = self.rng
        end = round(start + rng.uniform(*EVENT_SECONDS), 2)
        if motion == "moves":
            speed = rng.choice((None, "slow", "fast"))
            rate = (HORIZONTAL_SPEED if direction in ("left", "right") else VERTICAL_SPEED)[speed]
            sign = 1 if direction in ("right", "down") else -1
            return Event(motion, start, end, round(sign * rate * (end - start), 2), direction, speed)
        if motion == "rotates":
            sign = rng.choice((1, -1)) if direction is None else (1 if direction == "clockwise" else -1)
            sense = ("clockwise" if sign > 0 else "counterclockwise") if thing.shape in TURN_SENSE else None
            turns = thing.shape in TURNING
            return Event(motion, start, end, sign * TURN_SPEED * (end - start), sense) if turns else None
        if motion == "disappears":
            return Event(motion, start, round(start + rng.uniform(1, 2), 2))
        scale = state_at(thing, start).scale
        if not (scale < 1.1 if motion == "grows" else scale > 0.9):  # neither a wall nor a dot after several events
            return None
        return Event(motion, start, end, GROWTH[thing.size] if motion == "grows" else SHRINKAGE)

    def _put(self, index: int, thing: Thing) -> bool:
        """Set the object of an index unless it is held out, or leaves the frame or touches another at any time."""
        if thing.held_out and not self.held_out:
            return False
        states = [state_at(thing, time) for time in self.times.tolist()]
        path = np.array([(s.x, s.y, REACH * thing.diameter * s.scale * (s.opacity > 0)) for s in states]).T
        x, y, radius = path
        shown = radius > 0
        margin = radius + BORDER
        if (((x < margin) | (x > WIDTH - margin) | (y < margin) | (y > HEIGHT - margin)) & shown).any():
            return False
        for other in (other for i, other in enumerate(self.paths) if i != index):
            near = (x - other[0]) ** 2 + (y - other[1]) ** 2 < (radius + other[2] + 3) ** 2
            if (near & shown & (other[2] > 0)).any():
                return False
        if index == len(self.things):
            self.things.append(thing)
            self.paths.append(path)
        else:
            self.things[index], self.paths[index] = thing, path
        if thing.events:
            self.motions.append((thing.events[-1].motion, thing.events[-1].direction))
        return True


def sample_long_world(seed: int, split: str, index: int) -> tuple[World, int]:
    """Return the scene of video `index` of a split and its length in seconds, a function of the arguments."""
    rng = Random(f"moment scenes/{seed}/{split}/{index}")
    while True:
        seconds, count = rng.randint(*SECONDS), rng.randint(*EVENTS[split])
        stage = _Stage(rng, seconds, held_out=split == "test")
        for _ in range(rng.randint(2, 3)):
            any(stage.enter(None) for _ in range(_ATTEMPTS))
        starts = sorted(round(rng.uniform(0.3, seconds - EVENT_SECONDS[1] - 0.3), 2) for _ in range(count))
        if stage.things and all(any(stage.act(start) for _ in range(_ATTEMPTS)) for start in starts):
            things = tuple(stage.things)
            shake = rng.choice((1, 2)) if rng.random() < 0.3 else 0
            order = tuple(rng.sample(range(len(things)), len(things)))
            return World("long", things, sample_background(rng), order, shake, rng.randrange(2**31)), seconds


def spans_of(description: Description, world: World) -> list[Span]:
    """Return the times (seconds) at which an event fits a description of one clause, ascending and disjoint."""
    (mention,), (clause,) = description.mentions, description.clauses
    events = [
        (event.start, event.end)
        for index, thing in enumerate(world.things)
        if matches(mention, thing)
        for event in thing.events
        if event_matches(event, clause, [index])
    ]
    spans: list[Span] = []
    for start, end in sorted(events):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def sentences_of(world: World, split: str, rng: Random) -> list[tuple[str, list[Span]]]:
    """Return distinct sentences with their moments, followed by negative sentences; their numbers are in `AMOUNTS`.

    Only sentences of the test split may name held-out combinations.
    """
    amount = AMOUNTS[split]
    events = [(thing, event) for thing in world.things for event in thing.events]
    sentences: dict[str, list[Span]] = {}
    wordings: list[tuple[Description, int]] = []
    for thing, event in (pair for _ in range(amount.wordings) for pair in rng.sample(events, len(events))):
        description, style = _describe(thing, event, rng), rng.randrange(2**31)
        if len(sentences) < amount.positive and description not in [known for known, _ in wordings]:
            wordings.append((description, style))
            sentences[phrase(description, style)] = spans_of(description, world)
    negatives: set[str] = set()
    for _ in range(_ATTEMPTS):
        description, style = rng.choice(wordings)
        for change in rng.sample(NEGATIVE_CHANGES, rng.randint(1, 2)):
            description = CHANGES[change](rng, description) or description
        if description.clauses[0].motion == "stays" or spans_of(description, world):
            continue  # "stays still" is also true of objects between their events
        if len(negatives) < amount.negative and (split == "test" or not mentions_held_out(description)):
            negatives.add(phrase(description, style))
    return [*sentences.items(), *((text, []) for text in sorted(negatives))]


def _describe(thing: Thing, event: Event, rng: Random) -> Description:
    """Describe an event, naming the object by colour, by shape or by both. Sizes change, so they are not named."""
    naming = rng.choice(("both", "both", "colour", "shape"))
    mention = Mention(
        colour=thing.colour if naming != "shape" else None,
        shape=thing.shape if naming != "colour" else None,
        pattern=thing.pattern if thing.pattern != "plain" and rng.random() < 0.3 else None,
    )
    speed = event.speed if rng.random() < 0.5 else None
    return Description((mention,), (Clause(0, event.motion, event.direction, speed),))


def make_video(folder: Path, seed: int, split: str, index: int) -> str:
    """Generate a video unless it exists, and return its lines of the annotation."""
    world, seconds = sample_long_world(seed, split, index)
    name = f"{split}_{index:06d}"
    media = folder / f"{name}.mp4"
    if not media.exists():
        write_atomically(media, encode(world, frames=seconds * FPS))
    sentences = sentences_of(world, split, Random(f"moment sentences/{seed}/{split}/{index}"))
    return "\n".join(
        json.dumps(_record(SPLITS.index(split) + 10 * (1000 * index + number), name, seconds, text, spans))
        for number, (text, spans) in enumerate(sentences)
    )


def _record(qid: int, name: str, seconds: int, text: str, spans: Sequence[Span]) -> dict[str, Any]:
    return {"qid": qid, "query": text, "duration": seconds, "vid": name, "relevant_windows": [list(s) for s in spans]}


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Generate long drawn scenes with sentences and their exact moments.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    for split, count in (("train", 1600), ("val", 60), ("test", 500)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"videos in the {split} split (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and encode")
    options = parser.parse_args(None if arguments is None else list(arguments))
    check_seed(options.out, {"seed": options.seed, "moments version": VERSION})
    for split in SPLITS:
        make = partial(make_video, options.out / "videos", options.seed, split)
        listing = options.out / f"highlight_{split}_release.jsonl"
        make_split(make, options.out / "videos", listing, getattr(options, split), options.workers)


if __name__ == "__main__":
    main()
