from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from tests.training.data.corpus_files import concept
from training.data.pictogram_captions import noun_phrase
from training.data.pictogram_concepts import Concept
from training.data.pictogram_questions import colour_of, direction_of, questions_by_code

CONCEPTS = {
    c.code: c
    for c in (
        concept("dog face", "1f436", "animals-nature", "animal-mammal"),
        concept("cat face", "1f431", "animals-nature", "animal-mammal"),
        concept("octopus", "1f419", "animals-nature", "animal-marine"),
        concept("flag: Peru", "1f1f5-1f1ea", "flags", "country-flag"),
        concept("half past", "0001", "symbols", "arrow"),
        concept("up-left arrow", "2196", "symbols", "arrow"),
        concept("two-thirty", "1f55d", "travel-places", "time"),
        concept("red heart", "2764", "smileys-emotion", "heart"),
    )
}


def answers(code: str) -> dict[str, tuple[str, ...]]:
    return {q.kind: q.answers for q in questions_by_code(CONCEPTS)[code] if q.kind != "yesno"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1f436", {"what": ("dog face",), "category": ("mammal",), "group": ("animals and nature",)}),
        ("1f1f5-1f1ea", {"what": ("flag",), "country": ("peru",), "group": ("flags",)}),
        ("1f55d", {"what": ("clock",), "time": ("half past two",)}),
        ("2196", {"direction": ("up-left",), "category": ("arrow",)}),
        ("2764", {"what": ("red heart",), "colour": ("red",)}),
    ],
)
def test_answers_come_from_the_metadata(code: str, expected: dict[str, tuple[str, ...]]) -> None:
    found = answers(code)
    assert {kind: found[kind] for kind in expected} == expected


def test_questions_that_make_no_sense_are_not_asked() -> None:
    assert set(answers("1f436")) == {"what", "category", "group"}


def test_yes_and_no_are_balanced_for_every_name() -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for questions in questions_by_code(CONCEPTS).values():
        for question in questions:
            if question.kind == "yesno":
                name = question.question.removesuffix("?")
                for start in ("is this ", "is it ", "does this show "):
                    name = name.removeprefix(start)
                counts[name][question.answers[0]] += 1
    assert len(counts) == len(CONCEPTS) + len({c.group for c in CONCEPTS.values()})
    assert all(count["yes"] == count["no"] for count in counts.values()), counts


def test_no_is_never_the_answer_to_the_right_name() -> None:
    for code, questions in questions_by_code(CONCEPTS).items():
        wrong = [q.question for q in questions if q.kind == "yesno" and q.answers == ("no",)]
        assert len(wrong) == 2
        assert not any(noun_phrase(CONCEPTS[code]) + "?" in question for question in wrong)


def test_the_order_of_the_concepts_changes_nothing() -> None:
    backwards = dict(reversed(CONCEPTS.items()))
    assert questions_by_code(backwards) == questions_by_code(CONCEPTS)


def test_a_lone_concept_has_no_question_whose_words_tell_the_answer() -> None:
    (questions,) = questions_by_code({"1f436": CONCEPTS["1f436"]}).values()
    assert not [q for q in questions if q.kind == "yesno"]
    assert questions_by_code({}) == {}


@pytest.mark.parametrize(
    ("label", "direction"),
    [
        ("down arrow", "down"),
        ("left-right arrow", "left-right"),
        ("backhand index pointing left", "left"),
        ("woman running: facing right", "right"),
        ("leftwards pushing hand", "left"),
        ("thumbs down", "down"),
        ("right arrow curving up", None),
        ("left luggage", None),
    ],
)
def test_direction(label: str, direction: str | None) -> None:
    assert direction_of(concept(label)) == direction


@pytest.mark.parametrize(
    ("label", "colour"),
    [
        ("light blue heart", "light blue"),
        ("black medium-small square", "black"),
        ("hollow red circle", "red"),
        ("large orange diamond", "orange"),
        ("green salad", None),
        ("person: red hair", None),
    ],
)
def test_colour(label: str, colour: str | None) -> None:
    assert colour_of(_shape(label)) == colour


def _shape(label: str) -> Concept:
    return concept(label, group="symbols", subgroup="geometric")
