"""Descriptions of scenes: whether one holds in a world, and its wording as a sentence.

Each word is chosen by its slot and a style number, not by the content, so that in one style a description and a
slightly wrong copy become sentences that differ only where the descriptions differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product

from training.data.scenes.world import Event, Thing, World


@dataclass(frozen=True)
class Mention:
    """An object as a sentence describes it; None for attributes that it does not name."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    pattern: str | None = None
    digit: int | None = None


@dataclass(frozen=True)
class Clause:
    """A motion of the mention `subject`, perhaps with the mention `target`; "stays" for an object without events."""

    subject: int
    motion: str
    direction: str | None = None
    speed: str | None = None
    target: int | None = None
    depth: str | None = None


@dataclass(frozen=True)
class Description:
    """Content of a sentence. `relation`: temporal relation of the moving clauses: "then", "together" or None."""

    mentions: tuple[Mention, ...]
    clauses: tuple[Clause, ...]
    relation: str | None = None
    count: int | None = None


def describe(world: World) -> Description:
    """Return the full description of a scene: all attributes, motions and their order, and the number of objects."""
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
    """Return whether an object has the attributes of a mention."""
    pairs = (
        (mention.colour, thing.colour),
        (mention.shape, thing.shape),
        (mention.size, thing.size),
        (mention.pattern, thing.pattern),
        (mention.digit, thing.digit),
    )
    return all(claimed is None or claimed == actual for claimed, actual in pairs)


def holds(description: Description, world: World) -> bool:
    """Return whether a description is true: some assignment of different objects to its mentions fits."""
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
        options.append([e for e in events if event_matches(e, clause, chosen)])
    return any(_order_holds(description.relation, events) for events in product(*options))


def event_matches(event: Event, clause: Clause, chosen: Sequence[int]) -> bool:
    """Return whether an event is what a clause says. chosen: Index of the object that each mention stands for."""
    if event.motion != clause.motion:
        return False
    target = None if clause.target is None else chosen[clause.target]
    claimed = (
        (clause.direction, event.direction),
        (clause.speed, event.speed),
        (clause.depth, event.depth),
        (target, event.target),
    )
    return all(claim is None or claim == fact for claim, fact in claimed)


def _order_holds(relation: str | None, events: tuple[Event, ...]) -> bool:
    following = list(pairwise(events))
    if relation == "then":
        return all(a.end <= b.start for a, b in following)
    if relation == "together":
        return all(a.start < b.end and b.start < a.end for a, b in following)
    return True


NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SYNONYMS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "small", "little", "tiny"),
    "large": ("large", "large", "large", "big", "huge"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "circle": ("circle", "circle", "circle", "disc"),
    "cross": ("cross", "cross", "plus sign"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
    "ring": ("ring", "ring", "ring", "hoop"),
    "purple": ("purple", "purple", "purple", "violet"),
}
TOWARDS = {"left": "to the left", "right": "to the right", "up": "upwards", "down": "downwards"}

# (he/she/it form, -ing form); {d} is "left", {to} is "to the left"
MOTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "moves": (
        ("moves {d}", "moving {d}"),
        ("moves {to}", "moving {to}"),
        ("slides {to}", "sliding {to}"),
        ("travels {d}", "travelling {d}"),
        ("glides {to}", "gliding {to}"),
        ("goes {d}", "going {d}"),
    ),
    "rotates": (("rotates{d}", "rotating{d}"), ("turns{d}", "turning{d}"), ("spins{d}", "spinning{d}")),
    "grows": (("grows", "growing"), ("gets bigger", "getting bigger"), ("becomes larger", "becoming larger")),
    "shrinks": (
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("becomes smaller", "becoming smaller"),
    ),
    "appears": (
        ("appears", "appearing"),
        ("shows up", "showing up"),
        ("comes into view", "coming into view"),
    ),
    "disappears": (("disappears", "disappearing"), ("vanishes", "vanishing"), ("fades away", "fading away")),
    "stays": (
        ("stays still", "staying still"),
        ("remains motionless", "remaining motionless"),
        ("does nothing", "doing nothing"),
    ),
    "collides": (
        ("{f}collides with {t} and bounces back", "{f}colliding with {t} and bouncing back"),
        ("{f}bumps into {t} and bounces off", "{f}bumping into {t} and bouncing off"),
        ("{f}hits {t} and bounces back", "{f}hitting {t} and bouncing back"),
    ),
    "passes": (
        ("passes {z} {t}", "passing {z} {t}"),
        ("moves {z} {t}", "moving {z} {t}"),
        ("slides {z} {t}", "sliding {z} {t}"),
    ),
}
PLURAL_STAYS = ("stay still", "remain motionless", "do nothing")
SPEED_WORDS = {"slow": ("slowly", "slowly", "at a slow pace"), "fast": ("quickly", "fast", "at high speed")}
TOGETHER = ("{0} while {1}", "{0} and at the same time {1}", "as {0}, {1}", "{0}, and meanwhile {1}")
THEN = ("{0}, then {1}", "first {0}, and then {1}", "{1} after {0}", "{0} before {1}", "after {0}, {1}")
THEN_SAME = (
    "{np} {0} and then {1}",
    "{np} first {0}, then {1}",
    "{np} {0} before it {1}",
    "{np} {0} and afterwards {1}",
)
FRAMES = ("{}", "{}", "{}", "in this clip {}", "we see how {}", "a video in which {}", "here {}")
COUNTED = ("{n} {o}: {}", "there {is_are} {n} {o}: {}", "{n} {o} on the screen: {}")


def choose(options: Sequence[str], style: int, slot: str) -> str:
    """Return the option of a style for a slot."""
    return options[zlib.crc32(f"{style}/{slot}".encode()) % len(options)]


def noun_phrase(
    mention: Mention,
    style: int,
    slot: str,
    article: str | None = "a",
    nouns: Sequence[str] = ("object", "shape", "thing"),
) -> str:
    """Return a phrase such as "a large striped red circle with the digit 7 on it".

    article: "a", "the" or None. nouns: For an object whose shape is not named.
    """
    word = {
        name: choose(SYNONYMS.get(value, (value,)), style, f"{slot}/{name}") for name, value in _attributes(mention)
    }
    noun = word.get("shape") or choose(nouns, style, f"{slot}/noun")
    pattern_last = choose(("yes", "no", "no"), style, f"{slot}/pattern last") == "yes"
    adjectives = [word.get("size")]
    after = []
    if mention.pattern and pattern_last:
        after.append({"striped": "with stripes", "dotted": "with dots", "plain": "without a pattern"}[mention.pattern])
    else:
        adjectives.append(word.get("pattern"))
    adjectives.append(word.get("colour"))
    if mention.digit is not None:
        figure = choose((str(mention.digit), str(mention.digit), DIGIT_WORDS[mention.digit]), style, f"{slot}/figure")
        # Not "with an 8" or "with a 7": the article would reveal a wrong digit.
        joint = "and" if after else "with"
        options = (
            f"{joint} the digit {figure} on it",
            f"{joint} the number {figure} on it",
            f"marked {figure}",
            f"carrying the number {figure}",
        )
        after.append(choose(options, style, f"{slot}/digit"))
    text = " ".join([*(a for a in adjectives if a), noun, *after])
    if article == "a":
        return with_article(text)
    return f"{article} {text}" if article else text


def with_article(phrase: str) -> str:
    """Return a phrase with "a" or "an", by its first letter."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _attributes(mention: Mention) -> list[tuple[str, str]]:
    named = (
        ("colour", mention.colour),
        ("shape", mention.shape),
        ("size", mention.size),
        ("pattern", mention.pattern),
    )
    return [(name, value) for name, value in named if value]


def verb_phrase(clause: Clause, description: Description, style: int, slot: str, progressive: bool = False) -> str:
    """Return the verb phrase of a clause: "moves to the left slowly", or progressive, "moving to the left slowly"."""
    forms = MOTIONS[clause.motion]
    if clause.motion == "moves" and clause.direction is None:
        forms = (("moves", "moving"), ("changes its place", "changing its place"))
    form = forms[zlib.crc32(f"{style}/{slot}/{clause.motion}".encode()) % len(forms)][1 if progressive else 0]
    target = "" if clause.target is None else noun_phrase(description.mentions[clause.target], style, f"{slot}/target")
    d = clause.direction or ""
    if clause.motion == "rotates":
        d = f" {d}" if d else ""
    origin = {"right": "coming from the left ", "left": "coming from the right "}.get(d, "")
    text = form.format(d=d, to=TOWARDS.get(clause.direction or "", ""), t=target, z=clause.depth, f=origin)
    if clause.motion == "passes" and clause.direction:
        text += {"left": " from right to left", "right": " from left to right"}[clause.direction]
    if clause.speed:
        text += f" {choose(SPEED_WORDS[clause.speed], style, f'{slot}/speed')}"
    return text


def phrase(description: Description, style: int) -> str:
    """Return the description as one sentence in a style."""
    moving = [(k, c) for k, c in enumerate(description.clauses) if c.motion != "stays"]
    still = [(k, c) for k, c in enumerate(description.clauses) if c.motion == "stays"]
    alone = len(moving) + len(still) == 1
    progressive = alone and choose(("yes", "no"), style, "progressive") == "yes"
    core = _moving_part(description, [c for _, c in moving], style, progressive)
    rest = _still_part(description, [c for _, c in still], style, progressive)
    core = core + (
        choose((", and {}", " while {}", "; {}"), style, "still joint").format(rest) if core and rest else rest
    )
    if description.count is not None:
        many = description.count != 1
        objects = choose(("object", "shape"), style, "objects") + ("s" if many else "")
        frame = choose(COUNTED, style, "counted")
        core = frame.format(core, n=NUMBERS[description.count], o=objects, is_are="are" if many else "is")
    elif not progressive:
        core = choose(FRAMES, style, "frame").format(core)
    if choose(("yes", "no", "no"), style, "written") == "yes":
        core = core[0].upper() + core[1:] + "."
    return core


def _moving_part(description: Description, clauses: list[Clause], style: int, progressive: bool) -> str:
    if not clauses:
        return ""
    names = [noun_phrase(description.mentions[c.subject], style, f"name {c.subject}") for c in clauses]
    # Slots depend on the subject, so that swapping two clauses changes their order only.
    slots = [f"verb {c.subject} {c.motion}" for c in clauses]
    verbs = [verb_phrase(c, description, style, s, progressive) for c, s in zip(clauses, slots, strict=True)]
    if len(clauses) == 1:
        return f"{names[0]} {verbs[0]}"
    if clauses[0].subject == clauses[1].subject:
        return choose(THEN_SAME, style, "then same").format(*verbs, np=names[0])
    sentences = [f"{name} {verb}" for name, verb in zip(names, verbs, strict=True)]
    return choose(THEN if description.relation == "then" else TOGETHER, style, "joint").format(*sentences)


def _still_part(description: Description, clauses: list[Clause], style: int, progressive: bool) -> str:
    """Name the objects that stay still, without those already named as targets."""
    targets = {c.target for c in description.clauses}
    clauses = [c for c in clauses if c.subject not in targets]
    if not clauses:
        return ""
    names = [noun_phrase(description.mentions[c.subject], style, f"name {c.subject}") for c in clauses]
    if len(names) == 1:
        return f"{names[0]} {verb_phrase(clauses[0], description, style, 'still', progressive)}"
    return f"{' and '.join(names)} {choose(PLURAL_STAYS, style, 'still')}"
