"""Video question answering: exact match of the whole answer, by question type."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from training.answers import whole_answer
from training.data.packed import Packed
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import calibration_error


def exact_answers(encoder: Encoder, packed: Packed, tokens: np.ndarray, batch: int = 128) -> dict[str, float]:
    """Percent right over all questions, over single-word answers, by type; calibration error of the best answer."""
    asked = [(i, q) for i, e in enumerate(packed.examples) for q in e.questions]
    order = sorted(range(len(asked)), key=lambda n: len(asked[n][1].question))
    right = np.zeros(len(asked), dtype=bool)
    probability = np.zeros(len(asked))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        visual = tokens[[asked[n][0] for n in part]].astype(np.float32)
        answers = encoder.answer([asked[n][1].question for n in part], visual, top=1)
        for n, best in zip(part, answers, strict=True):
            right[n] = best[0].text == whole_answer(asked[n][1])
            probability[n] = best[0].probability
    by_kind: dict[str, list[int]] = defaultdict(list)
    single = []
    for n, (_, question) in enumerate(asked):
        by_kind[question.kind].append(n)
        if len(question.answers) == 1 and " " not in question.answers[0]:
            single.append(n)
    out = {"exact": float(100 * right.mean()), "exact (single word)": float(100 * right[single].mean())}
    for kind, where in sorted(by_kind.items()):
        out[f"exact ({kind})"] = float(100 * right[where].mean())
    return out | {"questions": float(len(asked)), "ECE": calibration_error(probability, right)}
