"""Sound of examples: mono int16 at 16 kHz, at most 10 seconds."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vitascope.media.audio import read_audio

SAMPLE_RATE = 16_000  # Hz
MAX_SECONDS = 10.0
FULL_SCALE = 2**15
"""Value of an int16 sample that corresponds to 1.0."""
Samples = NDArray[np.int16]


def read_samples(path: Path, start: float, end: float) -> Samples | None:
    """Return the sound (n,) of a file between two times in seconds; None if it is silent or there is no sound.

    The decoder is that of serving. If the span is longer than 10 seconds, its middle 10 seconds are returned. Raises
    MediaError.
    """
    if end - start > MAX_SECONDS:
        start = (start + end - MAX_SECONDS) / 2
        end = start + MAX_SECONDS
    samples = read_audio(path, start, end, SAMPLE_RATE) if end > start else None
    return (
        None
        if samples is None
        else np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    )


def encode_flac(samples: Samples) -> bytes:
    """Return a sound as FLAC, which is lossless."""
    content = io.BytesIO()
    with av.open(content, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


def decode_flac(data: bytes) -> Samples:
    """Decode the FLAC of `encode_flac`."""
    with av.open(io.BytesIO(data), "r", format="flac") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
