"""Records of the texts of a video (speech, text on screen, captions), and their validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from index.clips.timed_text import TimedText, clean_text
from index.records import check_text
from vitascope.errors import InvalidInput
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment, SpokenWord

SpeechSource = Literal["subtitles", "transcript"]
SPEECH_SOURCES: tuple[SpeechSource, ...] = ("subtitles", "transcript")
RecognitionKind = Literal["speech", "screen_text", "caption"]
RECOGNITION_KINDS: tuple[RecognitionKind, ...] = ("speech", "screen_text", "caption")
MAX_SEGMENTS = 500_000
"""Maximum number, per video, of speech segments of one source, of spans of screen text, and of captions."""
MAX_NAME_LENGTH = 1000
"""Maximum length of a model name in characters."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """The last run of a recogniser, or of a model that generates captions, on a video.

    Args:
        model: name of the recogniser or the model.
        state: done or failed.
        reason: why it failed; None if done.
        at: time of the run, in Unix seconds.
    """

    model: str
    state: Literal["done", "failed"]
    reason: str | None
    at: float


@dataclass(frozen=True, slots=True)
class ClipCaption:
    """The generated caption of a clip, ``start`` to ``end`` (s)."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class VideoText:
    """Subtitles, transcript, text on screen and captions of a video, each in order of time; recognitions by kind.

    Clips get their words from the subtitles; without subtitles, from the transcript.
    """

    subtitles: tuple[SpeechSegment, ...] = ()
    transcript: tuple[SpeechSegment, ...] = ()
    screen_text: tuple[TextSpan, ...] = ()
    captions: tuple[ClipCaption, ...] = ()
    recognitions: Mapping[RecognitionKind, Recognition] = field(default_factory=dict)

    @property
    def speech(self) -> tuple[SpeechSegment, ...]:
        """The segments from which clips get their words: subtitles, else transcript."""
        return self.subtitles or self.transcript


def speech_segments(cues: Iterable[TimedText]) -> tuple[SpeechSegment, ...]:
    """Return subtitles as segments of speech."""
    return check_speech([SpeechSegment(cue.start, max(cue.start, cue.end), cue.text) for cue in cues])


def check_speech(segments: Sequence[SpeechSegment]) -> tuple[SpeechSegment, ...]:
    """Validate speech segments; return them in order of time, without control characters and empty segments.

    Raises InvalidInput that names the segment and the field.
    """
    _check_count("speech", segments)
    checked = []
    for number, segment in enumerate(segments):
        name = f"speech[{number}]"
        _check_times(name, segment.start, segment.end)
        if segment.confidence is not None:
            _check_confidence(name, segment.confidence)
        if segment.language is not None:
            check_text(f"{name}: language", segment.language, MAX_NAME_LENGTH)
        words = []
        for word in segment.words:
            _check_times(f"{name}: word", word.start, word.end)
            words.append(SpokenWord(clean_text(word.text), float(word.start), float(word.end)))
        text = clean_text(segment.text)
        if text.strip():
            span = float(segment.start), float(segment.end)
            checked.append(SpeechSegment(*span, text, segment.language, segment.confidence, tuple(words)))
    return tuple(sorted(checked, key=lambda segment: (segment.start, segment.end)))


def check_screen_text(spans: Sequence[TextSpan]) -> tuple[TextSpan, ...]:
    """Validate spans of screen text; return them in order of time, without control characters and empty spans.

    Raises InvalidInput that names the span and the field.
    """
    _check_count("screen_text", spans)
    checked = []
    for number, span in enumerate(spans):
        name = f"screen_text[{number}]"
        _check_times(name, span.start, span.end)
        _check_confidence(name, span.confidence)
        box = span.box
        if len(box) != 4 or not all(0 <= side <= 1 for side in box) or box[0] > box[2] or box[1] > box[3]:
            raise InvalidInput(f"{name}: box: {box!r}; left, top, right, bottom from 0 to 1 were expected")
        left, top, right, bottom = map(float, box)
        text = clean_text(span.text)
        if text.strip():
            times = float(span.start), float(span.end)
            checked.append(TextSpan(text, *times, (left, top, right, bottom), float(span.confidence)))
    return tuple(sorted(checked, key=lambda span: (span.start, span.box[1], span.box[0], span.end)))


def check_captions(captions: Sequence[ClipCaption]) -> tuple[ClipCaption, ...]:
    """Validate captions; return them without control characters and empty captions.

    Raises InvalidInput that names the caption.
    """
    _check_count("captions", captions)
    for number, caption in enumerate(captions):
        _check_times(f"captions[{number}]", caption.start, caption.end)
    cleaned = [ClipCaption(float(each.start), float(each.end), clean_text(each.text)) for each in captions]
    return tuple(caption for caption in cleaned if caption.text.strip())


def check_recognition(recognition: Recognition) -> Recognition:
    """Return ``recognition`` if it can be stored. Raises InvalidInput that names the field."""
    check_text("model", recognition.model, MAX_NAME_LENGTH)
    if recognition.state not in ("done", "failed"):
        raise InvalidInput(f"state: {recognition.state!r}; done or failed was expected")
    if not math.isfinite(recognition.at):
        raise InvalidInput(f"at: {recognition.at!r}; Unix seconds were expected")
    if recognition.reason is None:
        return recognition
    return replace(recognition, reason=clean_text(recognition.reason))


def check_video_text(text: VideoText) -> VideoText:
    """Validate all texts of a video; return them in the form to store. Raises InvalidInput that names the field."""
    for kind in text.recognitions:
        if kind not in RECOGNITION_KINDS:
            raise InvalidInput(f"recognitions: {kind!r}; one of {', '.join(RECOGNITION_KINDS)} was expected")
    return VideoText(
        check_speech(text.subtitles),
        check_speech(text.transcript),
        check_screen_text(text.screen_text),
        check_captions(text.captions),
        {kind: check_recognition(recognition) for kind, recognition in text.recognitions.items()},
    )


def _check_count(name: str, values: Sequence[object]) -> None:
    if len(values) > MAX_SEGMENTS:
        raise InvalidInput(f"{name}: {len(values)} entries; at most {MAX_SEGMENTS} were expected")


def _check_times(name: str, start: float, end: float) -> None:
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
        raise InvalidInput(f"{name}: {start} to {end} s; 0 <= start <= end was expected")


def _check_confidence(name: str, confidence: float) -> None:
    if not 0 <= confidence <= 1:
        raise InvalidInput(f"{name}: confidence: {confidence!r}; a number from 0 to 1 was expected")
