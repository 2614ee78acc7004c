"""Which clips may be found, as Milvus's expressions over ids.

The catalogue decides which ones they are, so that a filter means the same wherever the vectors are.
"""

from __future__ import annotations

import numpy as np

from index.vectors.faiss_kinds import Int64, Mask

MOST_RANGES = 32
"""Joined in one expression; Milvus 2.3 refuses 64, as its message then is nested too deep."""
MOST_IDS = 50_000
"""Named in one expression: half a megabyte of text at most."""


def expressions(allowed: Mask | None) -> list[str]:
    """Expressions of which exactly one is true of each id that is ``allowed``, and none of any other.

    One is enough where the ids are in few ranges, or where few pass or few do not; a search takes as many calls as
    there are. None of any kind: no id is allowed.
    """
    if allowed is None:
        return [""]
    ids = np.flatnonzero(allowed)
    if not len(ids):
        return []
    starts = ids[np.flatnonzero(np.diff(ids, prepend=-2) > 1)]
    if len(starts) <= MOST_RANGES:
        ends = ids[np.flatnonzero(np.diff(ids, append=len(allowed) + 1) > 1)]
        return [" or ".join(f"(id >= {first} and id <= {last})" for first, last in zip(starts, ends, strict=True))]
    first, last = int(ids[0]), int(ids[-1])
    others = first + np.flatnonzero(~allowed[first : last + 1])
    if len(others) < len(ids) and len(others) <= MOST_IDS:
        return [f"id >= {first} and id <= {last} and id not in {_listed(others)}"]
    return [f"id in {_listed(ids[start : start + MOST_IDS])}" for start in range(0, len(ids), MOST_IDS)]


def _listed(ids: Int64) -> str:
    return f"[{','.join(map(str, ids.tolist()))}]"
