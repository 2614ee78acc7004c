"""Search: what may be asked, and what is found.

Three numbers that are never mixed up. similarity: cosine of the query's and the clip's vectors, -1 to 1. match:
calibrated probability of the fusion model, 0 to 1. fused: both together, 0 to 1, what results are ranked by after
reranking.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from index.search.cursor import MAX_LENGTH
from index.search.request import CANDIDATES, MAX_WEIGHT
from service.schemas.base import Id, Int, Probability, Request, Response, Seconds, example
from service.schemas.library import VIDEO, Video

SIMILARITY = "cosine of the query's and the clip's vectors, -1 to 1"
MATCH = "calibrated probability, by the fusion model, that the text describes the clip"
FUSED = "similarity and match together, 0 to 1"

Similarity = Annotated[float, Field(ge=-1, le=1, description=SIMILARITY)]
Weight = Annotated[
    float,
    Field(
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        description="how much this part counts beside the others; below 0: away from it; 0 is refused",
    ),
]


class TextQuery(Request):
    """A sentence that results should fit."""

    model_config = example(kind="text", value="a dog runs on the beach", weight=1.0)

    kind: Literal["text"]
    value: str
    weight: Weight = 1.0


class ClipQuery(Request):
    """A clip of the collection that results should look like."""

    model_config = example(kind="clip", value="41", weight=0.5)

    kind: Literal["clip"]
    value: Annotated[Id, Field(description="its id")]
    weight: Weight = 1.0


class FileQuery(Request):
    """The picture or video that comes with a form: what results should look like. It is not kept."""

    model_config = example(kind="file", weight=1.0)

    kind: Literal["file"]
    start: Annotated[Seconds | None, Field(description="seconds; 0 when not given")] = None
    end: Annotated[Seconds | None, Field(description="seconds; the file's duration when not given")] = None
    weight: Weight = 1.0


QueryPart = Annotated[TextQuery | ClipQuery | FileQuery, Field(discriminator="kind")]


class SearchOptions(Request):
    """Among which clips to look, and what to make of those that are found."""

    limit: Annotated[Int, Field(ge=1, description="how many results")] = 10
    cursor: Annotated[
        str | None,
        Field(
            max_length=MAX_LENGTH,
            description="next_cursor of the page before; all else but `limit` and `clips` as there. A file need not "
            "come again",
        ),
    ] = None
    rerank: Annotated[
        Int,
        Field(
            ge=0,
            description="this many of the best clips get match and fused, and are ordered by fused; the query must "
            "have one text of positive weight",
        ),
    ] = 0
    hybrid: Annotated[
        bool,
        Field(
            description="words of the query's texts count beside similarity: those in titles and in what is said, by "
            "reciprocal rank fusion"
        ),
    ] = False
    filter: Annotated[
        dict[str, Any] | None,
        Field(
            description='on metadata, such as {"camera": "north", "year": {"gte": 2020}}, on fields of videos, and on '
            'the clip itself: {"clip": {"start": {"gte": 60}, "text": {"ne": ""}}}'
        ),
    ] = None
    min_similarity: Annotated[
        float | None, Field(ge=-1, le=1, description="clips that are less similar are left out")
    ] = None
    group: Annotated[
        Literal["clip", "event", "video"],
        Field(
            description="what a result is. event: clips of a video that touch or overlap, as one from the first start "
            "to the last end; video: all clips of a video"
        ),
    ] = "clip"
    clips: Annotated[Int, Field(ge=1, description="event, video: how many of its clips are listed")] = 5
    candidates: Annotated[
        Int | None,
        Field(
            ge=1,
            description="event, video: of how many of the best clips results are made; when not given "
            f"{CANDIDATES['event']} for events, {CANDIDATES['video']} for videos and more where these have too few",
        ),
    ] = None
    include_query_clips: Annotated[bool, Field(description="also find clips that the query itself names")] = False


class SearchRequest(SearchOptions):
    """What to look for: `text`, or a mix of several things as `query`."""

    model_config = example(text="a dog runs on the beach", limit=10, filter={"year": {"gte": 2020}}, rerank=20)

    text: Annotated[str | None, Field(description='short for the query [{"kind": "text", "value": …}]')] = None
    query: Annotated[
        list[QueryPart] | None,
        Field(
            min_length=1,
            fail_fast=True,
            description="parts whose vectors, each of length 1, are added by their weights",
        ),
    ] = None

    @model_validator(mode="after")
    def _is_asked_once(self) -> Self:
        if (self.text is None) == (self.query is None):
            raise ValueError("text, query: one of them, and not both, was expected")
        return self


class SearchForm(SearchOptions):
    """A search with a file; `query` and `filter` are written as JSON. Without `query`, the file is what is looked for,
    together with `text` if that is given.
    """

    model_config = example(text="in the snow", limit=10, group="video")

    text: Annotated[str | None, Field(description="short for a query of this text and the file")] = None
    query: Annotated[
        list[QueryPart] | None,
        Field(min_length=1, fail_fast=True, description="parts; one of them, and no more, is the file"),
    ] = None

    @model_validator(mode="after")
    def _has_one_file(self) -> Self:
        if self.text is not None and self.query is not None:
            raise ValueError("text, query: one of them, and not both, was expected")
        if self.query is not None and [part.kind for part in self.query].count("file") != 1:
            raise ValueError('query: one part, and no more, of kind "file" was expected')
        return self


RANKS: dict[str, Any] = {"similarity": 3, "words": 1}
CLIP: dict[str, Any] = {
    "clip_id": "41",
    "start": 8.0,
    "end": 16.0,
    "text": "look at him run",
    "similarity": 0.41,
    "match": 0.93,
    "fused": 0.9,
    "ranks": RANKS,
    "media_url": "/v1/collections/holidays/videos/3/media#t=8,16",
    "thumbnail_url": "/v1/collections/holidays/videos/3/thumbnail?t=12",
}
RESULT: dict[str, Any] = {**CLIP, "video": VIDEO, "clips": None, "clip_count": None}


class Ranks(Response):
    """Places from 1."""

    model_config = example(**RANKS)

    similarity: Annotated[int | None, Field(description="among the most similar clips; null: not in that list")]
    words: Annotated[int | None, Field(description="among those that have the words; null: not in that list")]


class FoundClip(Response):
    """A clip that was found, its scores and places each for itself."""

    model_config = example(**CLIP)

    clip_id: Id
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    text: Annotated[str, Field(description="what is said in it; empty where nothing is known")]
    similarity: Similarity
    match: Annotated[Probability | None, Field(description=f"{MATCH}; null where it was not reranked")]
    fused: Annotated[Probability | None, Field(description=f"{FUSED}; null where it was not reranked")]
    ranks: Ranks
    media_url: Annotated[str, Field(description="plays the clip: the file with #t=start,end")]
    thumbnail_url: str


class SearchResult(FoundClip):
    """A clip, an event or a video. Of the latter two `clip_id`, text, scores and places are those of the best clip;
    start and end are those of the whole event.
    """

    model_config = example(**RESULT)

    video: Video
    clips: Annotated[list[FoundClip] | None, Field(description="its clips, best first; null for a clip")]
    clip_count: Annotated[int | None, Field(description="how many it has, listed or not; null for a clip")]


class SearchResponse(Response):
    """A page of results, best first: reranked ones by fused score, then the others."""

    model_config = example(text="a dog runs on the beach", results=[RESULT], next_cursor=None, changed=False)

    text: Annotated[str | None, Field(description="as it was asked; null for a query of parts")]
    results: list[SearchResult]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last")]
    changed: Annotated[
        bool,
        Field(
            description="whether the collection has changed since the page before: what was deleted is left out, and "
            "what was added appears in a new search"
        ),
    ]
