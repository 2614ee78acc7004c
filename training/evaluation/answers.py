"""Video question answering: exact match of the whole answer, by question type."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from training.data.example import Question, canonical_answer
from training.data.packed import Packed
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import calibration_error


@dataclass(frozen=True)
class Answered:
    """The answers to every question of a corpus, each of length n."""

    questions: list[Question]
    rows: np.ndarray
    """Which example each question is about."""
    right: np.ndarray
    probability: np.ndarray
    """Of the answer given."""


def ask_all(encoder: Encoder, packed: Packed, tokens: np.ndarray, batch: int = 128) -> Answered:
    """Answer all questions of a packed corpus. An answer is correct when it equals the whole set of answers."""
    questions = [(i, q) for i, e in enumerate(packed.examples) for q in e.questions]
    order = sorted(range(len(questions)), key=lambda n: len(questions[n][1].question))
    right = np.zeros(len(questions), dtype=bool)
    probability = np.zeros(len(questions))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        visual = tokens[[questions[n][0] for n in part]].astype(np.float32)
        answers = encoder.answer([questions[n][1].question for n in part], visual, top=1)
        for n, best in zip(part, answers, strict=True):
            right[n] = best[0].text == canonical_answer(questions[n][1])
            probability[n] = best[0].probability
    return Answered([q for _, q in questions], np.array([i for i, _ in questions], dtype=int), right, probability)


def exact(results: Answered) -> dict[str, float]:
    """Return exact match in percent (all questions, one-word answers, by type) and the calibration error."""
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


def exact_answers(encoder: Encoder, packed: Packed, tokens: np.ndarray) -> dict[str, float]:
    """Return `exact` for all questions of a packed corpus."""
    return exact(ask_all(encoder, packed, tokens))
