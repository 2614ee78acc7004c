"""Collections, the videos in them, and their clips."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from index.collection_store import NAME_PATTERN
from index.records import SearchSignal, Signal
from service.schemas.base import FINGERPRINT, Id, Int, Metadata, ModelName, Probability, Request, Response, example
from service.schemas.jobs import SHOTS, CaptionSetting, ReadText, Segmentation, Transcribe, Url

IndexKind = Annotated[
    Literal["auto", "flat", "hnsw", "ivfpq"],
    Field(description="auto follows the number of clips; flat is exact; hnsw, ivfpq: see docs/nearest.md"),
]
TokenEncoding = Annotated[
    Literal["int8", "float16"],
    Field(description="how visual tokens for reranking are stored; float16 takes twice the space"),
]
Stemming = Annotated[
    Literal["english", "none"],
    Field(description="english: words also match those with the same English stem; none: for other languages"),
]

INDEX: dict[str, Any] = {"serving": "flat", "changed": 70}
COLLECTION: dict[str, Any] = {
    "name": "holidays",
    "videos": 12,
    "clips": 70,
    "bundle": "hd-vila-tiny 1.0.0",
    "fingerprint": FINGERPRINT,
    "model_loaded": True,
    "default_rerank": 0,
    "created_at": 1764000000.0,
    "token_encoding": "int8",
    "dimensions": 256,
    "signals": ["visual", "speech", "screen_text", "caption", "name"],
    "index_kind": "auto",
    "index": INDEX,
    "stemming": "english",
    "transcribe": "default",
    "read_text": None,
    "caption": False,
    "bytes": 1_572_864,
}
VIDEO: dict[str, Any] = {
    "id": "3",
    "title": "beach",
    "duration": 17.4,
    "width": 1280,
    "height": 720,
    "media_type": "video/mp4",
    "content_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "metadata": {"camera": "north", "year": 2024},
    "clips": 3,
    "added_at": 1764000000.0,
    "path": "/videos/2024/beach.mp4",
    "missing": False,
    "media_url": "/v1/collections/holidays/videos/3/media",
    "thumbnail_url": "/v1/collections/holidays/videos/3/thumbnail?t=8.7",
}
ABOUT_VIDEO: dict[str, Any] = {
    "title": "beach",
    "metadata": {"camera": "north", "year": 2024},
    "segmentation": SHOTS,
}
SPAN: dict[str, Any] = {
    "id": "41",
    "start": 8.0,
    "end": 17.4,
    "text": "look at him run",
    "screen_text": "Brighton",
    "caption": "",
    "modalities": ["visual", "audio"],
    "media_url": "/v1/collections/holidays/videos/3/media#t=8,17.4",
    "thumbnail_url": "/v1/collections/holidays/videos/3/thumbnail?t=12.7",
}


FACETS: dict[str, Any] = {
    "folders": [{"value": "/videos/2024/", "videos": 9}],
    "added": [{"start": "2026-03-31", "end": "2026-04-01", "videos": 12}],
    "durations": [{"min": 0, "max": 0, "videos": 1}, {"min": 0, "max": 60, "videos": 11}],
    "speech": 4,
    "screen_text": 2,
    "caption": 0,
    "metadata": [{"field": "camera", "videos": 12, "values": [{"value": "north", "videos": 7}]}],
}
MOMENT: dict[str, Any] = {"start": 4.0, "end": 9.5, "score": 0.87}


class NewCollection(Request):
    """A new collection. It belongs to one model."""

    model_config = example(name="holidays")

    name: Annotated[
        str,
        Field(
            description="1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit",
            json_schema_extra={"pattern": f"^{NAME_PATTERN.pattern}$"},
        ),
    ]
    index_kind: IndexKind = "auto"
    token_encoding: TokenEncoding = "int8"
    dimensions: Annotated[
        Int | None,
        Field(ge=1, description="dimensions of embeddings: all of the model (default), or its `matryoshka_dimensions`"),
    ] = None
    model: ModelName = None
    stemming: Stemming = "english"
    transcribe: Transcribe = None
    read_text: ReadText = None
    caption: CaptionSetting = None


class CollectionChanges(Request):
    """Changes to a collection; null keeps a value."""

    model_config = example(index_kind="hnsw")

    index_kind: IndexKind | None = None
    stemming: Stemming | None = None
    transcribe: Transcribe = None
    read_text: ReadText = None
    caption: CaptionSetting = None

    @model_validator(mode="after")
    def _has_changes(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("index_kind, stemming, transcribe, read_text or caption was expected")
        return self


class IndexState(Response):
    """The vector index of a collection."""

    model_config = example(**INDEX)

    serving: Annotated[str, Field(description="kind of the index in use: flat, hnsw or ivfpq")]
    changed: Annotated[int, Field(description="clips added or deleted since it was built")]


class Collection(Response):
    """A collection of videos, embedded by one model."""

    model_config = example(**COLLECTION)

    name: str
    videos: int
    clips: int
    bundle: Annotated[str, Field(description="name and version of its model")]
    fingerprint: Annotated[str, Field(description="fingerprint of its model")]
    model_loaded: Annotated[bool, Field(description="false: it cannot be searched or added to until the model is")]
    default_rerank: Annotated[
        int, Field(description="number of clips that a search by a text reranks unless it sets `rerank`; of the model")
    ]
    created_at: Annotated[float, Field(description="Unix seconds")]
    token_encoding: TokenEncoding
    dimensions: Annotated[int, Field(description="number of dimensions of its embeddings")]
    signals: Annotated[
        list[SearchSignal],
        Field(
            description="signals of a search: pictures (visual), sound (audio), words spoken (speech), words "
            "shown (screen_text), words of generated captions (caption), words of titles and paths (name)"
        ),
    ]
    index_kind: Annotated[str, Field(description="requested: auto, flat, hnsw or ivfpq")]
    index: IndexState
    stemming: Stemming
    transcribe: Annotated[
        str | None, Field(description="speech model of its jobs; `default`: that of the service; null: none")
    ]
    read_text: Annotated[float | None, Field(description="seconds between the frames whose text jobs read; null: none")]
    caption: Annotated[bool, Field(description="whether its jobs generate captions")]
    bytes: Annotated[int, Field(description="size on disk, without media files")]


class Collections(Response):
    """All collections, by name."""

    model_config = example(collections=[COLLECTION], unreadable=[])

    collections: list[Collection]
    unreadable: Annotated[list[str], Field(description="damaged collections; see the log of the service")]


class FacetValue(Response):
    """A value and the number of videos that have it."""

    model_config = example(**FACETS["folders"][0])

    value: str | bool | int | float
    videos: int


class DateRange(Response):
    """A day, or a month if there are many days."""

    model_config = example(**FACETS["added"][0])

    start: Annotated[dt.date, Field(description="first day, in UTC")]
    end: Annotated[dt.date, Field(description="day after the last")]
    videos: int


class DurationRange(Response):
    """Durations in seconds; 0 to 0: pictures, which no other range counts."""

    model_config = example(**FACETS["durations"][1])

    min: int
    max: Annotated[int | None, Field(description="exclusive; null: none")]
    videos: int


class MetadataFacet(Response):
    """A metadata field and its most frequent values."""

    model_config = example(**FACETS["metadata"][0])

    field: str
    videos: Annotated[int, Field(description="number of videos that have it")]
    values: list[FacetValue]


class Facets(Response):
    """Values that the videos of a collection can be filtered by, with numbers of videos."""

    model_config = example(**FACETS)

    folders: Annotated[
        list[FacetValue], Field(description="folders of indexed files, ending in a slash; not of uploads")
    ]
    added: Annotated[list[DateRange], Field(description="when videos were added, latest first")]
    durations: list[DurationRange]
    speech: Annotated[int, Field(description="videos with spoken words")]
    screen_text: Annotated[int, Field(description="videos with words on screen")]
    caption: Annotated[int, Field(description="videos with generated captions")]
    metadata: Annotated[list[MetadataFacet], Field(description="the most frequent fields first")]


class Video(Response):
    """A whole file."""

    model_config = example(**VIDEO)

    id: Id
    title: str
    duration: Annotated[float, Field(description="seconds; 0 for a picture")]
    width: Annotated[int, Field(description="pixels")]
    height: Annotated[int, Field(description="pixels")]
    media_type: str
    content_sha256: str
    metadata: Metadata
    clips: Annotated[int, Field(description="number of clips")]
    added_at: Annotated[float, Field(description="Unix seconds")]
    path: Annotated[
        str | None,
        Field(
            description="absolute path of the file on the machine that indexed it; the URL, or tar://MEMBER::ARCHIVE, "
            "where the file was copied from there; null for an upload"
        ),
    ]
    missing: Annotated[
        bool,
        Field(
            description="the file is gone: moved, deleted, replaced, or on a drive that is not mounted; false where "
            "the drive does not answer within half a second"
        ),
    ]
    media_url: str
    thumbnail_url: Annotated[str, Field(description="JPEG; `t`: seconds")]


class AddedVideo(Video):
    """A video that was uploaded."""

    model_config = example(**VIDEO, notes=["no subtitles; cut into windows of 8 s"])

    notes: Annotated[list[str], Field(description="notes on how it was segmented")]


class VideoChanges(Request):
    """Changes to a video; a field that is not given stays."""

    model_config = example(title="At the beach", metadata={"year": 2025, "camera": None})

    title: Annotated[str, Field(max_length=500)] | None = None
    metadata: Annotated[
        dict[str, str | bool | int | float | None],
        Field(description="merged into that of the video; null deletes a key"),
    ] = Field(default_factory=dict)
    subtitles: Annotated[
        str | None,
        Field(description="text of an SRT or WebVTT file, which replaces the words of all clips; null: no words"),
    ] = None

    from_source: Annotated[
        bool,
        Field(
            description="the file, or what describes it, states these values: they replace what was edited only if it "
            "states something else than before"
        ),
    ] = False

    @property
    def subtitles_text(self) -> str | None:
        """The subtitles, empty where they are to be deleted; None if they stay."""
        return (self.subtitles or "") if "subtitles" in self.model_fields_set else None


class UpdatedVideo(Video):
    """A video after changes."""

    model_config = example(
        **VIDEO,
        changes=["subtitles"],
        notes=["2 of 41 cues begin after the end of the video (17.40 s) and are left out"],
    )

    changes: Annotated[list[str], Field(description="what changed: title, metadata, subtitles")]
    notes: Annotated[list[str], Field(description="notes on its subtitles")]


ClipModalities = Annotated[
    list[Signal],
    Field(description="its embeddings: of pictures (visual), of sound (audio)"),
]


class Moment(Response):
    """A span of the video."""

    model_config = example(**MOMENT)

    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    score: Annotated[Probability, Field(description="how well the text fits the span")]


class ClipSpan(Response):
    """A span of a video, the unit that is indexed."""

    model_config = example(**SPAN)

    id: Id
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    text: Annotated[str, Field(description="spoken words; empty if none are known")]
    screen_text: Annotated[str, Field(description="text on screen; empty if none is known")]
    caption: Annotated[str, Field(description="generated by a model; empty without one")]
    modalities: ClipModalities
    media_url: str
    thumbnail_url: str


class VideoWithClips(Video):
    """A video and its clips in order."""

    model_config = example(**VIDEO, spans=[SPAN])

    spans: list[ClipSpan]


class Videos(Response):
    """A page of videos, in the order in which they were added."""

    model_config = example(videos=[VIDEO], next_cursor="eyJhZnRlciI6M30")

    videos: list[Video]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last page")]


class UploadFields(Request):
    """Fields of an upload; `metadata` and `segmentation` are JSON."""

    model_config = example(**ABOUT_VIDEO)

    title: Annotated[str | None, Field(max_length=500)] = None
    metadata: Metadata = Field(default_factory=dict)
    segmentation: Segmentation | None = None


class VideoAtUrl(UploadFields):
    """A video or picture for the service to fetch."""

    model_config = example(url="https://media.example/beach.mp4", **ABOUT_VIDEO)

    url: Url
