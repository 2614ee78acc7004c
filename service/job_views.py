"""Jobs and their files as JSON schemas."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import TypeAdapter

from index.jobs.records import Job, JobItem
from index.jobs.sources.source_types import Source, source_dict
from service.schemas import jobs as schemas
from service.schemas.sources import JobSource

_SOURCE: TypeAdapter[JobSource] = TypeAdapter(JobSource)


def job_view(job: Job) -> schemas.Job:
    counts = job.counts
    return schemas.Job(
        id=str(job.id),
        source=_source(job.source),
        metadata=dict(job.options.metadata),
        state=job.state,
        error=job.error,
        requested=job.requested,
        total=counts.total,
        done=counts.done,
        progress=job.progress,
        counts=schemas.JobCounts(**asdict(counts)),
        rate=None if job.rate is None else schemas.JobRate(**asdict(job.rate)),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _source(source: Source) -> JobSource:
    return _SOURCE.validate_python(source_dict(source))


def item_view(item: JobItem) -> schemas.JobItem:
    return schemas.JobItem(
        path=item.path,
        state=item.state,
        reason=item.reason,
        video_id=None if item.video_id is None else str(item.video_id),
        title=item.title,
        metadata=dict(item.metadata),
        tries=item.attempts,
        crashes=item.crashes,
    )
