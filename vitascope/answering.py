"""Answers to questions about clips: from the vocabulary or from candidates, with abstention.

Shape letters: B questions, V visual tokens, K their width, T audio tokens, A their width, N answers, M tokens of an
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import ANSWER_IDS, ANSWER_MASK, Array
from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput
from vitascope.input_validation import check_texts, check_tokens
from vitascope.scoring import answer_probabilities
from vitascope.text_format import is_blank

if TYPE_CHECKING:
    from vitascope.model import Model


@dataclass(frozen=True)
class Answer:
    """An answer and its probability among the answers that were scored."""

    text: str
    probability: float


@dataclass(frozen=True)
class AnswerResult:
    """Answer to a question.

    Attributes:
        answer: Most probable answer; None if the model abstained.
        abstained: Whether no answer reached the threshold.
        answers: Answers with probabilities, most probable first.
        out_of_vocabulary: Candidates that were not scored, because they are not in the vocabulary; empty for a model
            that scores free-form answers.
    """

    answer: str | None
    abstained: bool
    answers: list[Answer]
    out_of_vocabulary: list[str]


def answer_question(
    model: Model,
    question: str,
    visual_tokens: NDArray[np.floating],
    *,
    top: int = 5,
    candidates: Sequence[str] | None = None,
    abstain_below: float = 0.0,
    audio_tokens: NDArray[np.floating] | None = None,
) -> AnswerResult:
    """Answer a question about a clip with calibrated probabilities.

    Args:
        model: Model with the task "answering".
        question: Question.
        visual_tokens: Visual tokens of the clip, (1, V, K).
        top: Maximum number of answers.
        candidates: Possible answers, over which probabilities are normalized; None: the vocabulary. Candidates that are
            not in the vocabulary (ignoring case) are left out, unless the model scores free-form answers.
        abstain_below: Probability from 0 to 1 below which the model abstains. It also abstains if no candidate is in
            the vocabulary.
        audio_tokens: Audio tokens of the clip, (1, T, A); None: no sound, or the model does not fuse sound.

    Raises:
        InvalidInput: An argument is out of range, or candidates repeat.
        TextError: A text is blank or too long.
        TaskMissing: The bundle has no answer graph.
        EngineError: The run failed.
    """
    if not 0 <= abstain_below <= 1:
        raise InvalidInput(f"abstain_below: {abstain_below!r}; a probability from 0 to 1 was expected")
    if candidates is None:
        answers = model.answer([question], visual_tokens, top, audio_tokens=audio_tokens)[0]
        return _answer_result(answers, [], abstain_below)
    if model.scores_free_form_answers:
        _deduplicate_or_raise(candidates)
        answers = model.answer_from_candidates([question], visual_tokens, candidates, top, audio_tokens)[0]
        return _answer_result(answers, [], abstain_below)
    entries, out_of_vocabulary = known_candidates(model.bundle.answers, candidates)
    if not entries:
        model.answer([question], visual_tokens, top)  # validates the question
        return _answer_result([], out_of_vocabulary, abstain_below)
    candidate_of = {model.bundle.answers[entry]: candidate for candidate, entry in entries.items()}
    answers = model.answer([question], visual_tokens, top, list(entries.values()), audio_tokens)[0]
    answers = [replace(answer, text=candidate_of[answer.text]) for answer in answers]
    return _answer_result(answers, out_of_vocabulary, abstain_below)


def answer_from_vocabulary(
    model: Model,
    questions: Sequence[str],
    visual_tokens: NDArray[np.floating],
    top: int,
    candidate_ids: Sequence[int] | None,
    audio_tokens: NDArray[np.floating] | None,
) -> list[list[Answer]]:
    """Answer B questions, each about its clip; arguments and errors as in ``Model.answer``."""
    vocabulary = model.bundle.answers
    if not vocabulary:
        raise InvalidInput("candidates: none; at least one was expected, since the model has no answer vocabulary")
    entries = np.arange(len(vocabulary)) if candidate_ids is None else np.array(candidate_ids, np.int64)
    if not len(entries) or entries.min() < 0 or entries.max() >= len(vocabulary):
        raise InvalidInput(f"candidate_ids: {candidate_ids!r}; indices from 0 to {len(vocabulary) - 1} were expected")
    texts = [vocabulary[entry] for entry in entries]
    if model.scores_free_form_answers:
        return model.answer_from_candidates(questions, visual_tokens, texts, top, audio_tokens)
    logits = model.answer_logits(questions, visual_tokens, audio_tokens=audio_tokens)
    return top_answers(model.calibration, logits[:, entries], texts, top)


def score_answers(
    model: Model,
    questions: Sequence[str],
    visual_tokens: NDArray[np.floating],
    candidates: Sequence[str] | None,
    audio_tokens: NDArray[np.floating] | None,
) -> NDArray[np.float32]:
    """Return a score (B, N) per answer; arguments, result and errors as in ``Model.answer_logits``."""
    if not model.scores_free_form_answers:
        return model.run_text_graph("answer", questions, visual_tokens, audio_tokens)["answer_logits"]
    check_texts(questions)
    tokens = check_tokens(model.bundle.manifest, len(questions), visual_tokens, audio_tokens)
    candidate_inputs = _encode_candidates(model, candidates or ())
    logits = np.empty((len(questions), candidate_inputs[ANSWER_IDS].shape[1]), np.float32)
    for batch in model.text_batches(questions, 1):  # the candidates of one question fill a run
        of_clip = {name: array[batch.rows] for name, array in tokens.items()}
        logits[batch.rows] = model.run_graph("answer", {**batch.inputs, **of_clip, **candidate_inputs})["answer_logits"]
    return logits


def _encode_candidates(model: Model, candidates: Sequence[str]) -> dict[str, Array]:
    """Return answer_ids and answer_mask, each (1, N, M) int64."""
    check_texts(candidates)
    if not candidates:
        raise InvalidInput("candidates: none; at least one was expected")
    ids, mask = model.tokenizer.encode(candidates)
    max_length = model.bundle.manifest.answer_length or 0
    lengths = mask.sum(axis=1)
    if lengths.max() > max_length:
        index = int(lengths.argmax())
        raise InvalidInput(
            f"candidates[{index}]: {candidates[index][:40]!r} is {lengths[index]} tokens long; at most "
            f"{max_length} were expected"
        )
    return {ANSWER_IDS: ids[None], ANSWER_MASK: mask[None]}


def top_answers(
    calibration: Calibration, logits: NDArray[np.float32], texts: Sequence[str], top: int
) -> list[list[Answer]]:
    """Return the ``top`` most probable of N texts for each row of ``logits`` (B, N)."""
    if top < 1:
        raise InvalidInput(f"top: {top}; at least 1 was expected")
    probabilities = answer_probabilities(calibration, logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [Answer(texts[index], float(row[index])) for index in order]
        for row, order in zip(probabilities, best, strict=True)
    ]


def known_candidates(vocabulary: Sequence[str], candidates: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Look up candidates in the answer vocabulary, ignoring case and spacing.

    Returns:
        (index by candidate, candidates that the vocabulary lacks).

    Raises:
        InvalidInput: No candidates, or two are the same.
    """
    index_of = {_normalize(entry): index for index, entry in reversed(list(enumerate(vocabulary)))}
    names = _deduplicate_or_raise(candidates)
    entries = {names[name]: index_of[name] for name in names if name in index_of}
    return entries, [candidate for name, candidate in names.items() if name not in index_of]


def _deduplicate_or_raise(candidates: Sequence[str]) -> dict[str, str]:
    """Return candidates by their normalized form, in order. Raises InvalidInput for none, or for repeated ones."""
    if not candidates:
        raise InvalidInput("candidates: none; at least one was expected")
    names: dict[str, str] = {}
    for candidate in candidates:
        name = _normalize(candidate)
        if is_blank(candidate):
            raise InvalidInput(f"candidates: {candidate!r} is empty; an answer was expected")
        if name in names:
            raise InvalidInput(f"candidates: {candidate!r} is repeated; different candidates were expected")
        names[name] = candidate
    return names


def _answer_result(answers: list[Answer], out_of_vocabulary: list[str], abstain_below: float) -> AnswerResult:
    abstained = not answers or answers[0].probability < abstain_below
    return AnswerResult(None if abstained else answers[0].text, abstained, answers, out_of_vocabulary)


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())
