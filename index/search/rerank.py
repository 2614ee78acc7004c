"""Scores of the fusion model for texts and stored clips.

Shape letters: V visual tokens, W their width, T audio tokens, A their width, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from index.collection import Collection
from index.records import SIGNALS, Clip, Float32, SearchSignal
from index.search.candidates import Candidate, stored_cosines
from index.search.fusion import Evidence, measure_evidence, signal_evidence, with_sound
from index.search.request import QueryPart, TextPart
from index.storage.queries import has_audio_tokens, newest_clip
from vitascope.bundle.manifest import Manifest
from vitascope.model import Model
from vitascope.scoring import combine_evidence, reranked_score

RERANK_BATCH_SIZE = 32
"""Pairs whose visual tokens are in memory at the same time."""
FIXED_WORDS = 0.2
"""Least word score of clips that reranking does not move, such as clips with the rare one of two query words."""
RERANK_CLIPS_PER_VIDEO = 5
"""Number of a video's clips, those most similar to the text, that the fusion model scores."""


class PairScores(NamedTuple):
    """Scores of a text and a clip.

    ``match``: calibrated probability that text and clip belong together. ``fused``: the ranking score, 0 to 1.
    ``has_sound``: whether both scores are by pictures and sound, not by pictures alone.
    """

    match: float
    fused: float
    has_sound: bool = False


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """A clip scored for a text. ``similarity``: cosine; ``scores``: None for a clip stored without visual tokens."""

    clip: Clip
    similarity: float
    scores: PairScores | None


def can_rerank(model: Model) -> bool:
    """Return whether the model's bundle has the task "matching"."""
    return "matching" in model.bundle.manifest.tasks


def default_rerank(
    manifest: Manifest,
    parts: Sequence[QueryPart],
    signals: Iterable[SearchSignal] | None = None,
    has_audio_tokens: bool = False,
) -> int:
    """Return the number of clips that a search reranks unless its request sets it: 0 unless it has exactly one text.

    It is also 0 if ``signals`` lacks ``visual``, as the fusion model compares pictures, or if a text has a negative
    weight, which the fusion model cannot use. ``has_audio_tokens``: whether the collection has audio tokens; the fusion
    model then compares sound, too, if ``signals`` contains audio.
    """
    if signals is not None and "visual" not in signals:
        return 0
    weights = [part.weight for part in parts if isinstance(part, TextPart)]
    if len(weights) != 1 or weights[0] <= 0:
        return 0
    return rerank_count(manifest, has_audio_tokens and (signals is None or "audio" in signals))


def rerank_count(manifest: Manifest, by_sound: bool) -> int:
    """Return the number of clips that a search by a text reranks by default, by pictures or by pictures and sound."""
    sound = manifest.sound_reranking
    return sound.candidates if by_sound and sound is not None else manifest.default_rerank


def stores_audio_tokens(collection: Collection) -> bool:
    """Return whether a clip of the collection has audio tokens. Raises StorageError."""
    if "audio" not in collection.token_shapes:
        return False
    with collection.catalogue.read() as connection:
        return has_audio_tokens(connection)


def rerank(
    collection: Collection,
    model: Model,
    text: str,
    candidates: Sequence[Candidate],
    count: int,
    evidence: Evidence,
) -> tuple[list[Candidate], dict[int, PairScores]]:
    """Order the first ``count`` candidates by fused score, word score and sound; ties keep their order.

    Clips with a word score of at least ``FIXED_WORDS`` keep their places. Clips stored without visual tokens are
    ordered by words and sound only; clips deleted meanwhile are dropped. If pictures and sound were searched and the
    bundle has parameters to rerank by both, clips with audio tokens are matched by both, and their fused score is the
    ``reranked_score`` of the search's ``evidence``.

    Returns:
        All candidates in their new order, and the scores by clip id.

    Raises:
        StorageError, and as ``Model.match``.
    """
    best = candidates[:count]
    evidences = signal_evidence(best, evidence).tolist()
    pairs = [_Pair(text, candidate, value) for candidate, value in zip(best, evidences, strict=True)]
    scored = {pair.candidate.clip_id: score for pair, score in _score_pairs(collection, model, pairs, evidence.weights)}

    present = [candidate for candidate in best if candidate.clip_id in scored]
    own = [scored[candidate.clip_id] or PairScores(0.0, 0.0) for candidate in present]
    has_sound = np.array([score.has_sound for score in own], bool)
    fused = np.array([score.fused for score in own]) * np.where(has_sound, 1.0, evidence.weights.get("visual", 0.0))
    sound = np.where(has_sound, 0.0, np.array([c.sound_fit or 0.0 for c in present]))
    total = combine_evidence(np.array([c.words for c in present]), fused, sound)
    order = np.lexsort((np.array([scored[c.clip_id] is None for c in present]), -total)).tolist()
    movable = iter([present[i] for i in order if present[i].words < FIXED_WORDS])
    reranked = [next(movable) if c.words < FIXED_WORDS else c for c in present]
    return [*reranked, *candidates[count:]], {clip_id: score for clip_id, score in scored.items() if score is not None}


def score_best_clips(
    collection: Collection,
    model: Model,
    pairs: Sequence[tuple[str, Sequence[Clip]]],
    embeddings: Mapping[str, Float32],
) -> list[ScoredClip | None]:
    """Return for each text with several clips the clip of the highest fused score, as a search of all signals has it.

    Only the ``RERANK_CLIPS_PER_VIDEO`` clips whose pictures, and sound if the bundle states how to rerank by both, fit
    the text best are scored. Clips without visual tokens win only where no clip has any.

    Args:
        pairs: texts and the clips of each.
        embeddings: by text, of the collection's bundle.

    Returns:
        A clip per pair; None where all its clips were deleted meanwhile.

    Raises:
        StorageError, and as ``Model.match``.
    """
    manifest = model.bundle.manifest
    weights: dict[SearchSignal, float] = {"visual": 1.0}
    if manifest.sound_reranking is not None and "audio" in collection.signals:
        weights["audio"] = 1.0
    queries = np.stack([collection.truncate(embedding) for embedding in embeddings.values()])
    with collection.catalogue.read() as connection:
        measured = measure_evidence(connection, weights, manifest.calibration, queries, newest_clip(connection))
        by_text = {text: (query, own) for text, query, own in zip(embeddings, queries, measured, strict=True)}
        nearest = [_best_pairs(connection, text, clips, *by_text[text]) for text, clips in pairs]
    clips_by_id = {clip.id: clip for _, clips in pairs for clip in clips}
    scored = {
        (pair.text, pair.candidate.clip_id): score
        for pair, score in _score_pairs(collection, model, [pair for near in nearest for pair in near], weights)
    }
    results = [
        [ScoredClip(clips_by_id[c.clip_id], c.similarity, scored.get((text, c.clip_id))) for text, c, _ in near]
        for near in nearest
    ]
    return [max(near, key=_fused_then_similarity, default=None) for near in results]


class _Pair(NamedTuple):
    """A text and a clip. ``evidence``: of the search, that pictures and sound fit."""

    text: str
    candidate: Candidate
    evidence: float


def _best_pairs(
    connection: sqlite3.Connection, text: str, clips: Sequence[Clip], query: Float32, evidence: Evidence
) -> list[_Pair]:
    """Return the pairs of a text, whose embedding is ``query`` (D,), and the clips that most likely fit it."""
    ids = [clip.id for clip in clips]
    cosines = {each: stored_cosines(connection, ids, query, each) for each in SIGNALS if each in evidence.weights}
    candidates = [
        Candidate(clip_id, cosine, {signal: own[clip_id] for signal, own in cosines.items() if clip_id in own})
        for clip_id, cosine in cosines["visual"].items()
    ]
    values = signal_evidence(with_sound(connection, candidates, evidence), evidence).tolist()
    pairs = [_Pair(text, candidate, value) for candidate, value in zip(candidates, values, strict=True)]
    pairs.sort(key=lambda pair: (-pair.evidence, -pair.candidate.similarity))
    return pairs[:RERANK_CLIPS_PER_VIDEO]


def _score_pairs(
    collection: Collection, model: Model, pairs: Sequence[_Pair], weights: Mapping[SearchSignal, float]
) -> Iterator[tuple[_Pair, PairScores | None]]:
    """Yield the pairs whose clip still exists with their scores; None for a clip stored without visual tokens.

    Clips with audio tokens are matched by pictures and sound where ``weights`` has sound and the bundle states how to
    rerank by both.
    """
    sound_reranking = model.bundle.manifest.sound_reranking if "audio" in weights else None
    for first in range(0, len(pairs), RERANK_BATCH_SIZE):
        batch = pairs[first : first + RERANK_BATCH_SIZE]
        clip_ids = {pair.candidate.clip_id for pair in batch}
        tokens = collection.stored_tokens(clip_ids)
        audio_tokens = {} if sound_reranking is None else collection.stored_tokens(clip_ids, "audio")
        existing = [(pair, tokens[pair.candidate.clip_id]) for pair in batch if pair.candidate.clip_id in tokens]
        yield from ((pair, None) for pair, array in existing if array is None)
        known = [(pair, array) for pair, array in existing if array is not None]
        if not known:
            continue
        sounds = [audio_tokens.get(pair.candidate.clip_id) for pair, _ in known]
        has_sound = [sound is not None for sound in sounds]
        silence = next((np.zeros_like(sound) for sound in sounds if sound is not None), None)
        stacked_audio = None if silence is None else np.stack([silence if sound is None else sound for sound in sounds])
        match = model.match([pair.text for pair, _ in known], np.stack([array for _, array in known]), stacked_audio)
        cosines = np.array([pair.candidate.cosines.get("visual", 0.0) for pair, _ in known], np.float32)
        fused = model.fused_score(cosines, match.logits)
        if sound_reranking is not None:
            evidence = np.array([pair.evidence for pair, _ in known])
            joint = reranked_score(evidence, match.logits, sound_reranking.match_weight)
            fused = np.where(has_sound, joint, fused)
        for (pair, _), *scores in zip(known, match.probabilities.tolist(), fused.tolist(), has_sound, strict=True):
            yield pair, PairScores(*scores)


def _fused_then_similarity(scored: ScoredClip) -> tuple[bool, float, float]:
    return scored.scores is not None, 0.0 if scored.scores is None else scored.scores.fused, scored.similarity
