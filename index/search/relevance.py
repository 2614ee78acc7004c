"""Relevance: the probability that a clip fits a query, and which conditions of the query it meets.

Shape letters: C clips, T texts, D embedding dim.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from index.records import Float32
from index.search.candidates import RANK_DEPTH, Candidate, CandidateFilter, vector_candidates
from index.search.fusion import Evidence, is_calibrated
from index.search.request import SearchRequest, TextPart
from index.search.rerank import PairScores
from index.storage.queries import load_embeddings
from index.vectors.interface import VectorSnapshot
from vitascope.language import unknown_language
from vitascope.scoring import similarity_probability
from vitascope.tokenizer import Tokenizer

_ROUNDING = 1e-6
GOOD_MATCH = 0.25
"""Least relevance of a good match. It best separates right first results from wrong ones: on validation searches 73%
of the right ones and 16% of the wrong ones reach it; 41% and 2% reach 0.5."""
MOST_WORDS = 0.8
"""Word score of a clip that contains nearly all words of a query."""


@dataclass(frozen=True, slots=True)
class SearchWarning:
    """A reason not to trust the results of a search. ``detail``: a sentence."""

    code: Literal["no_good_match", "language"]
    detail: str


@dataclass(frozen=True, slots=True)
class Condition:
    """One of several texts of a query, and whether a clip fits it.

    ``relevance``: probability that the clip fits the text. ``met``: whether the relevance is at least ``GOOD_MATCH``;
    for a text of negative weight, whether it is lower.
    """

    text: str
    weight: float
    relevance: float
    met: bool


class Relevance(NamedTuple):
    """The probability that a clip fits a query (None: unknown), and its conditions (None: the query has none)."""

    value: float | None
    conditions: tuple[Condition, ...] | None

    def reaches(self, minimum: float) -> bool:
        return self.value is not None and self.value >= minimum


def clip_relevance(
    connection: sqlite3.Connection,
    request: SearchRequest,
    candidates: Sequence[Candidate],
    scores: Mapping[int, PairScores],
    evidence: Evidence,
) -> dict[int, Relevance]:
    """Return the relevance of clips by id.

    For a single text, relevance is the fused score of a reranked clip, else the calibrated similarity of pictures or
    sound. For several texts, it is the relevance of the condition that the clip is least likely to meet. A clip that
    contains nearly all words of the query meets its texts with at least its word score. The relevance of a clip that
    was not reranked is unknown if the bundle has no calibration of similarity, if the query has clips or files, or if
    no embeddings are searched.
    """
    probabilities = _text_probabilities(connection, request, candidates)
    # Pictures do not fit a text where there are none.
    has_fits = evidence.searches_embeddings and request.has_texts_only and is_calibrated(request.calibration)
    no_fits = [0.0] * (len(request.conditions) or 1) if has_fits else []
    relevance = {}
    for candidate in candidates:
        score = scores.get(candidate.clip_id)
        fused, has_sound = (None, False) if score is None else (score.fused, score.has_sound)
        row = probabilities.get(candidate.clip_id) or no_fits
        sound_fits = iter(candidate.sound_fits)
        words = candidate.words if candidate.words >= MOST_WORDS else 0.0
        conditions = []
        for part, probability in zip(request.conditions, row, strict=False):
            fit = probability if fused is None or part.weight < 0 else fused
            fit = max(fit, words, next(sound_fits, 0.0)) if part.weight > 0 else fit
            conditions.append(Condition(part.text, part.weight, fit, (fit >= GOOD_MATCH) == (part.weight > 0)))
        value = row[0] if request.is_text and fused is None and row else fused
        if request.is_text and is_calibrated(request.calibration) and candidate.sound_fit is not None and not has_sound:
            value = max(value or 0.0, candidate.sound_fit / evidence.weights["audio"])
        if conditions and request.has_texts_only:
            value = min(c.relevance if c.weight > 0 else 1 - c.relevance for c in conditions)
        elif value is not None or (words and not evidence.searches_embeddings):
            value = max(value or 0.0, words)
        relevance[candidate.clip_id] = Relevance(value, tuple(conditions) or None)
    return relevance


def _text_probabilities(
    connection: sqlite3.Connection, request: SearchRequest, candidates: Sequence[Candidate]
) -> dict[int, list[float]]:
    """Return by clip id the probability that the clip fits each of T texts; empty if the probabilities are unknown."""
    if request.calibration is None or not (request.is_text or request.conditions):
        return {}
    known = {candidate.clip_id: list(candidate.picture_fits) for candidate in candidates if candidate.picture_fits}
    if request.is_text:
        pictured = (candidate for candidate in candidates if "visual" in candidate.cosines)
        cosines = {candidate.clip_id: [candidate.cosines["visual"]] for candidate in pictured}
    else:
        texts = np.stack([part.embedding for part in request.conditions])
        unknown = [candidate.clip_id for candidate in candidates if not candidate.picture_fits]
        stored = load_embeddings(connection, unknown, texts.shape[1])
        cosines = {clip_id: (texts @ embedding).tolist() for clip_id, embedding in stored.items()}
    if not cosines:
        return known
    probabilities = similarity_probability(request.calibration, np.array(list(cosines.values())))
    return {} if probabilities is None else known | dict(zip(cosines, probabilities.tolist(), strict=True))


def lowest_similarity(request: SearchRequest) -> float:
    """Return the similarity of pictures below which the request excludes every clip; -2 if it excludes none.

    With reranking, ``min_relevance`` is no bound, as the relevance of a reranked clip depends on its fused score.
    """
    bounds = [-2.0 if request.min_similarity is None else request.min_similarity]
    calibration = request.calibration
    if request.min_relevance and not request.rerank and request.is_text and calibration is not None:
        scale, bias = calibration.similarity_scale, calibration.similarity_bias
        if scale is not None and bias is not None and scale > 0:
            probability = min(request.min_relevance, 1 - _ROUNDING)
            bounds.append((math.log(probability / (1 - probability)) - bias) / scale - _ROUNDING)
    return max(bounds)


def match_warnings(relevance: Sequence[float | None]) -> list[SearchWarning]:
    """Return a warning if none of the results with these values of relevance is a good match."""
    known = [value for value in relevance if value is not None]
    if not known or len(known) < len(relevance) or max(known) >= GOOD_MATCH:
        return []
    return [
        SearchWarning(
            "no_good_match",
            f"No result is likely to fit: the best has a relevance of {max(known):.2f}; a good match has at least "
            f"{GOOD_MATCH:.2f}",
        )
    ]


def language_warnings(texts: Iterable[str], known: Sequence[str] | None, tokenizer: Tokenizer) -> list[SearchWarning]:
    """Return a warning if a text of a query is in a language that the model does not know.

    The first text with a word that the tokenizer does not know takes half a second, see ``unknown_language``.

    Args:
        texts: texts of the query.
        known: ISO 639 codes of the languages that the model knows; None: not stated.
        tokenizer: tokenizer of the model.
    """
    if known is None:
        return []
    languages = (unknown_language(text, known, tokenizer) for text in texts)
    language = next(filter(None, languages), None)
    if language is None:
        return []
    detail = (
        f"The query seems to be in a language ({language}) that the model does not know; it knows {', '.join(known)}"
    )
    return [SearchWarning("language", detail)]


# Queries with several texts


def has_several_conditions(request: SearchRequest) -> bool:
    """Return whether ``condition_candidates`` ranks the clips.

    It does if the query consists of several texts, at least one of them of positive weight, and there is a calibration.
    """
    has_several = len(request.conditions) > 1 and bool(request.texts)
    return has_several and request.has_texts_only and is_calibrated(request.calibration)


def condition_candidates(
    connection: sqlite3.Connection,
    vectors: VectorSnapshot,
    request: SearchRequest,
    query: Float32,
    depth: int,
    clip_filter: CandidateFilter,
    clip_ids: Sequence[int],
) -> list[Candidate]:
    """Return clips with the probability that they fit all texts of positive weight, best first; ties ordered by id.

    This probability is the product of the probabilities for each text; the exponent of each is its weight relative to
    the largest. Texts of negative weight are subtracted from each text. The texts are not compared by the sum of their
    embeddings, because a clip that fits one text strongly would rank above a clip that fits all.

    Args:
        query: sum of the embeddings (D,), for the similarity of the candidates.
        depth: that many clips nearest to each text and to ``query`` are compared, but at least ``RANK_DEPTH``. A clip
            that is near to none of them may be missing.
        clip_ids: clips to include, even if they are not near any text.
    """
    texts, contrasts, exponents = contrasted_texts(request.conditions)
    nearest = replace(clip_filter, min_similarity=-2.0)
    pool = set(clip_ids)
    for text in (*texts, query):  # the last one: clips that fit all texts, but others fit each of them better
        pool |= {c.clip_id for c in vector_candidates(vectors, text, max(depth, RANK_DEPTH), nearest)}
    stored = load_embeddings(connection, sorted(pool), len(query))
    if not stored or request.calibration is None:
        return []
    ids, embeddings = np.array(list(stored)), np.stack(list(stored.values()))
    # Not matrix products, in which equal rows may have products that differ in the last bit.
    cosines = np.stack([(embeddings * part.embedding).sum(axis=1) for part in request.conditions], axis=1)
    picture_fits = similarity_probability(request.calibration, cosines)
    contrasted_fits = similarity_probability(request.calibration, (cosines[:, None] * contrasts).sum(axis=2))
    assert picture_fits is not None
    assert contrasted_fits is not None
    fit = np.prod(contrasted_fits**exponents, axis=1)
    similarities = np.clip((embeddings * query).sum(axis=1), -1, 1)
    order = [index for index in np.lexsort((ids, -fit)) if similarities[index] >= clip_filter.min_similarity]
    return [
        Candidate(
            int(ids[index]),
            float(similarities[index]),
            {"visual": float(similarities[index])},
            {"visual": rank},
            picture_fits=tuple(picture_fits[index].tolist()),
            contrasted_fits=tuple(contrasted_fits[index].tolist()),
        )
        for rank, index in enumerate(order, 1)
    ]


def contrasted_texts(
    parts: Sequence[TextPart],
) -> tuple[Float32, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Subtract the texts of negative weight from each of positive weight.

    Returns:
        The differences (P, D) of length 1, their coefficients (P, T) in the texts, and the relative weights (P,).
    """
    weights = np.array([part.weight for part in parts])
    positive = np.flatnonzero(weights > 0)
    coefficients = np.tile(np.minimum(weights, 0) / weights.max(), (len(positive), 1))
    coefficients[np.arange(len(positive)), positive] = 1.0
    texts = coefficients @ np.stack([part.embedding for part in parts])
    norms = np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), _ROUNDING)
    return (texts / norms).astype(np.float32), coefficients / norms, weights[positive] / weights.max()
