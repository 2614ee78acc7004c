"""Which waiting calls go into one run of a graph, and how their rows are put together and taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.inference.call import Call, Outputs
from vitascope.engines.onnx_runtime import Array

RUN_TOKENS = 16
"""What a run costs before its first row, in tokens: a graph reads all its weights for one row as it does for many.
Measured with the default bundle's text graph on a CPU; it decides only who goes together.
"""


@dataclass(frozen=True)
class BatchLimits:
    """How large one run of a graph may be. A single call that is larger runs by itself.

    ``tokens``: text tokens with padding, rows times the longest. ``bulk_wait``: seconds without a bulk run after which
    a bulk call goes before interactive ones, so that bulk is delayed and never starved.
    """

    rows: int = 32
    tokens: int = 4096
    bulk_wait: float = 2.0


def choose(
    waiting: Sequence[Call], limits: BatchLimits, now: float, free: int = 1, *, bulk_ended: float = -math.inf
) -> list[Call]:
    """The calls, at least one, to run next out of ``waiting``, which is not empty and in order of arrival.

    First comes the oldest interactive call, or the oldest bulk call where there is none, or where that has waited for
    ``bulk_wait`` and the last bulk run ended as long ago (``bulk_ended``): however many bulk calls wait, an interactive
    one waits for one of them. Interactive calls of the same graph join an interactive one, those of the most similar
    length first, as long as that makes a token cheaper: a short text beside a long one is padded, and padding is
    computed; a run of its own costs ``RUN_TOKENS``. A call that joins no other runs by itself. Where ``free`` lanes
    have nothing to do, each is left its share of the rows. Bulk calls run alone, so that each is over soon.
    """
    bulk = next((call for call in waiting if call.asker.bulk), None)
    interactive = next((call for call in waiting if not call.asker.bulk), None)
    is_overdue = bulk is not None and now - max(bulk.arrived, bulk_ended) >= limits.bulk_wait
    first = bulk if interactive is None or is_overdue else interactive
    assert first is not None
    if first.asker.bulk or not first.joins:
        return [first]
    others = [call for call in waiting if call.graph == first.graph and not call.asker.bulk and call is not first]
    others.sort(key=lambda call: (abs(call.length - first.length), call.number))
    share = -(-(first.rows + sum(call.rows for call in others)) // free)
    most = min(limits.rows, share)
    batch, rows, longest, real = [first], first.rows, first.length, first.rows * first.length
    for call in others:
        joined, length = rows + call.rows, max(longest, call.length)
        if joined > most or joined * length > limits.tokens:
            continue
        useful = real + call.rows * call.length
        if useful * (RUN_TOKENS + rows * longest) > real * (RUN_TOKENS + joined * length):
            batch.append(call)
            rows, longest, real = joined, length, useful
    return batch


def merge(calls: Sequence[Call]) -> dict[str, Array]:
    """The inputs of all calls as one run: rows below each other, texts padded to the longest."""
    if len(calls) == 1:
        return dict(calls[0].inputs)
    length = max(call.length for call in calls)
    return {name: _below_each_other([call.inputs[name] for call in calls], length) for name in calls[0].inputs}


def split(calls: Sequence[Call], outputs: Outputs) -> list[Outputs]:
    """What belongs to each call, out of the run of all."""
    ends = np.cumsum([call.rows for call in calls]).tolist()
    # Copies: a view would keep the whole batch in memory for as long as its smallest part lives.
    return [
        {name: array[end - call.rows : end].copy() for name, array in outputs.items()}
        for call, end in zip(calls, ends, strict=True)
    ]


def _below_each_other(arrays: Sequence[Array], length: int) -> Array:
    """The rows of all; tokens (B, L) are padded to ``length`` with 0, whatever the tokeniser's padding is: the mask
    says that they are not read.
    """
    if arrays[0].ndim != 2 or all(array.shape[1] == length for array in arrays):
        return np.concatenate(arrays)
    rows = np.zeros((sum(len(array) for array in arrays), length), arrays[0].dtype)
    first = 0
    for array in arrays:
        rows[first : first + len(array), : array.shape[1]] = array
        first += len(array)
    return rows
