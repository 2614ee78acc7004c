"""What tools answer: structured, with a short text of the same for assistants that read only that.

similarity, match and fused are three scores, never mixed up. Keys of the service's answers that a language model has
no use for are left out, since it pays for each.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from vitascope.cli.output import format_score, format_span, format_time

TEXT_SHOWN = 500
"""Characters of what is said in a clip: a search may find fifty, each with as many as 10,000."""
DECIMALS = 4
"""Of scores: a language model pays for each further one, and learns nothing from it."""
_MISLEADING = re.compile(r"[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that end lines or turn their direction, and that JSON leaves as they are."""

Rounded = Annotated[float, AfterValidator(lambda value: round(value, DECIMALS))]
Said = Annotated[str, Field(description="what is said in it, by its subtitles, shortened; empty: nothing is known")]
Cursor = Annotated[str | None, Field(description="cursor of the next page; null on the last")]
Address = Annotated[str, Field(description="plays it in a browser, where no key is needed")]
Similarity = Annotated[Rounded | None, Field(description="cosine of the vectors of text and clip, -1 to 1")]
Match = Annotated[Rounded | None, Field(description="probability that the text describes it, 0 to 1; null: not judged")]
Fused = Annotated[Rounded | None, Field(description="both together, 0 to 1, ranks what was judged; null: not judged")]


class Told(BaseModel):
    """An answer."""

    def words(self) -> str:
        """The same for reading. What comes from videos stands in quotes, on one line."""
        raise NotImplementedError


class Collection(BaseModel):
    name: str
    videos: int
    clips: Annotated[int, Field(description="spans of videos: what is found")]
    searchable: Annotated[bool, Field(description="whether the model that filled it is loaded")]
    model: str


class Collections(Told):
    collections: list[Collection]
    unreadable: Annotated[list[str], Field(description="damaged ones")]

    def words(self) -> str:
        lines = [_collection(one) for one in self.collections]
        lines += [f"{name}: damaged" for name in self.unreadable]
        return "\n".join(lines) or "There is no collection."


class Moment(BaseModel):
    video_id: str
    title: str
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    clip_id: Annotated[str, Field(description="of the clip; of an event or video, of its best clip")]
    clip_count: Annotated[int | None, Field(description="of an event or video: how many clips it has")]
    text: Said
    similarity: Similarity
    match: Match
    fused: Fused
    metadata: dict[str, Any]
    media_url: Address


class Found(Told):
    results: Annotated[list[Moment], Field(description="best first")]
    next_cursor: Cursor
    changed: Annotated[bool, Field(description="the collection has changed since the page before")]

    def words(self) -> str:
        lines = [f"{place}. {_moment(one)}" for place, one in enumerate(self.results, start=1)]
        return "\n".join([*lines, *_more(self.next_cursor)]) or "Nothing was found."


class VideoSummary(BaseModel):
    video_id: str
    title: str
    duration: Annotated[float, Field(description="seconds; 0: a picture")]
    clips: int
    metadata: dict[str, Any]
    media_url: Address


class Videos(Told):
    videos: list[VideoSummary]
    next_cursor: Cursor

    def words(self) -> str:
        lines = [_video(video) for video in self.videos]
        return "\n".join([*lines, *_more(self.next_cursor)]) or "There is no video."


class Span(BaseModel):
    clip_id: str
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    text: Said


class VideoDescription(Told, VideoSummary):
    width: Annotated[int, Field(description="pixels")]
    height: Annotated[int, Field(description="pixels")]
    spans: Annotated[list[Span], Field(description="its clips in order")]
    next_after: Annotated[float | None, Field(description="after which the next clips are; null: these are the last")]

    def words(self) -> str:
        lines = [
            _video(self),
            *(f"clip {one.clip_id} {_when(one.start, one.end)}{_said(one.text)}" for one in self.spans),
        ]
        more = [] if self.next_after is None else [f"More clips: after={self.next_after}"]
        return "\n".join(lines + more)


class _OfVideo(Told):
    """About a video, or a part of it."""

    video_id: str
    title: str
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]


class Score(BaseModel):
    caption: str
    similarity: Similarity
    clipscore: Annotated[Rounded | None, Field(description="2.5 * max(similarity, 0)")]
    refclipscore: Annotated[Rounded | None, Field(description="clipscore with references; null without")]
    match: Match
    fused: Fused


class Scores(_OfVideo):
    scores: Annotated[list[Score], Field(description="in the order of the captions")]

    def words(self) -> str:
        return "\n".join(f"{_quoted(one.caption)}: {_scores(one)}" for one in self.scores)


class Answer(BaseModel):
    text: str
    probability: Annotated[Rounded, Field(description="among all that the model knows, or among the candidates")]


class Answers(_OfVideo):
    question: str
    answer: Annotated[str | None, Field(description="the likeliest; null: the model does not know")]
    abstained: bool
    answers: Annotated[list[Answer], Field(description="likeliest first")]
    unknown: Annotated[list[str], Field(description="candidates that the model cannot judge")]

    def words(self) -> str:
        first = "The model does not know." if self.answer is None else self.answer
        rest = ", ".join(f"{one.text} {one.probability:.3f}" for one in self.answers)
        unknown = f"\nNot judged: {', '.join(map(_quoted, self.unknown))}" if self.unknown else ""
        return f"{first}\nProbabilities: {rest or 'none'}{unknown}"


class Picture(Told):
    """A frame of a video. The JPEG itself is no part of what is structured."""

    collection: str
    video_id: str
    time: Annotated[float, Field(description="seconds")]
    jpeg: Annotated[bytes, Field(exclude=True)]

    def words(self) -> str:
        return f"Video {self.video_id} of {self.collection} at {format_time(self.time)} ({self.time:g} s)."


def shortened(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1]}…"


def _collection(one: Collection) -> str:
    holds = f"{one.name}: {_count(one.videos, 'video')}, {_count(one.clips, 'clip')}"
    return holds if one.searchable else f"{holds}, not searchable now"


def _moment(one: Moment) -> str:
    about = f"video {one.video_id} {_quoted(one.title)} {_when(one.start, one.end)} clip {one.clip_id}"
    return f"{about}: {_scores(one)}{_said(one.text)}"


def _video(one: VideoSummary) -> str:
    about = f" {_quoted(one.metadata)}" if one.metadata else ""
    length = format_time(one.duration) if one.duration else "picture"
    return f"video {one.video_id} {_quoted(one.title)} {length}, {_count(one.clips, 'clip')}{about}"


def _scores(one: Moment | Score) -> str:
    known = [(name, getattr(one, name)) for name in ("fused", "match", "similarity")]
    return ", ".join(f"{name} {format_score(value)}" for name, value in known if value is not None)


def _when(start: float, end: float) -> str:
    """Both as people read it and in the seconds that other tools take."""
    return f"{format_span(start, end)} ({start:g} to {end:g} s)" if end > start else "(picture)"


def _said(text: str) -> str:
    return f" said: {_quoted(text)}" if text else ""


def _quoted(content: object) -> str:
    """As JSON on one line, so that a title cannot pass for a line of ours."""
    return _MISLEADING.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(content, ensure_ascii=False))


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _more(cursor: str | None) -> list[str]:
    return [] if cursor is None else [f"More: cursor={cursor}"]
