"""The shipped engines work in confined processes, whose responses are validated."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.media_files import ONE_TO_FIVE, write_picture
from vitascope.media.file import MediaFile
from vitascope.sandbox.protocol import ProtocolError
from vitascope.sandbox.recognition import ReadScreenText, RecognitionTask, Recognizer, Transcribe


def recognize(recognizer: Recognizer, task: RecognitionTask[Any], file: Path) -> Any:
    recognizer.start()
    try:
        with MediaFile.open(file) as media:
            return recognizer.run(task, media)
    finally:
        recognizer.close()


def test_engines_work_without_network_and_files_to_write(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    pytest.importorskip("rapidocr")
    picture = Image.new("RGB", (320, 120), "navy")
    ImageDraw.Draw(picture).text((20, 40), "OPEN HERE", font=ImageFont.load_default(40), fill="white")
    sign = write_picture(tmp_path / "sign.png", np.array(picture, np.uint8))
    speech, text = Recognizer("speech", "pocketsphinx", threads=1), Recognizer("screen_text", "rapidocr", threads=1)
    with ThreadPoolExecutor(2) as threads:
        spoken_text = threads.submit(recognize, speech, Transcribe(1.8), ONE_TO_FIVE)
        shown_text = threads.submit(recognize, text, ReadScreenText(0.0), sign)
    assert " ".join(segment.text for segment in spoken_text.result()) == "one two three four five"
    assert [span.text for span in shown_text.result().spans] == ["OPEN HERE"]
    assert (speech.state, speech.name) == ("ready", "pocketsphinx/en-us")


@pytest.mark.parametrize(
    ("task", "value"),
    [
        (Transcribe(1.0), [[0.0, -1.0, "hello", None, None, []]]),
        (Transcribe(1.0), [[0.0, 1.0, "hello", None, 1.5, []]]),
        (Transcribe(1.0), [[0.0, 1.0, "hello", None, None, [["hello", 0.0]]]]),
        (ReadScreenText(1.0), [[["hello", 0.0, 1.0, [0.0, 0.0, 1.0], 0.5]], []]),
        (ReadScreenText(1.0), [[["hello", 0.0, float("inf"), [0.0, 0.0, 1.0, 1.0], 0.5]], []]),
        (ReadScreenText(1.0), [[], ["many"] * 6]),
    ],
)
def test_forged_responses_are_rejected(task: RecognitionTask[Any], value: Sequence[Any]) -> None:
    with pytest.raises(ProtocolError):
        task.decode_result(value, [])
