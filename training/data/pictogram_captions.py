"""Sentences about pictograms, made from their labels, tags and place among Unicode's subgroups."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from training.data.pictogram_concepts import Concept
from training.data.pictogram_words import SUBGROUP_NOUNS

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
    """The time a clock face shows, such as "half past two", or None for anything but a clock face."""
    if hour := _HOUR.match(concept.label):
        return f"{hour[1]} o'clock"
    if half := _HALF_HOUR.match(concept.label):
        return f"half past {half[1]}"
    return None


def country_of(concept: Concept) -> str | None:
    """The country or region of a flag, None for anything else."""
    if concept.subgroup in ("country-flag", "subdivision-flag"):
        return concept.label.removeprefix("flag: ")
    return None


def with_article(noun: str) -> str:
    """The noun with a or an, or as it is for plurals and for names of stuff."""
    last = noun.split(" with ")[0].split()[-1].lower()
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if plural or noun in _MASS_NOUNS or _WITHOUT_ARTICLE.search(noun) or noun.startswith(("a ", "an ", "the ")):
        return noun
    sounds_like_consonant = re.match(r"(?i)(uni|use|one|euro)", noun)
    return f"{'an' if noun[0].lower() in 'aeiou' and not sounds_like_consonant else 'a'} {noun}"


def noun_phrase(concept: Concept) -> str:
    """The concept inside a sentence: "a dog face", "the flag of Peru", "a clock showing half past two"."""
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
    """The label (the query to find it by), then sentences made from label, tags and subgroup; none twice."""
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
    """One of the choices, the same for the same key and purpose on every machine."""
    return choices[number_of(key, purpose) % len(choices)]


def shuffled(items: Sequence[str], key: str) -> list[str]:
    """The items in an order that the key alone decides."""
    return sorted(items, key=lambda item: number_of(key, item))


def number_of(key: str, purpose: str) -> int:
    """A 32-bit number that key and purpose alone decide."""
    return int.from_bytes(hashlib.sha1(f"{key} {purpose}".encode(), usedforsecurity=False).digest()[:4], "big")
