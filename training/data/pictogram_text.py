"""Captions of and questions about pictograms, made from labels, tags and Unicode subgroups; equal on every machine.

Kinds of questions: what, category, group, country, time, direction, colour, yesno. Every name occurs in as many yesno
questions answered yes as answered no, so that the words of a question alone do not tell the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from training.data.example import Question
from training.data.pictogram_concepts import GROUP_NOUNS, SUBGROUP_NOUNS, Concept

_MASS_NOUNS = frozenset({"dishware", "clothing", "money", "mail", "music", "seafood", "art", "science equipment"})
_MOVING_LEADS = (
    "an animation of",
    "a moving picture of",
    "a short clip of",
    "an animated icon of",
    "a cartoon clip of",
)
_STILL_LEADS = ("a picture of", "a drawing of", "an icon of", "an emoji of", "a small cartoon of")
_NUMBERS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_HOUR = re.compile(f"^({_NUMBERS}) o'clock$")
_HALF_HOUR = re.compile(f"^({_NUMBERS})-thirty$")
_WITHOUT_ARTICLE = re.compile(
    r"^(no|two|three|hundred|[A-Z]\S*[!A-Z]\b|Japanese)\b|\b(ing|water|rice|bread|money|hair)$"
)

_COUNTRY_WITH_THE = re.compile(
    r"^(United|European|Bahamas|Comoros|Gambia|Isle of|Maldives|Netherlands|Philippines|Seychelles|U\.S\.)|"
    r"(Islands|Republic|Territory|Territories)$"
)


def time_of(concept: Concept) -> str | None:
    """Return the time on a clock face, such as "half past two", or None."""
    if hour := _HOUR.match(concept.label):
        return f"{hour[1]} o'clock"
    if half := _HALF_HOUR.match(concept.label):
        return f"half past {half[1]}"
    return None


def country_of(concept: Concept) -> str | None:
    """Return the country or region of a flag, or None."""
    if concept.subgroup in ("country-flag", "subdivision-flag"):
        return concept.label.removeprefix("flag: ")
    return None


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an"; plurals and mass nouns have no article."""
    last = noun.split(" with ")[0].split()[-1].lower()
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if plural or noun in _MASS_NOUNS or _WITHOUT_ARTICLE.search(noun) or noun.startswith(("a ", "an ", "the ")):
        return noun
    sounds_like_consonant = re.match(r"(?i)(uni|use|one|euro)", noun)
    return f"{'an' if noun[0].lower() in 'aeiou' and not sounds_like_consonant else 'a'} {noun}"


def noun_phrase(concept: Concept) -> str:
    """Return the concept as a noun phrase: "a dog face", "the flag of Peru", "a clock showing half past two"."""
    if time := time_of(concept):
        return f"a clock showing {time}"
    if country := country_of(concept):
        return f"the flag of {'the ' if _COUNTRY_WITH_THE.search(country) else ''}{country}"
    head, colon, detail = concept.label.partition(": ")
    if head == "keycap":
        return f"a key with {detail} on it"
    if colon:
        return f"{with_article(head)} {'' if detail.startswith('facing') else 'with '}{detail}"
    return with_article(concept.label)


def captions_of(concept: Concept, *, still: bool, style: str) -> tuple[str, ...]:
    """Return the label (the query of retrieval), then sentences of label, tags and subgroup, without duplicates."""
    key = f"{style}-{concept.code}"
    phrase = noun_phrase(concept)
    leads = _STILL_LEADS if still else _MOVING_LEADS
    category = with_article(SUBGROUP_NOUNS.get(concept.subgroup, concept.subgroup.replace("-", " ")))
    tags = [tag for tag in concept.tags if not (concept.group == "flags" and len(tag) <= 5) and tag != concept.label]
    sentences = [concept.label, f"{pick(leads, key, 'lead')} {phrase}", phrase, f"{phrase}, {category}"]
    sentences += [name for name in concept.names if len(name) > 2 and not name.startswith("flag ")][:2]
    if tags:
        sentences.append(", ".join(tags[:6]))
        sentences.append(f"{pick(leads, key, 'tag')} {phrase}: {', '.join(shuffled(tags, key)[:3])}")
        sentences.append(" ".join(shuffled(tags, key + "more")[:2]))
    if country_of(concept):
        sentences.append(
            f"a waving flag, {country_of(concept)}" if not still else f"{country_of(concept)}, national flag"
        )
    return tuple(dict.fromkeys(sentences))


def pick(choices: Sequence[str], key: str, purpose: str) -> str:
    """Return one of the choices, decided by a hash of key and purpose."""
    return choices[number_of(key, purpose) % len(choices)]


def shuffled(items: Sequence[str], key: str) -> list[str]:
    """Return the items in an order decided by a hash of the key."""
    return sorted(items, key=lambda item: number_of(key, item))


def number_of(key: str, purpose: str) -> int:
    """Return a 32-bit hash of key and purpose."""
    return int.from_bytes(hashlib.sha1(f"{key} {purpose}".encode(), usedforsecurity=False).digest()[:4], "big")


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
    """Return the questions of the concepts of a split by code; yesno questions use names of the same split."""
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
    """Return the direction of an arrow, finger or person, such as "up-left", or None."""
    for pattern in (_ARROW, _POINTING, _FACING):
        if match := pattern.match(concept.label):
            return next(part for part in match.groups() if part)
    return None


def colour_of(concept: Concept) -> str | None:
    """Return the color in the label of a heart, shape or book, or None."""
    match = _COLOURED.match(concept.label)
    return match[1] if match else None


def _facts(concept: Concept) -> dict[str, str]:
    """Return the answers by kind of question, for the kinds that apply."""
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
    """Assign to each code a value of another code, each value as often as it occurs.

    The codes are sorted by value (values and their owners in an order that hashes decide) and the row is
    turned by the size of the largest class, so that no code gets its own value. A class of more than half of
    all codes cannot give all of its values away; codes that would get their own value get none.
    """
    if not values:
        return {}
    turn = max(Counter(values.values()).values())
    order = sorted(values, key=lambda c: (number_of(values[c], "order"), values[c], number_of(c, "order")))
    shifted = {code: values[order[(place + turn) % len(order)]] for place, code in enumerate(order)}
    return {code: value for code, value in shifted.items() if value != values[code]}
