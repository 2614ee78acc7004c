"""Text-video retrieval over a packed corpus, both directions."""

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
    """The first so many captions (None: all), without one that is there for a choice among sentences alone."""
    chosen = example.attributes.get(CHOICE_ONLY)
    return tuple(c for i, c in enumerate(example.captions) if i != chosen)[:captions]


def caption_retrieval(
    encoder: Encoder, packed: Packed, videos: Gallery, captions: int | None = None
) -> dict[str, float]:
    """`t2v R@1` … and `v2t R@1` …; video to text counts the best of a video's captions.

    Every video is in the gallery; those without captions are not queries. Other videos that have the same caption are
    wrong answers to it. captions: use only the first so many of each example (None: all).
    """
    queries = [queries_of(e, captions) for e in packed.examples]
    texts = [c for own in queries for c in own]
    owner = np.repeat(np.arange(len(queries)), [len(own) for own in queries])
    ends = np.cumsum([len(own) for own in queries])
    told = [i for i, own in enumerate(queries) if own]
    vectors = embed_texts(encoder, texts)
    to_video = _ranks(
        lambda part: videos.scores(vectors[part]),  # (texts, videos)
        [np.array([o]) for o in owner],
        len(queries),
    )
    to_text = _ranks(
        lambda part: replace(videos, vectors=videos.vectors[told[part]]).scores(vectors).T,
        [np.arange(ends[i] - len(queries[i]), ends[i]) for i in told],
        len(texts),
    )
    return {f"t2v {k}": v for k, v in to_video.items()} | {f"v2t {k}": v for k, v in to_text.items()}


def _ranks(scores: Callable[[slice], np.ndarray], relevant: Sequence[np.ndarray], candidates: int) -> dict[str, float]:
    """As `retrieval`, of scores that are computed for a slice of the queries at a time."""
    size = max(1, ENTRIES // candidates)
    parts = [slice(start, start + size) for start in range(0, len(relevant), size)]
    ranks = [best_ranks(scores(part), relevant[part]) for part in parts]
    low, high = (np.concatenate(found) for found in zip(*ranks, strict=True))
    return rank_summary(low, high)


def concept_retrieval(
    encoder: Encoder, queries: list[str], query_groups: list[str], videos: Gallery, groups: list[str]
) -> dict[str, float]:
    """Queries against a gallery in which several videos may show the concept (`groups`) that is asked for."""
    scores = videos.scores(embed_texts(encoder, queries))
    gallery = np.array(groups)
    found = retrieval(scores, [np.flatnonzero(gallery == g) for g in query_groups])
    return {f"t2v {k}": v for k, v in found.items()}


def name_retrieval(encoder: Encoder, packed: Packed, videos: Gallery) -> dict[str, float]:
    """Photographs found by the name of an ImageNet class: `name R@1` ….

    Nobody has labelled these photographs; a photograph counts as right for a name where the pretrained classifier
    (which the names objective has as its teacher) puts that class first. Queries: the names that occur so.
    """
    names = class_names()
    best = [names[int(row.argmax())] for row in classify(packed)]  # two cranes, bird and machine, share a name
    queries = sorted(set(best))
    found = concept_retrieval(encoder, queries, queries, videos, best)
    return {k.replace("t2v", "name"): v for k, v in found.items()} | {"name queries": float(len(queries))}
