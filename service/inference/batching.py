"""Selection of the calls of one run of a graph, and merging and splitting of their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.inference.call import Call, Outputs
from vitascope.engines.onnx_runtime import Array

RUN_TOKENS = 16
"""Fixed cost of a run in tokens: a graph reads all its weights for one row as for many. Measured with the text graph of
the default bundle on a CPU; it only decides which calls are batched.
"""


@dataclass(frozen=True)
class BatchLimits:
    """How large one run of a graph may be. A single call that is larger runs alone.

    Attributes:
        rows: Texts or clips.
        tokens: Text tokens with padding: rows times the longest.
        bulk_wait: Seconds without a bulk run after which a bulk call precedes interactive ones.
    """

    rows: int = 32
    tokens: int = 4096
    bulk_wait: float = 2.0


def select_batch(
    queue: Sequence[Call], limits: BatchLimits, now: float, idle_workers: int = 1, *, bulk_ended: float = -math.inf
) -> list[Call]:
    """Select the calls to run next, at least one.

    The oldest interactive call is first. A bulk call is first if there is no interactive one, or if it has waited
    ``bulk_wait`` seconds and the last bulk run ended as long ago: an interactive call waits for at most one of them.
    Interactive calls of the same graph join an interactive one, those of the most similar length first, as long as that
    lowers the cost of a token: padding is computed, too, and a run of its own costs ``RUN_TOKENS``. Bulk calls run
    alone, so that each ends soon.

    Args:
        queue: Waiting calls in order of arrival, not empty.
        idle_workers: Workers to leave a share of the rows to.
        bulk_ended: When the last bulk run ended, as ``now``.
    """
    bulk = next((call for call in queue if call.context.bulk), None)
    interactive = next((call for call in queue if not call.context.bulk), None)
    is_overdue = bulk is not None and now - max(bulk.arrived, bulk_ended) >= limits.bulk_wait
    first = bulk if interactive is None or is_overdue else interactive
    assert first is not None
    if first.context.bulk or not first.is_batchable:
        return [first]
    others = [call for call in queue if call.graph == first.graph and not call.context.bulk and call is not first]
    others.sort(key=lambda call: (abs(call.length - first.length), call.number))
    share = -(-(first.rows + sum(call.rows for call in others)) // idle_workers)
    max_rows = min(limits.rows, share)
    batch, rows, length, tokens = [first], first.rows, first.length, first.rows * first.length
    for call in others:
        new_rows, new_length = rows + call.rows, max(length, call.length)
        if new_rows > max_rows or new_rows * new_length > limits.tokens:
            continue
        new_tokens = tokens + call.rows * call.length  # without padding
        if new_tokens * (RUN_TOKENS + rows * length) > tokens * (RUN_TOKENS + new_rows * new_length):
            batch.append(call)
            rows, length, tokens = new_rows, new_length, new_tokens
    return batch


def merge(calls: Sequence[Call]) -> dict[str, Array]:
    """Return the inputs of all calls as those of one run: rows concatenated, texts padded to the longest."""
    if len(calls) == 1:
        return dict(calls[0].inputs)
    length = max(call.length for call in calls)
    return {name: _concatenate([call.inputs[name] for call in calls], length) for name in calls[0].inputs}


def split(calls: Sequence[Call], outputs: Outputs) -> list[Outputs]:
    """Return the outputs of each call out of those of a merged run."""
    ends = np.cumsum([call.rows for call in calls]).tolist()
    # Copies: a view would keep the whole batch in memory for as long as its smallest part lives.
    return [
        {name: array[end - call.rows : end].copy() for name, array in outputs.items()}
        for call, end in zip(calls, ends, strict=True)
    ]


def _concatenate(arrays: Sequence[Array], length: int) -> Array:
    """Concatenate rows; tokens (B, L) are padded to ``length`` with 0, which the mask excludes."""
    if arrays[0].ndim != 2 or all(array.shape[1] == length for array in arrays):
        return np.concatenate(arrays)
    rows = np.zeros((sum(len(array) for array in arrays), length), arrays[0].dtype)
    first = 0
    for array in arrays:
        rows[first : first + len(array), : array.shape[1]] = array
        first += len(array)
    return rows
