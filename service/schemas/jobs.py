"""Indexing jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.base import Id, Metadata, Request, Response, example
from service.schemas.segmentation import SUBTITLES, Segmentation

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ItemState = Literal["queued", "running", "succeeded", "failed", "skipped", "cancelled"]

COUNTS: dict[str, int] = {
    "queued": 40,
    "running": 1,
    "succeeded": 57,
    "failed": 2,
    "skipped": 0,
    "cancelled": 0,
}
JOB: dict[str, Any] = {
    "id": "7",
    "folder": "/videos/holidays",
    "state": "running",
    "error": None,
    "cancel_requested": False,
    "total": 100,
    "done": 59,
    "counts": COUNTS,
    "created_at": 1764000000.0,
    "started_at": 1764000001.0,
    "finished_at": None,
}
ITEM: dict[str, Any] = {
    "path": "/videos/holidays/broken.mp4",
    "state": "failed",
    "reason": "broken.mp4: not a single frame can be decoded",
    "video_id": None,
}


class NewJob(Request):
    """A folder on the service's machine to be indexed."""

    model_config = example(folder="/videos/holidays", metadata={"camera": "north"}, segmentation=SUBTITLES)

    folder: Annotated[
        str, Field(min_length=1, max_length=4096, description="in an allowed root; relative: below incoming/")
    ]
    recursive: Annotated[bool, Field(description="also the folders in it")] = True
    metadata: Annotated[Metadata, Field(description="goes to every video of the job")] = Field(default_factory=dict)
    segmentation: Segmentation | None = None


class JobCounts(Response):
    """Files by state."""

    model_config = example(**COUNTS)

    queued: int
    running: int
    succeeded: int
    failed: int
    skipped: int
    cancelled: int


class Job(Response):
    """An indexing job. It is `succeeded` even where files failed: `counts` and the items tell."""

    model_config = example(**JOB)

    id: Id
    folder: str
    state: JobState
    error: Annotated[str | None, Field(description="why the job itself, not one of its files, failed")]
    cancel_requested: bool
    total: Annotated[int, Field(description="files; 0 until the folder has been listed")]
    done: Annotated[int, Field(description="files that nothing more will happen to")]
    counts: JobCounts
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

    path: str
    state: ItemState
    reason: Annotated[str | None, Field(description="why it failed or was skipped; remarks on one that was added")]
    video_id: Annotated[Id | None, Field(description="the video it became, or already was")]


class JobItems(Response):
    """A page of a job's files, in order."""

    model_config = example(items=[ITEM], next_cursor=None)

    items: list[JobItem]
    next_cursor: str | None
