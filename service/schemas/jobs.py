"""Indexing jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.schemas.base import Id, Metadata, Request, Response, example
from service.schemas.segmentation import SUBTITLES, Segmentation
from service.schemas.sources import FOLDER, JobSource, Source
from vitascope.job_states import ItemState, JobState

COUNTS: dict[str, int] = {
    "queued": 40,
    "running": 1,
    "succeeded": 57,
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

    source: Annotated[Source | None, Field(description="of the videos")] = None
    folder: Annotated[
        str | None,
        Field(min_length=1, max_length=4096, description="in an allowed root; relative: below incoming/"),
    ] = None
    recursive: Annotated[bool, Field(description="with `folder`: including subfolders")] = True
    metadata: Annotated[
        Metadata, Field(description="for every video of the job; metadata of an item takes precedence")
    ] = Field(default_factory=dict)
    segmentation: Segmentation | None = None

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
    failed: int
    skipped: int
    cancelled: int
    quarantined: Annotated[int, Field(description="the process died repeatedly while it indexed them")]


class JobRate(Response):
    """Speed of the current or last run of a job."""

    model_config = example(**RATE)

    items: Annotated[float, Field(description="files per second, with fractions of long files")]
    video_seconds: Annotated[float, Field(description="seconds of video added per second")]
    seconds_left: Annotated[float | None, Field(description="at this rate; null unless running")]


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

    path: Annotated[str, Field(description="or URL, or tar://MEMBER::ARCHIVE")]
    state: ItemState
    reason: Annotated[str | None, Field(description="why it failed, was skipped or quarantined; notes on an added one")]
    video_id: Annotated[Id | None, Field(description="of the added or existing video")]
    title: Annotated[str | None, Field(description="from the source")]
    metadata: Annotated[Metadata, Field(description="from the source")]
    tries: Annotated[int, Field(description="number of attempts")]
    crashes: Annotated[int, Field(description="number of crashes of the process")]


class JobItems(Response):
    """A page of a job's files, in order."""

    model_config = example(items=[ITEM], next_cursor=None)

    items: list[JobItem]
    next_cursor: str | None
