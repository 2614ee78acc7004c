"""Clips that were looked at before: what decoding and the model's eyes gave, not the pixels.

Shape letters: N 1 or frames, V visual tokens, W their width, D vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.inference.cache import Cache
from vitascope.model import Floats


class ClipKey(NamedTuple):
    """A part of a file as the bundle of this fingerprint sees it; a bundle fixes its streams.

    ``content``: what stands for the bytes of the file, and can stand for no others. ``start`` to ``end`` (s; None: to
    its end), as it was asked for. ``frames``: 0 for the clip as one, else that many of its frames, one by one.
    """

    fingerprint: str
    content: str
    start: float
    end: float | None
    frames: int = 0


@dataclass(frozen=True)
class SeenClip:
    """``start`` to ``end`` in seconds; vectors (N, D) float32 of length 1.

    Of a clip as one: visual_tokens (1, V, W) float32. Of frames one by one: ``times`` in seconds, no tokens.
    """

    start: float
    end: float
    vectors: Floats
    visual_tokens: Floats | None = None
    times: Sequence[float] = ()


ClipCache = Cache[ClipKey, SeenClip]


def clip_bytes(key: ClipKey, value: SeenClip) -> int:
    """What a clip takes that was looked at."""
    tokens = 0 if value.visual_tokens is None else value.visual_tokens.nbytes
    return len(key.content) + value.vectors.nbytes + tokens
