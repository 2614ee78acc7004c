"""The manifest's calibration, fitted on validation splits through the bundle's own graphs.

What is calibrated is what will be served: stored weights, ONNX Runtime and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_export.recall import Embedded
from training.answers import whole_answer
from training.evaluation import calibration
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import calibration_error
from vitascope.engine import Array, Engine
from vitascope.manifest import Calibration
from vitascope.tokenise import Tokenizer

QUESTIONS = 1000
"""At most so many questions per corpus, spread evenly over its examples."""

AnswerLogits = Callable[[Sequence[str], np.ndarray], np.ndarray]
"""(questions (n), visual tokens (n, V, K)) -> (n, answers)."""


@dataclass(frozen=True)
class Fitted:
    """A calibration and how it did: expected calibration errors (fractions) before and after, on these pairs."""

    calibration: Calibration = field(default_factory=Calibration)
    facts: dict[str, float] = field(default_factory=dict)


def calibrate(
    encoder: Encoder,
    corpora: Mapping[str, Embedded],
    answers: Sequence[str],
    answer_logits: AnswerLogits | None,
    *,
    kept: Calibration | None = None,
    fit_from: int = 2,
) -> Fitted:
    """Fit match, fused and answer probabilities; what no corpus speaks of stays as in `kept` (None: the defaults).

    fit_from: a corpus of fewer captioned examples says nothing of match and fused probabilities.
    """
    facts: dict[str, float] = {}
    kept = kept or Calibration()
    temperature = kept.answer_temperature
    if answer_logits is not None:
        fitted_temperature, facts = _answers(corpora.values(), answers, answer_logits)
        temperature = temperature if fitted_temperature is None else fitted_temperature
    captioned = [e for e in corpora.values() if e.texts is not None and len(e.packed.examples) >= fit_from]
    if not captioned:
        return Fitted(kept.model_copy(update={"answer_temperature": temperature}), facts)
    pairs = [calibration.validation_pairs(encoder, e.packed, e.vectors, e.tokens) for e in captioned]
    fitted = calibration.fit(pairs, temperature)
    facts |= {
        "match pairs": float(sum(len(p.label) for p in pairs)),
        "match error before": calibration.match_calibration_error(pairs, Calibration()),
        "match error after": calibration.match_calibration_error(pairs, fitted),
    }
    return Fitted(fitted, facts)


def engine_answer_logits(engine: Engine, tokenizer: Tokenizer, batch: int = 64) -> AnswerLogits:
    """Logits before softmax and temperature, straight from a bundle's answer graph."""

    def run(questions: Sequence[str], tokens: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(questions), batch):
            ids, mask = tokenizer.encode(questions[start : start + batch])
            visual = tokens[start : start + batch].astype(np.float32)
            inputs: dict[str, Array] = {"input_ids": ids, "attention_mask": mask, "visual_tokens": visual}
            parts.append(engine.run(inputs)["answer_logits"])
        return np.concatenate(parts)

    return run


def _answers(
    corpora: Iterable[Embedded], answers: Sequence[str], logits_of: AnswerLogits
) -> tuple[float | None, dict[str, float]]:
    """The temperature, None where no question speaks of it, and the facts about it."""
    number_of = {answer: number for number, answer in enumerate(answers)}
    logits, targets = [], []
    for embedded in corpora:
        asked = _asked(embedded, number_of)
        if asked:
            rows, questions, numbers = zip(*asked, strict=True)
            logits.append(logits_of(questions, embedded.tokens[list(rows)]))
            targets.append(np.array(numbers))
    if not logits:
        return None, {}
    every, right = np.concatenate(logits), np.concatenate(targets)
    temperature = calibration.answer_temperature(every.astype(np.float64), right)
    return temperature, {
        "answer questions": float(len(right)),
        "answer error before": _error(every, right, 1.0),
        "answer error after": _error(every, right, temperature),
    }


def _asked(embedded: Embedded, number_of: Mapping[str, int]) -> list[tuple[int, str, int]]:
    """(row, question, number of the right answer), for answers that the vocabulary has."""
    asked = [
        (row, question.question, number_of[whole_answer(question)])
        for row, example in enumerate(embedded.packed.examples)
        for question in example.questions
        if whole_answer(question) in number_of
    ]
    step = max(1, -(-len(asked) // QUESTIONS))
    return asked[::step]


def _error(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """Calibration error of the best answer's probability."""
    z = logits.astype(np.float64) / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    best = (z / z.sum(axis=1, keepdims=True)).max(axis=1)
    return calibration_error(best, logits.argmax(axis=1) == targets)
