"""One example: a video (or a picture, which is a video that stands still) and all that is said of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CHOICE_ONLY = "choice_only"
"""Attribute: the index of a caption that is there for a choice among sentences alone, and no query of retrieval."""


class ExampleError(ValueError):
    """A stored example that is not as the format states; names the field, its value and what was expected."""


@dataclass(frozen=True)
class Question:
    """A question, the whole set of right answers (all of them are needed for an exact match) and its type."""

    question: str
    answers: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Negative:
    """A wrong caption made from the right one `captions[of]`.

    `grade`: how wrong it is, 1 being minimally wrong; `kind`: what is wrong about it.
    """

    caption: str
    of: int
    grade: int
    kind: str


@dataclass(frozen=True)
class Utterance:
    """What a weak transcript says between two times (s); it may be partial, shifted or off the topic."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Example:
    """What is known about one video. `captions[0]` is the query it should be found by."""

    key: str
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    negatives: tuple[Negative, ...] = ()
    transcript: tuple[Utterance, ...] = ()
    still: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON, keys in the order of the fields."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def spoken(self) -> str:
        """The whole transcript as one text."""
        return " ".join(utterance.text for utterance in self.transcript)

    @classmethod
    def from_json(cls, line: str) -> Example:
        """The example of one line that `to_json` wrote. Raises ExampleError naming the field."""
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ExampleError(f"not JSON ({error}); one JSON object per line was expected") from None
        return example_of(record)


def example_of(record: object) -> Example:
    """An Example from decoded JSON. An unknown key is an error: it would get lost. Raises ExampleError."""
    if not isinstance(record, Mapping):
        raise ExampleError(f"{_short(record)}; a JSON object was expected")
    known = set(Example.__dataclass_fields__)
    if unknown := sorted(set(record) - known):
        raise ExampleError(f"unknown fields {unknown}; expected some of {sorted(known)}")
    key = required_text(record, "key")
    return Example(
        key=key,
        captions=text_list(record, "captions"),
        questions=tuple(_question(q, f"questions[{i}]") for i, q in enumerate(_list(record, "questions"))),
        negatives=tuple(_negative(n, f"negatives[{i}]") for i, n in enumerate(_list(record, "negatives"))),
        transcript=tuple(_utterance(u, f"transcript[{i}]") for i, u in enumerate(_list(record, "transcript"))),
        still=_typed(record, "still", bool, False),
        attributes=dict(_typed(record, "attributes", Mapping, {})),
    )


def required_text(record: Mapping[str, Any], name: str, where: str = "") -> str:
    """The non-empty string at `name`. Raises ExampleError."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ExampleError(f"{where}{name}: {_short(value)}; a non-empty string was expected")
    return value


def text_list(record: Mapping[str, Any], name: str, where: str = "") -> tuple[str, ...]:
    """The list of non-empty strings at `name` (absent: empty). Raises ExampleError."""
    values = _list(record, name, where)
    for i, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise ExampleError(f"{where}{name}[{i}]: {_short(value)}; a non-empty string was expected")
    return tuple(values)


def _question(record: object, where: str) -> Question:
    fields = _object(record, where)
    answers = text_list(fields, "answers", f"{where}.")
    if not answers:
        raise ExampleError(f"{where}.answers: empty; at least one answer was expected")
    return Question(required_text(fields, "question", f"{where}."), answers, str(fields.get("kind", "")))


def _negative(record: object, where: str) -> Negative:
    fields = _object(record, where)
    of, grade = (_whole_number(fields, name, where) for name in ("of", "grade"))
    return Negative(required_text(fields, "caption", f"{where}."), of, grade, str(fields.get("kind", "")))


def _utterance(record: object, where: str) -> Utterance:
    fields = _object(record, where)
    start, end = (_number(fields, name, where) for name in ("start", "end"))
    if not 0 <= start <= end:
        raise ExampleError(f"{where}: from {start} to {end} s; 0 <= start <= end was expected")
    return Utterance(start, end, required_text(fields, "text", f"{where}."))


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ExampleError(f"{where}.{name}: {_short(value)}; a finite number was expected")
    return float(value)


def _whole_number(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ExampleError(f"{where}.{name}: {_short(value)}; a whole number was expected")
    return value


def _object(record: object, where: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ExampleError(f"{where}: {_short(record)}; a JSON object was expected")
    return record


def _list(record: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    value = record.get(name, [])
    if not isinstance(value, list):
        raise ExampleError(f"{where}{name}: {_short(value)}; a list was expected")
    return value


def _typed(record: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = record.get(name, default)
    if not isinstance(value, kind):
        raise ExampleError(f"{name}: {_short(value)}; {kind.__name__} was expected")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def canonical_answer(question: Question) -> str:
    """Return the set of answers as one string ("lamp, table"), which exact match compares."""
    return ", ".join(sorted(answer.strip().lower() for answer in question.answers))


def build_vocabulary(examples: Iterable[Example]) -> list[str]:
    """Return all canonical answers, most frequent first, ties in alphabetical order."""
    counts = Counter(canonical_answer(q) for example in examples for q in example.questions)
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
