"""Which of a video's packed clips are looked at: some in training, others perhaps in testing, always in time order.

Shape letters: n videos, C packed clips, K clips taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.packed import Packed
from vitascope.errors import InvalidInput


def clips_taken(packed: Packed, requested: int | None) -> int:
    """K: how many clips of each video are taken where `asked` are wanted; None: all that are packed.

    Pictures have one, whatever is asked. Raises InvalidInput where fewer are packed.
    """
    if requested is None or packed.is_still:
        return packed.clips
    if not 1 <= requested <= packed.clips:
        raise InvalidInput(
            f"clips: {requested} of {packed.folder}, where {packed.clips} of each video are packed; from 1 to "
            f"{packed.clips} were expected (`vitascope prepare --clips` packs more)"
        )
    return requested


def drawn_clips(rng: np.random.Generator, videos: int, packed: int, count: int) -> NDArray[np.int64]:
    """For training: (n, K) clips in time order, one at random from each of K equal segments of the C packed ones.

    `rng` is asked for no number: whatever else it decides does not depend on how many clips are taken.
    """
    edges = _edges(packed, count)
    if count == packed:  # nothing to draw
        return np.broadcast_to(edges[:-1], (videos, count))
    return rng.spawn(1)[0].integers(edges[:-1], edges[1:], size=(videos, count))


def spread_clips(packed: int, count: int) -> NDArray[np.int64]:
    """For testing: (K,) clips in time order, the middle of each of K equal segments of the C packed ones."""
    edges = _edges(packed, count)
    return (edges[:-1] + edges[1:] - 1) // 2


def _edges(packed: int, count: int) -> NDArray[np.int64]:
    return np.arange(count + 1, dtype=np.int64) * packed // count
