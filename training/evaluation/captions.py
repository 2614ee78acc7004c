"""Caption scoring against people (Flickr8k-Expert) and against minimally wrong captions (scenes)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from training.data.flickr8k import Judgement
from training.data.packed import Packed
from training.evaluation.embedding import embed_texts, match_logits
from training.evaluation.encoder import Encoder
from training.evaluation.gallery import Gallery
from training.evaluation.metrics import pairwise_accuracy, tau_c


def scores_of(
    encoder: Encoder, texts: Sequence[str], videos: Gallery, tokens: np.ndarray, rows: Sequence[int]
) -> dict[str, np.ndarray]:
    """`similarity`, `match` (logits) and `fused`, (n,) each, of texts[i] and video rows[i]."""
    similarity = videos.pairs(embed_texts(encoder, texts), rows)
    logits = match_logits(encoder, texts, tokens, rows)
    return {"similarity": similarity, "match": logits, "fused": encoder.fused(similarity, logits)}


def expert_agreement(
    encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray, judgements: Sequence[Judgement]
) -> dict[str, float]:
    """Kendall tau-c with the experts, over all three judgements per pair.

    Each score alone (similarity, match, fused), with the pairs whose caption is the picture's own dropped
    ("dropped", as the literature does) and with all pairs ("all").
    """
    row_of = {e.key: i for i, e in enumerate(packed.examples)}
    rows = [row_of[j.image] for j in judgements]
    texts = [j.caption for j in judgements]
    scores = scores_of(encoder, texts, videos, tokens, rows)
    foreign = np.array([not j.is_own_caption for j in judgements])
    out = {}
    for name, values in scores.items():
        for subset, keep in (("dropped", foreign), ("all", np.ones_like(foreign))):
            kept = [int(i) for i in np.flatnonzero(keep)]
            people = [float(s) for i in kept for s in judgements[i].scores]
            repeated = [float(values[i]) for i in kept for _ in judgements[i].scores]
            out[f"tau-c {name} ({subset})"] = tau_c(repeated, people)
    return out


def wrong_caption_accuracy(encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray) -> dict[str, float]:
    """Percent of (right, minimally wrong) caption pairs in which the right one scores higher.

    By score (similarity, match, fused), in all and by what is wrong. The right caption of a pair is the one
    that the wrong one was made from.
    """
    rows, right, wrong, kinds = [], [], [], []
    for i, example in enumerate(packed.examples):
        for negative in example.negatives:
            if negative.grade == 1:
                rows.append(i)
                right.append(example.captions[negative.of])
                wrong.append(negative.caption)
                kinds.append(negative.kind)
    both = right + wrong
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        by_kind[kind].append(i)
    out = {}
    n = len(rows)
    for name, values in scores_of(encoder, both, videos, tokens, rows + rows).items():
        out[f"right caption {name}"] = pairwise_accuracy(values[:n], values[n:])
        for kind, where in sorted(by_kind.items()):
            out[f"right caption {name} ({kind})"] = pairwise_accuracy(values[:n][where], values[n:][where])
    return out
