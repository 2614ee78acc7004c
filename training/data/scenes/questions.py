"""Questions about a clip that have one right answer of one word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from training.data.scenes.captions import speaks_of_held_out
from training.data.scenes.description import Clause, Description, Mention, holds
from training.data.scenes.vocabulary import COLOURS, DIRECTIONS, PATTERNS, SHAPES, SIZES, TURNS
from training.data.scenes.wording import TOWARDS
from training.data.scenes.world import Event, Thing, World

Asked = tuple[str, str]  # question, answer
Maker = Callable[[World, Random], list[Asked]]
ACTIONS = {"collides": "bounces", "passes": "moves"}
YES_NO = 3  # of the questions of a clip, at most
PER_CLIP = 9


def reference(world: World, thing: Thing, rng: Random, without: str = "") -> str | None:
    """A name that fits only this object, without the attribute ``without``; None if there is none."""
    colour_alone = sum(t.colour == thing.colour for t in world.things) == 1
    shape_alone = sum(t.shape == thing.shape for t in world.things) == 1
    ways = []
    if without not in ("colour", "shape"):
        ways += [f"the {thing.colour} {thing.shape}"] * 2
    if shape_alone and without != "shape":
        ways.append(f"the {thing.shape}")
    if colour_alone and without != "colour":
        ways.append(f"the {thing.colour} {rng.choice(('object', 'shape', 'thing'))}")
    return rng.choice(ways) if ways else None


def _about_each(
    world: World, rng: Random, without: str, answer: Callable[[Thing], str | None], forms: tuple[str, ...]
) -> list[Asked]:
    pairs = []
    for thing in world.things:
        name, right = reference(world, thing, rng, without), answer(thing)
        if name and right:
            pairs.append((rng.choice(forms).format(name), right))
    return pairs


def _only_event(thing: Thing) -> Event | None:
    return thing.events[0] if len(thing.events) == 1 else None


def _base(motion: str) -> str:
    return motion.removesuffix("s")


def ask_what(world: World, rng: Random) -> list[Asked]:
    """Which shape something is; by its colour or by what it does."""
    pairs = _about_each(world, rng, "shape", lambda t: t.shape, ("what shape is {}?", "which shape does {} have?"))
    acting = [t for t in world.things if t.events]
    if len(acting) == 1 and (event := _only_event(acting[0])) and event.target is None:
        pairs.append((f"what {event.motion}?", acting[0].shape))
    return pairs


def ask_colour(world: World, rng: Random) -> list[Asked]:
    """Which colour something has; by its shape or by what it does."""
    pairs = _about_each(world, rng, "colour", lambda t: t.colour, ("what color is {}?", "which color does {} have?"))
    acting = [t for t in world.things if t.events]
    if len(acting) == 1 and len(world.things) > 1 and (event := _only_event(acting[0])) and event.target is None:
        pairs.append((f"what color is the object that {event.motion}?", acting[0].colour))
    return pairs


def ask_count(world: World, rng: Random) -> list[Asked]:
    """How many objects there are, of one colour or shape, that do something."""
    pairs = [(rng.choice(("how many objects are there?", "how many shapes can be seen?")), str(len(world.things)))]
    if not any(e.motion in ("appears", "disappears") for t in world.things for e in t.events):
        pairs.append(("how many objects stay still?", str(sum(not t.events for t in world.things))))
    if rng.random() < 0.5:
        values = [(rng.choice(list(COLOURS)), "object"), *((t.colour, "object") for t in world.things)]
        word, _ = rng.choice(values)
        pairs.append((f"how many {word} objects are there?", str(sum(t.colour == word for t in world.things))))
    else:
        word = rng.choice([rng.choice(SHAPES), *(t.shape for t in world.things)])
        plural = f"{word}es" if word.endswith("s") else f"{word}s"
        pairs.append((f"how many {plural} are there?", str(sum(t.shape == word for t in world.things))))
    return pairs


def ask_direction(world: World, rng: Random) -> list[Asked]:
    """Which way something moves or turns."""

    def way(thing: Thing, motions: tuple[str, ...]) -> str | None:
        event = _only_event(thing)
        return event.direction if event and event.motion in motions else None

    moves = ("which way does {} move?", "in which direction does {} move?")
    pairs = _about_each(world, rng, "", lambda t: way(t, ("moves", "passes")), moves)
    return pairs + _about_each(
        world,
        rng,
        "",
        lambda t: way(t, ("rotates",)),
        ("which way does {} rotate?", "which way does {} turn?"),
    )


def ask_order(world: World, rng: Random) -> list[Asked]:
    """Which of two comes first, and whether one comes before the other."""
    events = sorted(((e, t) for t in world.things for e in t.events), key=lambda pair: pair[0].start)
    if len(events) != 2 or events[0][0].end > events[1][0].start or events[0][1] == events[1][1]:
        return []
    (early, first), (late, second) = events
    a, b = (first, second) if rng.random() < 0.5 else (second, first)
    pairs = []
    verb = early.motion if early.motion == late.motion else "acts"
    if first.colour != second.colour and all(t.colour != first.colour for t in world.things if t is not first):
        pairs.append((f"which color {verb} first, {a.colour} or {b.colour}?", first.colour))
    if first.shape != second.shape and all(t.shape != first.shape for t in world.things if t is not first):
        pairs.append((f"which shape {verb} first, the {a.shape} or the {b.shape}?", first.shape))
    event_of = {id(first): early, id(second): late}
    names = [reference(world, t, rng) for t in (a, b)]
    deeds = [_base(event_of[id(a)].motion), event_of[id(b)].motion]
    pairs.append((f"does {names[0]} {deeds[0]} before {names[1]} {deeds[1]}?", "yes" if a is first else "no"))
    return pairs


def ask_digit(world: World, rng: Random) -> list[Asked]:
    """Which digit is on an object, or is to be seen at all."""
    forms = ("what number is on {}?", "which digit is on {}?")
    pairs = _about_each(world, rng, "", lambda t: None if t.digit is None else str(t.digit), forms)
    if len(pairs) == 1:
        pairs.append(("which digit can be seen?", pairs[0][1]))
    return pairs


def ask_size(world: World, rng: Random) -> list[Asked]:
    """Whether something is small or large; not of what grows or shrinks."""

    def size(thing: Thing) -> str | None:
        return None if any(e.motion in ("grows", "shrinks") for e in thing.events) else thing.size

    pairs = _about_each(world, rng, "", size, ("is {} small or large?", "what size is {}?"))
    # Large objects are sampled twice as often; dropping half of them evens out the answers.
    return [a for a in pairs if a[1] == "small" or rng.random() < 0.5]


def ask_pattern(world: World, rng: Random) -> list[Asked]:
    """Whether something is plain, striped or dotted."""
    pairs = _about_each(
        world, rng, "", lambda t: t.pattern, ("what pattern does {} have?", "is {} plain, striped or dotted?")
    )
    return [a for a in pairs if a[1] != "plain" or rng.random() < 0.58]


def ask_motion(world: World, rng: Random) -> list[Asked]:
    """What something does, and whether it does it fast or slowly."""

    def deed(thing: Thing) -> str | None:
        if not thing.events:
            return "stays" if rng.random() < 0.35 else None
        event = _only_event(thing)
        if event is None or (event.motion in ("moves", "collides", "passes") and rng.random() < 0.7):
            return None
        return ACTIONS.get(event.motion, event.motion)

    def pace(thing: Thing) -> str | None:
        event = _only_event(thing)
        return event.speed if event else None

    pairs = _about_each(world, rng, "", deed, ("what does {} do?", "what happens to {}?", "what is {} doing?"))
    return pairs + _about_each(world, rng, "", pace, ("is {} slow or fast?", "does {} move fast or slow?"))


def ask_yes_no(world: World, held_out: bool, rng: Random) -> list[Asked]:
    """Whether something is there, has an attribute or does something.

    The answer is drawn first, so both are equally frequent.

    ``held_out`` allows pairs of the test split that the clip does not show.
    """
    pairs = []
    for form in rng.sample(("exists", "attribute", "deed", "deed"), 4):
        answer = rng.choice(("yes", "no"))
        for _ in range(16):
            statement = {"exists": _exists, "attribute": _has, "deed": _does}[form](world, rng, answer == "yes")
            if statement and speaks_of_held_out(statement[1]) and not held_out:
                continue
            if statement and holds(statement[1], world) == (answer == "yes"):
                pairs.append((statement[0], answer))
                break
    return pairs


def _exists(world: World, rng: Random, true: bool) -> tuple[str, Description] | None:
    thing = rng.choice(world.things)
    mention = Mention(thing.colour, thing.shape)
    if not true:
        if rng.random() < 0.5:
            mention = replace(mention, colour=rng.choice(list(COLOURS)))
        else:
            mention = replace(mention, shape=rng.choice(SHAPES))
    article = "an" if str(mention.colour)[0] in "aeiou" else "a"
    return f"is there {article} {mention.colour} {mention.shape}?", Description((mention,), ())


def _has(world: World, rng: Random, true: bool) -> tuple[str, Description] | None:
    thing = rng.choice(world.things)
    values: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "pattern": PATTERNS, "size": tuple(SIZES)}
    name = rng.choice(tuple(values))
    if name == "size" and any(e.motion in ("grows", "shrinks") for e in thing.events):
        return None
    named = reference(world, thing, rng, without=name)
    if named is None:
        return None
    value = getattr(thing, name) if true else rng.choice(values[name])
    new: dict[str, Any] = {name: value}
    mention = replace(Mention(thing.colour, thing.shape), **new)
    return f"is {named} {value}?", Description((mention,), ())


def _does(world: World, rng: Random, true: bool) -> tuple[str, Description] | None:
    thing = rng.choice(world.things)
    if true and not thing.events:
        return None
    event = rng.choice(thing.events) if thing.events else None
    if event is not None and event.target is not None:
        return None
    motion, direction = (event.motion, event.direction) if event else ("moves", rng.choice(DIRECTIONS))
    if not true:
        if direction is not None and rng.random() < 0.5:
            direction = rng.choice(TURNS if motion == "rotates" else DIRECTIONS)
        else:
            motion = rng.choice(("moves", "grows", "shrinks", "appears", "disappears"))
            direction = rng.choice(DIRECTIONS) if motion == "moves" else None
    way = f" {TOWARDS.get(direction, direction)}" if direction else ""
    description = Description((Mention(thing.colour, thing.shape),), (Clause(0, motion, direction),))
    return f"does {reference(world, thing, rng)} {_base(motion)}{way}?", description


MAKERS: dict[str, Maker] = {
    "what": ask_what,
    "colour": ask_colour,
    "count": ask_count,
    "direction": ask_direction,
    "order": ask_order,
    "digit": ask_digit,
    "size": ask_size,
    "pattern": ask_pattern,
    "motion": ask_motion,
}


def questions_of(world: World, held_out: bool, rng: Random) -> list[dict[str, object]]:
    """Six to nine questions {"question", "answers", "kind"} of as many kinds as the clip allows.

    ``held_out`` allows questions that name pairs of the test split although the clip may not show them.
    """
    pools = {kind: make(world, rng) for kind, make in MAKERS.items()}
    pools["yesno"] = ask_yes_no(world, held_out, rng)
    for pool in pools.values():
        rng.shuffle(pool)
    chosen: list[dict[str, object]] = []
    while len(chosen) < PER_CLIP and any(pools.values()):
        for kind in rng.sample(list(pools), len(pools)):
            asked_already = sum(q["kind"] == kind for q in chosen)
            if pools[kind] and len(chosen) < PER_CLIP and asked_already < (YES_NO if kind == "yesno" else 2):
                question, answer = pools[kind].pop()
                if question not in [q["question"] for q in chosen]:
                    chosen.append({"question": question, "answers": [answer], "kind": kind})
            elif asked_already >= 2:
                pools[kind].clear()
    return chosen
