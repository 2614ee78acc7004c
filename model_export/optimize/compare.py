"""A validation split through two bundles: how far the one's outputs are from the other's.

Shape letters: N clips, T captions, P pairs, Q questions, D vector width, V visual tokens, W their width, A answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_export.optimize.validation_scores import Corpus, Seen, asked, hard_captions
from model_export.parity.variants import BesideCheck
from training.evaluation.embedding import match_logits
from vitascope.model import Model

TIE = 1e-5
"""Cosines. Of what is nearer to one another than this, rounding decides which is the nearest, and either will do."""
CHUNK = 64
"""Clips whose visual tokens are compared at once."""


@dataclass(frozen=True)
class Side:
    """A split as one bundle gives it."""

    model: Model
    videos: Seen
    texts: np.ndarray | None
    """Vectors (T, D) of the split's captions, None where it has none."""


def compared_bundles(corpus: Corpus, before: Side, after: Side) -> list[BesideCheck]:
    """Every output that both bundles have, `before` being the one that the other was made of."""
    checks = [*_vectors(corpus, before, after)]
    if before.videos.tokens.size and _reads_tokens(before.model):
        checks.append(_tokens(corpus, before.videos.tokens, after.videos.tokens))
    if "matching" in before.model.tasks and before.texts is not None:
        checks += _matched(corpus, before, after, before.texts)
    if "answering" in before.model.tasks:
        checks += _answered(corpus, before, after)
    return checks


def _reads_tokens(model: Model) -> bool:
    return bool({"matching", "answering"} & set(model.tasks))


def _vectors(corpus: Corpus, before: Side, after: Side) -> list[BesideCheck]:
    of_clips = of_texts = None
    texts: list[BesideCheck] = []
    if before.texts is not None and after.texts is not None:
        old, new = (side.videos.gallery.scores(side.texts) for side in (before, after))  # type: ignore[arg-type]
        of_clips, of_texts = _same_nearest(old.T, new.T), _same_nearest(old, new)
        texts = [_rows("text", "vector", corpus, before.texts, after.texts, of_texts)]
    clips = before.videos.gallery.vectors, after.videos.gallery.vectors
    return [_rows("video", "vector", corpus, *clips, of_clips), *texts]


def _same_nearest(old: np.ndarray, new: np.ndarray) -> float:
    """(queries, candidates) of both -> percent of queries whose nearest candidate is the same."""
    chosen = np.take_along_axis(old, new.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float(100 * (chosen >= old.max(axis=1) - TIE).mean())


def _tokens(corpus: Corpus, before: np.ndarray, after: np.ndarray) -> BesideCheck:
    parts = [slice(start, start + CHUNK) for start in range(0, len(before), CHUNK)]
    cosines = np.concatenate([_cosines(before[part], after[part]) for part in parts])
    furthest = max(_furthest(before[part], after[part]) for part in parts)
    return _check("video", "visual_tokens", corpus, cosines, furthest, None)


def _matched(corpus: Corpus, before: Side, after: Side, texts: np.ndarray) -> list[BesideCheck]:
    pairs = hard_captions(corpus, before.videos, texts)
    if not pairs:
        return []
    rows = [example for example, _, _ in pairs] * 2
    said = [right for _, right, _ in pairs] + [wrong for _, _, wrong in pairs]
    old, new = (match_logits(side.model, said, side.videos.tokens, rows) for side in (before, after))
    prefers = [logits[: len(pairs)] > logits[len(pairs) :] for logits in (old, new)]
    same = float(100 * (prefers[0] == prefers[1]).mean())
    furthest = _furthest(old, new)
    return [_check("match", "match_logit", corpus, None, furthest, same, rows=len(rows))]


def _answered(corpus: Corpus, before: Side, after: Side) -> list[BesideCheck]:
    questions = asked(corpus)
    if not questions or not before.model.bundle.answers:
        return []
    rows, said = [row for row, _ in questions], [question.question for _, question in questions]
    old, new = (
        side.model.answer_logits(said, side.videos.tokens[rows].astype(np.float32), side.model.bundle.answers)
        for side in (before, after)
    )
    return [_rows("answer", "answer_logits", corpus, old, new, float(100 * (old.argmax(1) == new.argmax(1)).mean()))]


def _rows(
    graph: str, output: str, corpus: Corpus, before: np.ndarray, after: np.ndarray, agreement: float | None
) -> BesideCheck:
    return _check(graph, output, corpus, _cosines(before, after), _furthest(before, after), agreement)


def _check(
    graph: str,
    output: str,
    corpus: Corpus,
    cosines: np.ndarray | None,
    furthest: float,
    agreement: float | None,
    rows: int | None = None,
) -> BesideCheck:
    return BesideCheck.model_validate(
        {
            "graph": graph,
            "output": output,
            "corpus": corpus.name,
            "rows": len(cosines) if cosines is not None else rows,
            "cosine": None if cosines is None else round(float(cosines.mean()), 6),
            "least_cosine": None if cosines is None else round(float(cosines.min()), 6),
            "max_difference": float(f"{furthest:.4g}"),
            "agreement": None if agreement is None else round(agreement, 3),
        }
    )


def _cosines(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of each row, whatever its shape."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (before, after))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: np.ndarray = (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
    return result


def _furthest(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(before.astype(np.float32) - after.astype(np.float32)).max())
