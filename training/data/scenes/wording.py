"""Putting a description into words.

Every choice of words is made by its slot and a style number, not by what is said there, so the same style
puts a description and a slightly wrong copy of it into sentences that differ only where these differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from training.data.scenes.description import Clause, Description, Mention

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
SENSES = {"clockwise": "clockwise", "counterclockwise": "counterclockwise"}

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
    """The option that the style takes for the slot."""
    return options[zlib.crc32(f"{style}/{slot}".encode()) % len(options)]


def noun_phrase(mention: Mention, style: int, slot: str, article: str | None = "a") -> str:
    """For example "a large striped red circle with a 7 on it"; article "a", "the" or None for none."""
    word = {
        name: choose(SYNONYMS.get(value, (value,)), style, f"{slot}/{name}") for name, value in _attributes(mention)
    }
    noun = word.get("shape") or choose(("object", "shape", "thing"), style, f"{slot}/noun")
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
        # "carrying" and not "with an 8 / a 7": the article would give a wrong digit away.
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
        return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
    return f"{article} {text}" if article else text


def _attributes(mention: Mention) -> list[tuple[str, str]]:
    named = (
        ("colour", mention.colour),
        ("shape", mention.shape),
        ("size", mention.size),
        ("pattern", mention.pattern),
    )
    return [(name, value) for name, value in named if value]


def verb_phrase(clause: Clause, description: Description, style: int, slot: str, progressive: bool = False) -> str:
    """What the subject does, "moves slowly to the left", or as "moving slowly to the left"."""
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
    """The description as one sentence in the wording of ``style``."""
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
    # The slot is the subject's own, so that exchanging two clauses exchanges nothing but their order.
    slots = [f"verb {c.subject} {c.motion}" for c in clauses]
    verbs = [verb_phrase(c, description, style, s, progressive) for c, s in zip(clauses, slots, strict=True)]
    if len(clauses) == 1:
        return f"{names[0]} {verbs[0]}"
    if clauses[0].subject == clauses[1].subject:
        return choose(THEN_SAME, style, "then same").format(*verbs, np=names[0])
    clauses_said = [f"{name} {verb}" for name, verb in zip(names, verbs, strict=True)]
    return choose(THEN if description.relation == "then" else TOGETHER, style, "joint").format(*clauses_said)


def _still_part(description: Description, clauses: list[Clause], style: int, progressive: bool) -> str:
    """The objects that stay still; one that another passes is named there already."""
    targets = {c.target for c in description.clauses}
    clauses = [c for c in clauses if c.subject not in targets]
    if not clauses:
        return ""
    names = [noun_phrase(description.mentions[c.subject], style, f"name {c.subject}") for c in clauses]
    if len(names) == 1:
        return f"{names[0]} {verb_phrase(clauses[0], description, style, 'still', progressive)}"
    return f"{' and '.join(names)} {choose(PLURAL_STAYS, style, 'still')}"
