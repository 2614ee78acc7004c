"""``python -m tests.index.jobs.recognition_worker``: a recognition process whose engines are quick, slow or defective.

A model is ``quick``, ``fail``, ``crash``, ``missing``, or ``while:PATH``, which is slow as long as a file exists.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from vitascope.errors import EngineError, InvalidInput
from vitascope.media.audio import Samples
from vitascope.media.frame import Pixels
from vitascope.sandbox import recognition, recognition_main
from vitascope.sandbox.recognizers import Recognizers
from vitascope.screen_text.interface import TextLine
from vitascope.speech.interface import SpeechSegment, SpokenWord

MODULE = "tests.index.jobs.recognition_worker"


def recognizers(speech: str = "quick", screen_text: str = "quick") -> Recognizers:
    """Recognisers of this module."""
    return Recognizers({"speech": speech, "screen_text": screen_text}, module=MODULE)


class Engine:
    """Hears one sentence in every sound, two in one of 12 s and none in one of 16 s, and reads the colour of frames.

    It warns of blue ones.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.name = f"fake/{'slow' if ':' in model else model}"

    def transcribe(self, samples: Samples, language: str | None = None) -> list[SpeechSegment]:
        self._behave()
        seconds = len(samples) / 16_000
        if 15 < seconds < 17:
            raise EngineError("fake: out of ideas")
        if 11 < seconds < 13:
            return [SpeechSegment(0.2, 4.8, "Brown foxes jump."), SpeechSegment(6.0, 11.0, "They rest.")]
        words = (SpokenWord("brown", 0.2, 0.5), SpokenWord("foxes", 0.5, 0.9))
        return [SpeechSegment(0.2, min(0.9, seconds), "brown foxes", "en", 0.5, words)]

    def read(self, frame: Pixels) -> list[TextLine]:
        self._behave()
        color = ("RED", "GREEN", "BLUE")[int(np.argmax(frame.mean(axis=(0, 1))))]
        if color == "BLUE":
            logging.getLogger("vitascope.screen_text.fake").warning("too many lines")
        return [TextLine(color, (0.1, 0.1, 0.5, 0.2), 0.9)]

    def _behave(self) -> None:
        if self._model == "fail":
            raise EngineError("fake: out of ideas")
        if self._model == "crash":
            os._exit(3)
        while Path(self._model.removeprefix("while:")).exists():
            time.sleep(0.01)


def open_engine(kind: str, model: str, threads: int) -> Any:
    if model == "missing":
        raise InvalidInput("model: 'missing'; a folder with a model was expected")
    return Engine(model)


if __name__ == "__main__":
    recognition.open_engine = open_engine
    recognition.PART_SECONDS = 0.0  # each block is a part
    recognition_main.main()
