"""The shipped engines work in confined processes, whose responses are validated."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.index.jobs.recognition_worker import MODULE
from tests.media_files import ONE_TO_FIVE, write_audio, write_picture
from tests.waiting import PATIENCE, wait_for
from vitascope.media.file import MediaFile
from vitascope.sandbox.pool import UncancellableTask
from vitascope.sandbox.protocol import ProtocolError
from vitascope.sandbox.recognition import BULK, ReadScreenText, RecognitionTask, Recognizer, Transcribe


def recognize(recognizer: Recognizer, task: RecognitionTask[Any], file: Path) -> Any:
    recognizer.start()
    try:
        with MediaFile.open(file) as media:
            return recognizer.transcribe(task, media) if isinstance(task, Transcribe) else recognizer.run(task, media)
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


def test_a_request_is_served_between_parts_of_a_long_file(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 150 * 16_000)).astype(np.float32)
    recognizer = Recognizer("speech", "quick", module=MODULE)
    recognizer.start()
    requests: list[Future[Any]] = []

    def on_progress(share: float) -> None:
        if requests:  # of the second part: the request has not waited for it
            requests[0].result(PATIENCE)
            return
        requests.append(threads.submit(recognizer.transcribe, Transcribe(2.2), short, UncancellableTask()))
        wait_for(lambda: recognizer._pool.queue_length)

    with (
        ThreadPoolExecutor(1) as threads,
        MediaFile.open(write_audio(tmp_path / "long.wav", sound, 16_000, "pcm_s16le")) as long,
        MediaFile.open(ONE_TO_FIVE) as short,
    ):
        try:
            segments = recognizer.transcribe(Transcribe(150.0), long, BULK, on_progress)
        finally:
            recognizer.close()
    assert [segment.text for segment in requests[0].result()] == ["brown foxes"]
    starts = [segment.start for segment in segments]
    assert (len(starts), starts[0]) == (3, pytest.approx(0.2))
    assert all(45 <= after - before <= 60 for before, after in pairwise(starts))


@pytest.mark.parametrize(
    ("task", "value"),
    [
        (Transcribe(1.0), [[[0.0, -1.0, "hello", None, None, []]], 1.0, 1.0]),
        (Transcribe(1.0), [[[0.0, 1.0, "hello", None, 1.5, []]], 1.0, 1.0]),
        (Transcribe(1.0), [[[0.0, 1.0, "hello", None, None, [["hello", 0.0]]]], 1.0, 1.0]),
        (Transcribe(900.0, start=60.0, stop=900.0), [[], 60.0, 900.0]),
        (ReadScreenText(1.0), [[["hello", 0.0, 1.0, [0.0, 0.0, 1.0], 0.5]], []]),
        (ReadScreenText(1.0), [[["hello", 0.0, float("inf"), [0.0, 0.0, 1.0, 1.0], 0.5]], []]),
        (ReadScreenText(1.0), [[], ["many"] * 6]),
    ],
)
def test_forged_responses_are_rejected(task: RecognitionTask[Any], value: Sequence[Any]) -> None:
    with pytest.raises(ProtocolError):
        task.decode_result(value, [])
