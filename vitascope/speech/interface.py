"""The interface of speech recognisers: mono samples in, timed segments of text out.

Shape letter: T samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from vitascope.errors import InvalidInput, MediaUnsupported
from vitascope.extras import missing_package_message
from vitascope.media.file import MediaFile, MediaSource, open_source
from vitascope.media.limits import AUDIO_CODECS, DEFAULT_LIMITS, MediaLimits
from vitascope.speech.splitting import SAMPLE_RATE, quietest

if TYPE_CHECKING:
    from vitascope.engines.onnx_runtime import Device
    from vitascope.media.audio import Samples

POCKETSPHINX = "pocketsphinx"
BLOCK_SECONDS = 60.0
"""Maximum seconds of a block for a recogniser; all blocks but the last are at least three quarters as long."""
_READ_SECONDS = 120.0
"""Seconds of sound per read, which are in memory. Each read opens the file and seeks in it again."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word, and the time (s) in which it is spoken."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """Speech from ``start`` to ``end`` (s)."""

    start: float
    end: float
    text: str
    language: str | None = None
    """ISO 639-1 code that the model has returned or the caller has specified; else None."""
    confidence: float | None = None
    """Confidence, 0 to 1; None if the model does not return it."""
    words: tuple[SpokenWord, ...] = ()
    """Words with times; empty if the model does not return times of words."""

    def shifted(self, seconds: float) -> SpeechSegment:
        """Return the segment with all its times shifted by ``seconds``."""
        words = tuple(
            SpokenWord(word.text, round(word.start + seconds, 3), round(word.end + seconds, 3)) for word in self.words
        )
        return replace(self, start=round(self.start + seconds, 3), end=round(self.end + seconds, 3), words=words)


class SpeechPart(NamedTuple):
    """The speech in a part of a file. ``end``: end of the part (s); ``stop``: end of the file's sound (s)."""

    segments: list[SpeechSegment]
    end: float
    stop: float


class SpeechRecognizer(Protocol):
    """A loaded speech model; thread-safe."""

    @property
    def name(self) -> str:
        """Name of engine and model, such as "pocketsphinx/en-us" or "sherpa-onnx/FOLDER"."""

    def transcribe(self, samples: Samples, language: str | None = None) -> list[SpeechSegment]:
        """Transcribe speech.

        Args:
            samples: (T,) float32 from -1 to 1, mono, at ``SAMPLE_RATE``.
            language: ISO 639-1 code of the language that is spoken; None: the model detects it, where it can.

        Returns:
            Segments with text, in order of time, in seconds from the first sample.

        Raises:
            InvalidInput: The model does not know the language.
            EngineError: The model failed.
        """


def open_recognizer(model: str, *, threads: int = 0, device: Device = "auto") -> SpeechRecognizer:
    """Load a speech model.

    Args:
        model: "pocketsphinx", or the folder of a model that sherpa-onnx runs.
        threads: Threads within an operator; 0: one per core.
        device: "auto" prefers CUDA and falls back to the CPU; others are required.

    Raises:
        InvalidInput: There is no such folder, it has no model of a known kind, or the engine is not installed.
        EngineError: The model cannot be loaded.
    """
    try:
        if model == POCKETSPHINX:
            from vitascope.speech.pocketsphinx_recognizer import PocketSphinxRecognizer

            return PocketSphinxRecognizer()
        from vitascope.speech.sherpa_onnx_recognizer import SherpaOnnxRecognizer

        return SherpaOnnxRecognizer(Path(model).expanduser(), threads, device)
    except ModuleNotFoundError as error:
        if error.name not in ("pocketsphinx", "sherpa_onnx"):
            raise
        raise InvalidInput(missing_package_message(error.name, f"the speech model {model!r}")) from None


def transcribe_file(
    recognizer: SpeechRecognizer,
    media: MediaSource,
    *,
    language: str | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Iterator[SpeechSegment]:
    """Yield the speech segments of a file in order of time. Arguments and errors: see ``transcribe_parts``."""
    for part in transcribe_parts(recognizer, media, language=language, limits=limits):
        yield from part.segments


def transcribe_parts(
    recognizer: SpeechRecognizer,
    media: MediaSource,
    *,
    language: str | None = None,
    start: float = 0.0,
    stop: float | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Iterator[SpeechPart]:
    """Transcribe a file block by block while it is decoded; memory does not depend on its duration.

    Args:
        recognizer: Loaded model.
        media: Video or sound file.
        language: As in ``SpeechRecognizer.transcribe``.
        start: Second of the file to begin at, such as the end of a part.
        stop: Second at which the sound ends, as an earlier part states it; None: find out, which takes long in some
            files.
        limits: Limits on the file.

    Yields:
        Parts, whose segments are in seconds from time 0 of the file; without any where the sound is silent.

    Raises:
        MediaUnsupported: The file has no audio track, or one that is not supported.
        MediaCorrupt, MediaTooLarge, MediaError: It cannot be decoded.
        InvalidInput, EngineError: As ``SpeechRecognizer.transcribe``.
    """
    with open_source(media) as file:
        if stop is None:
            stop = _sound_seconds(file, limits)
        for offset, samples, end in _blocks(file, start, stop, limits):
            segments = recognizer.transcribe(samples, language) if len(samples) else []
            yield SpeechPart([segment.shifted(offset) for segment in segments], end, stop)


def _sound_seconds(file: MediaFile, limits: MediaLimits) -> float:
    """Return the end of the sound of a file in seconds. Raises media errors; MediaUnsupported if it has no sound."""
    from vitascope.sandbox.decoder import IN_PROCESS  # imports PyAV, which searches do not need

    info = IN_PROCESS.probe(file, limits)
    if info.audio is None:
        raise MediaUnsupported(f"{file.name}: no audio track; a file with sound was expected")
    if info.audio.codec not in AUDIO_CODECS:
        codecs = ", ".join(sorted(AUDIO_CODECS))
        raise MediaUnsupported(f"{file.name}: the audio codec is {info.audio.codec!r}; expected one of {codecs}")
    return max(info.duration, info.audio.seconds or 0.0)


def _blocks(file: MediaFile, start: float, stop: float, limits: MediaLimits) -> Iterator[tuple[float, Samples, float]]:
    """Yield the sound that is not silent, in blocks of at most ``BLOCK_SECONDS`` that end at quiet places.

    Yields:
        The second at which each block begins, its samples (T,), none where it is silent, and the second at which the
        next one begins.
    """
    from vitascope.sandbox.decoder import IN_PROCESS

    size = round(BLOCK_SECONDS * SAMPLE_RATE)
    rest, rest_start = np.zeros(0, np.float32), start
    while start < stop:
        last = min(start + _READ_SECONDS, stop)
        sound = IN_PROCESS.read_audio(file, start, last, SAMPLE_RATE, limits)
        if sound is not None:
            rest = np.concatenate([rest, sound])
        while len(rest) > size:
            cut = quietest(rest[:size], size * 3 // 4)
            cut_time = rest_start + cut / SAMPLE_RATE
            yield rest_start, rest[:cut], cut_time
            rest, rest_start = rest[cut:], cut_time
        if sound is None or start + (len(sound) + 1) / SAMPLE_RATE < last:  # silence, or the end of the sound
            yield rest_start, rest, last
            rest, rest_start = rest[:0], last
        start = last
    if len(rest):
        yield rest_start, rest, stop
