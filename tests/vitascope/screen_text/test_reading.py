"""Text on screen: reading of real files, merging of lines to spans, and invalid input."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.media_files import Pixels, solid, write_audio_only, write_picture, write_video
from vitascope.cli.main import main
from vitascope.errors import InvalidInput, MediaUnsupported
from vitascope.screen_text import rapid_ocr
from vitascope.screen_text.interface import Box, TextLine, TextReader, TextSpan
from vitascope.screen_text.rapid_ocr import RapidOcrReader, wheel_models
from vitascope.screen_text.reading import open_text_reader, read_screen_text
from vitascope.screen_text.spans import SpanTracker
from vitascope.screen_text.text import clean_text, script_of

BOX: Box = (0.1, 0.1, 0.5, 0.2)


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return open_text_reader(threads=1)


def drawing(*texts: str, size: int = 26, spacing: int = 40) -> Pixels:
    """Return (240, 320, 3): lines of text on dark blue."""
    picture = Image.new("RGB", (320, 240), (10, 20, 60))
    for row, text in enumerate(texts):
        ImageDraw.Draw(picture).text((10, 8 + spacing * row), text, font=ImageFont.load_default(size), fill="white")
    return np.array(picture, np.uint8)


def test_lines_of_a_video_are_read_with_their_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank, both, single = drawing(), drawing("Opening results", "Chapter 12"), drawing("Opening results")
    path = write_video(tmp_path / "talk.mp4", [blank] * 2 + [both] * 4 + [single] * 4, rate=2)
    assert main(["read-text", str(path), "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    lines = [(line["text"], line["start"], line["end"]) for line in result["lines"]]
    assert lines == [("Opening results", 1, 5), ("Chapter 12", 1, 3)]
    left, top, right, bottom = result["lines"][1]["box"]
    assert 0 < left < 0.1 < 0.4 < right < 0.6
    assert 0.15 < top < 0.25 < bottom < 0.35


def test_a_line_that_looks_the_same_is_not_recognised_again(
    reader: RapidOcrReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = reader.read(drawing("Opening", "Results"))
    assert [(line.text, line.script) for line in lines] == [("Opening", "Latn"), ("Results", "Latn")]
    recognized = []
    recognize = reader._recognize

    def record(crops: list[Pixels]) -> list[tuple[str, float]]:
        recognized.append(len(crops))
        return recognize(crops)

    monkeypatch.setattr(reader, "_recognize", record)
    assert [line.text for line in reader.read(drawing("Opening", "Results", "Outlook"))] == [
        *("Opening", "Results", "Outlook")
    ]
    assert recognized == [1]


def test_the_largest_lines_of_a_crowded_frame_are_read_and_none_of_a_tiny_frame(
    reader: TextReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rapid_ocr, "MAX_LINES", 1)
    crowded = drawing("small words", "more of them", size=16)
    crowded[120:] = drawing("Large", size=60)[:120]
    with caplog.at_level(logging.WARNING):
        assert [line.text for line in reader.read(crowded)] == ["Large"]
    assert "3 lines of text in a frame; the 1 with the largest letters are read" in caplog.text
    assert reader.read(solid((0, 0, 0), 8, 8)) == []


def test_readings_of_one_line_become_one_span() -> None:
    def line(text: str, confidence: float = 0.9, box: Box = BOX) -> TextLine:
        return TextLine(text, box, confidence, "Latn")

    below: Box = (0.1, 0.5, 0.5, 0.6)
    tracker = SpanTracker(1.0)
    frames = {
        0: [line("Quarterly resu1ts"), line("Page 1", 0.99, below)],
        1: [line("Quarterly results", 0.97), line("Page 2", 0.99, below)],
        2: [line("Quarterly results", 0.98)],  # page 2 is missed once
        3: [line("Quarterly results", 0.96), line("Page 2", 0.99, below)],
        9: [line("Word by", 0.99), line("Page 2", 0.99, below)],
        10: [line("Word by word", 0.98)],
    }
    for second, lines in frames.items():
        tracker.add_frame(second, lines)
    assert [(span.text, span.start, span.end) for span in tracker.finish(12)] == [
        ("Quarterly results", 0, 9),
        ("Page 1", 0, 1),
        ("Page 2", 1, 10),
        ("Word by word", 9, 12),
    ]


def test_uncertain_readings_of_a_short_line_become_one_span() -> None:
    """In two forms of two of its six characters, as the benchmark's clip of seed 56 is read."""
    sentences = [("学習都市問題", 0.87), ("学习都市問题", 0.84), ("学習都市地図", 0.95), ("学习都市地图", 0.95)]
    tracker = SpanTracker(1.0)
    for second, (text, confidence) in enumerate(sentences):
        for repeated in range(2):
            tracker.add_frame(2 * second + repeated, [TextLine(text, BOX, confidence)])
    assert [(span.text, span.start, span.end) for span in tracker.finish(8)] == [
        ("学習都市問題", 0, 4),
        ("学習都市地図", 4, 6),
        ("学习都市地图", 6, 8),
    ]


def test_invisible_characters_are_removed_and_scripts_are_told_apart() -> None:
    assert clean_text("\u202eZe\u200bro \x00width\u2066\ufeff e\u0301\u3000\u00a0x") == "Zero width é x"
    assert clean_text("•—…") == ""
    scripts = {"Grüße": "Latn", "学习": "Hani", "学習する": "Jpan", "مرحبا": "Arab", "שלום": "Hebr", "12": None}
    assert {text: script_of(text) for text in scripts} == scripts


def test_bad_input_is_refused_with_a_reason(tmp_path: Path, reader: TextReader) -> None:
    with pytest.raises(MediaUnsupported, match=r"sound\.mp4: audio only, without pictures"):
        read_screen_text(reader, write_audio_only(tmp_path / "sound.mp4"))
    with pytest.raises(InvalidInput, match=r"interval: nan; 0\.1 to 3600 seconds were expected"):
        read_screen_text(reader, tmp_path / "any.mp4", interval=float("nan"))
    with pytest.raises(InvalidInput, match="'rapidocr' or a folder with a PP-OCR model was expected"):
        open_text_reader(str(tmp_path / "missing"))
    with pytest.raises(InvalidInput, match=r"no such file; exactly one \*rec\*\.onnx was expected"):
        open_text_reader(str(tmp_path))
    (tmp_path / "rec.onnx").symlink_to(wheel_models().detection)
    with pytest.raises(InvalidInput, match=r"rec\.onnx: .*a dictionary \(\*\.txt\) was expected"):
        open_text_reader(str(tmp_path))
    (tmp_path / "dict.txt").write_bytes("é".encode("utf-16"))
    with pytest.raises(InvalidInput, match=r"dict\.txt: .*a dictionary in UTF-8 was expected"):
        open_text_reader(str(tmp_path))
    assert read_screen_text(reader, write_picture(tmp_path / "slide.png", drawing("Summary"))) == [
        TextSpan("Summary", 0, 0, *_place(reader, drawing("Summary")))
    ]


def _place(reader: TextReader, frame: Pixels) -> tuple[Box, float]:
    [line] = reader.read(frame)
    return line.box, line.confidence
