"""Calibration on validation pairs (Platt scaling, 1999; temperature scaling, Guo et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from training.data.packed import Packed
from training.evaluation.encoder import Encoder, embed_texts, match_logits
from training.evaluation.metrics import calibration_error
from vitascope.bundle.manifest import Calibration
from vitascope.scoring import fused_score, match_probability


@dataclass(frozen=True)
class Pairs:
    """Validation pairs: similarity, matching logit and label, each (n,)."""

    similarity: np.ndarray
    logits: np.ndarray
    label: np.ndarray


def validation_pairs(
    encoder: Encoder, packed: Packed, vectors: np.ndarray, tokens: np.ndarray, *, seed: int = 0
) -> Pairs:
    """Return one positive pair per example, one with a random negative caption, one with a hard negative.

    Hard: a minimal negative where the corpus has one, else the most similar of ten captions of other examples.
    Raises ValueError when all captions are equal.
    """
    rng = np.random.default_rng(seed)
    own = [e.captions[0] for e in packed.examples]
    text = embed_texts(encoder, own)
    scores = vectors @ text.T
    rows, texts, labels = [], [], []
    captions = np.array(own)
    if len(set(own)) < 2:
        raise ValueError(f"captions: all {len(own)} are {own[:1]}; at least two different ones were expected")
    for i, example in enumerate(packed.examples):
        foreign = np.flatnonzero(captions != own[i])  # two pictures of one thing may share a caption
        others = rng.choice(foreign, size=min(10, len(foreign)), replace=False)
        minimal = [x.caption for x in example.negatives if x.grade == 1]
        hard = minimal[int(rng.integers(len(minimal)))] if minimal else own[others[np.argmax(scores[i, others])]]
        rows += [i, i, i]
        texts += [own[i], own[others[0]], hard]
        labels += [1.0, 0.0, 0.0]
    similarity = (embed_texts(encoder, texts) * vectors[rows]).sum(axis=1)
    return Pairs(similarity, match_logits(encoder, texts, tokens, rows), np.array(labels))


def fit(pairs: Sequence[Pairs], answer_temperature: float = 1.0) -> Calibration:
    """Fit logistic regressions of the label on the matching logit, and on similarity and matching logit.

    Corpora have equal weights whatever their number of pairs.
    """
    similarity = np.concatenate([p.similarity for p in pairs])
    logits = np.concatenate([p.logits for p in pairs])
    label = np.concatenate([p.label for p in pairs])
    weight = np.concatenate([np.full(len(p.label), 1.0 / len(p.label)) for p in pairs])
    match = _logistic(np.stack([logits], axis=1), label, weight)
    fused = _logistic(np.stack([similarity, logits], axis=1), label, weight)
    return Calibration(
        match_scale=match[0],
        match_bias=match[1],
        fused_similarity=fused[0],
        fused_match=fused[1],
        fused_bias=fused[2],
        answer_temperature=answer_temperature,
    )


def match_calibration_error(pairs: Sequence[Pairs], calibration: Calibration) -> float:
    """Return the expected calibration error of the match probability on pairs, as a fraction."""
    logits = np.concatenate([p.logits for p in pairs])
    label = np.concatenate([p.label for p in pairs])
    return calibration_error(match_probability(calibration, logits), label)


def fused_calibration_error(pairs: Sequence[Pairs], calibration: Calibration) -> float:
    """Return the expected calibration error of the fused score on pairs, as a fraction."""
    similarity = np.concatenate([p.similarity for p in pairs])
    logits = np.concatenate([p.logits for p in pairs])
    label = np.concatenate([p.label for p in pairs])
    return calibration_error(fused_score(calibration, similarity, logits), label)


def answer_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the least negative log-likelihood of logits (n, answers) and targets (n,) int."""

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        z = z - z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z).sum(axis=1))
        return float((log_sum - z[np.arange(len(z)), targets]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 3.0), method="bounded").x))


def _logistic(features: np.ndarray, label: np.ndarray, weight: np.ndarray) -> list[float]:
    """Return coefficients and intercept, in this order."""
    x = np.column_stack([features, np.ones(len(features))])
    scale = np.abs(x).max(axis=0)
    x = x / scale
    total = weight.sum()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w
        error = np.logaddexp(0.0, z) - label * z
        slope = 1.0 / (1.0 + np.exp(-z)) - label
        penalty = 1e-4
        return (
            float((weight * error).sum() / total + penalty * (w @ w)),
            x.T @ (weight * slope) / total + 2 * penalty * w,
        )

    optimum = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    return [float(v) for v in optimum.x / scale]
