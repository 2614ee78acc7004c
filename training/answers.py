"""The answer vocabulary: every whole answer of the training questions, in a fixed order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from training.data.example import Example, Question


def whole_answer(question: Question) -> str:
    """The answer set as one string: exact match is on the whole set ("lamp, table")."""
    return ", ".join(sorted(answer.strip().lower() for answer in question.answers))


def build_vocabulary(examples: Iterable[Example]) -> list[str]:
    """All whole answers, most frequent first, ties in alphabetical order."""
    counts = Counter(whole_answer(q) for example in examples for q in example.questions)
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
