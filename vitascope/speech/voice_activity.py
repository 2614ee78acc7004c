"""Voice activity detection: spans of sound that contain speech. Shape letter: T samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pocketsphinx import Endpointer

from vitascope.media.audio import Samples
from vitascope.speech.splitting import SAMPLE_RATE, Span


def webrtc_spans(samples: Samples) -> list[Span]:
    """Return the spans of samples (T,) with speech, by WebRTC's detector in PocketSphinx."""
    endpointer = Endpointer(sample_rate=SAMPLE_RATE)
    size, data = endpointer.frame_bytes, to_int16(samples)
    spans = []
    for first in range(0, len(data), size):
        frame = data[first : first + size]
        is_last = first + size >= len(data)
        speech = endpointer.end_stream(frame) if is_last else endpointer.process(frame)
        if speech is not None and (is_last or not endpointer.in_speech):
            spans.append((round(endpointer.speech_start * SAMPLE_RATE), round(endpointer.speech_end * SAMPLE_RATE)))
    return spans


def silero_spans(samples: Samples, model: Path, max_seconds: float) -> list[Span]:
    """Return the spans of samples (T,) with speech, of at most ``max_seconds``, by a Silero model."""
    from sherpa_onnx import SileroVadModelConfig, VadModelConfig, VoiceActivityDetector

    silero = SileroVadModelConfig(str(model), min_silence_duration=0.25, max_speech_duration=max_seconds)
    config = VadModelConfig(silero, sample_rate=SAMPLE_RATE)
    detector = VoiceActivityDetector(config, buffer_size_in_seconds=len(samples) / SAMPLE_RATE + 1)
    spans = []
    size = silero.window_size
    for first in range(0, len(samples), size):
        detector.accept_waveform(samples[first : first + size])
    detector.flush()
    while not detector.empty():
        spans.append((detector.front.start, detector.front.start + len(detector.front.samples)))
        detector.pop()
    return spans


def to_int16(samples: Samples) -> bytes:
    """Return samples (T,) from -1 to 1 as little-endian 16-bit integers."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
