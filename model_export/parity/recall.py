"""Recall@1 on a validation split, once through torch and once through the bundle.

Shape letters: N videos, T texts, D vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_export.parity.checks import ParityError, RecallCheck, Tolerance
from model_export.weights import Precision
from training.data.packed import Packed
from training.evaluation.embedding import embed_corpus, embed_texts
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import retrieval

NEAR_TIE = 1e-5
"""Cosines. Where the two best candidates are closer than this, rounding decides, and either may win."""


@dataclass(frozen=True)
class Embedded:
    """A corpus as one encoder sees it: vectors (N, D), visual tokens (N, V, K) float16, captions (N, D).

    `texts` is None for a corpus without captions.
    """

    packed: Packed
    vectors: np.ndarray
    tokens: np.ndarray
    texts: np.ndarray | None


def embed(encoder: Encoder, packed: Packed) -> Embedded:
    """Every example's frames and first caption."""
    vectors, tokens = embed_corpus(encoder, packed)
    texts = embed_texts(encoder, [e.captions[0] for e in packed.examples]) if has_captions(packed) else None
    return Embedded(packed, vectors, tokens, texts)


def has_captions(packed: Packed) -> bool:
    """Whether every example can be searched for."""
    return all(example.captions for example in packed.examples)


def check_recall(
    torch_side: Embedded, runtime_side: Embedded, corpus: str, precision: Precision, tolerance: Tolerance
) -> list[RecallCheck]:
    """Both directions, one caption per video. Raises ParityError naming corpus, direction and both numbers."""
    if torch_side.texts is None or runtime_side.texts is None:
        return []
    ours = torch_side.texts @ torch_side.vectors.T  # (T, N)
    theirs = runtime_side.texts @ runtime_side.vectors.T
    relevant = [np.array([i]) for i in range(len(ours))]
    checks = []
    for direction, a, b in (("t2v", ours, theirs), ("v2t", ours.T, theirs.T)):
        check = RecallCheck.model_validate(
            {
                "precision": precision,
                "corpus": corpus,
                "direction": direction,
                "queries": len(a),
                "torch": retrieval(a, relevant)["R@1"],
                "runtime": retrieval(b, relevant)["R@1"],
                "disagreeing": _disagreeing(a, b, relevant),
            }
        )
        _require(check, tolerance)
        checks.append(check)
    return checks


def _require(check: RecallCheck, tolerance: Tolerance) -> None:
    delta = abs(check.torch - check.runtime)
    equal = check.disagreeing == 0 if tolerance.recall == 0 else delta <= tolerance.recall
    if not equal:
        raise ParityError(
            f"{check.corpus}: {check.direction} R@1 at {check.precision} is {check.runtime:.2f} with the bundle and "
            f"{check.torch:.2f} with torch ({check.disagreeing} of {check.queries} queries disagree); "
            f"a difference of at most {tolerance.recall:g} was expected"
        )


def _disagreeing(a: np.ndarray, b: np.ndarray, relevant: Sequence[np.ndarray]) -> int:
    first, second = _margins(a, relevant), _margins(b, relevant)
    clear = np.maximum(np.abs(first), np.abs(second)) > NEAR_TIE
    return int((((first > 0) != (second > 0)) & clear).sum())


def _margins(scores: np.ndarray, relevant: Sequence[np.ndarray]) -> np.ndarray:
    """(Q,) best right score minus best wrong score; above 0 the query is answered right."""
    out = np.empty(len(scores))
    for query, columns in enumerate(relevant):
        wrong = np.delete(scores[query], columns)
        out[query] = scores[query, columns].max() - (wrong.max() if len(wrong) else -np.inf)
    return out
