"""Text-video retrieval over a packed corpus, both directions."""

from __future__ import annotations

import numpy as np

from training.data.packed import Packed
from training.evaluation.embedding import embed_texts
from training.evaluation.encoder import Encoder
from training.evaluation.gallery import Gallery
from training.evaluation.metrics import retrieval
from training.names import class_names, classify


def caption_retrieval(
    encoder: Encoder, packed: Packed, videos: Gallery, captions: int | None = None
) -> dict[str, float]:
    """`t2v R@1` … and `v2t R@1` …; video to text counts the best of a video's captions.

    captions: use only the first so many captions of each example (None: all).
    """
    texts = [c for e in packed.examples for c in e.captions[:captions]]
    owner = np.concatenate([np.full(len(e.captions[:captions]), i) for i, e in enumerate(packed.examples)])
    scores = videos.scores(embed_texts(encoder, texts))  # (texts, videos)
    to_video = retrieval(scores, [np.array([o]) for o in owner])
    to_text = retrieval(scores.T, [np.flatnonzero(owner == i) for i in range(len(packed.examples))])
    return {f"t2v {k}": v for k, v in to_video.items()} | {f"v2t {k}": v for k, v in to_text.items()}


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
