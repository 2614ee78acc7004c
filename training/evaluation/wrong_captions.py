"""Captions against negatives, in pairs and in multiple choice (MSRVTT-MC: one of five)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from training.data.errors import CorpusError
from training.data.example import Example, Negative
from training.data.packed import Packed
from training.evaluation.captions import scores_of
from training.evaluation.encoder import Encoder
from training.evaluation.gallery import Gallery
from training.evaluation.metrics import choice_accuracy, pairwise_accuracy


def against_wrong_captions(encoder: Encoder, packed: Packed, videos: Gallery, tokens: np.ndarray) -> dict[str, float]:
    """Percent, by each score (similarity, match, fused); ties count as chance.

    `right caption SCORE`: pairs with a minimally wrong caption (grade 1), also by what is wrong;
    `right caption SCORE (grade 2)`: pairs with others. `choice of N SCORE`: the right one scores highest among all N
    that a right caption with at least two wrong ones makes; `choices of N`: how many there are.
    Raises CorpusError where a wrong caption is not made from a caption that is there.
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
    for name, values in scores_of(encoder, texts, videos, tokens, rows).items():
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
    """Endings of the names of the metrics that a pair counts for."""
    if negative.grade != 1:
        return [f" (grade {negative.grade})"]
    return ["", f" ({negative.kind})"] if negative.kind else [""]
