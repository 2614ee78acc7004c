"""Recogniser that runs Whisper, Moonshine, Parakeet, SenseVoice and Zipformer models with sherpa-onnx."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sherpa_onnx

from vitascope.errors import EngineError, InvalidInput
from vitascope.media.audio import Samples
from vitascope.speech.interface import SpeechSegment, SpokenWord
from vitascope.speech.model_folder import ModelFolder, find_model
from vitascope.speech.phrases import is_ideograph, split_phrases
from vitascope.speech.splitting import MAX_SECONDS, SAMPLE_RATE, divide
from vitascope.speech.voice_activity import silero_spans, webrtc_spans

if TYPE_CHECKING:
    from vitascope.engines.onnx_runtime import Device

_CONSTRUCTORS = {
    "whisper": "from_whisper",
    "moonshine": "from_moonshine",
    "moonshine_v2": "from_moonshine_v2",
    "transducer": "from_transducer",
    "nemo_transducer": "from_transducer",
    "nemo_ctc": "from_nemo_ctc",
    "zipformer_ctc": "from_zipformer_ctc",
    "sense_voice": "from_sense_voice",
}
_CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
_WORD_STARTS = (" ", "\u2581")
"""Characters with which a token at the beginning of a word begins."""
_TOKEN_SECONDS = 0.4
"""Maximum duration, in seconds, of a token whose end the model does not return."""


class SherpaOnnxRecognizer:
    """``SpeechRecognizer`` that processes one call at a time, since the language is a setting of the loaded model."""

    def __init__(self, folder: Path, threads: int = 0, device: Device = "auto") -> None:
        """Load the model in a folder. Arguments and errors: see ``open_recognizer``."""
        provider = _provider(device)
        self.model = find_model(folder, prefer_small=provider == "cpu")
        self.name = f"sherpa-onnx/{folder.resolve().name}"
        self._lock = threading.Lock()
        self._language = ""
        options: dict[str, Any] = {"num_threads": threads or os.cpu_count() or 1, "provider": provider}
        options |= _options_of(self.model)
        construct = getattr(sherpa_onnx.OfflineRecognizer, _CONSTRUCTORS[self.model.kind])
        try:
            self._recognizer = construct(
                **{name: str(path) for name, path in self.model.files.items()},
                **options,
            )
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"speech model: {str(folder)!r}: it cannot be loaded: {error}") from error

    def transcribe(self, samples: Samples, language: str | None = None) -> list[SpeechSegment]:
        """See ``SpeechRecognizer.transcribe``."""
        known = self.model.languages
        if language is not None and known and language not in known:
            raise InvalidInput(f"language: {language!r}; one of {', '.join(known)} was expected: {self.name}")
        detector = self.model.voice_detector
        spans = webrtc_spans(samples) if detector is None else silero_spans(samples, detector, MAX_SECONDS)
        with self._lock:
            self._set_language(language or "")
            spoken = language or (known[0] if len(known) == 1 else None)
            return [
                segment.shifted(first / SAMPLE_RATE)
                for first, last in divide(samples, spans)
                for result in self._decode(samples[first:last], spoken)
                for segment in split_phrases(result)
            ]

    def _set_language(self, language: str) -> None:
        if language == self._language or not self.model.languages:
            return
        config = self._recognizer.config
        getattr(config.model_config, self.model.kind).language = language
        self._recognizer.recognizer.set_config(config)
        self._language = language

    def _decode(self, samples: Samples, language: str | None) -> Iterator[SpeechSegment]:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        try:
            self._recognizer.decode_stream(stream)
        except RuntimeError as error:
            raise EngineError(f"{self.name}: {error}") from error
        yield from segments_of(stream.result, len(samples) / SAMPLE_RATE, language)


def segments_of(result: Any, seconds: float, language: str | None) -> Iterator[SpeechSegment]:
    """Yield the segments of sherpa-onnx's result for a span of ``seconds``. ``language``: as requested, or None."""
    text = result.text.strip()
    if not text:
        return
    code = result.lang.strip("<|> ")
    language = code if re.fullmatch("[a-z]{2,3}", code) else language  # SenseVoice also states "nospeech"
    confidence = _confidence(result.ys_log_probs)
    words = _words(result, seconds)
    times = list(zip(result.segment_texts, result.segment_timestamps, result.segment_durations, strict=False))
    if not times:
        yield SpeechSegment(0.0, seconds, text, language, confidence, words)
        return
    for index, (part, start, duration) in enumerate(times):
        end = min(start + duration, seconds) if duration > 0 else seconds
        is_last = index == len(times) - 1
        inside = tuple(word for word in words if start <= word.start and (word.start < end or is_last))
        if part.strip() and start < seconds:
            yield SpeechSegment(start, max(start, end), part.strip(), language, confidence, inside)


def _words(result: Any, seconds: float) -> tuple[SpokenWord, ...]:
    """Join tokens to words; empty if the model returns no times of tokens. Each ideograph is a word."""
    starts, durations = result.timestamps, result.durations
    try:
        tokens = result.tokens if starts else []
    except UnicodeDecodeError:  # a token is a part of a character
        return ()
    if len(starts) != len(tokens):
        return ()
    has_durations = len(durations) == len(tokens)
    limits = [*starts[1:], seconds]
    ends = [
        start + durations[index] if has_durations else min(start + _TOKEN_SECONDS, limits[index])
        for index, start in enumerate(starts)
    ]
    words: list[SpokenWord] = []
    for token, start, end in zip(tokens, starts, ends, strict=True):
        text = token.replace(_WORD_STARTS[1], " ").strip()
        end = min(max(start, end), seconds)
        if words and not token.startswith(_WORD_STARTS) and not is_ideograph(text):
            words[-1] = SpokenWord(words[-1].text + text, words[-1].start, max(end, words[-1].end))
        elif text:
            words.append(SpokenWord(text, min(start, seconds), end))
    return tuple(words)


def _confidence(log_probabilities: list[float]) -> float | None:
    """Return the geometric mean of the tokens' probabilities; None if the model has none."""
    if not log_probabilities:
        return None
    return min(1.0, math.exp(sum(log_probabilities) / len(log_probabilities)))


def _provider(device: Device) -> str:
    """Return the provider for a device. Raises EngineError for a GPU that this build of sherpa-onnx cannot use."""
    if device == "cpu":
        return "cpu"
    library = Path(sherpa_onnx.__file__).parent / "lib" / _CUDA_PROVIDER
    if library.is_file():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise EngineError(f"device: {device!r}; 'cpu' was expected: the installed build of sherpa-onnx has no CUDA")


def _options_of(model: ModelFolder) -> dict[str, Any]:
    if model.kind == "whisper":
        return {
            "language": "",
            "enable_segment_timestamps": True,
            "enable_token_timestamps": "n_alignment_heads" in model.metadata,
        }
    if model.kind == "sense_voice":
        return {"use_itn": True}
    if model.kind == "nemo_transducer":
        return {"model_type": "nemo_transducer"}
    return {}
