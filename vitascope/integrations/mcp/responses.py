"""Responses of the MCP tools: JSON of the HTTP API, validated, and a text version for assistants that read only text.

Fields that are useless to a language model are omitted, as each token costs money and time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AliasPath, BaseModel, Field, ValidationInfo

from vitascope.text_format import MAX_MATCHES, format_score, format_signals, format_span, format_time

MAX_TEXT_CHARS = 500
"""Maximum characters of a clip's speech: a search may return fifty clips with up to 10,000 characters each."""
SCORE_DECIMALS = 4
_MISLEADING_CHARS = re.compile(r"[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, line ends and changes of text direction that JSON does not escape."""


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS - 1]}…"


def _absolute_url(path: str, info: ValidationInfo) -> str:
    """Prepend the URL of the service, from the validation context, to ``path``."""
    return f"{info.context['url']}{path}" if info.context else path


RoundedScore = Annotated[float, AfterValidator(lambda value: round(value, SCORE_DECIMALS))]
SpokenText = Annotated[
    str,
    AfterValidator(_shorten),
    Field(description="words spoken in the clip (subtitles or transcript), shortened; may be empty"),
]
ShownText = Annotated[
    str, AfterValidator(_shorten), Field(description="words shown in the clip, shortened; may be empty")
]
GeneratedText = Annotated[
    str, AfterValidator(_shorten), Field(description="caption that a model generated of the clip; may be empty")
]
Modalities = Annotated[
    list[str], Field(description="what the clip can be compared by: its pictures (visual), its sound (audio)")
]
MediaUrl = Annotated[
    str, AfterValidator(_absolute_url), Field(description="URL to play it in a browser, if the service needs no key")
]
NextCursor = Annotated[str | None, Field(description="cursor of the next page; null on the last")]
Similarity = Annotated[RoundedScore | None, Field(description="cosine of the embeddings of text and clip, -1 to 1")]
Match = Annotated[
    RoundedScore | None, Field(description="probability that the text describes the clip, 0 to 1; null: not reranked")
]
Fused = Annotated[RoundedScore | None, Field(description="similarity and match combined, 0 to 1; null: not reranked")]
Seconds = Annotated[float, Field(description="seconds")]


class ToolResponse(BaseModel):
    """Structured response of a tool."""

    def to_text(self) -> str:
        """Return the response as text. Each text from a video is quoted on one line."""
        raise NotImplementedError


class Collection(BaseModel):
    name: str
    videos: int
    clips: Annotated[int, Field(description="number of clips, the units that are searched")]
    searchable: Annotated[bool, Field(validation_alias="model_loaded", description="whether its model is loaded")]
    model: Annotated[str, Field(validation_alias="bundle")]

    def line(self) -> str:
        contents = f"{self.name}: {_count(self.videos, 'video')}, {_count(self.clips, 'clip')}"
        return contents if self.searchable else f"{contents}, not searchable now"


class CollectionsResponse(ToolResponse):
    collections: list[Collection]
    unreadable: Annotated[list[str], Field(description="damaged collections")]

    def to_text(self) -> str:
        lines = [collection.line() for collection in self.collections]
        lines += [f"{name}: damaged" for name in self.unreadable]
        return "\n".join(lines) or "There are no collections."


class _Scores(BaseModel):
    similarity: Similarity
    match: Match
    fused: Fused

    def scores_text(self) -> str:
        return _scores_text({"fused": self.fused, "match": self.match, "similarity": self.similarity})


class Condition(BaseModel):
    text: str
    weight: Annotated[float, Field(description="negative: the clip must not fit it")]
    relevance: Annotated[RoundedScore, Field(description="probability that the clip fits the text")]
    met: bool


class TextMatch(BaseModel):
    text: str
    start: Annotated[float, Field(description="seconds at which it is said or shown; for a name, those of the clip")]
    end: Seconds


class SignalScore(BaseModel):
    rank: Annotated[int, Field(description="by this signal, from 1")]
    score: Annotated[RoundedScore, Field(description="cosine for visual and audio, else score of the words, 0 to 1")]
    matches: Annotated[
        list[TextMatch],
        AfterValidator(lambda matches: matches[:MAX_MATCHES]),
        Field(description="first words of the query that match"),
    ]


class Moment(BaseModel):
    start: Seconds
    end: Seconds
    score: RoundedScore

    def span_text(self) -> str:
        return f"{_format_span(self.start, self.end)} score {format_score(self.score)}"


class SearchHit(_Scores):
    relevance: Annotated[
        RoundedScore | None, Field(description="probability that the clip fits the query, 0 to 1; null: unknown")
    ]
    conditions: Annotated[list[Condition] | None, Field(description="of a query with several texts")] = None
    video_id: Annotated[str, Field(validation_alias=AliasPath("video", "id"))]
    title: Annotated[str, Field(validation_alias=AliasPath("video", "title"))]
    start: Seconds
    end: Seconds
    clip_id: Annotated[str, Field(description="id of the clip; for an event or video, of its best clip")]
    clip_count: Annotated[int | None, Field(description="number of clips of an event or video")]
    moment: Annotated[Moment | None, Field(description="with refine, where the text is most likely true")] = None
    signals: Annotated[dict[str, SignalScore], Field(description="why it was returned")] = {}
    text: SpokenText
    screen_text: ShownText = ""
    caption: GeneratedText = ""
    modalities: Modalities = []
    metadata: Annotated[dict[str, Any], Field(validation_alias=AliasPath("video", "metadata"))]
    media_url: MediaUrl

    def line(self) -> str:
        span = _format_span(self.start, self.end)
        position = f"video {self.video_id} {_quote(self.title)} {span} clip {self.clip_id}{_sound(self.modalities)}"
        scores = {"relevance": self.relevance, "match": self.match, "similarity": self.similarity}
        met = [f"{'not ' if c.weight < 0 else ''}{c.text}" for c in self.conditions or () if c.met]
        conditions = "" if self.conditions is None else f" meets: {_quote(met)}"
        signals = {name: score.model_dump() for name, score in self.signals.items()}
        reason = f" by {format_signals(signals, _quote)}" if signals else ""
        moment = "" if self.moment is None else f" moment {self.moment.span_text()}"
        words = _words(self.text, self.screen_text, self.caption)
        return f"{position}: {_scores_text(scores)}{moment}{conditions}{reason}{words}"


class SearchWarning(BaseModel):
    code: Annotated[str, Field(description="no_good_match, or language: one that the model does not know")]
    detail: str


class SearchResponse(ToolResponse):
    results: Annotated[list[SearchHit], Field(description="best first")]
    next_cursor: NextCursor
    changed: Annotated[bool, Field(description="the collection has changed since the previous page")]
    warnings: Annotated[list[SearchWarning], Field(description="reasons not to trust the results")] = []

    def to_text(self) -> str:
        lines = [f"Warning: {warning.detail}" for warning in self.warnings]
        lines += [f"{rank}. {hit.line()}" for rank, hit in enumerate(self.results, start=1)]
        return "\n".join([*lines, *_cursor_line(self.next_cursor)]) or "No results."


class VideoSummary(BaseModel):
    video_id: Annotated[str, Field(validation_alias="id")]
    title: str
    duration: Annotated[float, Field(description="seconds; 0: an image")]
    clips: int
    metadata: dict[str, Any]
    media_url: MediaUrl

    def line(self) -> str:
        metadata = f" {_quote(self.metadata)}" if self.metadata else ""
        length = format_time(self.duration) if self.duration else "image"
        return f"video {self.video_id} {_quote(self.title)} {length}, {_count(self.clips, 'clip')}{metadata}"


class VideosResponse(ToolResponse):
    videos: list[VideoSummary]
    next_cursor: NextCursor

    def to_text(self) -> str:
        lines = [video.line() for video in self.videos]
        return "\n".join([*lines, *_cursor_line(self.next_cursor)]) or "There are no videos."


class Clip(BaseModel):
    clip_id: Annotated[str, Field(validation_alias="id")]
    start: Seconds
    end: Seconds
    text: SpokenText
    screen_text: ShownText = ""
    caption: GeneratedText = ""
    modalities: Modalities = []

    def line(self) -> str:
        span = f"{_format_span(self.start, self.end)}{_sound(self.modalities)}"
        return f"clip {self.clip_id} {span}{_words(self.text, self.screen_text, self.caption)}"


class VideoResponse(ToolResponse, VideoSummary):
    width: Annotated[int, Field(description="pixels")]
    height: Annotated[int, Field(description="pixels")]
    spans: Annotated[list[Clip], Field(description="clips in order")]
    next_after: Annotated[float | None, Field(description="value of `after` for the next clips; null: no more")]

    def to_text(self) -> str:
        lines = [self.line(), *(clip.line() for clip in self.spans)]
        more = [] if self.next_after is None else [f"More clips: after={self.next_after}"]
        return "\n".join(lines + more)


class _VideoSpan(BaseModel):
    video_id: Annotated[str, Field(validation_alias=AliasPath("video", "id"))]
    title: Annotated[str, Field(validation_alias=AliasPath("video", "title"))]
    start: Seconds
    end: Seconds


class _SpanResponse(ToolResponse, _VideoSpan):
    """Response about a video or a span of it."""

    modalities: Annotated[list[str], Field(description="what the model has used: visual, or visual and audio")]


class CaptionScore(_Scores):
    caption: str
    clipscore: Annotated[RoundedScore | None, Field(description="0 or more; best to compare captions of photographs")]
    refclipscore: Annotated[RoundedScore | None, Field(description="clipscore with references; null without")]


class ScoresResponse(_SpanResponse):
    scores: Annotated[list[CaptionScore], Field(description="in the order of the captions")]

    def to_text(self) -> str:
        return "\n".join(f"{_quote(score.caption)}: {score.scores_text()}" for score in self.scores)


class Answer(BaseModel):
    text: str
    probability: Annotated[RoundedScore, Field(description="among all answers of the model, or among the candidates")]


class AnswersResponse(_SpanResponse):
    question: str
    answer: Annotated[str | None, Field(description="most probable answer; null: the model does not know")]
    abstained: bool
    answers: Annotated[list[Answer], Field(description="most probable first")]
    out_of_vocabulary: Annotated[list[str], Field(description="candidates that are not in the model's vocabulary")]

    def to_text(self) -> str:
        answer = "The model does not know." if self.answer is None else self.answer
        probabilities = ", ".join(f"{answer.text} {answer.probability:.3f}" for answer in self.answers)
        others = f"\nNot judged: {', '.join(map(_quote, self.out_of_vocabulary))}" if self.out_of_vocabulary else ""
        return f"{answer}\nProbabilities: {probabilities or 'none'}{others}"


class Statement(BaseModel):
    hypothesis: str
    label: Annotated[str, Field(description="entailed, neutral or contradicted: the most probable")]
    probabilities: dict[str, RoundedScore]

    def line(self) -> str:
        probabilities = ", ".join(f"{label} {value:.3f}" for label, value in self.probabilities.items())
        return f"{_quote(self.hypothesis)}: {self.label} ({probabilities})"


class StatementsResponse(_SpanResponse):
    results: Annotated[list[Statement], Field(description="in the order of the sentences")]

    def to_text(self) -> str:
        return "\n".join(result.line() for result in self.results)


class TextMoments(BaseModel):
    text: str
    moments: Annotated[list[Moment], Field(description="highest score first")]

    def line(self) -> str:
        spans = (moment.span_text() for moment in self.moments)
        return f"{_quote(self.text)}: {'; '.join(spans) or 'none'}"


class MomentsResponse(ToolResponse, _VideoSpan):
    results: Annotated[list[TextMoments], Field(description="in the order of the sentences")]

    def to_text(self) -> str:
        return "\n".join(result.line() for result in self.results)


class GeneratedCaption(BaseModel):
    text: str
    log_probability: Annotated[RoundedScore, Field(description="mean over its tokens; higher: more confident")]
    match: Match

    def line(self) -> str:
        match = "" if self.match is None else f", match {format_score(self.match)}"
        return f"{_quote(self.text)} (log probability {format_score(self.log_probability)}{match})"


class CaptionedClip(BaseModel):
    start: Seconds
    end: Seconds
    captions: Annotated[list[GeneratedCaption], Field(description="best first")]

    def line(self) -> str:
        captions = ", or ".join(caption.line() for caption in self.captions)
        return f"{_format_span(self.start, self.end)} {captions}"


class CaptionsResponse(ToolResponse):
    video_id: Annotated[str, Field(validation_alias=AliasPath("video", "id"))]
    title: Annotated[str, Field(validation_alias=AliasPath("video", "title"))]
    clips: Annotated[list[CaptionedClip], Field(description="in order")]

    def to_text(self) -> str:
        return "\n".join(clip.line() for clip in self.clips)


class Edges(BaseModel):
    left: float
    top: float
    right: float
    bottom: float


class PhrasePlace(BaseModel):
    phrase: str
    score: RoundedScore
    box: Annotated[Edges, Field(description="fractions of the width and height of the frame")]
    pixels: Annotated[Edges, Field(description="the box in pixels of the frame")]

    def line(self) -> str:
        edges = ", ".join(f"{name} {value:g}" for name, value in self.pixels.model_dump().items())
        return f"{_quote(self.phrase)}: score {format_score(self.score)}, {edges} (pixels)"


class GroundingsResponse(ToolResponse, _VideoSpan):
    time: Annotated[float, Field(description="of the frame, in seconds")]
    width: Annotated[int, Field(description="of the frame, in pixels")]
    height: Annotated[int, Field(description="of the frame, in pixels")]
    groundings: Annotated[list[PhrasePlace], Field(description="in the order of the phrases")]

    def to_text(self) -> str:
        frame = f"Frame of {self.width} x {self.height} pixels at {format_time(self.time)} ({self.time:g} s)."
        return "\n".join([frame, *(place.line() for place in self.groundings)])


class FrameImage(ToolResponse):
    """A frame of a video. The JPEG is sent as image content."""

    collection: str
    video_id: str
    time: Seconds
    jpeg: Annotated[bytes, Field(exclude=True)]

    def to_text(self) -> str:
        return f"Video {self.video_id} of {self.collection} at {format_time(self.time)} ({self.time:g} s)."


def _format_span(start: float, end: float) -> str:
    """Format a span for people and, in parentheses, in seconds as tools accept it."""
    return f"{format_span(start, end)} ({start:g} to {end:g} s)" if end > start else "(image)"


def _scores_text(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {format_score(value)}" for name, value in scores.items() if value is not None)


def _sound(modalities: list[str]) -> str:
    return " with sound" if "audio" in modalities else ""


def _words(spoken: str, shown: str, caption: str) -> str:
    texts = (("said", spoken), ("shown", shown), ("caption", caption))
    return "".join(f" {label}: {_quote(text)}" for label, text in texts if text)


def _quote(content: object) -> str:
    """Return ``content`` as JSON on one line, so that a title cannot imitate a line of the response."""
    return _MISLEADING_CHARS.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(content, ensure_ascii=False))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cursor_line(cursor: str | None) -> list[str]:
    return [] if cursor is None else [f"More: cursor={cursor}"]
