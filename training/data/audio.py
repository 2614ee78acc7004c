"""Sound of examples: mono int16 at 16 kHz, at most 10 seconds."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vitascope.errors import MediaCorrupt

SAMPLE_RATE = 16_000  # Hz
MAX_SECONDS = 10.0
FULL_SCALE = 2**15
"""Magnitude of an int16 sample that stands for 1.0."""
Samples = NDArray[np.int16]


def read_samples(path: Path, start: float = 0.0, end: float | None = None) -> Samples | None:
    """Return the sound of a file between two times (s), (n,); None where it has no audio track or is silent.

    Of a longer span the middle 10 seconds are returned. Raises MediaCorrupt.
    """
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                return None
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            frames = [r for frame in container.decode(audio=0) for r in resampler.resample(frame)]
            frames += resampler.resample(None)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaCorrupt(f"{path.name}: {error}; a readable audio track was expected") from error
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames] or [np.empty(0, np.int16)])
    first, last = round(start * SAMPLE_RATE), len(samples) if end is None else round(end * SAMPLE_RATE)
    samples = middle(samples[first:last], MAX_SECONDS)
    return samples if samples.any() else None


def middle(samples: Samples, seconds: float) -> Samples:
    """Return at most so many seconds from the middle of a sound."""
    count = round(seconds * SAMPLE_RATE)
    first = max(len(samples) - count, 0) // 2
    return samples[first : first + count]


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
    """Return the sound that `encode_flac` encoded."""
    with av.open(io.BytesIO(data), "r", format="flac") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
