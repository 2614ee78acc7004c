"""Indexing jobs as rows of the collection's catalogue: what a job and its items are, and reading them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from index.collection import Collection
from index.records import Scalar
from index.segment import Segmentation
from vitascope.errors import InvalidInput, JobNotFound

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ItemState = Literal["queued", "running", "succeeded", "failed", "skipped", "cancelled"]
ITEM_STATES: tuple[ItemState, ...] = ("queued", "running", "succeeded", "failed", "skipped", "cancelled")
FINISHED = ("succeeded", "failed", "cancelled")
MAX_PAGE = 10_000

_JOB_COLUMNS = "id, folder, options, state, error, cancel_requested, created_at, started_at, finished_at"
_ITEM_COLUMNS = "job_id, position, path, state, reason, video_id, tries"


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a folder is indexed: ``metadata`` goes to every video of the job."""

    recursive: bool = True
    segmentation: Segmentation = field(default_factory=Segmentation)
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Items by state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All items; 0 until the folder has been listed."""
        return self.queued + self.running + self.done

    @property
    def done(self) -> int:
        """Items that nothing more will happen to."""
        return self.succeeded + self.failed + self.skipped + self.cancelled


@dataclass(frozen=True, slots=True)
class Job:
    """An indexing job. Times are Unix seconds; ``error`` says why a job, not one of its files, failed.

    A job that finished is ``succeeded`` even where files failed: ``counts`` and the items tell.
    """

    id: int
    folder: str
    options: JobOptions
    state: JobState
    error: str | None
    cancel_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    counts: JobCounts


@dataclass(frozen=True, slots=True)
class JobItem:
    """One file of a job. ``reason`` says why it failed or was skipped, or what was remarked when it was added."""

    job_id: int
    position: int
    path: str
    state: ItemState
    reason: str | None
    video_id: int | None
    tries: int


def job(collection: Collection, job_id: int) -> Job:
    """The job of this id. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return find_job(connection, job_id)


def jobs(collection: Collection, limit: int = 100, before_id: int | None = None) -> list[Job]:
    """At most ``limit`` jobs, newest first, older than ``before_id`` if given. Raises InvalidInput."""
    _check_limit(limit)
    with collection.catalogue.read() as connection:
        rows = connection.execute(
            f"SELECT {_JOB_COLUMNS} FROM jobs WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",
            (before_id, before_id, limit),
        ).fetchall()
        return [_job(connection, row) for row in rows]


def items(
    collection: Collection,
    job_id: int,
    state: ItemState | None = None,
    limit: int = 1000,
    after_position: int = -1,
) -> list[JobItem]:
    """At most ``limit`` files of a job in order, of one state if given, beginning after ``after_position``.

    Raises JobNotFound and InvalidInput.
    """
    _check_limit(limit)
    if state is not None and state not in ITEM_STATES:
        raise InvalidInput(f"state: {state!r}; one of {', '.join(ITEM_STATES)} was expected")
    with collection.catalogue.read() as connection:
        find_job(connection, job_id)
        rows = connection.execute(
            f"SELECT {_ITEM_COLUMNS} FROM job_items WHERE job_id = ? AND position > ?"
            " AND (? IS NULL OR state = ?) ORDER BY position LIMIT ?",
            (job_id, after_position, state, state, limit),
        )
        return [JobItem(*row) for row in rows]


def find_job(connection: sqlite3.Connection, job_id: int) -> Job:
    """The job of this id, read in an open transaction. Raises JobNotFound."""
    in_range = -(2**63) <= job_id < 2**63
    row = connection.execute(f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id = ?", (job_id if in_range else -1,)).fetchone()
    if row is None:
        raise JobNotFound(f"no job {job_id} in this collection")
    return _job(connection, row)


def options_json(options: JobOptions) -> str:
    """The stored form of options."""
    return json.dumps({**asdict(options), "metadata": dict(options.metadata)}, ensure_ascii=False, sort_keys=True)


def _options(text: str) -> JobOptions:
    stored: dict[str, Any] = json.loads(text)
    return JobOptions(stored["recursive"], Segmentation(**stored["segmentation"]), stored["metadata"])


def _job(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Job:
    counts = connection.execute("SELECT state, count(*) FROM job_items WHERE job_id = ? GROUP BY state", (row[0],))
    job_id, folder, options, state, error, cancel_requested, created_at, started_at, finished_at = row
    return Job(
        id=job_id,
        folder=folder,
        options=_options(options),
        state=state,
        error=error,
        cancel_requested=bool(cancel_requested),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        counts=JobCounts(**dict(counts)),
    )


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: {limit}; 1 to {MAX_PAGE} was expected")
