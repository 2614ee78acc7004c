"""Calibration on validation pairs (Platt scaling, 1999; temperature scaling, Guo et al., 2017)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax

from training.data.packed import Packed
from training.evaluation.encoder import Encoder, embed_texts, match_logits
from training.evaluation.metrics import calibration_error
from training.evaluation.retrieval import Gallery, NearestVideos, nearest_videos
from vitascope.bundle.manifest import Calibration
from vitascope.scoring import fused_score, match_probability, similarity_probability


@dataclass(frozen=True)
class Pairs:
    """Pairs of query and video: similarity, matching logit and label (1.0: relevant, else 0.0), each (n,)."""

    similarity: np.ndarray
    logits: np.ndarray
    label: np.ndarray
    is_hit: np.ndarray
    """(n,) bool: the video is a search result of the query. False: the query is a minimal negative of the video."""


QUERIES, HITS = 240, 6
"""Number of queries per corpus, and of the most similar videos that are paired with each query."""
ABSENT_SHARE = 0.3
"""Fraction of queries for which the corpus has no relevant video, if such queries are given."""
SENTENCE_WORDS = 5
"""Minimum median of words for captions to count as sentences; shorter ones are names, which many videos share."""
ROUNDING = 1e-6
PENALTY = 1e-4
"""Weight of the squared coefficients in every fit."""
MIN_SLOPE = 1e-3
"""Minimum slope of a calibration, so that probabilities order results in the same way as scores."""


def validation_pairs(
    encoder: Encoder,
    packed: Packed,
    vectors: np.ndarray,
    tokens: np.ndarray,
    *,
    absent: Sequence[str] = (),
    seed: int = 0,
) -> Pairs:
    """Return pairs of queries and the videos most similar to each, as a search would return them.

    A video is relevant if the query is one of its captions. In a corpus of sentences without minimal negatives, it is
    also relevant if the query is at least as similar to one of its captions as captions of one video typically are,
    because a caption often also fits other photographs. In a corpus with minimal negatives, the video of each query is
    also paired with one minimal negative.

    Args:
        encoder: The model.
        packed: The corpus.
        vectors, tokens: Embeddings (N, D) and visual tokens (N, V, W) of the corpus.
        absent: Queries for which no video of the corpus is relevant.
        seed: Seed of the choice of queries.

    Raises:
        ValueError: All captions are equal.
    """
    rng = np.random.default_rng(seed)
    own = [e.captions[0] for e in packed.examples]
    if len(set(own)) < 2:
        raise ValueError(f"captions: all {len(own)} are {own[:1]}; at least two different ones were expected")
    chosen = rng.permutation(len(own))[:QUERIES]
    queries = [own[i] for i in chosen] + choose_absent(absent, len(chosen), rng)
    embeddings = embed_texts(encoder, queries)
    hits = np.argsort(-(embeddings @ vectors.T), axis=1, kind="stable")[:, :HITS]
    rows = [int(row) for best in hits for row in best]
    texts = [query for query, best in zip(queries, hits, strict=True) for _ in best]
    hit_count = len(rows)
    for i in chosen:
        if minimal := [x.caption for x in packed.examples[i].negatives if x.grade == 1]:
            rows.append(int(i))
            texts.append(minimal[int(rng.integers(len(minimal)))])
    labels = [float(text in packed.examples[row].captions) for text, row in zip(texts, rows, strict=True)]
    if _has_alternative_sentences(packed):
        alike = _alike(encoder, packed, embeddings[: len(chosen)], hits[: len(chosen)])
        labels = list(np.maximum(labels, np.concatenate([alike.ravel(), np.zeros(len(labels) - alike.size)])))
    similarity = (embed_texts(encoder, texts) * vectors[rows]).sum(axis=1)
    logits = match_logits(encoder, texts, tokens, rows)
    return Pairs(similarity, logits, np.array(labels), np.arange(len(rows)) < hit_count)


def choose_absent(absent: Sequence[str], answered: int, rng: np.random.Generator) -> list[str]:
    """Choose queries of `absent` at random, so that they are `ABSENT_SHARE` of all queries, or all of them.

    answered: Number of the other queries.
    """
    return [absent[i] for i in rng.permutation(len(absent))[: round(answered * ABSENT_SHARE / (1.0 - ABSENT_SHARE))]]


def _has_alternative_sentences(packed: Packed) -> bool:
    """Return whether every video has several captions, mostly sentences, and no minimal negatives."""
    lengths = [len(caption.split()) for e in packed.examples for caption in e.captions]
    several = all(len(e.captions) > 1 and not e.negatives for e in packed.examples)
    return several and float(np.median(lengths)) >= SENTENCE_WORDS


def _alike(encoder: Encoder, packed: Packed, queries: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return whether each hit (Q, K) has a caption that is similar enough to its query (Q, D).

    The threshold is the median similarity of captions of the same video.
    """
    counts = [len(e.captions) for e in packed.examples]
    first = np.concatenate([[0], np.cumsum(counts)])
    captions = embed_texts(encoder, [caption for e in packed.examples for caption in e.captions])
    own = np.concatenate([captions[a + 1 : b] @ captions[a] for a, b in itertools.pairwise(first)])
    similarity = queries @ captions.T
    best = np.maximum.reduceat(similarity, first[:-1], axis=1)  # (Q, N)
    alike: np.ndarray = np.take_along_axis(best, hits, axis=1) >= np.median(own) - ROUNDING
    return alike


def fit(pairs: Sequence[Pairs], nearest: Sequence[NearestVideos], answer_temperature: float = 1.0) -> Calibration:
    """Fit logistic regressions of the label on matching logits, on similarity, and on the score that ranks results.

    The regression on similarity uses search results only: minimal negatives are about as similar as right captions, and
    do not occur among results. All corpora have the same total weight.

    Args:
        pairs: Validation pairs of each corpus.
        nearest: Validation searches of each corpus, to which the weights of the combined score are fitted.
        answer_temperature: Temperature of answers, which is stored unchanged.
    """
    all_pairs = join_pairs(pairs)
    similarity, logits, label = all_pairs.similarity, all_pairs.logits, all_pairs.label
    weight = np.concatenate([np.full(len(p.label), 1.0 / len(p.label)) for p in pairs])
    match = _logistic(logits[:, None], label, weight)
    hit = all_pairs.is_hit
    alone = _logistic(similarity[hit, None], label[hit], weight[hit])
    order = _order_weights(nearest)
    slope, bias = _logistic(np.stack([similarity, logits], axis=1) @ order[:, None], label, weight)
    return Calibration(
        match_scale=match[0],
        match_bias=match[1],
        fused_similarity=slope * order[0],
        fused_match=slope * order[1],
        fused_bias=bias,
        answer_temperature=answer_temperature,
        similarity_scale=alone[0],
        similarity_bias=alone[1],
    )


def _order_weights(nearest: Sequence[NearestVideos]) -> np.ndarray:
    """Return the non-negative weights (2,) of similarity and matching logit that rank relevant videos first.

    They maximise the likelihood of the relevant videos among the results of each query (conditional logit). Unlike the
    likelihood of single pairs, it does not depend on how scores of different queries compare.
    """
    features = [np.stack([n.similarity, n.logits], axis=2) for n in nearest]  # (T, K, 2)
    features = [x - x.mean(axis=1, keepdims=True) for x in features]
    scale = np.sqrt(np.mean([(x**2).mean(axis=(0, 1)) for x in features], axis=0)) + 1e-9
    lists = []
    for x, n in zip(features, nearest, strict=True):
        answered = n.is_relevant.any(axis=1)
        if answered.any():
            lists.append((x[answered] / scale, n.is_relevant[answered]))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = PENALTY * (w @ w), 2 * PENALTY * w
        for x, is_relevant in lists:
            z = x @ w
            z = np.exp(z - z.max(axis=1, keepdims=True))
            among_all = z / z.sum(axis=1, keepdims=True)
            right = z * is_relevant
            total -= np.log(right.sum(axis=1) / z.sum(axis=1)).mean() / len(lists)
            among_right = right / right.sum(axis=1, keepdims=True)
            gradient = gradient + np.einsum("tk,tkf->f", among_all - among_right, x) / (len(x) * len(lists))
        return float(total), gradient

    optimum = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2).x
    weights: np.ndarray = (optimum if lists and optimum.any() else np.array([1.0, 0.0])) / scale
    return weights


def join_pairs(pairs: Sequence[Pairs]) -> Pairs:
    """Concatenate pairs."""
    return Pairs(*(np.concatenate([getattr(p, f.name) for p in pairs]) for f in fields(Pairs)))


def calibration_errors(calibration: Calibration, pairs: Pairs) -> dict[str, float]:
    """Return the expected calibration error (0..1) of each probability on pairs.

    `similarity` is the probability of results that are not reranked; it is missing if similarity is not calibrated.
    """
    hit = pairs.is_hit
    probabilities = {
        "similarity": similarity_probability(calibration, pairs.similarity[hit]),
        "match": match_probability(calibration, pairs.logits),
        "fused": fused_score(calibration, pairs.similarity, pairs.logits),
    }
    labels = {name: pairs.label[hit] if name == "similarity" else pairs.label for name in probabilities}
    return {name: calibration_error(p, labels[name]) for name, p in probabilities.items() if p is not None}


SEARCH_HITS = 10
"""Number of results per query whose probabilities `search_calibration` compares with their relevance."""


def search_calibration(
    encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray, absent: Sequence[str]
) -> dict[str, float]:
    """Return `similarity ECE`, `match ECE` and `fused ECE` (0..1) of searches by name, and `ECE hits`, their number.

    Queries are all different first captions, plus queries without a relevant video, which are `ABSENT_SHARE` of all.
    The `SEARCH_HITS` best results of each query count.
    """
    names = sorted({e.captions[0] for e in packed.examples})
    queries = names + choose_absent(absent, len(names), np.random.default_rng(0))
    hits = nearest_videos(encoder, packed, videos, tokens, queries=queries, count=SEARCH_HITS)
    is_relevant = hits.is_relevant.ravel()
    pairs = Pairs(hits.similarity.ravel(), hits.logits.ravel(), is_relevant.astype(float), np.ones_like(is_relevant))
    errors = calibration_errors(encoder.calibration, pairs)
    return {f"{name} ECE": error for name, error in errors.items()} | {"ECE hits": float(len(pairs.label))}


def answer_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the least negative log-likelihood of logits (n, answers) and targets (n,) int."""

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-log_probabilities[np.arange(len(targets)), targets].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 3.0), method="bounded").x))


def _logistic(features: np.ndarray, label: np.ndarray, weight: np.ndarray) -> list[float]:
    """Fit a logistic regression; return the coefficients, then the intercept.

    Coefficients of features scaled to at most 1 are at least `MIN_SLOPE`.
    """
    x = np.column_stack([features, np.ones(len(features))])
    scale = np.abs(x).max(axis=0)
    x = x / scale
    total = weight.sum()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w
        error = np.logaddexp(0.0, z) - label * z
        slope = expit(z) - label
        return (
            float((weight * error).sum() / total + PENALTY * (w @ w)),
            x.T @ (weight * slope) / total + 2 * PENALTY * w,
        )

    bounds = [*[(MIN_SLOPE, None)] * features.shape[1], (None, None)]
    optimum = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    return [float(v) for v in optimum.x / scale]
