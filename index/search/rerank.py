"""Scores of the fusion model for texts and stored clips.

Shape letters: V visual tokens, W their width, T audio tokens, A their width, D embedding dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from index.collection import Collection
from index.records import Clip, Float32, SearchSignal
from index.search.candidates import Candidate
from index.search.fusion import Evidence, signal_evidence
from index.search.request import QueryPart, TextPart
from index.storage.queries import has_audio_tokens, load_embeddings
from vitascope.bundle.manifest import Manifest
from vitascope.model import Model
from vitascope.scoring import combine_evidence, reranked_score

RERANK_BATCH_SIZE = 32
"""Pairs whose visual tokens are held in memory together."""
FIXED_WORDS = 0.2
"""Reranking does not move clips from this word score on, such as those with a rare word of a query of two."""
RERANK_CLIPS_PER_VIDEO = 5
"""The fusion model scores so many clips of a video, those most similar to the text."""


class PairScores(NamedTuple):
    """Scores of a text and a clip.

    ``match``: calibrated probability that they belong together. ``fused``: the ranking score, 0 to 1. ``has_sound``:
    both are of pictures and sound.
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

    The fusion model compares pictures: 0 where ``signals`` lacks ``visual``. It does not lead away from texts of
    negative weight. ``has_audio_tokens``: of the collection; then it compares sound, too, where ``signals`` has it.
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
    ordered by their words and sound alone; clips deleted meanwhile are dropped. If pictures and sound were searched and
    the bundle states how to rerank by both, clips with audio tokens are matched by both, and their fused score is the
    ``reranked_score`` of the search's ``evidence``.

    Returns:
        All candidates in their new order, and the scores by clip id.

    Raises:
        StorageError, and as ``Model.match``.
    """
    scores: dict[int, PairScores] = {}
    unscored: set[int] = set()
    reads_sound = "audio" in evidence.weights and model.bundle.manifest.sound_reranking is not None
    for first in range(0, min(count, len(candidates)), RERANK_BATCH_SIZE):
        batch = candidates[first : min(first + RERANK_BATCH_SIZE, count)]
        clip_ids = [candidate.clip_id for candidate in batch]
        tokens = collection.stored_tokens(clip_ids)
        audio_tokens = collection.stored_tokens(clip_ids, "audio") if reads_sound else {}
        pairs = [
            _Pair(text, candidate.clip_id, candidate.cosines.get("visual", 0.0), value)
            for candidate, value in zip(batch, signal_evidence(batch, evidence).tolist(), strict=True)
        ]
        scores |= {pair.clip_id: score for pair, score in _score_pairs(model, pairs, tokens, audio_tokens)}
        unscored |= {clip_id for clip_id, array in tokens.items() if array is None}

    present = [c for c in candidates[:count] if c.clip_id in scores or c.clip_id in unscored]
    own = [scores.get(candidate.clip_id, PairScores(0.0, 0.0)) for candidate in present]
    has_sound = np.array([score.has_sound for score in own], bool)
    fused = np.array([score.fused for score in own]) * np.where(has_sound, 1.0, evidence.weights.get("visual", 0.0))
    sound = np.where(has_sound, 0.0, np.array([c.sound or 0.0 for c in present]))
    total = combine_evidence(np.array([c.words for c in present]), fused, sound)
    order = np.lexsort((np.array([c.clip_id in unscored for c in present]), -total)).tolist()
    movable = iter([present[i] for i in order if present[i].words < FIXED_WORDS])
    reranked = [next(movable) if c.words < FIXED_WORDS else c for c in present]
    return [*reranked, *candidates[count:]], scores


def score_best_clips(
    collection: Collection,
    model: Model,
    pairs: Sequence[tuple[str, Sequence[Clip]]],
    embeddings: Mapping[str, Float32],
) -> list[ScoredClip | None]:
    """Return for each text with several clips the clip of the highest fused score.

    Only the ``RERANK_CLIPS_PER_VIDEO`` clips most similar to the text are scored. Clips without visual tokens win only
    where no clip has any.

    Args:
        pairs: texts and the clips of each.
        embeddings: by text, of the collection's bundle.

    Returns:
        A clip per pair; None where all its clips were deleted meanwhile.

    Raises:
        StorageError, and as ``Model.match``.
    """
    with collection.catalogue.read() as connection:
        ids = sorted({clip.id for _, clips in pairs for clip in clips})
        stored = load_embeddings(connection, ids, collection.embed_dim)
    truncated = {text: collection.truncate(embedding) for text, embedding in embeddings.items()}
    nearest = [_most_similar(truncated[text], clips, stored) for text, clips in pairs]
    texts = [text for text, _ in pairs]
    flat = [(text, clip, cosine) for text, near in zip(texts, nearest, strict=True) for clip, cosine in near]
    scored: list[ScoredClip] = []
    for first in range(0, len(flat), RERANK_BATCH_SIZE):
        batch = flat[first : first + RERANK_BATCH_SIZE]
        tokens = collection.stored_tokens({clip.id for _, clip, _ in batch})
        own = [_Pair(text, clip.id, similarity) for text, clip, similarity in batch]
        scores = {(pair.text, pair.clip_id): score for pair, score in _score_pairs(model, own, tokens, {})}
        scored += [ScoredClip(clip, similarity, scores.get((text, clip.id))) for text, clip, similarity in batch]
    results = iter(scored)
    return [max((next(results) for _ in near), key=_fused_then_similarity, default=None) for near in nearest]


def _most_similar(text: Float32, clips: Sequence[Clip], stored: Mapping[int, Float32]) -> list[tuple[Clip, float]]:
    present = [clip for clip in clips if clip.id in stored]
    if not present:
        return []
    cosines = np.clip(np.stack([stored[clip.id] for clip in present]) @ text, -1, 1)
    best = np.argsort(-cosines, kind="stable")[:RERANK_CLIPS_PER_VIDEO]
    return [(present[index], float(cosines[index])) for index in best]


class _Pair(NamedTuple):
    """A text and a clip. ``similarity``: cosine; ``evidence``: of the search, that pictures and sound fit."""

    text: str
    clip_id: int
    similarity: float
    evidence: float = 0.0


def _score_pairs(
    model: Model,
    pairs: Sequence[_Pair],
    tokens: Mapping[int, Float32 | None],
    audio_tokens: Mapping[int, Float32 | None],
) -> Iterator[tuple[_Pair, PairScores]]:
    """Yield the pairs whose clip has visual tokens (V, W), with their scores; audio tokens (T, A) are matched, too."""
    known = [(pair, array) for pair in pairs if (array := tokens.get(pair.clip_id)) is not None]
    if not known:
        return
    texts, clip_ids, similarities, evidence = zip(*(pair for pair, _ in known), strict=True)
    sounds = [audio_tokens.get(clip_id) for clip_id in clip_ids]
    has_sound = [sound is not None for sound in sounds]
    silence = next((np.zeros_like(sound) for sound in sounds if sound is not None), None)
    heard = None if silence is None else np.stack([silence if sound is None else sound for sound in sounds])
    match = model.match(texts, np.stack([array for _, array in known]), heard)
    fused = model.fused_score(np.array(similarities, np.float32), match.logits)
    if (sound_reranking := model.bundle.manifest.sound_reranking) is not None:
        joint = reranked_score(np.array(evidence), match.logits, sound_reranking.match_weight)
        fused = np.where(has_sound, joint, fused)
    for (pair, _), *scores in zip(known, match.probabilities.tolist(), fused.tolist(), has_sound, strict=True):
        yield pair, PairScores(*scores)


def _fused_then_similarity(scored: ScoredClip) -> tuple[bool, float, float]:
    return scored.scores is not None, 0.0 if scored.scores is None else scored.scores.fused, scored.similarity
