"""Captions, negative captions, questions and transcripts of scenes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from training.data.scenes.captions import captions_of
from training.data.scenes.description import (
    DIGIT_WORDS,
    SYNONYMS,
    Clause,
    Description,
    Mention,
    describe,
    holds,
    phrase,
)
from training.data.scenes.generate import make_example
from training.data.scenes.parsing import parse
from training.data.scenes.sampling import sample_world
from training.data.scenes.world import HELD_OUT_COLOUR_SHAPE, Background, Event, Thing, World

Example = tuple[World, dict[str, Any]]
BACKGROUND = Background("flat", (122, 132, 140), (130, 140, 148), 20, 0)


def ordered_world() -> World:
    """A large red star with a 7 moves left, then a small striped blue ring grows; a green heart is still."""
    moves = Event("moves", 0.1, 1.3, -60.0, "left", "slow")
    grows = Event("grows", 1.7, 2.9, 1.9)
    things = (
        Thing("star", "red", "large", "plain", 7, 60, 200, 90, (moves,)),
        Thing("ring", "blue", "small", "striped", None, 34, 60, 60, (grows,)),
        Thing("heart", "green", "small", "plain", None, 34, 260, 140, ()),
    )
    return World("trio", things, BACKGROUND, (0, 1, 2), 0, 0)


@pytest.fixture(scope="module")
def train() -> list[Example]:
    return [make_example(0, "train", index) for index in range(250)]


@pytest.fixture(scope="module")
def test_split() -> list[Example]:
    return [make_example(0, "test", index) for index in range(250)]


def test_a_description_is_true_or_false_by_the_scene_not_by_its_words() -> None:
    world = ordered_world()
    described = describe(world)
    assert holds(described, world)
    star, ring = Mention("red", "star"), Mention("blue", "ring")
    first, second = Clause(0, "moves", "left"), Clause(1, "grows")
    assert holds(Description((star, ring), (first, second), "then"), world)
    assert not holds(Description((star, ring), (second, first), "then"), world)
    assert not holds(Description((star, ring), (first, second), "together"), world)
    assert not holds(Description((star,), (Clause(0, "moves", "right"),)), world)
    assert not holds(Description((star,), (Clause(0, "moves", "left", "fast"),)), world)
    assert not holds(Description((star,), (Clause(0, "stays"),)), world)
    assert holds(Description((Mention(shape="heart"),), (Clause(0, "stays"),)), world)
    assert not holds(Description((star, replace(star, digit=7)), ()), world)  # two red stars are claimed
    assert not holds(replace(described, count=2), world)


def test_events_at_the_same_time_are_not_one_after_the_other() -> None:
    world = ordered_world()
    star, ring, heart = world.things
    at_once = replace(star, events=(replace(star.events[0], start=1.7, end=2.9),))
    both = replace(world, things=(at_once, ring, heart))
    mentions = (Mention("red", "star"), Mention("blue", "ring"))
    clauses = (Clause(0, "moves", "left"), Clause(1, "grows"))
    assert holds(Description(mentions, clauses, "together"), both)
    assert not holds(Description(mentions, clauses, "then"), both)
    assert not holds(Description(mentions, clauses[::-1], "then"), both)


def test_collisions_and_passes_are_judged_by_partner_side_and_depth() -> None:
    event = Event("passes", 0.1, 2.9, 180.0, "right", None, 1, "behind")
    things = (
        Thing("star", "red", "large", "plain", None, 60, 70, 90, (event,)),
        Thing("ring", "blue", "large", "plain", None, 60, 160, 90, ()),
    )
    world = World("occlusion", things, BACKGROUND, (0, 1), 0, 0)
    mentions = (Mention("red", "star"), Mention("blue", "ring"))
    right = Clause(0, "passes", "right", None, 1, "behind")
    assert holds(Description(mentions, (right,)), world)
    assert not holds(Description(mentions, (replace(right, depth="in front of"),)), world)
    assert not holds(Description(mentions, (replace(right, direction="left"),)), world)
    assert not holds(Description(mentions, (replace(right, subject=1, target=0),)), world)


def test_a_changed_description_differs_from_the_right_one_only_where_it_is_wrong() -> None:
    described = replace(describe(ordered_world()), count=None)
    wrong = replace(described, mentions=(replace(described.mentions[0], colour="white"), *described.mentions[1:]))
    for style in range(60):
        right_words, wrong_words = phrase(described, style).lower().split(), phrase(wrong, style).lower().split()
        differing = [(a, b) for a, b in zip(right_words, wrong_words, strict=True) if a != b]
        assert differing == [("red", "white")]


def test_exchanged_order_exchanges_nothing_else() -> None:
    described = replace(describe(ordered_world()), count=None)
    first, second, *rest = described.clauses
    reversed_order = replace(described, clauses=(second, first, *rest))
    for style in range(60):
        single, other = phrase(described, style), phrase(reversed_order, style)
        assert single != other
        words = [Counter(re.findall(r"[a-z]+", text.lower())) for text in (single, other)]
        assert words[0] == words[1]


def test_every_caption_is_true(test_split: list[Example]) -> None:
    for index, (world, _) in enumerate(test_split):
        for caption in captions_of(world, Random(index)):
            assert holds(caption.description, world), caption.text


def _says(text: str, word: str) -> bool:
    ways = {*SYNONYMS.get(word, (word,)), {"striped": "stripes", "dotted": "dots"}.get(word, word)}
    return any(re.search(rf"\b{way}\b", text.lower()) for way in ways)


def test_the_first_two_captions_contain_all_facts(train: list[Example]) -> None:
    for world, record in train:
        for caption in record["captions"][:2]:
            for thing in world.things:
                required = [thing.colour, thing.shape, thing.size]
                required += [] if thing.pattern == "plain" else [thing.pattern]
                assert all(_says(caption, word) for word in required), (caption, thing)
                if thing.digit is not None:
                    assert _says(caption, str(thing.digit)) or _says(caption, DIGIT_WORDS[thing.digit])


def test_captions_are_varied(train: list[Example]) -> None:
    for _, record in train:
        assert len(set(record["captions"])) == len(record["captions"]) >= 4
    firsts = [record["captions"][0].lower() for _, record in train]
    assert len(set(firsts)) == len(firsts)


def test_every_clip_has_four_kinds_of_minimally_wrong_captions(train: list[Example]) -> None:
    seen: Counter[str] = Counter()
    for _, record in train:
        minimal = [n["kind"] for n in record["negatives"] if n["grade"] == 1]
        assert len(set(minimal)) >= 4
        seen.update(minimal)
        assert {n["grade"] for n in record["negatives"]} == {1, 2, 3}
        assert all(n["caption"] not in record["captions"] for n in record["negatives"])
        assert all(0 <= n["of"] < len(record["captions"]) for n in record["negatives"])
    expected = {
        "colour",
        "shape",
        "size",
        "pattern",
        "digit",
        "direction",
        "motion",
        "order",
        "swap",
        "count",
    }
    assert set(seen) == expected


def test_a_negative_with_another_colour_is_wrong_about_the_clip(train: list[Example]) -> None:
    """The coloured shapes that the caption names differ from those of the clip."""
    wrong = [(w, n) for w, r in train for n in r["negatives"] if (n["grade"], n["kind"]) == (1, "colour")]
    assert wrong
    for world, negative in wrong:
        pairs = {(t.colour, t.shape) for t in world.things}
        named = [
            (colour, shape)
            for colour in ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
            for shape in ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
            for way in SYNONYMS.get(colour, (colour,))
            for noun in SYNONYMS.get(shape, (shape,))
            if re.search(rf"\b{way} {noun}\b", negative["caption"].lower())
        ]
        assert set(named) != pairs, negative


def test_training_text_never_names_a_held_out_object(train: list[Example]) -> None:
    for _, record in train:
        texts = [n["caption"] for n in record["negatives"]] + [q["question"] for q in record["questions"]]
        for text in texts:
            assert not any(re.search(rf"\b{colour} {shape}\b", text.lower()) for colour, shape in HELD_OUT_COLOUR_SHAPE)


def test_there_are_six_to_ten_different_questions(train: list[Example]) -> None:
    kinds = set()
    for _, record in train:
        requested = [q["question"] for q in record["questions"]]
        assert 6 <= len(requested) <= 10
        assert len(set(requested)) == len(requested)
        assert all(len(q["answers"]) == 1 and " " not in q["answers"][0] for q in record["questions"])
        kinds |= {q["kind"] for q in record["questions"]}
    expected = {
        "what",
        "colour",
        "count",
        "yesno",
        "direction",
        "order",
        "digit",
        "size",
        "pattern",
        "motion",
    }
    assert kinds == expected


def test_answers_are_balanced(train: list[Example]) -> None:
    answers: dict[str, Counter[str]] = {}
    for _, record in train:
        for question in record["questions"]:
            answers.setdefault(question["kind"], Counter())[question["answers"][0]] += 1
    for kind, most in (("yesno", 0.58), ("size", 0.62), ("pattern", 0.45), ("colour", 0.25), ("what", 0.25)):
        assert max(answers[kind].values()) / answers[kind].total() < most, kind
    assert len(answers["digit"]) == 10


def _thing_named(world: World, question: str) -> Thing | None:
    """The one object that a question names, found by the words of the question."""
    words = set(re.findall(r"[a-z]+", question))
    shapes = {t.shape for t in world.things} & words
    colours = {t.colour for t in world.things} & words
    actual = [t for t in world.things if (not shapes or t.shape in shapes) and (not colours or t.colour in colours)]
    return actual[0] if len(actual) == 1 else None


@pytest.mark.parametrize(
    ("kind", "opening", "attribute"),
    [
        ("what", "what shape is", "shape"),
        ("colour", "what color is the ", "colour"),
        ("size", "", "size"),
        ("pattern", "", "pattern"),
        ("digit", "what number", "digit"),
    ],
)
def test_answers_are_right(test_split: list[Example], kind: str, opening: str, attribute: str) -> None:
    checked = 0
    for world, record in test_split:
        for question in record["questions"]:
            if (
                question["kind"] == kind
                and question["question"].startswith(opening)
                and " that " not in question["question"]
            ):
                thing = _thing_named(world, question["question"])
                assert thing is not None, question
                assert question["answers"] == [str(getattr(thing, attribute))]
                checked += 1
    assert checked > 20


def test_order_questions_name_the_first(train: list[Example]) -> None:
    actual = set()
    for world, record in train:
        if world.kind != "ordered":
            continue
        first, second = sorted(world.things, key=lambda t: t.events[0].start)
        for question in record["questions"]:
            if question["kind"] != "order":
                continue
            text, answer = question["question"], question["answers"][0]
            if text.startswith("which"):
                assert answer == (first.colour if "color" in text else first.shape)
            else:
                early, late = text.split(" before ")
                named = (_thing_named(world, early), _thing_named(world, late))
                assert (answer == "yes") == (named == (first, second))
            actual.add(text.split()[0])
    assert actual == {"which", "does"}


def test_transcripts_lie_within_the_clip_and_are_sometimes_off_topic(train: list[Example]) -> None:
    texts = []
    for _, record in train:
        segments = record["transcript"]
        assert segments
        assert [s["start"] for s in segments] == sorted(s["start"] for s in segments)
        assert all(0 <= s["start"] < s["end"] <= 3.0 for s in segments)
        texts += [s["text"] for s in segments]
    off_topic = sum("subscribe" in text or "pasta" in text or "microphone" in text for text in texts)
    assert 0 < off_topic < len(texts) / 4


def test_the_same_clip_has_the_same_texts_every_time() -> None:
    assert make_example(3, "val", 5) == make_example(3, "val", 5)
    assert sample_world(3, "val", 5) == make_example(3, "val", 5)[0]


def test_sentences_are_parsed_to_what_they_were_made_of(test_split: list[Example]) -> None:
    for index, (world, _) in enumerate(test_split):
        for caption in captions_of(world, Random(index)):
            worded = caption.description
            targets = [clause.target for clause in worded.clauses]  # a sentence does not add that they stay still
            clauses = tuple(c for c in worded.clauses if c.motion != "stays" or c.subject not in targets)
            assert _content(parse(caption.text)) == _content(replace(worded, clauses=clauses)), caption.text


def _content(description: Description) -> tuple[Any, ...]:
    """Return the statements of a description, sorted."""
    mentions = description.mentions
    clauses = [
        replace(c, subject=mentions[c.subject], target=None if c.target is None else mentions[c.target])  # type: ignore[arg-type]
        for c in description.clauses
    ]
    return sorted(map(repr, mentions)), sorted(map(repr, clauses)), description.count
