"""Phrases about objects of scenes, each with the box of its object in the middle of the clip.

A phrase describes exactly one object of the scene. A phrase has no box if its object is absent in the middle of the
clip: the phrase is a slightly wrong copy of another one, or the object has not appeared yet or has disappeared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

from training.data.example import Box, Region
from training.data.scenes.description import Mention, describe, matches, noun_phrase, verb_phrase
from training.data.scenes.outlines import outline
from training.data.scenes.render import PLATE, camera_shifts
from training.data.scenes.world import (
    COLOURS,
    FRAMES,
    HEIGHT,
    PATTERNS,
    SHAPES,
    SIZES,
    WIDTH,
    World,
    frame_times,
    is_held_out,
    state_at,
)

MIDDLE_FRAME = FRAMES // 2
ABSENT = 0.3
"""Probability of a wrong phrase."""
WITH_MOTION = 0.2
"""Probability that a phrase also mentions a motion of the object."""
_VALUES: dict[str, Sequence[Any]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "pattern": PATTERNS,
    "digit": range(10),
}
_NOUNS = ("object", "shape", "thing", "one")
_ARTICLES = ("the", "the", "a", None)


def sample_region(world: World, rng: Random, *, held_out_allowed: bool) -> Region:
    """Return a random phrase about a scene, with a box if its object is visible in the middle of the clip.

    held_out_allowed: Whether a wrong phrase may contain a combination that is held out from training.
    """
    is_right = rng.random() >= ABSENT
    while True:
        index = rng.randrange(len(world.things))
        mention = _sample_mention(world, index, rng)
        if mention is None:
            continue
        if is_right:
            return Region(_phrase(world, index, mention, rng), object_box(world, index))
        wrong = _wrong_mention(world, mention, rng)
        if wrong is not None and (held_out_allowed or not is_held_out(wrong.colour, wrong.shape, ())):
            return Region(_noun_phrase(wrong, rng), None)


def _sample_mention(world: World, index: int, rng: Random) -> Mention | None:
    """Return a random mention that matches only this object; None if the sampled attributes are ambiguous."""
    thing = world.things[index]
    mention = Mention(
        colour=thing.colour if rng.random() < 0.75 else None,
        shape=thing.shape if rng.random() < 0.75 else None,
        size=thing.size if rng.random() < 0.3 else None,
        pattern=thing.pattern if thing.pattern != "plain" and rng.random() < 0.4 else None,
        digit=thing.digit if rng.random() < 0.3 else None,
    )
    names_something = mention != Mention()
    fits = [other for other in world.things if matches(mention, other)]
    return mention if names_something and len(fits) == 1 else None


def _wrong_mention(world: World, mention: Mention, rng: Random) -> Mention | None:
    """Return the mention with other values of one or two attributes; None if an object matches the result."""
    named = [name for name in _VALUES if getattr(mention, name) is not None]
    changed = rng.sample(named, min(len(named), rng.choice((1, 1, 2))))
    others = {name: rng.choice([v for v in _VALUES[name] if v != getattr(mention, name)]) for name in changed}
    if others.get("pattern") == "plain":
        return None  # nothing is called plain
    wrong = replace(mention, **others)
    return None if any(matches(wrong, thing) for thing in world.things) else wrong


def _phrase(world: World, index: int, mention: Mention, rng: Random) -> str:
    """Return a phrase of the mention, sometimes with a motion of the object."""
    phrase = _noun_phrase(mention, rng)
    description = describe(world)
    clauses = [clause for clause in description.clauses if clause.subject == index]
    if not clauses or rng.random() >= WITH_MOTION:
        return phrase
    style = rng.randrange(2**31)
    verb = verb_phrase(rng.choice(clauses), description, style, "verb", progressive=rng.random() < 0.5)
    return f"{phrase} {verb}"


def _noun_phrase(mention: Mention, rng: Random) -> str:
    return noun_phrase(mention, rng.randrange(2**31), "name", rng.choice(_ARTICLES), nouns=_NOUNS)


def object_box(world: World, index: int) -> Box | None:
    """Return the box of an object in the middle of the clip; None if it is not visible then.

    The box includes parts behind other objects, but not parts outside of the picture.
    """
    thing = world.things[index]
    state = state_at(thing, frame_times()[MIDDLE_FRAME])
    if state.opacity < 0.5:
        return None
    size, angle = thing.diameter * state.scale, math.radians(state.angle)
    cos, sin = math.cos(angle) * size, math.sin(angle) * size
    corners = [(x * cos - y * sin, x * sin + y * cos) for x, y in outline(thing.shape)]
    if thing.digit is not None:  # upright and of fixed size
        corners += [(side * PLATE[0] / 2, side * PLATE[1] / 2) for side in (-1, 1)]
    dx, dy = next(islice(camera_shifts(world), MIDDLE_FRAME, None))
    xs, ys = [round(state.x) - dx + x for x, _ in corners], [round(state.y) - dy + y for _, y in corners]
    return (
        min(max(min(xs) / WIDTH, 0.0), 1.0),
        min(max(min(ys) / HEIGHT, 0.0), 1.0),
        min(max(max(xs) / WIDTH, 0.0), 1.0),
        min(max(max(ys) / HEIGHT, 0.0), 1.0),
    )
