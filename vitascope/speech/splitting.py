"""Division of sound into spans that are short enough for a recogniser.

Spans are (first, last) positions of samples at ``SAMPLE_RATE``. Shape letter: T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vitascope.media.audio import Samples

Span = tuple[int, int]
SAMPLE_RATE = 16_000
"""Sample rate of recognisers in Hz."""

MAX_SECONDS = 28.0
"""Maximum length of a span in seconds: Whisper processes 30 s, of which the end should be silent."""
_MIN_SHARE = 0.5
"""A span that is too long is cut not before this share of ``MAX_SECONDS``."""
_FRAME = SAMPLE_RATE * 30 // 1000
"""Number of samples per loudness measurement."""
_PADDING = SAMPLE_RATE // 5
"""Number of samples added before and after speech, so that quiet consonants are kept."""
_MAX_GAP = SAMPLE_RATE // 4
"""Maximum number of samples between spans that are joined."""


def divide(samples: Samples, spans: Iterable[Span], max_seconds: float = MAX_SECONDS) -> Iterator[Span]:
    """Pad spans of samples (T,), join close ones and cut long ones; yield the resulting spans."""
    first = last = -1
    for start, end in spans:
        start, end = max(0, start - _PADDING), min(len(samples), end + _PADDING)
        if first >= 0 and start - last <= _MAX_GAP:
            last = max(last, end)
            continue
        if first >= 0:
            yield from _cut(samples, first, last, max_seconds)
        first, last = start, end
    if first >= 0:
        yield from _cut(samples, first, last, max_seconds)


def _cut(samples: Samples, first: int, last: int, max_seconds: float) -> Iterator[Span]:
    size = int(max_seconds * SAMPLE_RATE)
    while last - first > size:
        cut = first + quietest(samples[first : first + size], int(size * _MIN_SHARE))
        yield first, cut
        first = cut
    if last > first:
        yield first, last


def quietest(samples: Samples, first: int) -> int:
    """Return the middle of the quietest 0.3 s of samples (T,) from position ``first`` on."""
    count = (len(samples) - first) // _FRAME
    if count < 1:
        return len(samples)
    frames = samples[first : first + count * _FRAME].reshape(count, _FRAME)
    energy = np.square(frames, dtype=np.float64).mean(axis=1)
    window = min(count, 10)
    smooth = np.convolve(energy, np.ones(window), mode="valid")
    return first + int(smooth.argmin() * _FRAME + window * _FRAME // 2)
