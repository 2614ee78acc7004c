"""One question about one clip: out of the whole vocabulary or among given candidates, with the right not to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput
from vitascope.model import Answer, Model


@dataclass(frozen=True)
class Answered:
    """``answer``: the likeliest one, None where the model abstained. ``answers``: best first. ``unknown``: candidates
    that the vocabulary lacks, so that nothing can be said of them; none of a model that reads answers.
    """

    answer: str | None
    abstained: bool
    answers: list[Answer]
    unknown: list[str]


def answer_question(
    model: Model,
    question: str,
    visual_tokens: NDArray[np.floating],
    *,
    top: int = 5,
    candidates: Sequence[str] | None = None,
    abstain_below: float = 0.0,
) -> Answered:
    """Answer about ``visual_tokens`` (1, V, W) with calibrated probabilities.

    ``candidates``: what the answer may be; probabilities are among those that the vocabulary has, in any case of
    letters, or among all where the model reads answers. Where the best one is below ``abstain_below`` (0 to 1), or no
    candidate is known, there is no answer. Raises InvalidInput, also for a candidate given twice; TextError,
    TaskMissing, EngineError.
    """
    if not 0 <= abstain_below <= 1:
        raise InvalidInput(f"abstain_below: {abstain_below!r}; a probability from 0 to 1 was expected")
    if candidates is None:
        answers = model.answer([question], visual_tokens, top)[0]
        return _answered(answers, [], abstain_below)
    if model.reads_answers:
        _distinct(candidates)
        answers = model.answer_among([question], visual_tokens, candidates, top)[0]
        return _answered(answers, [], abstain_below)
    entries, unknown = known_candidates(model.bundle.answers, candidates)
    if not entries:
        model.answer([question], visual_tokens, top)  # whatever is wrong with the question is still told
        return _answered([], unknown, abstain_below)
    written = {model.bundle.answers[entry]: candidate for candidate, entry in entries.items()}
    answers = model.answer([question], visual_tokens, top, among=list(entries.values()))[0]
    return _answered([replace(one, text=written[one.text]) for one in answers], unknown, abstain_below)


def known_candidates(vocabulary: Sequence[str], candidates: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """(the number in the vocabulary of each candidate that it has, the other candidates). Raises InvalidInput for none
    and for two that are the same entry.
    """
    number_of = {_normal(entry): number for number, entry in reversed(list(enumerate(vocabulary)))}
    names = _distinct(candidates)
    entries = {names[name]: number_of[name] for name in names if name in number_of}
    return entries, [candidate for name, candidate in names.items() if name not in number_of]


def _distinct(candidates: Sequence[str]) -> dict[str, str]:
    """Candidates by what tells them apart, in their order. Raises InvalidInput for none, and for one that comes
    twice.
    """
    if not candidates:
        raise InvalidInput("candidates: none; at least one was expected")
    names: dict[str, str] = {}
    for candidate in candidates:
        name = _normal(candidate)
        if name in names:
            raise InvalidInput(f"candidates: {candidate!r} comes twice; different candidates were expected")
        names[name] = candidate
    return names


def _answered(answers: list[Answer], unknown: list[str], abstain_below: float) -> Answered:
    abstained = not answers or answers[0].probability < abstain_below
    return Answered(None if abstained else answers[0].text, abstained, answers, unknown)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
