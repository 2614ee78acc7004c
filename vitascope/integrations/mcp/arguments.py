"""What tools can be asked: their arguments, whose JSON schemas language models read."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _from_text(value: object) -> object:
    """Lists and objects that were written as JSON in a string, which some assistants do."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


Name = Annotated[str, Field(description="name of a collection, from list_collections")]
VideoId = Annotated[str, Field(description="video_id, from search_videos or list_videos")]
Texts = Annotated[list[str], BeforeValidator(_from_text)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
WHICH = (
    'only videos whose metadata fits, such as {"site": "north", "year": {"gte": 2020}}, or their fields title, '
    "duration (seconds), width, height, added_at (ISO 8601). Operators: eq, ne, gt, gte, lt, lte, in, prefix. "
    "Together: and, or, not"
)
Filter = Annotated[dict[str, Any] | None, BeforeValidator(_from_text)]


class Asked(BaseModel):
    """Arguments. Unknown ones are refused: a mistake must not pass unnoticed."""

    model_config = ConfigDict(extra="forbid")


class ListCollections(Asked):
    """Nothing needs to be said."""


class _Finding(Asked):
    collection: Name
    limit: Annotated[int, Field(ge=1, le=50, description="how many results")] = 10
    filter: Annotated[
        Filter, Field(description=WHICH + '. On the clip itself: {"clip": {"start": {"gte": 60}, "text": {"ne": ""}}}')
    ] = None
    group: Annotated[
        Literal["clip", "event", "video"],
        Field(description="what a result is: a clip; an event, clips that touch as one span; or a whole video"),
    ] = "clip"
    min_similarity: Annotated[float | None, Field(ge=-1, le=1, description="leave out what is less similar")] = None
    cursor: Annotated[
        str | None, Field(description="next_cursor of the answer before, for its next page; all else as there")
    ] = None


class SearchVideos(_Finding):
    text: Annotated[str, Field(min_length=1, description="what should be seen, as a sentence: a dog runs on the beach")]
    rerank: Annotated[
        int | None,
        Field(
            ge=0,
            le=100,
            description="judge this many of the best clips again, by a slower and better model; "
            "null: 20 where the model can; 0: none",
        ),
    ] = None
    hybrid: Annotated[bool, Field(description="also look for its words in titles and subtitles")] = False


class FindSimilar(_Finding):
    clip_id: Annotated[str, Field(description="of a moment, from search_videos or describe_video")]


class ListVideos(Asked):
    collection: Name
    filter: Annotated[Filter, Field(description=WHICH)] = None
    limit: Annotated[int, Field(ge=1, le=100, description="how many videos")] = 20
    cursor: Annotated[str | None, Field(description="next_cursor of the answer before, for its next page")] = None


class DescribeVideo(Asked):
    collection: Name
    video_id: VideoId
    after: Annotated[Seconds, Field(description="list the clips that end after this second")] = 0.0
    limit: Annotated[int, Field(ge=1, le=200, description="how many clips")] = 50


class _PartOfVideo(Asked):
    collection: Name
    video_id: VideoId
    start: Annotated[Seconds | None, Field(description="seconds; null: from the beginning")] = None
    end: Annotated[Seconds | None, Field(description="seconds; null: to the end")] = None


class ScoreCaptions(_PartOfVideo):
    captions: Annotated[Texts, Field(min_length=1, max_length=64, description="sentences to compare")]
    references: Annotated[
        Texts, Field(max_length=64, description="captions known to be right, if there are any; they give refclipscore")
    ] = []


class AskVideo(_PartOfVideo):
    question: Annotated[str, Field(min_length=1, description="about what is seen: what color is the ball?")]
    candidates: Annotated[
        Texts | None, Field(min_length=1, description="what the answer may be; null: all that the model knows")
    ] = None
    abstain_below: Annotated[float, Field(ge=0, le=1, description="no answer where its probability is lower")] = 0.0
    top: Annotated[int, Field(ge=1, le=20, description="how many answers")] = 5


class ShowMoment(Asked):
    collection: Name
    video_id: VideoId
    time: Annotated[Seconds, Field(description="seconds from the beginning, such as the middle of a span")] = 0.0
