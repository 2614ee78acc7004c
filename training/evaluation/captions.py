"""Evaluation of caption scores: agreement with human judgements (Flickr8k-Expert), and ranking above negatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from training.data.corpus import CorpusError
from training.data.example import Example, Negative
from training.data.flickr import Judgement
from training.data.packed import Packed
from training.evaluation.encoder import Encoder, embed_texts, score_pairs
from training.evaluation.metrics import choice_accuracy, pairwise_accuracy, tau_c
from training.evaluation.retrieval import Gallery
from vitascope.scoring import caption_em_score, caption_words, clipscore_embeddings, ref_clip_score

MAX_WORDS = 64
"""Maximum words of a caption for EMScore."""


def scores_of(
    encoder: Encoder,
    texts: Sequence[str],
    videos: Gallery,
    tokens: np.ndarray,
    rows: Sequence[int],
    audio: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return scores (n,) of texts[i] with video rows[i], by name.

    They are `similarity`, `match` (logits), `fused` and, if the bundle has a caption matrix, `clipscore`: the cosine
    of which CLIPScore is a multiple.
    """
    vectors, logits = score_pairs(encoder, texts, tokens, rows, audio)
    similarity = videos.pairs(vectors, rows)
    scores = {"similarity": similarity, "match": logits, "fused": encoder.fused_score(similarity, logits)}
    if encoder.caption_matrix is not None:
        scores["clipscore"] = videos.pairs(clipscore_embeddings(vectors, encoder.caption_matrix), rows)
    return scores


def refclipscores(
    encoder: Encoder, texts: Sequence[str], similarity: np.ndarray, references: Sequence[Sequence[str]]
) -> np.ndarray:
    """Return RefCLIPScore (n,) of texts[i] with references[i].

    similarity: (n,), the cosine of texts[i] and its video that CLIPScore uses.
    """
    distinct = list(dict.fromkeys([*texts, *(reference for of_text in references for reference in of_text)]))
    vectors = dict(zip(distinct, embed_texts(encoder, distinct), strict=True))
    best = [
        max(float(vectors[text] @ vectors[reference]) for reference in of_text)
        for text, of_text in zip(texts, references, strict=True)
    ]
    return np.array([ref_clip_score(float(a), b) for a, b in zip(similarity, best, strict=True)])


def still_emscores(encoder: Encoder, texts: Sequence[str], similarity: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return EMScore (n,) of texts[i] with one frame, the image with the embedding pictures[i].

    similarity: (n,), cosine of texts[i] and pictures[i]. pictures: (n, D).
    """
    words_by_text = [caption_words(text, MAX_WORDS) for text in texts]
    distinct = list(dict.fromkeys(word for words in words_by_text for word in words))
    vectors = dict(zip(distinct, embed_texts(encoder, distinct), strict=True))
    return np.array(
        [
            caption_em_score(float(coarse), words, picture[None] @ np.stack([vectors[w] for w in words]).T, [0.0]).score
            for coarse, words, picture in zip(similarity, words_by_text, pictures, strict=True)
        ]
    )


def expert_agreement(
    encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray, judgements: Sequence[Judgement]
) -> dict[str, float]:
    """Return Kendall's tau-c, times 100, of scores with the expert judgements, three per pair.

    For the scores of `scores_of`: without the pairs whose caption belongs to the image ("dropped", as in the
    literature), and with all pairs ("all"). For RefCLIPScore, with the image's own captions as references, and EMScore:
    only "dropped". `judgements without picture` counts those of images that could not be packed, if there are any.
    """
    row_of = {e.key: i for i, e in enumerate(packed.examples)}
    all_count, judgements = len(judgements), [j for j in judgements if j.image in row_of]
    rows = [row_of[j.image] for j in judgements]
    texts = [j.caption for j in judgements]
    scores = scores_of(encoder, texts, videos, tokens, rows)
    foreign = np.array([not j.is_own_caption for j in judgements])
    out = {"judgements without picture": float(all_count - len(judgements))} if len(judgements) < all_count else {}
    for name, values in scores.items():
        for subset, keep in (("dropped", foreign), ("all", np.ones_like(foreign))):
            indices = [int(i) for i in np.flatnonzero(keep)]
            people = [float(s) for i in indices for s in judgements[i].scores]
            repeated = [float(values[i]) for i in indices for _ in judgements[i].scores]
            out[f"tau-c {name} ({subset})"] = tau_c(repeated, people)
    indices = [int(i) for i in np.flatnonzero(foreign)]
    texts, rows = [texts[i] for i in indices], [rows[i] for i in indices]
    compared = scores.get("clipscore", scores["similarity"])[indices]
    more = {"refclipscore": refclipscores(encoder, texts, compared, [packed.examples[row].captions for row in rows])}
    if videos.vectors.ndim == 2:
        more["emscore"] = still_emscores(encoder, texts, scores["similarity"][indices], videos.vectors[rows])
    people = [float(s) for i in indices for s in judgements[i].scores]
    for name, values in more.items():
        repeated = [float(v) for v, i in zip(values, indices, strict=True) for _ in judgements[i].scores]
        out[f"tau-c {name} (dropped)"] = tau_c(repeated, people)
    return out


def wrong_caption_accuracy(encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray) -> dict[str, float]:
    """Return the percentage of (caption, minimal negative) pairs in which the caption scores higher.

    Metrics are by score (see `scores_of`), overall and by kind of error. A negative is paired with the caption
    from which it was made.
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


def negative_caption_metrics(
    encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray, audio: np.ndarray | None = None
) -> dict[str, float]:
    """Return how often the right caption scores higher than negatives, in percent, by score (see `scores_of`).

    Ties count as chance. Metrics:
        `right caption SCORE`: pairs with a minimal negative (grade 1), overall and by kind of error.
        `right caption SCORE (grade 2)`: pairs with other negatives.
        `choice of N SCORE`: the right caption scores highest among N captions, itself and at least two negatives.
        `choices of N`: the number of such sets.

    Raises:
        CorpusError: A negative refers to a caption that the example does not have.
    """
    texts: list[str] = []
    rows: list[int] = []
    pairs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    choices: dict[int, list[range]] = defaultdict(list)
    for row, example in enumerate(packed.examples):
        for right, wrong in _by_right_caption(packed, example).items():
            start = len(texts)
            texts += [example.captions[right], *(n.caption for n in wrong)]
            rows += [row] * (1 + len(wrong))
            for index, negative in enumerate(wrong, start + 1):
                for subset in _subsets(negative):
                    pairs[subset].append((start, index))
            if len(wrong) > 1:
                choices[1 + len(wrong)].append(range(start, len(texts)))
    out = {f"choices of {size}": float(len(sets)) for size, sets in sorted(choices.items())}
    for name, values in scores_of(encoder, texts, videos, tokens, rows, audio).items():
        for subset, places in sorted(pairs.items()):
            right_values, wrong_values = values[np.array(places)].T
            out[f"right caption {name}{subset}"] = pairwise_accuracy(right_values, wrong_values)
        for size, sets in sorted(choices.items()):
            out[f"choice of {size} {name}"] = choice_accuracy(values[np.array(sets)])
    return out


def _by_right_caption(packed: Packed, example: Example) -> dict[int, list[Negative]]:
    by_caption: dict[int, list[Negative]] = defaultdict(list)
    for negative in example.negatives:
        if not 0 <= negative.of < len(example.captions):
            raise CorpusError(
                f"{packed.folder}: {example.key}: negatives: of: {negative.of}; the index of one of "
                f"{len(example.captions)} captions was expected"
            )
        by_caption[negative.of].append(negative)
    return by_caption


def _subsets(negative: Negative) -> list[str]:
    """Return the suffixes of the metrics to which a pair belongs."""
    if negative.grade != 1:
        return [f" (grade {negative.grade})"]
    return ["", f" ({negative.kind})"] if negative.kind else [""]
