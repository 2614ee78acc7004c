"""Questions about pictograms, with answers from the same metadata as the captions; the same on every machine.

Kinds: what, category, group, country, time, direction, colour, yesno. Every name occurs in as many yesno
questions answered yes as answered no, so that the words of the question alone tell nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from training.data.example import Question
from training.data.pictogram_captions import (
    country_of,
    noun_phrase,
    number_of,
    pick,
    time_of,
    with_article,
)
from training.data.pictogram_concepts import Concept
from training.data.pictogram_words import GROUP_NOUNS, SUBGROUP_NOUNS

WORDINGS = {
    "what": ("what is it?", "what is this?", "what does this show?", "what can be seen here?"),
    "category": ("what kind of thing is this?", "what sort of thing is shown?", "what type of thing is it?"),
    "group": ("which group does it belong to?", "to which group does this belong?", "what group is this in?"),
    "country": ("which country's flag is this?", "whose flag is this?", "to which country does the flag belong?"),
    "time": ("what time is it?", "what time does the clock show?", "which time is shown?"),
    "direction": ("which direction does it point in?", "in which direction does this point?", "where does it point?"),
    "colour": ("what color is it?", "which color does it have?", "what is the color of this?"),
    "yesno": ("is this {}?", "is it {}?", "does this show {}?"),
}

_COLOURS = "red|orange|yellow|green|light blue|blue|purple|brown|black|white|pink|grey"
_COLOURED = re.compile(
    rf"^(?:hollow |large |small )?({_COLOURS}) (?:large |medium |medium-small |small )?"
    r"(?:heart|circle|square|diamond|book|apple|question mark|exclamation mark|triangle pointed (?:up|down)|"
    r"flag|paper lantern|envelope|cat|bird)$"
)
_ARROW = re.compile(r"^(up|down|left|right|up-right|up-left|down-right|down-left|up-down|left-right) arrow$")
_POINTING = re.compile(
    r"^(?:backhand index pointing|index pointing|red triangle pointed|thumbs|fast|palm) (up|down|left|right)"
    r"(?: button| hand)?$"
)
_FACING = re.compile(
    r"^(?:(left|right)wards (?:pushing )?hand|(left|right)-facing fist|.*: facing (right)|"
    r"(down)wards button)$"
)


def questions_by_code(concepts: Mapping[str, Concept]) -> dict[str, tuple[Question, ...]]:
    """{code: questions} of the concepts of one split; wrong names of yesno questions are taken from it."""
    labels = _other_of_each({code: noun_phrase(c) for code, c in concepts.items()})
    groups = _other_of_each({code: c.group for code, c in concepts.items()})
    questions: dict[str, tuple[Question, ...]] = {}
    for code, concept in concepts.items():
        questions_of_code = [_question(code, kind, answer) for kind, answer in _facts(concept).items()]
        questions_of_code += _yes_and_no(code, "name", noun_phrase(concept), labels.get(code))
        other_group = groups.get(code)
        questions_of_code += _yes_and_no(
            code, "group", _a_group(concept.group), None if other_group is None else _a_group(other_group)
        )
        questions[code] = tuple(questions_of_code)
    return questions


def direction_of(concept: Concept) -> str | None:
    """Where an arrow, a finger or a person points, such as "up-left", or None."""
    for pattern in (_ARROW, _POINTING, _FACING):
        if match := pattern.match(concept.label):
            return next(part for part in match.groups() if part)
    return None


def colour_of(concept: Concept) -> str | None:
    """The color that the label of a heart, shape, book, ... names, or None."""
    match = _COLOURED.match(concept.label)
    return match[1] if match else None


def _facts(concept: Concept) -> dict[str, str]:
    """{kind of question: answer}, of the kinds that make sense for this concept."""
    facts = {
        "what": _name(concept),
        "category": SUBGROUP_NOUNS.get(concept.subgroup, concept.subgroup.replace("-", " ")),
        "group": concept.group.replace("-", " and "),
        "country": country_of(concept),
        "time": time_of(concept),
        "direction": direction_of(concept),
        "colour": colour_of(concept),
    }
    return {kind: answer for kind, answer in facts.items() if answer is not None}


def _name(concept: Concept) -> str:
    if time_of(concept):
        return "clock"
    # "flag: Peru", "keycap: 5", "family: man, woman, girl": what comes before the colon is what it is.
    return concept.label.partition(":")[0]


def _question(code: str, kind: str, answer: str) -> Question:
    return Question(pick(WORDINGS[kind], code, kind), (answer.lower(),), kind)


def _a_group(group: str) -> str:
    return with_article(GROUP_NOUNS[group])


def _yes_and_no(code: str, purpose: str, right: str, wrong: str | None) -> list[Question]:
    if wrong is None:  # without a wrong name the right one would always be answered yes
        return []
    wordings = WORDINGS["yesno"]
    return [
        Question(pick(wordings, code, purpose + "yes").format(right), ("yes",), "yesno"),
        Question(pick(wordings, code, purpose + "no").format(wrong), ("no",), "yesno"),
    ]


def _other_of_each(values: Mapping[str, str]) -> dict[str, str]:
    """{code: a value that is another one's}, each value given away as often as it is owned.

    The codes are sorted by value (values and their owners in an order that hashes decide) and the row is
    turned by the size of the largest class, so that nobody gets their own value. A class of more than half of
    all codes cannot give all of its values away; who would get their own gets none.
    """
    if not values:
        return {}
    turn = max(Counter(values.values()).values())
    order = sorted(values, key=lambda c: (number_of(values[c], "order"), values[c], number_of(c, "order")))
    shifted = {code: values[order[(place + turn) % len(order)]] for place, code in enumerate(order)}
    return {code: value for code, value in shifted.items() if value != values[code]}
