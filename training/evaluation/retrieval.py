"""Text-video retrieval over a packed corpus.

A gallery has one embedding per video, or one per clip with pooled similarities.

Shape letters: N videos, C clips, n pairs, T texts, D embedding dim, V visual tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from training.data.example import CHOICE_ONLY, Example
from training.data.packed import Packed
from training.evaluation.encoder import Alter, Encoder, embed_corpus, embed_texts, match_logits
from training.evaluation.metrics import BestRanks, best_ranks, mean_average_precision, rank_summary, retrieval
from training.models.config import FusedConfig
from training.objectives.class_names import class_names, classify
from training.objectives.losses import pool_clip_similarity
from vitascope.errors import InvalidInput

T = TypeVar("T")

TEXTS = 1024
"""Number of texts that are compared with all clips in one batch."""
RANKS = (1, 5, 10)
"""Values of K of R@K."""
RERANK_QUERIES = 200
"""Default number of queries whose results are reranked."""


@dataclass(frozen=True)
class Gallery:
    """Embeddings (N, D) of videos, or (N, C, D) of their clips, whose similarities are pooled by log-sum-exp."""

    vectors: np.ndarray
    temperature: float = 1.0
    """Temperature of the pooling."""

    def scores(self, texts_TD: np.ndarray) -> np.ndarray:
        """Return the similarity (T, N) of every text with every video."""
        if self.vectors.ndim == 2:
            return np.asarray(texts_TD @ self.vectors.T)
        clips = torch.from_numpy(self.vectors)
        parts = torch.split(torch.from_numpy(texts_TD), TEXTS)
        merged = [pool_clip_similarity(clips @ part.T, self.temperature).T for part in parts]
        return np.asarray(torch.cat(merged).numpy())

    def pairs(self, texts_nD: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Return the similarity (n,) of texts[i] with video rows[i]."""
        chosen = self.vectors[rows]
        if chosen.ndim == 2:
            return np.asarray((texts_nD * chosen).sum(axis=1))
        similarity = torch.from_numpy(np.einsum("nd,ncd->nc", texts_nD, chosen))
        return np.asarray(pool_clip_similarity(similarity[..., None], self.temperature)[:, 0].numpy())


def join_galleries(galleries: Sequence[Gallery]) -> Gallery:
    """Concatenate galleries. Raises InvalidInput if their numbers of clips differ."""
    if len({gallery.vectors.shape[1:] for gallery in galleries}) > 1:
        clips = [gallery.vectors.shape[1] if gallery.vectors.ndim == 3 else 1 for gallery in galleries]
        raise InvalidInput(f"clips: {clips} in the splits of one gallery; equally many were expected")
    return Gallery(np.concatenate([gallery.vectors for gallery in galleries]), galleries[0].temperature)


def merge_temperature(config: FusedConfig) -> float | None:
    """Return the temperature of the pooling of clip similarities; None if the model pools clips into one embedding."""
    return config.temperature if config.clip_merge == "logsumexp" else None


def embed_gallery(
    encoder: Encoder,
    packed: Packed,
    merging: float | None,
    *,
    clips: int | None = None,
    alter: Alter | None = None,
) -> tuple[Gallery, np.ndarray]:
    """Return the gallery of a corpus and its visual tokens (N, V, W) float16, averaged over clips.

    merging: Result of `merge_temperature`. clips: Number of packed clips to use; None: all. alter: Changes the streams
    first (ablations); None: unchanged.
    """
    vectors, tokens = embed_corpus(encoder, packed, clips=clips, alter=alter, per_clip=merging is not None)
    return Gallery(vectors, merging or 1.0), tokens


MAX_SIMILARITIES = 2**27
"""Maximum number of similarities in memory (512 MiB); a large split of web data may have more in total."""


def queries_of(example: Example, captions: int | None = None) -> tuple[str, ...]:
    """Return the first `captions` captions (None: all), without captions that are for multiple choice only."""
    chosen = example.attributes.get(CHOICE_ONLY, [])
    chosen = chosen if isinstance(chosen, list) else [chosen]
    return tuple(c for i, c in enumerate(example.captions) if i not in chosen)[:captions]


def caption_retrieval(
    encoder: Encoder, packed: Packed, videos: Gallery, captions: int | None = None
) -> dict[str, float]:
    """Return the metrics of text-to-video and video-to-text retrieval: `t2v R@1`, `v2t R@1` and so on.

    Video to text ranks the best of a video's captions. The gallery has all videos, also those without captions. Other
    videos with the same caption are not relevant. captions: Maximum number of captions per example; None: all.
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
    """Return the metrics of `retrieval`, computing the scores of one slice of queries at a time to save memory.

    relevant: Indices of the relevant candidates of each query. candidates: Number of candidates.
    """
    size = max(1, MAX_SIMILARITIES // candidates)
    parts = [slice(start, start + size) for start in range(0, len(relevant), size)]
    ranks = [best_ranks(scores(part), relevant[part]) for part in parts]
    return rank_summary(BestRanks(*(np.concatenate(counts) for counts in zip(*ranks, strict=True))))


def concept_retrieval(
    encoder: Encoder, queries: list[str], query_groups: list[str], videos: Gallery, groups: list[str]
) -> dict[str, float]:
    """Return retrieval metrics of queries for concepts; several videos may show the same concept.

    A video is relevant if its entry in `groups` equals the query's entry in `query_groups`.
    """
    scores = videos.scores(embed_texts(encoder, queries))
    gallery = np.array(groups)
    metrics = retrieval(scores, [np.flatnonzero(gallery == g) for g in query_groups])
    return {f"t2v {k}": v for k, v in metrics.items()}


def name_metrics(encoder: Encoder, packed: Packed, videos: Gallery) -> dict[str, float]:
    """Return metrics of categories, whose names are the first captions of their videos.

    `precision@1` and `mAP`: searches for videos by a name. `name top-1` and `name top-5`: classification of videos by
    all names.
    """
    labels = np.array([e.captions[0] for e in packed.examples])
    names = sorted(set(labels))
    scores = videos.scores(embed_texts(encoder, names))
    relevant = labels[None, :] == np.array(names)[:, None]
    first = retrieval(scores, [np.flatnonzero(row) for row in relevant], at=(1,))["R@1"]
    precision = mean_average_precision(scores, relevant)
    top = retrieval(scores.T, [np.flatnonzero(column) for column in relevant.T], at=(1, 5))
    return {"precision@1": first, "mAP": precision, "name top-1": top["R@1"], "name top-5": top["R@5"]}


@dataclass(frozen=True)
class NearestVideos:
    """The videos most similar to each query, best first: similarity, matching logit and relevance, each (T, K)."""

    similarity: np.ndarray
    logits: np.ndarray
    is_relevant: np.ndarray

    def recall(self, scores: np.ndarray | None = None, candidates: int = 0) -> list[float]:
        """Return R@1, R@5 and R@10 in percent.

        scores: (T, K), by which the first `candidates` videos are reordered; None: they keep their order.
        """
        ranked = self.is_relevant
        if scores is not None and candidates:
            order = np.argsort(-scores[:, :candidates], axis=1, kind="stable")
            ranked = np.concatenate([np.take_along_axis(ranked, order, axis=1), ranked[:, candidates:]], axis=1)
        return [float(100.0 * ranked[:, :k].any(axis=1).mean()) for k in RANKS]


def spread(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` items, evenly spread over all of them. limit: 0: all."""
    count = min(limit or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


def spread_captions(packed: Packed, limit: int) -> list[str]:
    """Return at most `limit` different first captions, evenly spread over the examples. limit: 0: all."""
    return spread(list(dict.fromkeys(e.captions[0] for e in packed.examples if e.captions)), limit)


def nearest_videos(
    encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray, *, queries: Sequence[str], count: int
) -> NearestVideos:
    """Return the `count` videos most similar to each query. Every video with the query as a caption is relevant."""
    return score_nearest(encoder, packed, queries, videos.scores(embed_texts(encoder, queries)), tokens, count)


def score_nearest(
    encoder: Encoder,
    packed: Packed,
    queries: Sequence[str],
    scores: np.ndarray,
    tokens: np.ndarray,
    count: int,
    audio: np.ndarray | None = None,
) -> NearestVideos:
    """Return the `count` videos with the highest scores (T, N) for each query. Their `similarity` is the score.

    tokens: Visual tokens (N, V, W). audio: Audio tokens (N, T, A); None: sound is not used.
    """
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    texts, rows = [text for text in queries for _ in range(nearest.shape[1])], nearest.ravel().tolist()
    logits = match_logits(encoder, texts, tokens, rows, audio)
    is_relevant = np.array([text in packed.examples[row].captions for text, row in zip(texts, rows, strict=True)])
    return NearestVideos(
        np.take_along_axis(scores, nearest, axis=1),
        logits.reshape(nearest.shape),
        is_relevant.reshape(nearest.shape),
    )


def reranked_retrieval(
    encoder: Encoder,
    packed: Packed,
    videos: Gallery,
    tokens: np.ndarray,
    *,
    queries: int = RERANK_QUERIES,
    candidates: int = 20,
) -> dict[str, float]:
    """Return R@1, R@5 and R@10 of searches by first captions: by similarity, and reordered by match and by fused.

    Args:
        encoder: The model.
        packed: The corpus.
        videos: Its gallery.
        tokens: Its visual tokens (N, V, W).
        queries: Maximum number of captions, spread evenly over the examples; 0: all.
        candidates: Number of results that are reordered.
    """
    captions = spread_captions(packed, queries)
    nearest = nearest_videos(encoder, packed, videos, tokens, queries=captions, count=candidates)
    orders = {
        "similarity": None,
        "match": nearest.logits,
        "fused": encoder.fused_score(nearest.similarity, nearest.logits),
    }
    return {
        f"{name} R@{k} (top {candidates})": value
        for name, scores in orders.items()
        for k, value in zip(RANKS, nearest.recall(scores, candidates), strict=True)
    }


def name_retrieval(encoder: Encoder, packed: Packed, videos: Gallery) -> dict[str, float]:
    """Return retrieval metrics of photographs by ImageNet class name, `name R@1` and so on.

    The photographs have no labels. A photograph is relevant for a name if the pretrained classifier, the teacher of the
    class-name objective, predicts that class. The queries are the names of all predicted classes.
    """
    names = class_names()
    best = [names[int(row.argmax())] for row in classify(packed)]  # two cranes, bird and machine, share a name
    queries = sorted(set(best))
    metrics = concept_retrieval(encoder, queries, queries, videos, best)
    return {k.replace("t2v", "name"): v for k, v in metrics.items()} | {"name queries": float(len(queries))}


Counts = Mapping[str, float]


def sentence_retrieval(encoder: Encoder, packed: Packed) -> dict[str, float]:
    """Search for every clip by its first caption among all clips.

    Clips with equal captions (ignoring case) are relevant for one another.

    Returns:
        `sentences`: number of queries. `first`, `among 5`, `among 10`: number of queries with a relevant clip at that
        rank or better (the expected number for ties). `median rank`, `mean rank`. `among K` is missing if there are not
        more than K clips.
    """
    sentences = [example.captions[0] for example in packed.examples]
    vectors, _ = embed_corpus(encoder, packed)
    scores = embed_texts(encoder, sentences) @ vectors.T
    same = np.array([sentence.casefold() for sentence in sentences])
    relevant = [np.flatnonzero(same == sentence) for sentence in same]
    metrics = retrieval(scores, relevant, RANKS)
    total = len(sentences)
    names = {k: "first" if k == 1 else f"among {k}" for k in RANKS if k < total}
    counts = {name: round(metrics[f"R@{k}"] * total / 100.0, 2) for k, name in names.items()}
    ranks = {"median rank": metrics["MdR"], "mean rank": round(metrics["MnR"], 2)}
    return {"sentences": float(total)} | counts | ranks


def compare_counts(before: Counts, after: Counts) -> int:
    """Compare results of `sentence_retrieval` by `first`, then by mean rank.

    Returns:
        1 if `after` is better, -1 if it is worse, else 0.
    """
    for name, sign in (("first", 1), ("mean rank", -1)):
        difference = sign * (after[name] - before[name])
        if difference:
            return 1 if difference > 0 else -1
    return 0
