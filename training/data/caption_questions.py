"""Questions about photographs, made from the captions that several people wrote about each.

Questions are only about facts on which captions agree: an object is present if two captions name it, and absent if no
caption names or implies it. Answers are single common words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from training.data.example import Question
from training.data.scenes.description import with_article


def caption_words(caption: str) -> list[str]:
    """Return the words of a caption in lower case."""
    return re.findall(r"[a-z]+", caption.lower())


ANIMALS = caption_words(
    "dog cat horse bird cow sheep goat elephant bear zebra giraffe duck monkey rabbit fish camel deer lion tiger swan "
    "seagull turtle"
)
PEOPLE = caption_words("man woman boy girl child baby")
PLACES = caption_words(
    "beach water snow grass street park field pool lake ocean mountain forest gym stage road sand river yard desert"
)
UNCOUNTABLE = {"water", "snow", "grass", "sand"}
COLOURS = caption_words("red blue green yellow black white brown pink orange purple gray grey tan")
COLOURED = caption_words(
    "shirt dress jacket coat hat dog bike bicycle car truck ball shorts pants swimsuit suit horse uniform boat helmet "
    "sweater kayak canoe motorcycle flag umbrella slide bus scarf vest hair sand"
)
ACTIVITIES = caption_words(
    "running jumping swimming riding walking sitting standing playing climbing sleeping skateboarding surfing skiing "
    "dancing singing eating drinking reading smiling laughing skating kayaking fishing cycling kicking throwing "
    "catching"
)
NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
PLURALS = {"man": "men", "woman": "women", "child": "children", "baby": "babies", "person": "people"}
IMPLIED_BY = {
    "water": {"lake", "ocean", "pool", "river", "swimming", "beach", "sea", "wave"},
    **{noun: set(caption_words("child kid boy girl baby toddler person")) for noun in ("boy", "girl", "child", "baby")},
    **{noun: set(caption_words("person people adult player rider guy lady someone")) for noun in ("man", "woman")},
    "sand": {"beach", "desert", "dirt"},
    "grass": {"field", "lawn", "park", "yard"},
    "ocean": {"sea", "water", "wave", "beach"},
    "bird": {"duck", "swan", "seagull", "pigeon", "goose", "eagle"},
}
"""By noun, words that make it uncertain that the object is absent although no caption names it."""
MAX_ABSENT = 5


def caption_questions(key: str, captions: Sequence[str]) -> tuple[Question, ...]:
    """Return the questions that the captions of a photograph answer. key: Seeds the choice of absent objects."""
    sentences = [caption_words(caption) for caption in captions]
    questions = [*_presence(sentences, random.Random(key)), *_animal(sentences), *_colours(sentences)]
    questions += [*_counts(sentences), *_activity(sentences), *_place(sentences)]
    return tuple(dict.fromkeys(questions))


def plural_of(noun: str) -> str:
    """Return the plural of a noun of this module's lists."""
    return PLURALS.get(noun, f"{noun}s")


def _sentences_with(sentences: list[list[str]], noun: str) -> int:
    forms = {noun, plural_of(noun)}
    return sum(not forms.isdisjoint(words) for words in sentences)


def _presence(sentences: list[list[str]], rng: random.Random) -> Iterator[Question]:
    all_words = {word for words in sentences for word in words}
    absent = []
    for noun in (*PEOPLE, *ANIMALS, *PLACES):
        count = _sentences_with(sentences, noun)
        if count >= 2:
            yield Question(_is_there(noun), ("yes",), "yesno")
        elif not count and all_words.isdisjoint(IMPLIED_BY.get(noun, ())):
            absent.append(noun)
    for noun in rng.sample(absent, min(MAX_ABSENT, len(absent))):
        yield Question(_is_there(noun), ("no",), "yesno")


def _is_there(noun: str) -> str:
    return f"is there {noun if noun in UNCOUNTABLE else with_article(noun)}?"


def _animal(sentences: list[list[str]]) -> Iterator[Question]:
    animals = [noun for noun in ANIMALS if _sentences_with(sentences, noun)]
    if len(animals) == 1 and _sentences_with(sentences, animals[0]) >= 2:
        for text in ("what animal is it?", "what animal is this?", "which animal is in the picture?"):
            yield Question(text, (animals[0],), "what")


def _colours(sentences: list[list[str]]) -> Iterator[Question]:
    seen: dict[str, set[str]] = {}
    for words in sentences:
        for colour, noun in pairwise(words):
            if colour in COLOURS and noun in COLOURED:
                seen.setdefault(noun, set()).add("gray" if colour == "grey" else colour)
    for noun, colours in seen.items():
        if len(colours) == 1:
            for spelling in ("color", "colour"):
                yield Question(f"what {spelling} is the {noun}?", tuple(colours), "colour")


def _counts(sentences: list[list[str]]) -> Iterator[Question]:
    for noun in ("dog", "person", *PEOPLE):
        plural = plural_of(noun)
        pairs = [pair for words in sentences for pair in pairwise(words)]
        numbers = {NUMBERS[number] for number, thing in pairs if number in NUMBERS and thing == plural}
        if len(numbers) == 1:
            yield Question(f"how many {plural} are there?", tuple(numbers), "count")


def _activity(sentences: list[list[str]]) -> Iterator[Question]:
    activities = [word for word in ACTIVITIES if sum(word in words for words in sentences) >= 2]
    if len(activities) == 1:
        yield Question("what is happening?", (activities[0],), "what")
        for noun in ("dog", *PEOPLE):
            if _sentences_with(sentences, noun) >= 2:
                yield Question(f"what is the {noun} doing?", (activities[0],), "what")


def _place(sentences: list[list[str]]) -> Iterator[Question]:
    places = [noun for noun in PLACES if _sentences_with(sentences, noun) >= 3]
    if len(places) == 1:
        for text in ("where is this?", "where was this taken?"):
            yield Question(text, (places[0],), "where")
