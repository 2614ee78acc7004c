"""Indexing jobs as rows of the collection's catalogue: what a job and its items are, and reading them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.sources.source_types import Source, read_source
from index.records import Scalar
from index.storage.queries import reading
from vitascope.errors import InvalidInput, JobNotFound

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
ItemState = Literal["queued", "running", "succeeded", "failed", "skipped", "cancelled", "quarantined"]
JOB_STATES: tuple[JobState, ...] = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
ITEM_STATES: tuple[ItemState, ...] = (
    "queued",
    "running",
    "succeeded",
    "failed",
    "skipped",
    "cancelled",
    "quarantined",
)
FINISHED = ("succeeded", "failed", "cancelled")
MAX_PAGE = 10_000
NOTES_KEPT = 1000
"""Remarks that a summary repeats: a job may have one on each of a million files, and says the same of all."""

_JOB_COLUMNS = (
    "id, source, options, state, error, requested, created_at, started_at, finished_at, run_started_at, run_ended_at"
)
ITEM_COLUMNS = (
    "job_id, position, path, state, reason, video_id, tries, title, metadata, decided, crashes, seconds, ended_at"
)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a source is indexed: ``metadata`` goes to every video of the job, below what an item brings itself.

    ``confined``: the job may reach only what whoever runs it allows.
    """

    segmentation: Segmentation = field(default_factory=Segmentation)
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    confined: bool = False


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Items by state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
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
        """Items that nothing more will happen to."""
        return self.succeeded + self.failed + self.skipped + self.cancelled + self.quarantined


@dataclass(frozen=True, slots=True)
class JobRate:
    """How fast the present or last run of a job is or was.

    ``items`` that were tried (a part of a long one counts as that part) and ``video_seconds`` that were added, both per
    second; ``seconds_left`` at that rate, None for a job that is not running.
    """

    items: float
    video_seconds: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """An indexing job. Times are Unix seconds; ``error`` says why a job, not one of its files, failed, or rests though
    nobody paused it.

    A job that finished is ``succeeded`` even where files failed: ``counts`` and the items tell. ``requested``:
    what whoever runs it will do after the files at hand. ``progress``: how much of it is done, 0 to 1, with the
    parts of long files at hand; 0 before it is listed. ``rate`` is None before a file, or part of a long one, is done.
    """

    id: int
    source: Source
    options: JobOptions
    state: JobState
    error: str | None
    requested: Literal["cancel", "pause"] | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    counts: JobCounts
    progress: float
    rate: JobRate | None


@dataclass(frozen=True, slots=True)
class JobItem:
    """One file of a job. ``path`` may be a URI; ``reason`` says why it failed, was skipped or quarantined, or what was
    remarked when it was added.

    ``tries``: how often it was begun; ``crashes``: how often the process died meanwhile; ``decided``: by the
    listing, so that there is nothing to try again; ``seconds``: of video, once it is added.
    """

    job_id: int
    position: int
    path: str
    state: ItemState
    reason: str | None
    video_id: int | None
    tries: int
    title: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    decided: bool = False
    crashes: int = 0
    seconds: float | None = None
    ended_at: float | None = None


def job(collection: Collection, job_id: int) -> Job:
    """The job of this id. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return find_job(connection, job_id)


def jobs(
    collection: Collection, limit: int = 100, before_id: int | None = None, state: JobState | None = None
) -> list[Job]:
    """At most ``limit`` jobs, newest first, of one state and older than ``before_id`` if given.

    Raises InvalidInput.
    """
    _check_limit(limit)
    _check_state(state, JOB_STATES)
    with collection.catalogue.read() as connection:
        rows = connection.execute(
            f"SELECT {_JOB_COLUMNS} FROM jobs WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR state = ?2)"
            " ORDER BY id DESC LIMIT ?3",
            (before_id, state, limit),
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
    _check_state(state, ITEM_STATES)
    with collection.catalogue.read() as connection:
        find_job(connection, job_id)
        rows = connection.execute(
            f"SELECT {ITEM_COLUMNS} FROM job_items WHERE job_id = ? AND position > ?"
            " AND (? IS NULL OR state = ?) ORDER BY position LIMIT ?",
            (job_id, after_position, state, state, limit),
        )
        return [read_item(row) for row in rows]


def all_items(collection: Collection, job_id: int, state: ItemState) -> Iterator[JobItem]:
    """Every file of a job in a state, in order; they are read as they are asked for. Raises JobNotFound."""
    page = items(collection, job_id, state)
    while page:
        yield from page
        page = items(collection, job_id, state, after_position=page[-1].position)


def count_added_by(collection: Collection, job_id: int, earlier: Sequence[int]) -> int:
    """Count the files that a job skipped and one of the ``earlier`` jobs had added."""
    with collection.catalogue.read() as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM job_items AS item WHERE job_id = ? AND state = 'skipped' AND EXISTS (SELECT 1 FROM"
            " job_items AS before WHERE before.path = item.path AND before.state = 'succeeded'"
            " AND before.job_id IN (SELECT value FROM json_each(?)))",
            (job_id, json.dumps(list(earlier))),
        ).fetchone()
    return int(count)


def find_job(connection: sqlite3.Connection, job_id: int) -> Job:
    """The job of this id, read in an open transaction. Raises JobNotFound."""
    in_range = -(2**63) <= job_id < 2**63
    row = connection.execute(f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id = ?", (job_id if in_range else -1,)).fetchone()
    if row is None:
        raise JobNotFound(f"no job {job_id} in this collection")
    return _job(connection, row)


def read_item(row: tuple[Any, ...]) -> JobItem:
    """The record of a row of ``ITEM_COLUMNS``. Raises StorageError."""
    job_id, position, path, state, reason, video_id, tries, title, metadata, decided, crashes, seconds, ended_at = row
    with reading(f"job {job_id}, item {position}"):
        values = {} if metadata is None else json.loads(metadata)
    return JobItem(
        job_id=job_id,
        position=position,
        path=path,
        state=state,
        reason=reason,
        video_id=video_id,
        tries=tries,
        title=title,
        metadata=values,
        decided=bool(decided),
        crashes=crashes,
        seconds=seconds,
        ended_at=ended_at,
    )


def options_json(options: JobOptions) -> str:
    """The stored form of options."""
    return json.dumps({**asdict(options), "metadata": dict(options.metadata)}, ensure_ascii=False, sort_keys=True)


def _options(text: str) -> JobOptions:
    stored: dict[str, Any] = json.loads(text)
    return JobOptions(Segmentation(**stored["segmentation"]), stored["metadata"], stored.get("confined", False))


def _job(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Job:
    job_id, source, options, state, error, requested, created_at, started_at, finished_at, began, ended = row
    counted = connection.execute(
        "SELECT state, count(*), count(iif(ended_at >= ?1, 1, NULL)), total(iif(ended_at >= ?1, seconds, 0)),"
        " total(iif(state = 'running', share, 0))"
        " FROM job_items WHERE job_id = ?2 GROUP BY state",
        (began, job_id),
    ).fetchall()
    counts = JobCounts(**{row[0]: row[1] for row in counted})
    at_hand = sum(row[4] for row in counted)
    with reading(f"job {job_id}"):
        described, chosen = read_source(source), _options(options)
    return Job(
        id=job_id,
        source=described,
        options=chosen,
        state=state,
        error=error,
        requested=requested,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        counts=counts,
        progress=(counts.done + at_hand) / counts.total if counts.total else 0.0,
        rate=_rate(
            sum(row[2] for row in counted) + at_hand,
            sum(row[3] for row in counted),
            None if began is None else (ended or time.time()) - began,
            counts.queued + counts.running - at_hand if state == "running" else None,
        ),
    )


def _rate(tried: float, video_seconds: float, took: float | None, left: float | None) -> JobRate | None:
    if not tried or took is None or took <= 0:
        return None
    return JobRate(tried / took, video_seconds / took, None if left is None else left * took / tried)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: {limit}; 1 to {MAX_PAGE} was expected")


def _check_state(state: str | None, states: tuple[str, ...]) -> None:
    if state is not None and state not in states:
        raise InvalidInput(f"state: {state!r}; one of {', '.join(states)} was expected")
