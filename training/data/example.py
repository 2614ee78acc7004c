"""Examples: a video or picture with its captions, questions, negatives and transcript."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from training.data.corpus import short_repr

CHOICE_ONLY = "choice_only"
"""Attribute with the index (or indices) of captions that are only for multiple choice, not queries of retrieval."""


Needs = Literal["sight", "sound", "both"]
"""What must be perceived to judge a text: the picture, the sound, or both."""


class ExampleError(ValueError):
    """An invalid stored example; names the field, its value and what was expected."""


@dataclass(frozen=True)
class Question:
    """A question, its set of right answers (an exact match needs all of them) and its kind."""

    question: str
    answers: tuple[str, ...]
    kind: str
    needs: Needs | None = None
    """None: unknown."""


@dataclass(frozen=True)
class Negative:
    """A negative caption that was made from the positive caption `captions[of]`.

    grade: Degree of the error; 1 is minimal. kind: Kind of the error.
    """

    caption: str
    of: int
    grade: int
    kind: str


@dataclass(frozen=True)
class Utterance:
    """A segment of a weak transcript, in seconds; it may be partial, shifted or off topic."""

    start: float
    end: float
    text: str


Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of the width and height of the picture."""


@dataclass(frozen=True)
class Region:
    """A phrase, and the box of the object that it names in the picture or middle frame; None: the object is absent."""

    phrase: str
    box: Box | None


EntailmentKind = Literal["video", "pair"]
"""Subject of a sentence: a video or picture (SNLI-VE), or a pair of pictures (NLVR2)."""
EntailmentLabel = Literal["entailed", "neutral", "contradicted", "true", "false"]
"""Class of a sentence: entailed, neutral or contradicted for a video; true or false for a pair of pictures."""


@dataclass(frozen=True)
class Hypothesis:
    """A sentence about a video or a pair of pictures, and its class."""

    text: str
    label: EntailmentLabel


@dataclass(frozen=True)
class Example:
    """A video or picture with its annotations. `captions[0]` is the retrieval query."""

    key: str
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    negatives: tuple[Negative, ...] = ()
    transcript: tuple[Utterance, ...] = ()
    still: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    caption_needs: tuple[Needs, ...] = ()
    """What must be perceived to judge each caption; empty if the corpus does not say."""
    regions: tuple[Region, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()

    def to_json(self) -> str:
        """Return a line of JSON, keys in the order of the fields. Empty needs, regions and hypotheses are omitted."""
        record = asdict(self)
        for name in ("caption_needs", "regions", "hypotheses"):
            if not record[name]:
                del record[name]
        for question in record["questions"]:
            if question["needs"] is None:
                del question["needs"]
        return json.dumps(record, ensure_ascii=False)

    @property
    def spoken(self) -> str:
        """The whole transcript as one text."""
        return " ".join(utterance.text for utterance in self.transcript)

    @classmethod
    def from_json(cls, line: str) -> Example:
        """Parse a line written by `to_json`. Raises ExampleError naming the field."""
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ExampleError(f"not JSON ({error}); one JSON object per line was expected") from None
        return example_of(record)


def example_of(record: object) -> Example:
    """Build an example from decoded JSON. Raises ExampleError, also for unknown keys, which would be lost."""
    if not isinstance(record, Mapping):
        raise ExampleError(f"{short_repr(record)}; a JSON object was expected")
    known = set(Example.__dataclass_fields__)
    if unknown := sorted(set(record) - known):
        raise ExampleError(f"unknown fields {unknown}; expected some of {sorted(known)}")
    key = required_text(record, "key")
    captions = text_list(record, "captions")
    caption_needs = tuple(_needs(n, f"caption_needs[{i}]") for i, n in enumerate(_list(record, "caption_needs")))
    if len(caption_needs) not in (0, len(captions)):
        raise ExampleError(
            f"caption_needs: {len(caption_needs)}; one for each of the {len(captions)} captions was expected"
        )
    return Example(
        key=key,
        captions=captions,
        questions=tuple(_question(q, f"questions[{i}]") for i, q in enumerate(_list(record, "questions"))),
        negatives=tuple(_negative(n, f"negatives[{i}]") for i, n in enumerate(_list(record, "negatives"))),
        transcript=tuple(_utterance(u, f"transcript[{i}]") for i, u in enumerate(_list(record, "transcript"))),
        still=_typed(record, "still", bool, False),
        attributes=dict(_typed(record, "attributes", Mapping, {})),
        caption_needs=caption_needs,
        regions=tuple(_region(r, f"regions[{i}]") for i, r in enumerate(_list(record, "regions"))),
        hypotheses=tuple(_hypothesis(h, f"hypotheses[{i}]") for i, h in enumerate(_list(record, "hypotheses"))),
    )


def required_text(record: Mapping[str, Any], name: str, where: str = "") -> str:
    """Return the non-empty string at `name`. Raises ExampleError."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ExampleError(f"{where}{name}: {short_repr(value)}; a non-empty string was expected")
    return value


def text_list(record: Mapping[str, Any], name: str, where: str = "") -> tuple[str, ...]:
    """Return the list of non-empty strings at `name` (absent: empty). Raises ExampleError."""
    values = _list(record, name, where)
    for i, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise ExampleError(f"{where}{name}[{i}]: {short_repr(value)}; a non-empty string was expected")
    return tuple(values)


def _question(record: object, where: str) -> Question:
    fields = _object(record, where)
    answers = text_list(fields, "answers", f"{where}.")
    if not answers:
        raise ExampleError(f"{where}.answers: empty; at least one answer was expected")
    needs = _needs(fields["needs"], f"{where}.needs") if "needs" in fields else None
    return Question(required_text(fields, "question", f"{where}."), answers, str(fields.get("kind", "")), needs)


def _needs(value: object, where: str) -> Needs:
    if value not in get_args(Needs):
        raise ExampleError(f"{where}: {short_repr(value)}; one of {get_args(Needs)} was expected")
    return cast(Needs, value)


def _negative(record: object, where: str) -> Negative:
    fields = _object(record, where)
    of, grade = (_whole_number(fields, name, where) for name in ("of", "grade"))
    return Negative(required_text(fields, "caption", f"{where}."), of, grade, str(fields.get("kind", "")))


def _region(record: object, where: str) -> Region:
    fields = _object(record, where)
    phrase, box = required_text(fields, "phrase", f"{where}."), fields.get("box")
    return Region(phrase, None if box is None else box_of(box, f"{where}.box"))


def box_of(value: object, where: str) -> Box:
    """Return the box of four numbers. Raises ExampleError."""
    edges = value if isinstance(value, list | tuple) else ()
    if len(edges) != 4 or not all(isinstance(edge, int | float) and 0 <= edge <= 1 for edge in edges):
        raise ExampleError(f"{where}: {short_repr(value)}; left, top, right and bottom from 0 to 1 were expected")
    left, top, right, bottom = (float(edge) for edge in edges)
    if left >= right or top >= bottom:
        raise ExampleError(f"{where}: {short_repr(value)}; left before right and top before bottom were expected")
    return left, top, right, bottom


def _hypothesis(record: object, where: str) -> Hypothesis:
    fields = _object(record, where)
    label = fields.get("label")
    if label not in get_args(EntailmentLabel):
        raise ExampleError(f"{where}.label: {short_repr(label)}; one of {get_args(EntailmentLabel)} was expected")
    return Hypothesis(required_text(fields, "text", f"{where}."), cast(EntailmentLabel, label))


def _utterance(record: object, where: str) -> Utterance:
    fields = _object(record, where)
    start, end = (_number(fields, name, where) for name in ("start", "end"))
    if not 0 <= start <= end:
        raise ExampleError(f"{where}: from {start} to {end} s; 0 <= start <= end was expected")
    return Utterance(start, end, required_text(fields, "text", f"{where}."))


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ExampleError(f"{where}.{name}: {short_repr(value)}; a finite number was expected")
    return float(value)


def _whole_number(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ExampleError(f"{where}.{name}: {short_repr(value)}; a whole number was expected")
    return value


def _object(record: object, where: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ExampleError(f"{where}: {short_repr(record)}; a JSON object was expected")
    return record


def _list(record: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    value = record.get(name, [])
    if not isinstance(value, list):
        raise ExampleError(f"{where}{name}: {short_repr(value)}; a list was expected")
    return value


def _typed(record: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = record.get(name, default)
    if not isinstance(value, kind):
        raise ExampleError(f"{name}: {short_repr(value)}; {kind.__name__} was expected")
    return value


def canonical_answer(question: Question) -> str:
    """Return the set of answers as one string, such as "lamp, table", for exact match."""
    return ", ".join(sorted(answer.strip().lower() for answer in question.answers))


def build_vocabulary(examples: Iterable[Example]) -> list[str]:
    """Return all canonical answers, most frequent first, ties in alphabetical order."""
    counts = Counter(canonical_answer(q) for example in examples for q in example.questions)
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
