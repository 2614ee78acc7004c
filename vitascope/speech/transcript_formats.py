"""Transcripts as text, SubRip, WebVTT, and JSON in the format of OpenAI's transcriptions."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from vitascope.speech.interface import SpeechSegment

TranscriptFormat = Literal["text", "json", "srt", "vtt", "verbose_json"]
Granularity = Literal["segment", "word"]


def format_text(segments: Iterable[SpeechSegment]) -> str:
    """Return the text of all segments on one line."""
    return " ".join(text for segment in segments if (text := _one_line(segment.text)))


def format_srt(segments: Iterable[SpeechSegment]) -> str:
    """Return segments as SubRip."""
    blocks = (
        f"{number}\n{_time(segment.start, ',')} --> {_time(segment.end, ',')}\n{text}\n\n"
        for number, (segment, text) in enumerate(_cues(segments), 1)
    )
    return "".join(blocks)


def format_vtt(segments: Iterable[SpeechSegment]) -> str:
    """Return segments as WebVTT."""
    blocks = (
        f"\n{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{html.escape(text, quote=False)}\n"
        for segment, text in _cues(segments)
    )
    return "WEBVTT\n" + "".join(blocks)


def verbose_json(
    segments: Sequence[SpeechSegment], duration: float, model: str, granularities: Iterable[Granularity] = ("segment",)
) -> dict[str, Any]:
    """Return segments as OpenAI's ``verbose_json``; values that a recogniser does not return are null.

    Args:
        segments: In order of time.
        duration: Of the file, in seconds.
        model: Name of the recogniser.
        granularities: Whether to list segments, words, or both.
    """
    listed = set(granularities)
    languages = {segment.language for segment in segments}
    return {
        "task": "transcribe",
        "model": model,
        "language": languages.pop() if len(languages) == 1 else None,
        "duration": round(duration, 3),
        "text": format_text(segments),
        "segments": [_segment(number, segment) for number, segment in enumerate(segments)]
        if "segment" in listed
        else None,
        "words": [
            {"word": word.text, "start": word.start, "end": word.end} for segment in segments for word in segment.words
        ]
        if "word" in listed
        else None,
    }


def _segment(number: int, segment: SpeechSegment) -> dict[str, Any]:
    confidence = segment.confidence
    return {
        "id": number,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "language": segment.language,
        "confidence": confidence,
        "avg_logprob": math.log(confidence) if confidence else None,
        "seek": 0,
        "tokens": [],
        "temperature": 0.0,
        "compression_ratio": None,
        "no_speech_prob": None,
    }


def _cues(segments: Iterable[SpeechSegment]) -> Iterator[tuple[SpeechSegment, str]]:
    """Yield segments with their text on one line that parsers cannot mistake for a time."""
    for segment in segments:
        if text := re.sub("-{2,}>", "->", _one_line(segment.text)):
            yield segment, text


def _one_line(text: str) -> str:
    """Return a text without control characters and with single spaces."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", text).split())


def _time(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
