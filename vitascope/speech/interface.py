"""The interface of speech recognisers: mono samples in, timed segments of text out.

Shape letter: T samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vitascope.media.audio import Samples
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

if TYPE_CHECKING:
    from vitascope.engines.onnx_runtime import Device
    from vitascope.media.file import MediaSource
    from vitascope.sandbox.decoder import Decoder

SAMPLE_RATE = 16_000
"""Hz, of the samples that a recogniser takes."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word and when it is spoken (s)."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """What is said from ``start`` to ``end`` (s)."""

    start: float
    end: float
    text: str
    language: str | None = None
    """ISO 639-1 code, if the model states it or it was given."""
    confidence: float | None = None
    """0 to 1; None if the model has none."""
    words: tuple[SpokenWord, ...] = ()
    """Empty if the model has no times of words."""


class SpeechRecognizer(Protocol):
    """A loaded speech model; thread-safe."""

    @property
    def name(self) -> str:
        """Engine and model, such as "pocketsphinx/en-us" or "sherpa-onnx/FOLDER"."""

    def transcribe(self, samples: Samples, language: str | None = None) -> list[SpeechSegment]:
        """Recognise what is said.

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
    raise NotImplementedError


def transcribe_file(
    recognizer: SpeechRecognizer,
    media: MediaSource,
    *,
    language: str | None = None,
    start: float = 0.0,
    end: float | None = None,
    decoder: Decoder | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Iterator[SpeechSegment]:
    """Yield what is said in a file, in order of time, while it is decoded; memory does not depend on its duration.

    Args:
        recognizer: Loaded model.
        media: Video or sound file.
        language: As in ``SpeechRecognizer.transcribe``.
        start: Second of the file to begin at.
        end: Second to stop at; None: the end of the file.
        decoder: Decoder of media files; None: decode in this process.
        limits: Limits on the file.

    Yields:
        Segments in seconds from time 0 of the file; none where the sound is silent.

    Raises:
        MediaUnsupported: The file has no audio track, or one that is not supported.
        MediaCorrupt, MediaTooLarge, MediaError: It cannot be decoded.
        InvalidInput, EngineError: As ``SpeechRecognizer.transcribe``.
    """
    raise NotImplementedError
    yield
