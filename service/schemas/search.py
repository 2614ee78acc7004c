"""Search requests and results.

similarity: cosine of the embeddings of query and clip, -1 to 1. match: calibrated probability of the fusion model, 0 to
1. fused: both combined, 0 to 1, which reranked results are ranked by. relevance: fused, or for clips that were not
reranked the calibrated similarity.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from index.records import SearchSignal, Signal
from index.search.refinement import MARGIN_SECONDS
from index.search.relevance import GOOD_MATCH
from index.search.request import CANDIDATES, MAX_CURSOR_LENGTH, MAX_WEIGHT
from service.schemas.base import Id, Int, Probability, Request, Response, Seconds, example
from service.schemas.library import MOMENT, VIDEO, ClipModalities, Moment, Video

SIMILARITY = "cosine of the embeddings of query and clip, -1 to 1"
MATCH = "calibrated probability, by the fusion model, that the text describes the clip"
FUSED = "similarity and match combined, 0 to 1"
RELEVANCE = (
    "probability that the clip fits the query: fused if it was reranked, else the calibrated similarity; at least the "
    "word score of a clip that contains most words of the query"
)
Similarity = Annotated[float, Field(ge=-1, le=1, description=SIMILARITY)]
Weight = Annotated[
    float,
    Field(
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        description='relative weight of this part; negative: away from it, -0.5 as "but not"; 0 is rejected',
    ),
]


SignalWeight = Annotated[float, Field(gt=0, le=MAX_WEIGHT, allow_inf_nan=False)]


def _weighted(value: object) -> object:
    """Return a list of signals as an object with the weight 1 each."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise ValueError("a signal is repeated; different ones were expected")
        value = dict.fromkeys(value, 1.0)
    if not isinstance(value, dict) or not value:
        raise ValueError("a list of signals, or an object with the weight of each, was expected")
    return value


_SignalList = Annotated[list[SearchSignal], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
_SignalWeights = Annotated[dict[SearchSignal, SignalWeight], Field(min_length=1)]
# Weights out of range are rejected by the search, whose message has the value.
Signals = Annotated[
    dict[SearchSignal, float], BeforeValidator(_weighted, json_schema_input_type=_SignalList | _SignalWeights)
]


class TextQuery(Request):
    """A text that describes the results."""

    model_config = example(kind="text", value="a dog runs on the beach", weight=1.0)

    kind: Literal["text"]
    value: str
    weight: Weight = 1.0


class ClipQuery(Request):
    """A clip of the collection that results should resemble."""

    model_config = example(kind="clip", value="41", weight=0.5)

    kind: Literal["clip"]
    value: Annotated[Id, Field(description="id of the clip")]
    signal: Annotated[
        Signal | None,
        Field(
            description="which of its embeddings is compared: of its pictures or of its sound; null: of the pictures, "
            "of a clip with sound alone of that"
        ),
    ] = None
    weight: Weight = 1.0


class FileQuery(Request):
    """The uploaded picture, video or sound of a form that results should resemble. It is not stored."""

    model_config = example(kind="file", signal="audio", weight=1.0)

    kind: Literal["file"]
    signal: Annotated[
        Signal | None,
        Field(
            description="what of the file is embedded: its pictures or its sound; null: the pictures, of a file with "
            "sound alone the sound"
        ),
    ] = None
    start: Annotated[Seconds | None, Field(description="seconds; default: 0")] = None
    end: Annotated[Seconds | None, Field(description="seconds; default: the end of the file")] = None
    weight: Weight = 1.0


QueryPart = Annotated[TextQuery | ClipQuery | FileQuery, Field(discriminator="kind")]


class SearchOptions(Request):
    """Filters and options of a search."""

    limit: Annotated[Int, Field(ge=1, description="number of results")] = 10
    cursor: Annotated[
        str | None,
        Field(
            max_length=MAX_CURSOR_LENGTH,
            description="next_cursor of the previous page; all fields but `limit`, `clips` and `refine` must be the "
            "same. The file need not be sent again",
        ),
    ] = None
    rerank: Annotated[
        Int | None,
        Field(
            ge=0,
            description="number of the best clips to score with the fusion model and to rank by fused; the query must "
            "have one text of positive weight. null: `default_rerank` of the collection for such a query, 0 for others",
        ),
    ] = None
    refine: Annotated[
        bool,
        Field(
            description=f"find the `moment` of each result: where from {MARGIN_SECONDS:g} s before to "
            f"{MARGIN_SECONDS:g} s after it the text is most likely true; the query must have one text of positive "
            "weight, and the model of the collection the task `moments`. Slower: videos are decoded where no earlier "
            "request has done so"
        ),
    ] = False
    signals: Annotated[
        Signals | None,
        Field(
            description="signals to search, as a list, or with weights as an object: pictures (visual), sound (audio), "
            "words spoken (speech), words shown (screen_text), words of generated captions (caption), words of titles "
            "and paths (name); null: all `signals` of the collection, with the weight 1"
        ),
    ] = None
    filter: Annotated[
        dict[str, Any] | None,
        Field(
            description='on metadata, such as {"camera": "north", "year": {"gte": 2020}}, on fields of videos, and on '
            'the clip itself: {"clip": {"start": {"gte": 60}, "text": {"ne": ""}}}'
        ),
    ] = None
    min_similarity: Annotated[
        float | None,
        Field(
            ge=-1,
            le=1,
            description="exclude clips whose pictures and sound are both less similar; the `similarity` of a result is "
            "that of its pictures, if it has any and they are searched",
        ),
    ] = None
    min_relevance: Annotated[
        Probability | None, Field(description="exclude clips of a lower relevance, and those that have none")
    ] = None
    group: Annotated[
        Literal["clip", "event", "video"],
        Field(
            description="a result. event: a stretch of a video whose clips are about as similar as its best one; "
            "video: all clips of a video"
        ),
    ] = "clip"
    clips: Annotated[Int, Field(ge=1, description="event, video: number of its clips to list")] = 5
    candidates: Annotated[
        Int | None,
        Field(
            ge=1,
            description=f"event, video: number of the best clips to group; default: {CANDIDATES['event']}, and more "
            "where these give too few videos",
        ),
    ] = None
    include_query_clips: Annotated[bool, Field(description="include clips of the query in the results")] = False


class SearchRequest(SearchOptions):
    """A search for `text`, or for several parts as `query`."""

    model_config = example(text="a dog runs on the beach", limit=10, filter={"year": {"gte": 2020}}, rerank=20)

    text: Annotated[str | None, Field(description='short for the query [{"kind": "text", "value": …}]')] = None
    query: Annotated[
        list[QueryPart] | None,
        Field(
            min_length=1,
            fail_fast=True,
            description="parts whose embeddings, each of length 1, are added by their weights. Of texts alone, results "
            "are ranked by how likely they fit every one of positive weight",
        ),
    ] = None

    @model_validator(mode="after")
    def _has_text_or_query(self) -> Self:
        if (self.text is None) == (self.query is None):
            raise ValueError("text, query: one of them, and not both, was expected")
        return self


class SearchForm(SearchOptions):
    """A search with a file; `query`, `signals` and `filter` are JSON. Without `query`, the query is the file, and
    `text` if given.
    """

    model_config = example(text="in the snow", limit=10, group="video")

    text: Annotated[str | None, Field(description="short for a query of this text and the file")] = None
    query: Annotated[
        list[QueryPart] | None,
        Field(min_length=1, fail_fast=True, description="parts; exactly one of them is the file"),
    ] = None

    @model_validator(mode="after")
    def _has_one_file(self) -> Self:
        if self.text is not None and self.query is not None:
            raise ValueError("text, query: one of them, and not both, was expected")
        if self.query is not None and [part.kind for part in self.query].count("file") != 1:
            raise ValueError('query: exactly one part of kind "file" was expected')
        return self


MATCH_OF_WORDS: dict[str, Any] = {"text": "run", "start": 9.2, "end": 9.6, "box": None}
SIGNAL_SCORES: dict[str, Any] = {
    "visual": {"rank": 3, "score": 0.41, "matches": []},
    "speech": {"rank": 1, "score": 0.9, "matches": [MATCH_OF_WORDS]},
}
CLIP: dict[str, Any] = {
    "clip_id": "41",
    "start": 8.0,
    "end": 16.0,
    "text": "look at him run",
    "screen_text": "Brighton",
    "caption": "",
    "modalities": ["visual", "audio"],
    "relevance": 0.9,
    "conditions": None,
    "similarity": 0.41,
    "match": 0.93,
    "fused": 0.9,
    "signals": SIGNAL_SCORES,
    "media_url": "/v1/collections/holidays/videos/3/media#t=8,16",
    "thumbnail_url": "/v1/collections/holidays/videos/3/thumbnail?t=12",
}
CONDITION: dict[str, Any] = {"text": "a dog", "weight": 1.0, "relevance": 0.9, "met": True}
WARNING: dict[str, Any] = {
    "code": "no_good_match",
    "detail": "No result is likely to fit: the best has a relevance of 0.21; a good match has at least 0.25",
}
RESULT: dict[str, Any] = {**CLIP, "video": VIDEO, "clips": None, "clip_count": None, "moment": MOMENT}


class TextMatch(Response):
    """Adjacent words of the query, where they are spoken or shown."""

    model_config = example(**MATCH_OF_WORDS)

    text: str
    start: Annotated[float, Field(description="seconds; of words of a name, the clip's")]
    end: Annotated[float, Field(description="seconds; of words of a name, the clip's")]
    box: Annotated[
        list[float] | None,
        Field(description="left, top, right and bottom of words shown, as shares of width and height; null otherwise"),
    ]


class SignalScore(Response):
    """Score and rank of a clip by one signal."""

    model_config = example(**SIGNAL_SCORES["speech"])

    rank: Annotated[int, Field(description="rank by this signal, from 1")]
    score: Annotated[
        float, Field(ge=-1, le=1, description="visual, audio: cosine, -1 to 1; others: score of the words, 0 to 1")
    ]
    matches: Annotated[list[TextMatch], Field(description="words that match; empty for visual and audio")]


class Condition(Response):
    """A text of the query, and how likely the clip fits it."""

    model_config = example(**CONDITION)

    text: str
    weight: float
    relevance: Annotated[Probability, Field(description="probability that the clip fits the text")]
    met: Annotated[
        bool,
        Field(description=f"whether it is at least {GOOD_MATCH}; for a text of negative weight, whether it is lower"),
    ]


class ClipHit(Response):
    """A clip of a result, with its scores, overall and by signal."""

    model_config = example(**CLIP)

    clip_id: Id
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    text: Annotated[str, Field(description="spoken words; empty if none are known")]
    screen_text: Annotated[str, Field(description="text on screen; empty if none is known")]
    caption: Annotated[str, Field(description="generated by a model; empty without one")]
    modalities: ClipModalities
    relevance: Annotated[
        Probability | None,
        Field(
            description=f"{RELEVANCE}; with several texts, that of the condition which it is least likely to meet; "
            "null if it was not reranked and the bundle has no calibration of similarity, or the query has clips or "
            "files"
        ),
    ]
    conditions: Annotated[
        list[Condition] | None,
        Field(
            description="the texts of the query; null where it has fewer than two, or the bundle has no calibration of "
            "similarity"
        ),
    ]
    similarity: Similarity
    match: Annotated[Probability | None, Field(description=f"{MATCH}; null where it was not reranked")]
    fused: Annotated[Probability | None, Field(description=f"{FUSED}; null where it was not reranked")]
    signals: Annotated[dict[SearchSignal, SignalScore], Field(description="why it was returned: its ranks by signal")]
    media_url: Annotated[str, Field(description="plays the clip: the file with #t=start,end")]
    thumbnail_url: str


class SearchResult(ClipHit):
    """A clip, an event or a video. `clip_id`, text, scores and places of an event or video are those of its best clip;
    start and end are those of the whole event.
    """

    model_config = example(**RESULT)

    video: Video
    clips: Annotated[list[ClipHit] | None, Field(description="its clips, best first; null for a clip")]
    clip_count: Annotated[int | None, Field(description="number of its clips; null for a clip")]
    moment: Annotated[
        Moment | None,
        Field(
            description="with `refine`, where in and around it the text is most likely true; null where the "
            "video's file is gone, or has no pictures to decode"
        ),
    ]


class SearchWarning(Response):
    """A reason not to trust the results of a search."""

    model_config = example(**WARNING)

    code: Annotated[
        Literal["no_good_match", "language"],
        Field(
            description=f"no_good_match: no result has a relevance of at least {GOOD_MATCH}; language: the model does "
            "not know the language of the query"
        ),
    ]
    detail: Annotated[str, Field(description="a sentence")]


class SearchResponse(Response):
    """A page of results, best first: reranked ones by fused score, then the others."""

    model_config = example(
        text="a dog runs on the beach", results=[RESULT], next_cursor=None, changed=False, warnings=[]
    )

    text: Annotated[str | None, Field(description="text of the request; null for a query of parts")]
    results: list[SearchResult]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last page")]
    changed: Annotated[
        bool,
        Field(
            description="whether the collection has changed since the previous page: deleted clips are omitted, and "
            "new ones appear in a new search"
        ),
    ]
    warnings: Annotated[list[SearchWarning], Field(description="on the first page")]
