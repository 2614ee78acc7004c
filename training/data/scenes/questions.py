"""Questions about a scene, each with one right answer of one word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from training.data.scenes.captions import mentions_held_out
from training.data.scenes.description import TOWARDS, Clause, Description, Mention, holds, with_article
from training.data.scenes.world import COLOURS, DIRECTIONS, PATTERNS, SHAPES, SIZES, TURNS, Event, Thing, World

QuestionAnswer = tuple[str, str]
Maker = Callable[[World, Random], list[QuestionAnswer]]
ACTIONS = {"collides": "bounces", "passes": "moves"}
MAX_YES_NO = 3
PER_CLIP = 9


def unique_name(world: World, thing: Thing, rng: Random, without: str = "") -> str | None:
    """Return a name that fits only this object and omits the attribute `without`; None if there is none."""
    colour_alone = sum(t.colour == thing.colour for t in world.things) == 1
    shape_alone = sum(t.shape == thing.shape for t in world.things) == 1
    names = []
    if without not in ("colour", "shape"):
        names += [f"the {thing.colour} {thing.shape}"] * 2
    if shape_alone and without != "shape":
        names.append(f"the {thing.shape}")
    if colour_alone and without != "colour":
        names.append(f"the {thing.colour} {rng.choice(('object', 'shape', 'thing'))}")
    return rng.choice(names) if names else None


def _questions_by_object(
    world: World, rng: Random, without: str, answer: Callable[[Thing], str | None], forms: tuple[str, ...]
) -> list[QuestionAnswer]:
    pairs = []
    for thing in world.things:
        name, right = unique_name(world, thing, rng, without), answer(thing)
        if name and right:
            pairs.append((rng.choice(forms).format(name), right))
    return pairs


def _only_event(thing: Thing) -> Event | None:
    return thing.events[0] if len(thing.events) == 1 else None


def _base(motion: str) -> str:
    return motion.removesuffix("s")


def shape_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about the shape of an object, named by colour or action."""
    pairs = _questions_by_object(
        world, rng, "shape", lambda t: t.shape, ("what shape is {}?", "which shape does {} have?")
    )
    acting = [t for t in world.things if t.events]
    if len(acting) == 1 and (event := _only_event(acting[0])) and event.target is None:
        pairs.append((f"what {event.motion}?", acting[0].shape))
    return pairs


def colour_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about the colour of an object, named by shape or action."""
    pairs = _questions_by_object(
        world, rng, "colour", lambda t: t.colour, ("what color is {}?", "which color does {} have?")
    )
    acting = [t for t in world.things if t.events]
    if len(acting) == 1 and len(world.things) > 1 and (event := _only_event(acting[0])) and event.target is None:
        pairs.append((f"what color is the object that {event.motion}?", acting[0].colour))
    return pairs


def count_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about the number of all objects, of still ones, and of those of a colour or shape."""
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


def direction_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about the direction of a movement or rotation."""

    def way(thing: Thing, motions: tuple[str, ...]) -> str | None:
        event = _only_event(thing)
        return event.direction if event and event.motion in motions else None

    moves = ("which way does {} move?", "in which direction does {} move?")
    pairs = _questions_by_object(world, rng, "", lambda t: way(t, ("moves", "passes")), moves)
    return pairs + _questions_by_object(
        world,
        rng,
        "",
        lambda t: way(t, ("rotates",)),
        ("which way does {} rotate?", "which way does {} turn?"),
    )


def order_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about the order of two events."""
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
    names = [unique_name(world, t, rng) for t in (a, b)]
    actions = [_base(event_of[id(a)].motion), event_of[id(b)].motion]
    pairs.append((f"does {names[0]} {actions[0]} before {names[1]} {actions[1]}?", "yes" if a is first else "no"))
    return pairs


def digit_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about digits."""
    forms = ("what number is on {}?", "which digit is on {}?")
    pairs = _questions_by_object(world, rng, "", lambda t: None if t.digit is None else str(t.digit), forms)
    if len(pairs) == 1:
        pairs.append(("which digit can be seen?", pairs[0][1]))
    return pairs


def size_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about the size of objects that do not change it."""

    def size(thing: Thing) -> str | None:
        return None if any(e.motion in ("grows", "shrinks") for e in thing.events) else thing.size

    pairs = _questions_by_object(world, rng, "", size, ("is {} small or large?", "what size is {}?"))
    # Large objects are sampled twice as often; dropping half of them evens out the answers.
    return [a for a in pairs if a[1] == "small" or rng.random() < 0.5]


def pattern_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about patterns."""
    pairs = _questions_by_object(
        world, rng, "", lambda t: t.pattern, ("what pattern does {} have?", "is {} plain, striped or dotted?")
    )
    return [a for a in pairs if a[1] != "plain" or rng.random() < 0.58]


def motion_questions(world: World, rng: Random) -> list[QuestionAnswer]:
    """Return questions about actions and speeds."""

    def action(thing: Thing) -> str | None:
        if not thing.events:
            return "stays" if rng.random() < 0.35 else None
        event = _only_event(thing)
        if event is None or (event.motion in ("moves", "collides", "passes") and rng.random() < 0.7):
            return None
        return ACTIONS.get(event.motion, event.motion)

    def speed(thing: Thing) -> str | None:
        event = _only_event(thing)
        return event.speed if event else None

    pairs = _questions_by_object(
        world, rng, "", action, ("what does {} do?", "what happens to {}?", "what is {} doing?")
    )
    return pairs + _questions_by_object(world, rng, "", speed, ("is {} slow or fast?", "does {} move fast or slow?"))


def yes_no_questions(world: World, held_out: bool, rng: Random) -> list[QuestionAnswer]:
    """Return questions about existence, attributes and actions. The answer is sampled first, so both are as frequent.

    held_out: Allow combinations of the test split that the clip does not show.
    """
    pairs = []
    for form in rng.sample(("existence", "attribute", "action", "action"), 4):
        answer = rng.choice(("yes", "no"))
        for _ in range(16):
            statement = _STATEMENTS[form](world, rng, answer == "yes")
            if statement and mentions_held_out(statement[1]) and not held_out:
                continue
            if statement and holds(statement[1], world) == (answer == "yes"):
                pairs.append((statement[0], answer))
                break
    return pairs


def _existence_question(world: World, rng: Random, true: bool) -> tuple[str, Description] | None:
    thing = rng.choice(world.things)
    mention = Mention(thing.colour, thing.shape)
    if not true:
        if rng.random() < 0.5:
            mention = replace(mention, colour=rng.choice(list(COLOURS)))
        else:
            mention = replace(mention, shape=rng.choice(SHAPES))
    return f"is there {with_article(f'{mention.colour} {mention.shape}')}?", Description((mention,), ())


def _attribute_question(world: World, rng: Random, true: bool) -> tuple[str, Description] | None:
    thing = rng.choice(world.things)
    values: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "pattern": PATTERNS, "size": tuple(SIZES)}
    name = rng.choice(tuple(values))
    if name == "size" and any(e.motion in ("grows", "shrinks") for e in thing.events):
        return None
    named = unique_name(world, thing, rng, without=name)
    if named is None:
        return None
    value = getattr(thing, name) if true else rng.choice(values[name])
    new: dict[str, Any] = {name: value}
    mention = replace(Mention(thing.colour, thing.shape), **new)
    return f"is {named} {value}?", Description((mention,), ())


def _action_question(world: World, rng: Random, true: bool) -> tuple[str, Description] | None:
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
    return f"does {unique_name(world, thing, rng)} {_base(motion)}{way}?", description


_STATEMENTS: dict[str, Callable[[World, Random, bool], tuple[str, Description] | None]] = {
    "existence": _existence_question,
    "attribute": _attribute_question,
    "action": _action_question,
}

QUESTION_MAKERS: dict[str, Maker] = {
    "what": shape_questions,
    "colour": colour_questions,
    "count": count_questions,
    "direction": direction_questions,
    "order": order_questions,
    "digit": digit_questions,
    "size": size_questions,
    "pattern": pattern_questions,
    "motion": motion_questions,
}


def questions_of(world: World, held_out: bool, rng: Random) -> list[dict[str, object]]:
    """Return six to nine questions {"question", "answers", "kind"} of as many kinds as the clip allows.

    held_out: Allow combinations of the test split that the clip does not show.
    """
    pools = {kind: make(world, rng) for kind, make in QUESTION_MAKERS.items()}
    pools["yesno"] = yes_no_questions(world, held_out, rng)
    for pool in pools.values():
        rng.shuffle(pool)
    chosen: list[dict[str, object]] = []
    while len(chosen) < PER_CLIP and any(pools.values()):
        for kind in rng.sample(list(pools), len(pools)):
            chosen_of_kind = sum(q["kind"] == kind for q in chosen)
            if pools[kind] and len(chosen) < PER_CLIP and chosen_of_kind < (MAX_YES_NO if kind == "yesno" else 2):
                question, answer = pools[kind].pop()
                if question not in [q["question"] for q in chosen]:
                    chosen.append({"question": question, "answers": [answer], "kind": kind})
            elif chosen_of_kind >= 2:
                pools[kind].clear()
    return chosen
