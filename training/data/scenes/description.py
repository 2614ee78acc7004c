"""What a sentence claims about a clip, and whether the claim is true of a world."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, permutations, product

from training.data.scenes.world import Event, Thing, World


@dataclass(frozen=True)
class Mention:
    """An object as a sentence describes it; None is an attribute the sentence does not speak of."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    pattern: str | None = None
    digit: int | None = None


@dataclass(frozen=True)
class Clause:
    """The mention ``subject`` does something, perhaps to the mention ``target``.

    "stays" is the motion of an object that does nothing.
    """

    subject: int
    motion: str
    direction: str | None = None
    speed: str | None = None
    target: int | None = None
    depth: str | None = None


@dataclass(frozen=True)
class Description:
    """``relation`` is how the clauses that are not "stays" lie in time: "then", "together" or None."""

    mentions: tuple[Mention, ...]
    clauses: tuple[Clause, ...]
    relation: str | None = None
    count: int | None = None


def describe(world: World) -> Description:
    """All that matters about the clip: all attributes, all motions and their order, the number of objects."""
    mentions = tuple(
        Mention(t.colour, t.shape, t.size, None if t.pattern == "plain" else t.pattern, t.digit) for t in world.things
    )
    events = [(e.start, i, e) for i, t in enumerate(world.things) for e in t.events]
    if world.kind == "collision":
        events = events[:1]
    if world.kind in ("ordered", "sequence", "trio"):
        events.sort(key=lambda item: item[0])
    clauses = [Clause(i, e.motion, e.direction, e.speed, e.target, e.depth) for _, i, e in events]
    relation = None
    if len(events) == 2:
        relation = "then" if events[0][2].end <= events[1][2].start else "together"
    clauses += [Clause(i, "stays") for i, t in enumerate(world.things) if not t.events]
    return Description(mentions, tuple(clauses), relation, len(world.things))


def matches(mention: Mention, thing: Thing) -> bool:
    """Whether the object is as the mention says."""
    pairs = (
        (mention.colour, thing.colour),
        (mention.shape, thing.shape),
        (mention.size, thing.size),
        (mention.pattern, thing.pattern),
        (mention.digit, thing.digit),
    )
    return all(claims is None or claims == is_so for claims, is_so in pairs)


def holds(description: Description, world: World) -> bool:
    """Whether the description is true of the world: some choice of different objects for them fits."""
    if description.count is not None and description.count != len(world.things):
        return False
    for chosen in permutations(range(len(world.things)), len(description.mentions)):
        fits = all(matches(m, world.things[i]) for m, i in zip(description.mentions, chosen, strict=True))
        if fits and _clauses_hold(description, world, chosen):
            return True
    return False


def _clauses_hold(description: Description, world: World, chosen: tuple[int, ...]) -> bool:
    options: list[list[Event]] = []
    for clause in description.clauses:
        events = world.things[chosen[clause.subject]].events
        if clause.motion == "stays":
            if events:
                return False
            continue
        options.append([e for e in events if _is_told_by(e, clause, chosen)])
    return any(_in_time(description.relation, events) for events in product(*options))


def _is_told_by(event: Event, clause: Clause, chosen: tuple[int, ...]) -> bool:
    if event.motion != clause.motion:
        return False
    target = None if clause.target is None else chosen[clause.target]
    claims = (
        (clause.direction, event.direction),
        (clause.speed, event.speed),
        (clause.depth, event.depth),
        (target, event.target),
    )
    return all(claim is None or claim == fact for claim, fact in claims)


def _in_time(relation: str | None, events: tuple[Event, ...]) -> bool:
    following = list(pairwise(events))
    if relation == "then":
        return all(a.end <= b.start for a, b in following)
    if relation == "together":
        return all(a.start < b.end and b.start < a.end for a, b in following)
    return True
