"""Accuracy of answers to questions, and of object attributes read from visual tokens.

Shape letters: N videos, V visual tokens, W their width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.data.example import Question, canonical_answer
from training.data.packed import Packed
from training.data.scenes.objects import ATTRIBUTES, object_targets
from training.evaluation.encoder import Encoder, best_answers
from training.evaluation.metrics import calibration_error
from training.models.fusion import FusedModel
from training.objectives.losses import object_tokens

NAME_QUESTION = "what is it?"


@dataclass(frozen=True)
class AnswerResults:
    """The answers to the n questions of a corpus; all fields have length n."""

    questions: list[Question]
    rows: np.ndarray
    """Index of the example of each question."""
    right: np.ndarray
    probability: np.ndarray
    """Probability of the predicted answer."""


def answerable_questions(packed: Packed, answers: Sequence[str], limit: int) -> list[tuple[int, str, int]]:
    """Return the questions of a corpus whose answer is in the vocabulary, at most `limit`, spread over the examples.

    answers: Answer vocabulary. Each item is (index of the example, question, index of the right answer).
    """
    index = {answer: i for i, answer in enumerate(answers)}
    questions = [
        (row, question.question, index[answer])
        for row, example in enumerate(packed.examples)
        for question in example.questions
        if (answer := canonical_answer(question)) in index
    ]
    return questions[:: max(1, -(-len(questions) // limit))]


def answer_questions(
    encoder: Encoder, packed: Packed, tokens: np.ndarray, audio: np.ndarray | None = None
) -> AnswerResults:
    """Answer all questions of a packed corpus. An answer is right if it equals the whole canonical answer.

    tokens: Visual tokens (N, V, W). audio: Audio tokens (N, T, A); None: sound is not used.
    """
    rows = [i for i, e in enumerate(packed.examples) for _ in e.questions]
    questions = [question for e in packed.examples for question in e.questions]
    answers = best_answers(encoder, [question.question for question in questions], tokens, rows, audio)
    right = [answer.text == canonical_answer(question) for answer, question in zip(answers, questions, strict=True)]
    probability = np.array([answer.probability for answer in answers])
    return AnswerResults(questions, np.array(rows, dtype=int), np.array(right, dtype=bool), probability)


def exact(results: AnswerResults) -> dict[str, float]:
    """Return exact match in percent (all questions, one-word answers, by kind) and the error `ECE` (0..1).

    Empty if there are no questions.
    """
    if not results.questions:
        return {}
    by_kind: dict[str, list[int]] = defaultdict(list)
    single = []
    for n, question in enumerate(results.questions):
        by_kind[question.kind].append(n)
        if len(question.answers) == 1 and " " not in question.answers[0]:
            single.append(n)
    right = results.right
    out = {"exact": float(100 * right.mean())}
    if single:
        out["exact (single word)"] = float(100 * right[single].mean())
    for kind, where in sorted(by_kind.items()):
        if kind:
            out[f"exact ({kind})"] = float(100 * right[where].mean())
    return out | {"questions": float(len(right)), "ECE": calibration_error(results.probability, right)}


def exact_answers(
    encoder: Encoder, packed: Packed, tokens: np.ndarray, audio: np.ndarray | None = None
) -> dict[str, float]:
    """Return `exact` for all questions of a packed corpus. Arguments as in `answer_questions`."""
    return exact(answer_questions(encoder, packed, tokens, audio=audio))


def name_answers(encoder: Encoder, packed: Packed, tokens: np.ndarray) -> dict[str, float]:
    """Return the percentage of named photographs whose name, or its last word, is the answer to `NAME_QUESTION`."""
    names = [example.captions[0].lower() for example in packed.examples]
    answers = best_answers(encoder, [NAME_QUESTION] * len(names), tokens, range(len(names)))
    right = [answer.text in (name, name.split()[-1]) for answer, name in zip(answers, names, strict=True)]
    return {"name answered": float(100 * np.mean(right))}


STILL = ("shape", "colour", "size", "pattern", "digit")
"""Attributes that are visible in a single frame."""


def object_accuracy(model: FusedModel, packed: Packed, tokens_NVW: np.ndarray) -> dict[str, float]:
    """Return the percentage of objects whose attribute is predicted correctly from the token at their position.

    Metrics are by attribute, such as `objects (colour)`; `objects` is the mean over `STILL`. If two objects are in one
    token, only the first counts. Raises ValueError for a model without the object head.
    """
    position_targets, class_targets = object_targets([example.attributes["scene"] for example in packed.examples])
    positions, classes = torch.from_numpy(position_targets), torch.from_numpy(class_targets)
    token, readable = object_tokens(positions, classes, model.cfg.grid_of(tokens_NVW.shape[1]))
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model.object_logits(torch.from_numpy(tokens_NVW.astype(np.float32)).to(device)).float().cpu()
    at_object = logits.gather(1, token[..., None].expand(-1, -1, logits.shape[2]))[readable]
    parts = torch.split(at_object[:, 1:], model.cfg.object_classes, dim=1)
    out = {}
    for targets, name, part in zip(classes[readable].unbind(dim=1), ATTRIBUTES, parts, strict=True):
        known = targets >= 0
        out[f"objects ({name})"] = float(100 * (part.argmax(dim=1)[known] == targets[known]).float().mean())
    return out | {"objects": float(np.mean([out[f"objects ({name})"] for name in STILL]))}
