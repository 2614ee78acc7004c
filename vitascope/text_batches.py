"""Texts as the inputs of text graphs: in pieces of similar length, since padding is computed like everything else.

Shape letters: B texts of one piece, L tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitascope.engines.onnx_runtime import Array
from vitascope.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextBatch:
    """rows (B,): which of the texts; inputs: ``input_ids`` and ``attention_mask``, each (B, L) int64; ``tokens``: how
    many are read, padding left out.
    """

    rows: NDArray[np.int64]
    inputs: dict[str, Array]
    tokens: int


def text_batches(tokenizer: Tokenizer, texts: Sequence[str], size: int) -> list[TextBatch]:
    """All ``texts`` in pieces of at most ``size``, shortest first. Raises TextError."""
    ids, mask = tokenizer.encode(texts)
    lengths = mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    batches = []
    for first in range(0, len(texts), size):
        rows = order[first : first + size]
        longest = max(1, int(lengths[rows[-1]]))
        inputs = {"input_ids": ids[rows, :longest], "attention_mask": mask[rows, :longest]}
        batches.append(TextBatch(rows, inputs, int(lengths[rows].sum())))
    return batches
