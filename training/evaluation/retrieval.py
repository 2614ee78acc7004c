"""Text-video retrieval over a packed corpus, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from training.data.example import CHOICE_ONLY, Example
from training.data.packed import Packed
from training.evaluation.embedding import embed_texts
from training.evaluation.encoder import Encoder
from training.evaluation.gallery import Gallery
from training.evaluation.metrics import best_ranks, rank_summary, retrieval
from training.objectives.class_names import class_names, classify

ENTRIES = 2**27
"""Similarities that are held at once (512 MiB): a split of shards from the web may have more."""


def queries_of(example: Example, captions: int | None = None) -> tuple[str, ...]:
    """Return the first `captions` captions (None: all), without captions that only serve multiple choice."""
    chosen = example.attributes.get(CHOICE_ONLY)
    return tuple(c for i, c in enumerate(example.captions) if i != chosen)[:captions]


def caption_retrieval(
    encoder: Encoder, packed: Packed, videos: Gallery, captions: int | None = None
) -> dict[str, float]:
    """Return `t2v R@1`, `v2t R@1` and so on; video to text counts the best of a video's captions.

    Every video is in the gallery; those without captions are not queries. Other videos with an equal caption are not
    relevant. captions: Use only this many captions per example; None: all.
    """
    queries = [queries_of(e, captions) for e in packed.examples]
    texts = [c for own in queries for c in own]
    owner = np.repeat(np.arange(len(queries)), [len(own) for own in queries])
    ends = np.cumsum([len(own) for own in queries])
    with_captions = [i for i, own in enumerate(queries) if own]
    vectors = embed_texts(encoder, texts)
    to_video = _ranks(
        lambda part: videos.scores(vectors[part]),  # (texts, videos)
        [np.array([o]) for o in owner],
        len(queries),
    )
    to_text = _ranks(
        lambda part: replace(videos, vectors=videos.vectors[with_captions[part]]).scores(vectors).T,
        [np.arange(ends[i] - len(queries[i]), ends[i]) for i in with_captions],
        len(texts),
    )
    return {f"t2v {k}": v for k, v in to_video.items()} | {f"v2t {k}": v for k, v in to_text.items()}


def _ranks(scores: Callable[[slice], np.ndarray], relevant: Sequence[np.ndarray], candidates: int) -> dict[str, float]:
    """Return the metrics of `retrieval`, computing scores for a slice of the queries at a time."""
    size = max(1, ENTRIES // candidates)
    parts = [slice(start, start + size) for start in range(0, len(relevant), size)]
    ranks = [best_ranks(scores(part), relevant[part]) for part in parts]
    low, high = (np.concatenate(bounds) for bounds in zip(*ranks, strict=True))
    return rank_summary(low, high)


def concept_retrieval(
    encoder: Encoder, queries: list[str], query_groups: list[str], videos: Gallery, groups: list[str]
) -> dict[str, float]:
    """Return retrieval metrics of concept queries, where several videos may show a concept (`groups`)."""
    scores = videos.scores(embed_texts(encoder, queries))
    gallery = np.array(groups)
    metrics = retrieval(scores, [np.flatnonzero(gallery == g) for g in query_groups])
    return {f"t2v {k}": v for k, v in metrics.items()}


def name_retrieval(encoder: Encoder, packed: Packed, videos: Gallery) -> dict[str, float]:
    """Return retrieval metrics of photographs by ImageNet class name, `name R@1` and so on.

    The photographs are not labelled: one counts as relevant for a name where the pretrained classifier, the teacher of
    the class-name objective, ranks that class first. Queries are the names that occur.
    """
    names = class_names()
    best = [names[int(row.argmax())] for row in classify(packed)]  # two cranes, bird and machine, share a name
    queries = sorted(set(best))
    metrics = concept_retrieval(encoder, queries, queries, videos, best)
    return {k.replace("t2v", "name"): v for k, v in metrics.items()} | {"name queries": float(len(queries))}
