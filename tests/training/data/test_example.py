from __future__ import annotations

import json

import pytest

from training.data.example import Example, ExampleError, Negative, Question, Utterance, example_of

FULL = Example(
    key="000017",
    captions=("a red square moves left", "ein rotes Quadrat \N{BLACK LARGE SQUARE}"),
    questions=(Question("what is on the table?", ("lamp", "book"), "object"),),
    negatives=(Negative("a blue square moves left", 0, 1, "colour"),),
    transcript=(Utterance(0.5, 1.25, "and now it moves"), Utterance(1.5, 2.0, "to the left")),
    still=True,
    attributes={"held_out": False, "scene": {"things": [1, 2]}},
)


def test_an_example_survives_the_way_through_a_line_of_json() -> None:
    line = FULL.to_json()
    assert "\n" not in line
    assert Example.from_json(line) == FULL


def test_absent_parts_are_empty() -> None:
    assert Example.from_json('{"key": "a"}') == Example("a")


def test_the_transcript_can_be_read_as_one_text() -> None:
    assert FULL.spoken == "and now it moves to the left"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "  "}, "key: '  '; a non-empty string"),
        ({"captions": "one"}, "captions: 'one'; a list"),
        ({"captions": ["fine", ""]}, r"captions\[1\]: ''; a non-empty string"),
        ({"questions": [{"question": "what?", "answers": []}]}, r"questions\[0\].answers: empty"),
        ({"questions": [{"answers": ["a"]}]}, r"questions\[0\].question: None"),
        (
            {"negatives": [{"caption": "no", "of": 0, "grade": "1"}]},
            r"negatives\[0\].grade: '1'; a whole number",
        ),
        ({"transcript": [{"start": 2.0, "end": 1.0, "text": "x"}]}, r"transcript\[0\]: from 2.0 to 1.0 s"),
        ({"transcript": [{"start": 0, "end": float("nan"), "text": "x"}]}, r"transcript\[0\].end: nan"),
        ({"still": "yes"}, "still: 'yes'; bool"),
        ({"caption": ["typing mistake"]}, r"unknown fields \['caption'\]"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ExampleError, match=message):
        example_of({"key": "a", **change})


def test_a_line_that_is_not_an_object_is_refused() -> None:
    with pytest.raises(ExampleError, match="not JSON"):
        Example.from_json('{"key": "a"')
    with pytest.raises(ExampleError, match="a JSON object was expected"):
        Example.from_json(json.dumps(["a"]))
