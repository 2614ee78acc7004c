"""Recogniser with the English model in PocketSphinx's package: small, fast to load, and often wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import numpy as np
from pocketsphinx import Decoder, Segment

from vitascope.errors import EngineError, InvalidInput
from vitascope.media.audio import Samples
from vitascope.speech.interface import SpeechSegment, SpokenWord
from vitascope.speech.phrases import join_words, split_phrases
from vitascope.speech.splitting import SAMPLE_RATE, divide
from vitascope.speech.voice_activity import to_int16, webrtc_spans

NAME = "pocketsphinx/en-us"
LANGUAGE = "en"
_FILLER = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")
"""Silence and noises among the words."""
_PRONUNCIATION = re.compile(r"\(\d+\)$")
_FRAMES_PER_SECOND = 100
_MAX_SECONDS = 15.0
"""Seconds decoded at a time; the search is slower for longer ones."""


class PocketSphinxRecognizer:
    """``SpeechRecognizer`` that processes one call at a time."""

    name = NAME

    def __init__(self) -> None:
        """Load the model. Raises EngineError."""
        self._lock = threading.Lock()
        try:
            self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
        except RuntimeError as error:
            raise EngineError(f"pocketsphinx: {error}") from error

    def transcribe(self, samples: Samples, language: str | None = None) -> list[SpeechSegment]:
        """See ``SpeechRecognizer.transcribe``."""
        if language not in (None, LANGUAGE):
            raise InvalidInput(f"language: {language!r}; {LANGUAGE!r} was expected: {NAME} knows no other")
        with self._lock:
            return list(self._transcribe(samples))

    def _transcribe(self, samples: Samples) -> Iterator[SpeechSegment]:
        for first, last in divide(samples, webrtc_spans(samples), _MAX_SECONDS):
            words = self._decode(samples[first:last])
            if not words:
                continue
            offset = first / SAMPLE_RATE
            spoken = tuple(
                SpokenWord(
                    _PRONUNCIATION.sub("", word.word),
                    round(offset + word.start_frame / _FRAMES_PER_SECOND, 3),
                    round(offset + (word.end_frame + 1) / _FRAMES_PER_SECOND, 3),
                )
                for word in words
            )
            segment = SpeechSegment(
                spoken[0].start,
                spoken[-1].end,
                join_words(spoken),
                LANGUAGE,
                min(1.0, float(np.mean([word.prob for word in words]))),
                spoken,
            )
            yield from split_phrases(segment)

    def _decode(self, samples: Samples) -> list[Segment]:
        """Return the words of samples (T,), without fillers; ``prob`` is the posterior probability of each."""
        try:
            self._decoder.start_utt()
            self._decoder.process_raw(to_int16(samples), full_utt=True)
            self._decoder.end_utt()
        except RuntimeError as error:
            raise EngineError(f"pocketsphinx: {error}") from error
        if self._decoder.hyp() is None:
            return []
        return [word for word in self._decoder.seg() if not _FILLER.fullmatch(word.word)]
