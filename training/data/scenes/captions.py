"""Captions, graded negative captions and weak transcripts of a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from training.data.scenes.description import (
    Clause,
    Description,
    Mention,
    describe,
    holds,
    noun_phrase,
    phrase,
    verb_phrase,
)
from training.data.scenes.world import (
    COLOURS,
    DIRECTIONS,
    DURATION,
    PATTERNS,
    SHAPES,
    SIZES,
    SPEEDS,
    TURN_SENSE,
    TURNING,
    TURNS,
    World,
    is_held_out,
)

GRADE_1, GRADE_2, GRADE_3 = 8, 2, 2  # maximum number of negative captions by grade
Change = Callable[[Random, Description], Description | None]


@dataclass(frozen=True)
class Caption:
    """A true caption with its description and the style of its wording."""

    text: str
    description: Description
    style: int


def captions_of(world: World, rng: Random) -> list[Caption]:
    """Return five different true captions. The first two contain all distinguishing facts of the clip."""
    everything = replace(describe(world), count=None)
    descriptions = [
        everything,
        everything,
        replace(_partial(everything, rng), count=len(world.things)),
        _partial(everything, rng),
        _partial_events(everything, rng),
    ]
    captions: list[Caption] = []
    for description in descriptions:
        while True:
            style = rng.randrange(2**31)
            text = phrase(description, style)
            if text not in [c.text for c in captions]:
                break
        captions.append(Caption(text, description, style))
    return captions


def _partial(description: Description, rng: Random) -> Description:
    """Drop some sizes, patterns, digits and speeds at random, but no object and no motion."""
    mentions = tuple(
        replace(
            m,
            size=m.size if rng.random() < 0.4 else None,
            pattern=m.pattern if rng.random() < 0.5 else None,
            digit=m.digit if rng.random() < 0.4 else None,
        )
        for m in description.mentions
    )
    clauses = tuple(replace(c, speed=c.speed if rng.random() < 0.5 else None) for c in description.clauses)
    return replace(description, mentions=mentions, clauses=clauses)


def _partial_events(description: Description, rng: Random) -> Description:
    """Keep the events only, naming objects by colour, by shape or by both."""
    moving = tuple(c for c in description.clauses if c.motion != "stays")
    mentions = []
    for m in description.mentions:
        named = rng.choice(("both", "colour", "shape"))
        mentions.append(Mention(m.colour if named != "shape" else None, m.shape if named != "colour" else None))
    return without_unused_mentions(
        replace(description, mentions=tuple(mentions), clauses=moving or description.clauses, count=None)
    )


def without_unused_mentions(description: Description) -> Description:
    """Return the description without mentions that no clause uses."""
    used = sorted({i for c in description.clauses for i in (c.subject, c.target) if i is not None})
    clauses = tuple(
        replace(c, subject=used.index(c.subject), target=None if c.target is None else used.index(c.target))
        for c in description.clauses
    )
    return replace(description, mentions=tuple(description.mentions[i] for i in used), clauses=clauses)


def _with_mention(description: Description, index: int, mention: Mention) -> Description:
    mentions = tuple(mention if i == index else m for i, m in enumerate(description.mentions))
    return replace(description, mentions=mentions)


def _with_clause(description: Description, index: int, clause: Clause) -> Description:
    clauses = tuple(clause if i == index else c for i, c in enumerate(description.clauses))
    return replace(description, clauses=clauses)


def _other(rng: Random, values: tuple[Any, ...], value: Any) -> Any:
    return rng.choice([v for v in values if v != value])


def _change_attribute(name: str, values: tuple[Any, ...]) -> Change:
    def change(rng: Random, description: Description) -> Description | None:
        indices = [i for i, m in enumerate(description.mentions) if getattr(m, name) is not None]
        if not indices and name == "pattern":
            indices = list(range(len(description.mentions)))
        if not indices:
            return None
        index = rng.choice(indices)
        mention = description.mentions[index]
        allowed = values
        if name == "shape":  # the rotation of a circle is invisible
            turns = [c for c in description.clauses if c.subject == index and c.motion == "rotates"]
            if turns:
                allowed = TURN_SENSE if any(c.direction for c in turns) else TURNING
        new: dict[str, Any] = {name: _other(rng, allowed, getattr(mention, name))}
        return _with_mention(description, index, replace(mention, **new))

    return change


def _change_direction(rng: Random, description: Description) -> Description | None:
    indices = [i for i, c in enumerate(description.clauses) if c.direction]
    if not indices:
        return None
    index = rng.choice(indices)
    clause = description.clauses[index]
    values = TURNS if clause.motion == "rotates" else DIRECTIONS if clause.motion == "moves" else ("left", "right")
    return _with_clause(description, index, replace(clause, direction=_other(rng, values, clause.direction)))


def _change_motion(rng: Random, description: Description) -> Description | None:
    index = rng.randrange(len(description.clauses))
    clause = description.clauses[index]
    if clause.depth:
        return _with_clause(
            description, index, replace(clause, depth=_other(rng, ("in front of", "behind"), clause.depth))
        )
    if clause.speed and rng.random() < 0.5:
        return _with_clause(description, index, replace(clause, speed=_other(rng, SPEEDS, clause.speed)))
    if clause.motion == "collides" or any(c.target == clause.subject for c in description.clauses):
        return None
    motions = ["moves", "grows", "shrinks", "appears", "disappears"]
    if description.mentions[clause.subject].shape in TURNING:
        motions.append("rotates")
    alone = len([c for c in description.clauses if c.subject == clause.subject]) == 1
    if alone and clause.motion not in ("appears", "disappears"):  # an object that appears may be called still
        motions.append("stays")
    motion = _other(rng, tuple(motions), clause.motion)
    direction = rng.choice(DIRECTIONS) if motion == "moves" else None
    changed = _with_clause(description, index, Clause(clause.subject, motion, direction))
    moving = [c for c in changed.clauses if c.motion != "stays"]
    if len({(c.subject, c.motion, c.direction) for c in moving}) < len(moving):
        return None
    relation = description.relation if len(moving) == 2 else None
    if len(moving) == 2 and relation is None:
        relation = "together"
    return replace(changed, relation=relation) if len(moving) < 3 else None


def _change_order(rng: Random, description: Description) -> Description | None:
    if description.relation != "then":
        return None
    first, second, *rest = description.clauses
    return replace(description, clauses=(second, first, *rest))


def _swap(rng: Random, description: Description) -> Description | None:
    """Swap an attribute or the actions of two objects."""
    if len(description.mentions) < 2:
        return None
    a, b = rng.sample(range(len(description.mentions)), 2)
    name = rng.choice(("colour", "shape", "digit", "actions"))
    if name == "actions":
        if any(c.target is not None or c.motion == "rotates" for c in description.clauses):
            return None
        turned = {a: b, b: a}
        return replace(
            description,
            clauses=tuple(replace(c, subject=turned.get(c.subject, c.subject)) for c in description.clauses),
        )
    first, second = description.mentions[a], description.mentions[b]
    if name == "shape" and any(c.motion == "rotates" for c in description.clauses):
        return None
    of_a: dict[str, Any] = {name: getattr(first, name)}
    of_b: dict[str, Any] = {name: getattr(second, name)}
    if None in of_a.values() or None in of_b.values():
        return None
    return _with_mention(_with_mention(description, a, replace(first, **of_b)), b, replace(second, **of_a))


def _change_count(rng: Random, description: Description) -> Description | None:
    if description.count is None:
        return None
    return replace(description, count=_other(rng, (1, 2, 3), description.count))


CHANGES: dict[str, Change] = {
    "colour": _change_attribute("colour", tuple(COLOURS)),
    "shape": _change_attribute("shape", SHAPES),
    "size": _change_attribute("size", tuple(SIZES)),
    "pattern": _change_attribute("pattern", PATTERNS[1:]),
    "digit": _change_attribute("digit", tuple(range(10))),
    "direction": _change_direction,
    "motion": _change_motion,
    "order": _change_order,
    "swap": _swap,
    "count": _change_count,
}


def mentions_held_out(description: Description) -> bool:
    """Return whether a mention with its actions has a combination held out for the test split."""
    for index, mention in enumerate(description.mentions):
        actions = tuple((c.motion, c.direction) for c in description.clauses if c.subject == index)
        if is_held_out(mention.colour, mention.shape, actions):
            return True
    return False


def negatives_of(
    world: World, captions: list[Caption], second: World, held_out: bool, rng: Random
) -> list[dict[str, Any]]:
    """Return negative captions: grade 1 by one change, grade 2 by two, grade 3 of the scene `second`.

    held_out: Allow combinations held out for the test split.
    """
    negatives: list[dict[str, Any]] = []

    def add(caption: int, description: Description | None, style: int, grade: int, kind: str) -> bool:
        if description is None or holds(description, world) or (mentions_held_out(description) and not held_out):
            return False
        text = phrase(description, style)
        if text in [n["caption"] for n in negatives]:
            return False
        negatives.append({"caption": text, "of": caption, "grade": grade, "kind": kind})
        return True

    kinds = rng.sample(list(CHANGES), len(CHANGES))
    for kind in kinds:
        source = 2 if kind == "count" else rng.choice((0, 1))
        caption = captions[source]
        if len(negatives) < GRADE_1:
            any(add(source, CHANGES[kind](rng, caption.description), caption.style, 1, kind) for _ in range(12))
    for _ in range(30):
        if sum(n["grade"] == 2 for n in negatives) == GRADE_2:
            break
        source = rng.choice((0, 1))
        kind, then = rng.sample([k for k in CHANGES if k not in ("count", "swap", "order")], 2)
        once = CHANGES[kind](rng, captions[source].description)
        if once is not None and not holds(once, world):
            twice = CHANGES[then](rng, once)
            if twice is not None and twice != once and twice != captions[source].description:
                add(source, twice, captions[source].style, 2, kind)
    other_description = replace(describe(second), count=None)
    for _ in range(GRADE_3):
        add(rng.choice((0, 1)), other_description, rng.randrange(2**31), 3, "other")
    return negatives


OFF_TOPIC = (
    "don't forget to subscribe to the channel",
    "it has been raining here all week",
    "so yeah, thanks for joining me again",
    "let me know in the comments what you think",
    "my neighbor bought a new car yesterday",
    "okay, is the microphone on",
    "we will get back to that in a minute",
    "I had pasta for lunch and it was great",
    "this video is brought to you by nobody",
    "as I said in the last episode",
    "um, let's see, where were we",
    "music playing",
)
OPENINGS = ("", "", "so ", "and now ", "look, ", "okay, ", "you can see that ", "as you see ", "um, ")


def transcript_of(world: World, rng: Random) -> list[dict[str, Any]]:
    """Return one to four segments {"start", "end" (seconds of the clip), "text"}, ordered by start."""
    sentences = [_spoken_sentence(world, rng) for _ in range(rng.choice((1, 1, 2)))]
    sentences += [(rng.uniform(0, DURATION - 0.5), text) for text in rng.sample(OFF_TOPIC, rng.choice((0, 1, 1, 2)))]
    segments = []
    for time, text in sentences:
        start = min(max(0.0, time + rng.uniform(-1.0, 1.0)), DURATION - 0.5)
        end = min(DURATION, start + rng.uniform(0.5, 2.0))
        segments.append({"start": round(start, 2), "end": round(end, 2), "text": text})
    return sorted(segments, key=lambda segment: float(str(segment["start"])))


def _spoken_sentence(world: World, rng: Random) -> tuple[float, str]:
    """Return the time (seconds) of an event and a sentence about a part of the scene."""
    everything = describe(world)
    clause = rng.choice(everything.clauses)
    events = world.things[clause.subject].events
    time = events[0].start if events else 0.5
    style = rng.randrange(2**31)
    mention = everything.mentions[clause.subject]
    mention = rng.choice(
        (
            Mention(mention.colour, mention.shape),
            Mention(mention.colour),
            Mention(None, mention.shape),
            mention,
        )
    )
    opening = rng.choice(OPENINGS)
    if rng.random() < 0.25:
        return time, f"{opening}there is {noun_phrase(mention, style, 'name')}"
    mentions = list(everything.mentions)
    mentions[clause.subject] = mention
    partial: Clause = replace(clause, speed=None)
    description = Description(tuple(mentions), (partial,))
    if rng.random() < 0.3 and clause.target is None:
        return time, f"{opening}it {verb_phrase(partial, description, style, 'deed')}"
    return time, opening + phrase(description, style).rstrip(".").lower()
