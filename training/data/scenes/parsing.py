"""Parsing of sentences about scenes, the inverse of `description.phrase`, for evaluating generated captions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from training.data.scenes.description import (
    DIGIT_WORDS,
    MOTIONS,
    NUMBERS,
    PLURAL_STAYS,
    SPEED_WORDS,
    SYNONYMS,
    TOWARDS,
    Clause,
    Description,
    Mention,
)
from training.data.scenes.world import COLOURS, PATTERNS, SHAPES, SIZES, TURNS


def _words(values: Iterable[str]) -> dict[str, str]:
    """Return values by word."""
    return {word: value for value in values for word in SYNONYMS.get(value, (value,))}


def _any(words: Iterable[str]) -> str:
    """Return an expression for any of the words, longer ones first."""
    return "|".join(sorted(map(re.escape, set(words)), key=len, reverse=True))


SIZE, PATTERN, COLOUR, SHAPE = map(_words, (SIZES, PATTERNS, COLOURS, SHAPES))
STRIPES = {"stripes": "striped", "dots": "dotted"}
DIGIT = {word: n for n, name in enumerate(DIGIT_WORDS) for word in (str(n), name)}
NUMBER = {word: n for n, word in NUMBERS.items()}
DIRECTION = {phrase: name for name, phrase in TOWARDS.items()} | {name: name for name in (*TOWARDS, *TURNS)}
SPEED = {phrase: name for name, phrases in SPEED_WORDS.items() for phrase in phrases}

_MENTION = re.compile(
    rf"an? (?:(?P<size>{_any(SIZE)}) )?(?:(?P<pattern>{_any(PATTERN)}) )?(?:(?P<colour>{_any(COLOUR)}) )?"
    rf"(?:(?P<shape>{_any(SHAPE)})|object|shape|thing)\b(?: with (?P<stripes>{_any(STRIPES)})\b)?"
    rf"(?: (?:(?:with|and) the (?:digit|number)|marked|carrying the number) (?P<digit>{_any(DIGIT)})\b(?: on it)?)?"
)
_COUNT = re.compile(rf"(?P<count>{_any(NUMBER)}) (?:object|shape)s?\b")
_SPEED = re.compile(rf"(?P<speed>{_any(SPEED)})\b")
_ACROSS = re.compile(r"from (?:left to (?P<end>right)|right to (?P<other_end>left))\b")
_REST = re.compile(rf"(?:{_any(PLURAL_STAYS)})\b")
_PLACES = {
    "{d}": f"(?P<direction>{_any(DIRECTION)})",
    "{to}": f"(?P<direction>{_any(TOWARDS.values())})",
    "{z} {t}": "(?P<depth>in front of|behind)",
    "{f}": "(?:coming from the (?P<origin>left|right) )?",
}


def _verb(motion: str, form: str) -> re.Pattern[str]:
    """Return the expression of a form of `MOTIONS`, up to its target."""
    if motion == "rotates":
        form = form.replace("{d}", f"(?: (?P<direction>{_any(TURNS)}))?")
    for place, expression in _PLACES.items():
        form = form.replace(place, expression)
    return re.compile(form.partition(" {t}")[0] + r"\b")


_VERBS = [
    *((motion, _verb(motion, form)) for motion, forms in MOTIONS.items() for pair in forms for form in pair),
    ("moves", re.compile(r"mov(?:es|ing)\b|chang(?:es|ing) its place\b")),
]


def counts_objects(text: str) -> bool:
    """Return whether a sentence says how many objects a scene has."""
    return _COUNT.search(text.lower()) is not None


def parse(text: str) -> Description:
    """Return the objects, motions and number of objects of a sentence. The order of motions is not parsed.

    Words that do not occur in sentences of the corpus are skipped.
    """
    text = " ".join(text.lower().split())
    mentions: list[Mention] = []
    clauses: list[Clause] = []
    count = subject = None
    position = 0
    while position < len(text):
        if match := _MENTION.match(text, position):
            mentions.append(_mention(match))
            if clauses and clauses[-1].motion in ("collides", "passes") and clauses[-1].target is None:
                clauses[-1] = replace(clauses[-1], target=len(mentions) - 1)
            else:
                subject = len(mentions) - 1
        elif match := _COUNT.match(text, position):
            count = NUMBER[match["count"]]
        elif match := _REST.match(text, position):
            moving = {i for clause in clauses for i in (clause.subject, clause.target)}
            clauses += [Clause(i, "stays") for i in range(len(mentions)) if i not in moving]
        elif clauses and (match := _SPEED.match(text, position)):
            clauses[-1] = replace(clauses[-1], speed=SPEED[match["speed"]])
        elif clauses and (match := _ACROSS.match(text, position)):
            clauses[-1] = replace(clauses[-1], direction=match["end"] or match["other_end"])
        elif subject is not None and (clause_match := _clause(text, position, subject)):
            clause, match = clause_match
            clauses.append(clause)
        space = text.find(" ", match.end() if match else position)
        position = len(text) if space < 0 else space + 1
    return Description(tuple(mentions), tuple(clauses), None, count)


def _mention(match: re.Match[str]) -> Mention:
    value = {name: word for name, word in match.groupdict().items() if word}
    return Mention(
        COLOUR.get(value.get("colour", "")),
        SHAPE.get(value.get("shape", "")),
        SIZE.get(value.get("size", "")),
        PATTERN.get(value.get("pattern", "")) or STRIPES.get(value.get("stripes", "")),
        DIGIT.get(value.get("digit", "")),
    )


def _clause(text: str, position: int, subject: int) -> tuple[Clause, re.Match[str]] | None:
    """Return the clause at a position of a text, and its match."""
    for motion, verb in _VERBS:
        if match := verb.match(text, position):
            place = match.groupdict()
            direction = DIRECTION.get(place.get("direction") or "")
            if origin := place.get("origin"):
                direction = "right" if origin == "left" else "left"
            return Clause(subject, motion, direction, depth=place.get("depth")), match
    return None
