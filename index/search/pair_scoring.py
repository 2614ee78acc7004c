"""Texts and stored clips, judged pair by pair: similarity of all, the fusion model's word on the most similar.

Shape letters: T texts, C clips.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.collection import Collection
from index.records import Clip, Float32
from index.search.rerank import PAIRS_AT_ONCE, scored
from index.storage.queries import stored_vectors
from vitascope.errors import NotFound
from vitascope.model import Model

JUDGED_CLIPS = 5
"""Of a video, the fusion model looks at so many clips, those most similar to the text."""


@dataclass(frozen=True)
class Judged:
    """A text and a clip. ``similarity``: cosine; ``match`` and ``fused``, 0 to 1, None for a clip that is kept without
    visual tokens.
    """

    clip: Clip
    similarity: float
    match: float | None
    fused: float | None


def clips_by_id(collection: Collection, clip_ids: Sequence[int]) -> list[Clip]:
    """The clips of these ids, in their order. Raises NotFound naming the first that the collection lacks."""
    with collection.catalogue.read() as connection:
        rows = connection.execute(
            "SELECT id, video_id, start, end, text FROM clips WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(clip_ids)),),
        )
        found = {row[0]: Clip(*row) for row in rows}
    for clip_id in clip_ids:
        if clip_id not in found:
            raise NotFound(f"collection {collection.name}: no clip {clip_id}")
    return [found[clip_id] for clip_id in clip_ids]


def judge_pairs(
    collection: Collection, model: Model, asked: Sequence[tuple[str, Sequence[Clip]]]
) -> list[Judged | None]:
    """For each (text, clips) the clip that fits best, by fused score, among the ``JUDGED_CLIPS`` most similar ones.

    None where all its clips were deleted meanwhile; a clip without visual tokens is best only where none has any.
    Raises TextError, TaskMissing, EngineError, StorageError.
    """
    texts = list(dict.fromkeys(text for text, _ in asked))
    vectors = dict(zip(texts, model.embed_text(texts), strict=True))
    with collection.catalogue.read() as connection:
        ids = {clip.id for _, clips in asked for clip in clips}
        stored = stored_vectors(connection, sorted(ids), collection.width)
    found = [_most_similar(vectors[text], clips, stored) for text, clips in asked]
    pairs = [(text, one) for (text, _), clips in zip(asked, found, strict=True) for one in clips]
    judged = iter(_judged(collection, model, pairs))
    return [_best([next(judged) for _ in clips]) for clips in found]


def _most_similar(text: Float32, clips: Sequence[Clip], stored: dict[int, Float32]) -> list[tuple[Clip, float]]:
    present = [clip for clip in clips if clip.id in stored]
    if not present:
        return []
    cosines = np.clip(np.stack([stored[clip.id] for clip in present]) @ text, -1.0, 1.0)
    return [(present[place], float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:JUDGED_CLIPS]]


def _judged(collection: Collection, model: Model, pairs: Sequence[tuple[str, tuple[Clip, float]]]) -> list[Judged]:
    """All pairs, in their order, a few with their tokens in memory at once."""
    done: list[Judged] = []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[first : first + PAIRS_AT_ONCE]
        kept = collection.stored_tokens({clip.id for _, (clip, _) in some})
        seen = [
            (text, similarity, tokens) for text, (clip, similarity) in some if (tokens := kept.get(clip.id)) is not None
        ]
        scores = iter(scored(model, *zip(*seen, strict=True)) if seen else [])
        for _, (clip, similarity) in some:
            score = (None, None) if kept.get(clip.id) is None else next(scores)
            done.append(Judged(clip, similarity, *score))
    return done


def _best(judged: Sequence[Judged]) -> Judged | None:
    return max(judged, key=lambda one: (one.fused is not None, one.fused or 0.0, one.similarity), default=None)
