"""Sentences for the objective `entailment`, made from photographs that several people described.

- entailed: the captions of the photograph.
- contradicted: its captions with one word replaced by another of the same kind that no caption has or implies: "a dog
  runs" for a photograph of a running cat.
- neutral: captions of other photographs that share no word with any of its captions.

The captions do not mention everything that a photograph shows, so a few labels are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from random import Random

from training.data.caption_questions import (
    ACTIVITIES,
    ANIMALS,
    COLOURS,
    IMPLIED_BY,
    NUMBERS,
    PEOPLE,
    PLACES,
    PLURALS,
    caption_words,
    plural_of,
)
from training.data.example import Example, Hypothesis

MIN_CAPTIONS = 5
"""Minimum number of captions; fewer leave out too much of what a photograph shows."""
NEUTRAL = 5
"""Maximum number of neutral sentences of a photograph."""
_DRAWS = 200
"""Number of captions of other photographs that are tried as neutral sentences."""
_SINGULAR = {plural_of(noun): noun for noun in (*PEOPLE, *ANIMALS)}
_KINDS = (COLOURS, tuple(NUMBERS), ANIMALS, PEOPLE, tuple(_SINGULAR), PLACES, ACTIVITIES)
_SAME = {"grey": "gray", "bike": "bicycle", "puppy": "dog", "kitten": "cat"}
_PERSON = frozenset(
    [*PEOPLE, *PLURALS, *PLURALS.values(), *(f"{noun}s" for noun in PEOPLE), *IMPLIED_BY["boy"], *IMPLIED_BY["man"]]
) | {"kids", "toddlers", "players", "riders", "guys", "ladies", "group", "crowd", "friends", "couple", "his", "her"}
_FUNCTION_WORDS = frozenset(
    caption_words(
        "a about across along an and another are around as at away be behind being beside by down during each for from "
        "has have he her hers him his in inside into is it its near next of off on one onto other out outside over she "
        "some something that the their them there these they this through to together toward towards two under up very "
        "via where which while who with"
    )
)


def is_photograph(example: Example) -> bool:
    """Return whether an example is a picture with at least `MIN_CAPTIONS` captions."""
    return example.still and len(example.captions) >= MIN_CAPTIONS


def caption_hypotheses(example: Example, others: Sequence[Example]) -> tuple[Hypothesis, ...]:
    """Return the sentences of a photograph; the result is deterministic.

    others: Photographs whose captions may become neutral sentences.
    """
    rng = Random(example.key)
    entailed = [Hypothesis(caption, "entailed") for caption in example.captions]
    contradicted = [Hypothesis(caption, "contradicted") for caption in _contradicted(example.captions, others, rng)]
    neutral = [Hypothesis(caption, "neutral") for caption in _neutral(example, others, rng)]
    return (*entailed, *contradicted, *neutral)


def _contradicted(captions: Sequence[str], others: Sequence[Example], rng: Random) -> Iterator[str]:
    """Yield captions with one word replaced, at most one sentence per caption.

    New words are taken from captions of other photographs, so that false sentences do not contain rarer words.
    """
    named = {word for caption in captions for word in caption_words(caption)}
    for caption in captions:
        words = [
            (word, kind) for word in re.finditer(r"[A-Za-z]+", caption) for kind in _KINDS if word[0].lower() in kind
        ]
        if not words:
            continue
        word, kind = rng.choice(words)
        for _ in range(_DRAWS):
            of_kind = [other for other in caption_words(rng.choice(rng.choice(others).captions)) if other in kind]
            if fitting := [other for other in of_kind if _is_absent(other, named) and _begins_alike(other, word[0])]:
                yield caption[: word.start()] + fitting[0] + caption[word.end() :]
                break


def _is_absent(word: str, named: set[str]) -> bool:
    """Return whether neither a word nor any word that implies it is among `named`, the words of all captions."""
    singular = _SINGULAR.get(word, word)
    forms = {singular, plural_of(singular), *(old for old, new in _SAME.items() if new == singular)}
    return named.isdisjoint(forms | {_SAME.get(word, word)}) and named.isdisjoint(IMPLIED_BY.get(singular, ()))


def _begins_alike(word: str, other: str) -> bool:
    """Return whether both words take the same article."""
    return (word[0] in "aeiou") == (other[0].lower() in "aeiou")


def _neutral(example: Example, others: Sequence[Example], rng: Random) -> list[str]:
    own = frozenset[str]().union(*(_content(caption) for caption in example.captions))
    neutral: dict[str, None] = {}
    for _ in range(_DRAWS):
        caption = rng.choice(rng.choice(others).captions)
        if own.isdisjoint(_content(caption)):
            neutral[caption] = None
        if len(neutral) == NEUTRAL:
            break
    return list(neutral)


@cache
def _content(caption: str) -> frozenset[str]:
    """Return the stems of a caption's content words, and "person" if it names people of any kind."""
    words = caption_words(caption)
    stems = {re.sub(r"(ing|ed|es|s)$", "", _SAME.get(word, word)) for word in words if word not in _FUNCTION_WORDS}
    return frozenset(stems | ({"person"} if not _PERSON.isdisjoint(words) else set()))
