"""Indexing jobs: their sources, segmentation, states and files. Times are Unix seconds, unless stated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from index.clips import rules
from service.schemas.base import Id, Metadata, Request, Response, example
from vitascope.job_states import ItemState, JobState
from vitascope.screen_text.interface import MAX_INTERVAL, MIN_INTERVAL

MIN_STEP = 0.5
"""Seconds from one clip to the next."""
AUTO: dict[str, Any] = {"rule": "auto", "length": 8.0, "longest": 16.0}
WINDOWS: dict[str, Any] = {"rule": "windows", "length": 8.0, "overlap": 2.0}
SHOTS: dict[str, Any] = {"rule": "shots", "shortest": 1.0, "longest": 16.0}
SUBTITLES: dict[str, Any] = {"rule": "subtitles", "shortest": 4.0, "longest": 16.0, "language": "en"}
Shortest = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]
Longest = Annotated[float, Field(ge=2 * MIN_STEP, allow_inf_nan=False, description="seconds; longer ones are split")]
Language = Annotated[
    str | None,
    Field(
        max_length=35,
        json_schema_extra={"pattern": f"^({rules.LANGUAGE.pattern})$"},
        description="of the subtitles; null: those without a language, else the first",
    ),
]


class _Windows(Request):
    rule: Literal["auto", "windows"]
    length: Annotated[float, Field(ge=MIN_STEP, allow_inf_nan=False, description="seconds")] = 8.0
    overlap: Annotated[float, Field(ge=0, allow_inf_nan=False, description="seconds that neighbours overlap")] = 0.0
    shortest: Annotated[
        Shortest,
        Field(description="seconds; a shorter last window is merged with the previous one; null: half of length"),
    ] = None
    language: Language = None

    @model_validator(mode="after")
    def _advances(self) -> Self:
        if self.length - self.overlap < MIN_STEP:
            raise ValueError(f"overlap: {self.overlap:g}; at least {MIN_STEP:g} s less than length was expected")
        return self


class AutoSegmentation(_Windows):
    """Shots for edited videos, with a cut at least every 30 s on average, which get a note; windows for others."""

    model_config = example(**AUTO)

    rule: Literal["auto"]
    shortest: Annotated[Shortest, Field(description="seconds; null: 1 for shots, half of length for windows")] = None
    longest: Longest = 16.0


class WindowSegmentation(_Windows):
    """Windows of one length."""

    model_config = example(**WINDOWS)

    rule: Literal["windows"]


class ShotSegmentation(Request):
    """One clip per shot, which ends with a cut, a fade or a dissolve."""

    model_config = example(**SHOTS)

    rule: Literal["shots"]
    shortest: Annotated[Shortest, Field(description="seconds; shorter shots are merged; null: 1")] = None
    longest: Longest = 16.0
    language: Language = None


class SubtitleSegmentation(Request):
    """Sentences of the subtitles, or of the transcript if a job makes one; pauses and all without both are windows."""

    model_config = example(**SUBTITLES)

    rule: Literal["subtitles"]
    shortest: Annotated[Shortest, Field(description="seconds; shorter sentences are merged; null: 4")] = None
    longest: Longest = 16.0
    length: Annotated[float, Field(ge=MIN_STEP, allow_inf_nan=False, description="seconds of a window")] = 8.0
    language: Language = None


Segmentation = Annotated[
    AutoSegmentation | WindowSegmentation | ShotSegmentation | SubtitleSegmentation,
    Field(discriminator="rule", description="segmentation of videos into clips; null: auto"),
]


def parse_segmentation(fields: Segmentation | None) -> rules.Segmentation:
    """Return the segmentation of a request. Raises InvalidInput for contradictory numbers."""
    return rules.Segmentation(rule="auto") if fields is None else rules.Segmentation(**fields.model_dump())


Transcribe = Annotated[
    bool | Annotated[str, Field(min_length=1, max_length=1000)] | None,
    Field(
        description="recognise speech once a video is searchable: true, or the name of the service's model "
        "(/v1/models); videos with subtitles are left out. null: as the collection has it"
    ),
]
ReadText = Annotated[
    bool | Annotated[float, Field(ge=MIN_INTERVAL, le=MAX_INTERVAL)] | None,
    Field(
        description="read the text on screen once a video is searchable: seconds between the frames that are looked "
        "at; true: 1. null: as the collection has it"
    ),
]
CaptionSetting = Annotated[
    bool | None,
    Field(
        description="generate a caption of each clip once a video is searchable, by the model of the collection. "
        "null: as the collection has it"
    ),
]
Path = Annotated[str, Field(min_length=1, max_length=4096)]
Url = Annotated[str, Field(min_length=1, max_length=4096, description="https://… or below an allowed URL")]
Column = Annotated[str, Field(min_length=1, max_length=128)]
FOLDER = {"kind": "folder", "folder": "/videos/holidays", "recursive": True}


class FolderSource(Request):
    """All files of a folder."""

    model_config = example(**FOLDER)

    kind: Literal["folder"]
    folder: Annotated[Path, Field(description="in an allowed root; relative: below incoming/")]
    recursive: Annotated[bool, Field(description="including subfolders")] = True


class FilesSource(Request):
    """A list of files."""

    model_config = example(kind="files", files=["/videos/holidays/beach.mp4"])

    kind: Literal["files"]
    files: Annotated[list[Path], Field(min_length=1, max_length=10_000, description="in an allowed root")]


class ListSource(Request):
    """A CSV, TSV, JSON Lines or Parquet file with a row for each video; further columns become metadata."""

    model_config = example(kind="list", file="/videos/films.csv", path_column="path", title_column="title")

    kind: Literal["list"]
    file: Annotated[Path, Field(description="in an allowed root, like the paths in it")]
    path_column: Annotated[Column, Field(description="paths, relative ones below the list's folder, or URLs")] = "path"
    title_column: Annotated[Column, Field(description="titles, if there are any")] = "title"


class ShardsSource(Request):
    """WebDataset shards: tar archives of media files with JSON and text files."""

    model_config = example(kind="shards", shards=["/videos/shard-000000.tar"])

    kind: Literal["shards"]
    shards: Annotated[list[Path], Field(min_length=1, max_length=10_000, description="in an allowed root")]


class UrlSource(Request):
    """A file, all files below a folder, or those that match a pattern with `*`, by an fsspec URL below an allowed one;
    or, where the service fetches such, one file at any public host.
    """

    model_config = example(kind="url", url="s3://bucket/videos/")

    kind: Literal["url"]
    url: Url
    title: Annotated[str | None, Field(max_length=500, description="of a single file")] = None


class UploadSource(Response):
    """An uploaded file. Only in responses: uploads create such jobs."""

    model_config = example(kind="upload", file="beach.mp4", title="beach")

    kind: Literal["upload"]
    file: Annotated[str, Field(description="name of the file at the client")]
    title: str


Source = Annotated[FolderSource | FilesSource | ListSource | ShardsSource | UrlSource, Field(discriminator="kind")]
JobSource = Annotated[
    FolderSource | FilesSource | ListSource | ShardsSource | UrlSource | UploadSource, Field(discriminator="kind")
]
COUNTS: dict[str, int] = {
    "queued": 40,
    "running": 1,
    "succeeded": 57,
    "refreshed": 0,
    "failed": 2,
    "skipped": 0,
    "cancelled": 0,
    "quarantined": 0,
}
RATE: dict[str, float] = {"items": 1.5, "video_seconds": 42.0, "seconds_left": 27.3}
JOB: dict[str, Any] = {
    "id": "7",
    "source": FOLDER,
    "metadata": {"camera": "north"},
    "state": "running",
    "error": None,
    "requested": None,
    "total": 100,
    "done": 59,
    "progress": 0.594,
    "counts": COUNTS,
    "duplicates": 0,
    "transcribe": "default",
    "read_text": None,
    "caption": False,
    "recognitions": {"speech": {"done": 51, "failed": 1}},
    "rate": RATE,
    "created_at": 1764000000.0,
    "started_at": 1764000001.0,
    "finished_at": None,
}
ITEM: dict[str, Any] = {
    "path": "/videos/holidays/broken.mp4",
    "state": "failed",
    "reason": "broken.mp4: not a single frame can be decoded",
    "video_id": None,
    "title": None,
    "metadata": {},
    "tries": 1,
    "crashes": 0,
}


class NewJob(Request):
    """A source to index, or a folder as its short form."""

    model_config = example(source=FOLDER, metadata={"camera": "north"}, segmentation=SUBTITLES)

    source: Annotated[Source | None, Field(description="source of the videos")] = None
    folder: Annotated[
        str | None,
        Field(min_length=1, max_length=4096, description="in an allowed root; relative: below incoming/"),
    ] = None
    recursive: Annotated[bool, Field(description="with `folder`: including subfolders")] = True
    metadata: Annotated[
        Metadata, Field(description="for every video of the job; metadata of an item takes precedence")
    ] = Field(default_factory=dict)
    segmentation: Segmentation | None = None
    transcribe: Transcribe = None
    read_text: ReadText = None
    caption: CaptionSetting = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.source is None) == (self.folder is None):
            raise ValueError("exactly one of source and folder was expected")
        return self


class JobCounts(Response):
    """Number of files by state."""

    model_config = example(**COUNTS)

    queued: int
    running: int
    succeeded: int
    refreshed: Annotated[int, Field(description="already indexed; their title, metadata, subtitles or path changed")]
    failed: int
    skipped: int
    cancelled: int
    quarantined: Annotated[int, Field(description="the process died repeatedly while it indexed them")]


class RecognitionCounts(Response):
    """Number of a job's videos that are recognised, or captioned."""

    model_config = example(done=51, failed=1)

    done: int
    failed: Annotated[int, Field(description="the reason is a note on the file; the video can be searched")]


class JobRate(Response):
    """Speed of the current or last run of a job."""

    model_config = example(**RATE)

    items: Annotated[float, Field(description="files per second, with fractions of long files")]
    video_seconds: Annotated[float, Field(description="seconds of video added per second")]
    seconds_left: Annotated[float | None, Field(description="remaining seconds at this rate; null unless running")]


class Job(Response):
    """An indexing job. It succeeds even if files fail: see `counts` and the items."""

    model_config = example(**JOB)

    id: Id
    source: JobSource
    metadata: Metadata
    state: JobState
    error: Annotated[
        str | None,
        Field(description="why the job itself failed, or was paused by the service"),
    ]
    requested: Annotated[
        Literal["cancel", "pause"] | None, Field(description="takes effect after the files in progress")
    ]
    total: Annotated[int, Field(description="files; 0 until the source has been listed")]
    done: Annotated[int, Field(description="finished files")]
    progress: Annotated[float, Field(ge=0, le=1, description="fraction done, with fractions of long files")]
    counts: JobCounts
    duplicates: Annotated[
        int,
        Field(
            description="skipped files whose content the collection has; the others are not media, or the source named "
            "them before"
        ),
    ]
    transcribe: Annotated[
        str | None, Field(description="speech model; `default`: that of the service; null: speech is not recognised")
    ]
    read_text: Annotated[
        float | None, Field(description="seconds between the frames whose text is read; null: none is")
    ]
    caption: Annotated[bool, Field(description="whether a caption of each clip is generated")]
    recognitions: Annotated[
        dict[Literal["speech", "screen_text", "caption"], RecognitionCounts],
        Field(description="progress of recognition and captions"),
    ]
    rate: Annotated[JobRate | None, Field(description="null before the first progress")]
    created_at: Annotated[float, Field(description="Unix seconds")]
    started_at: Annotated[float | None, Field(description="Unix seconds")]
    finished_at: Annotated[float | None, Field(description="Unix seconds")]


class Jobs(Response):
    """A page of jobs, newest first."""

    model_config = example(jobs=[JOB], next_cursor=None)

    jobs: list[Job]
    next_cursor: str | None


class JobItem(Response):
    """One file of a job."""

    model_config = example(**ITEM)

    path: Annotated[str, Field(description="path, URL, or tar://MEMBER::ARCHIVE")]
    state: ItemState
    reason: Annotated[
        str | None,
        Field(description="why it failed, was skipped or quarantined; what was refreshed; notes on an added one"),
    ]
    video_id: Annotated[Id | None, Field(description="id of the added or existing video")]
    title: Annotated[str | None, Field(description="title from the source")]
    metadata: Annotated[Metadata, Field(description="metadata from the source")]
    tries: Annotated[int, Field(description="number of attempts")]
    crashes: Annotated[int, Field(description="number of crashes of the process")]


class JobItems(Response):
    """A page of a job's files, in order."""

    model_config = example(items=[ITEM], next_cursor=None)

    items: list[JobItem]
    next_cursor: str | None
