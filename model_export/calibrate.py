"""The manifest's calibration, fitted on validation splits through the bundle's own graphs.

What is calibrated is what will be served: stored weights, ONNX Runtime and all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_export.parity.recall import Embedded, has_captions
from model_export.parity.variants import Origin
from training.answers import whole_answer
from training.evaluation import calibration
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import calibration_error
from vitascope.bundle.manifest import Calibration
from vitascope.model import Model

QUESTIONS = 1000
"""At most so many questions per corpus, spread evenly over its examples."""
FIT_FROM = 50
"""Examples with captions from which on a variant's match and fused probabilities are fitted anew. Three numbers are
fitted; ten to twenty right pairs for each are the usual least, below which a fit follows those few more than it tells
of others."""

AnswerLogits = Callable[[Sequence[str], np.ndarray], np.ndarray]
"""(questions (n), visual tokens (n, V, K)) -> (n, answers)."""


@dataclass(frozen=True)
class Fitted:
    """A calibration and how it did on the pairs and questions that it was fitted to: expected calibration errors
    (fractions) `before`, of plain sigmoids and softmax, and `after`; `kept`: of the calibration that there was."""

    calibration: Calibration = field(default_factory=Calibration)
    facts: dict[str, float] = field(default_factory=dict)
    corpora: Sequence[str] = ()
    """Which spoke of it."""


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
    was = kept or Calibration()
    answered = Fitted(was) if answer_logits is None else _answers(corpora, answers, answer_logits, kept)
    captioned = {name: e for name, e in corpora.items() if len(e.packed.examples) >= fit_from and _tells_apart(e)}
    if not captioned:
        return answered
    pairs = [calibration.validation_pairs(encoder, e.packed, e.vectors, e.tokens) for e in captioned.values()]
    fitted = calibration.fit(pairs, answered.calibration.answer_temperature)
    facts = {"match pairs": float(sum(len(p.label) for p in pairs))}
    for when, by in (("before", Calibration()), ("kept", kept), ("after", fitted)):
        if by is not None:
            facts[f"match error {when}"] = calibration.match_calibration_error(pairs, by)
            facts[f"fused error {when}"] = calibration.fused_calibration_error(pairs, by)
    return Fitted(fitted, answered.facts | facts, list(dict.fromkeys([*captioned, *answered.corpora])))


def recalibrate(variant: Model, corpora: Mapping[str, Embedded], kept: Calibration) -> Fitted:
    """Of a variant, through its own graphs. kept: of the bundle it was made of, for what no corpus speaks of."""
    if "matching" not in variant.tasks or not corpora:
        return Fitted(kept)
    logits = variant.answer_logits if "answering" in variant.tasks and not variant.reads_answers else None
    return calibrate(variant, corpora, variant.bundle.answers, logits, kept=kept, fit_from=FIT_FROM)


def stated_calibration(fitted: Fitted, of: Origin, tasks: Sequence[str]) -> dict[str, Any]:
    """For the manifest of a variant, under `calibration` of its `extra`: the facts of `Fitted`, the splits that it was
    `fitted_on`, and whose is what was not fitted: `kept` ("match and fused", "answers") and `kept_of`."""
    told = (("matching", "match pairs", "match and fused"), ("answering", "answer questions", "answers"))
    kept = [words for task, count, words in told if task in tasks and count not in fitted.facts]
    facts = {name: round(value, 6) for name, value in fitted.facts.items()}
    return {
        **facts,
        **({"fitted_on": [f"{name}/val" for name in fitted.corpora]} if fitted.corpora else {}),
        **({"kept": kept, "kept_of": of.model_dump()} if kept else {}),
    }


def _tells_apart(embedded: Embedded) -> bool:
    """Whether there are right and wrong captions of every example."""
    return has_captions(embedded.packed) and len({e.captions[0] for e in embedded.packed.examples}) > 1


def _answers(
    corpora: Mapping[str, Embedded], answers: Sequence[str], logits_of: AnswerLogits, kept: Calibration | None
) -> Fitted:
    """The temperature, that of `kept` where no question speaks of it, and the facts about it."""
    number_of = {answer: number for number, answer in enumerate(answers)}
    was = kept or Calibration()
    logits, targets, names = [], [], []
    for name, embedded in corpora.items():
        asked = _asked(embedded, number_of)
        if asked:
            rows, questions, numbers = zip(*asked, strict=True)
            logits.append(logits_of(questions, embedded.tokens[list(rows)].astype(np.float32)))
            targets.append(np.array(numbers))
            names.append(name)
    if not logits:
        return Fitted(was)
    every, right = np.concatenate(logits), np.concatenate(targets)
    temperature = calibration.answer_temperature(every.astype(np.float64), right)
    facts = {"answer questions": float(len(right))}
    by_kept = None if kept is None else kept.answer_temperature
    for when, by in (("before", 1.0), ("kept", by_kept), ("after", temperature)):
        if by is not None:
            facts[f"answer error {when}"] = _error(every, right, by)
    return Fitted(was.model_copy(update={"answer_temperature": temperature}), facts, names)


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
