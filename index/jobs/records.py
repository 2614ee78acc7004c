"""Records of indexing jobs, their files and their events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from index.clips.rules import Segmentation
from index.jobs.sources.source_types import Source
from index.records import Scalar
from index.video_text import RecognitionKind
from vitascope.job_states import ItemState, JobState

LINK_LEAVES_FOLDER = "a symbolic link that leaves the folder"
"""Reason of a skipped file."""
MAX_NOTES = 1000
"""Maximum number of notes in the summary of a job, which may have the same note on each of a million files."""

Item = TypeVar("Item")
StopRequest = Literal["cancel", "pause"]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options of a job.

    Attributes:
        segmentation: how videos are cut into clips.
        metadata: metadata of every video of the job; metadata of a single item takes precedence.
        confined: whether the job may read only the folders and URLs that the process running it allows.
        transcribe: speech model, as in ``RecognitionSettings``; None: no speech is recognised.
        read_text: seconds between the frames whose text is read; None: no text is read.
        caption: whether a caption of each clip is generated.
    """

    segmentation: Segmentation = field(default_factory=Segmentation)
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    confined: bool = False
    transcribe: str | None = None
    read_text: float | None = None
    caption: bool = False


@dataclass(frozen=True, slots=True)
class RecognitionCounts:
    """Number of a job's videos on which recognition succeeded and on which it failed."""

    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Number of items by state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    refreshed: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0
    quarantined: int = 0

    @property
    def total(self) -> int:
        """All items; 0 until the source has been listed."""
        return self.queued + self.running + self.done

    @property
    def done(self) -> int:
        """Items in a final state."""
        return self.succeeded + self.refreshed + self.failed + self.skipped + self.cancelled + self.quarantined


@dataclass(frozen=True, slots=True)
class JobRate:
    """Speed of the current or last run of a job.

    Attributes:
        items: files tried per second; part of a long file counts as that part.
        video_seconds: seconds of video added per second.
        seconds_left: remaining seconds at this rate; None for a job that is not running.
    """

    items: float
    video_seconds: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """An indexing job. Times are Unix seconds.

    A finished job is ``succeeded`` even if files failed: ``counts`` and the items show the failures.

    Attributes:
        error: why the job itself failed, or was paused without a request.
        requested: pause or cancel, if requested; it takes effect after the files in progress.
        progress: share that is done, 0 to 1, including parts of long files; 0 before the source is listed.
        rate: None until the first file, or part of a long one, is done.
        duplicates: number of skipped files whose content the collection has.
        recognitions: counts by kind (speech, screen_text, caption), for the kinds that the options request.
    """

    id: int
    source: Source
    options: JobOptions
    state: JobState
    error: str | None
    requested: StopRequest | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    counts: JobCounts
    progress: float
    rate: JobRate | None
    duplicates: int
    recognitions: Mapping[RecognitionKind, RecognitionCounts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobItem:
    """One file of a job.

    Attributes:
        path: a path or URI.
        reason: why the file failed, was skipped or quarantined, what was refreshed, or a note on one that was added.
        attempts: how often the file was started.
        is_final: whether its state was decided while the source was listed, so that there is nothing to retry.
        crashes: how often the process died while working on the file.
        seconds: duration of the video, once added.
    """

    job_id: int
    position: int
    path: str
    state: ItemState
    reason: str | None
    video_id: int | None
    attempts: int
    title: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    is_final: bool = False
    crashes: int = 0
    seconds: float | None = None
    ended_at: float | None = None


class ItemProgress(NamedTuple, Generic[Item]):
    """The share of an item that is done, 0 to 1, and the id of its video once that is stored."""

    item: Item
    share: float
    video_id: int | None = None


@dataclass(frozen=True, slots=True)
class StateEvent:
    """The job just after a change of its state, at ``at`` (Unix seconds)."""

    number: int
    at: float
    job: Job


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """A file of the job that has reached a final state."""

    number: int
    item: JobItem


Event = StateEvent | ItemEvent
