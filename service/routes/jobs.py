"""Indexing jobs: begun, watched, cancelled."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from index import jobs as index_jobs
from service.cursors import cut, page_limit, read_cursor, record_number
from service.folders import allowed_folder
from service.openapi import errors
from service.schemas.jobs import ItemState, Job, JobCounts, JobItem, JobItems, Jobs, NewJob
from service.schemas.segmentation import asked_segmentation
from service.state import ReadyService, Service, ServiceState

router = APIRouter(prefix="/v1/collections/{name}/jobs", tags=["jobs"])

Limit = Annotated[int | None, Query(ge=1, description="entries on a page")]
Cursor = Annotated[str | None, Query(max_length=200, description="next_cursor of the page before")]


@router.post("", status_code=202, summary="Index a folder", responses=errors(403, 404, 409, 422, 503, 507))
async def create_job(name: str, body: NewJob, service: ReadyService, response: Response) -> Job:
    """Index a folder on the service's machine in the background.

    Jobs run one after the other and survive a restart; files whose content the collection has already are
    skipped.
    """
    job = await service.light.run(_create, service, name, body)
    service.worker.submit(name, job.id)
    response.headers["Location"] = f"/v1/collections/{name}/jobs/{job.id}"
    return _view(job)


@router.get("", summary="List jobs", responses=errors(400, 404, 422, 507))
async def list_jobs(name: str, service: ServiceState, limit: Limit = None, cursor: Cursor = None) -> Jobs:
    """A page of jobs, newest first."""
    size = page_limit(limit, service.settings)
    return await service.light.run(_page, service, name, size, read_cursor(cursor))


@router.get("/{job_id}", summary="Look at a job", responses=errors(404, 507))
async def get_job(name: str, job_id: str, service: ServiceState) -> Job:
    """How far it is."""
    return await service.light.run(lambda: _view(index_jobs.job(service.collection(name), record_number(job_id))))


@router.get("/{job_id}/items", summary="List a job's files", responses=errors(400, 404, 422, 507))
async def list_job_items(
    name: str,
    job_id: str,
    service: ServiceState,
    state: Annotated[ItemState | None, Query(description="only files in this state")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> JobItems:
    """A page of the job's files, each with its state and, where it failed or was skipped, the reason."""
    size = page_limit(limit, service.settings)
    return await service.light.run(_items, service, name, record_number(job_id), state, size, read_cursor(cursor))


@router.delete("/{job_id}", summary="Cancel a job", responses=errors(404, 409, 507))
async def cancel_job(name: str, job_id: str, service: ServiceState) -> Job:
    """Cancel a job: at once, or after the file at hand. What was added stays."""
    return await service.light.run(lambda: _view(index_jobs.cancel(service.collection(name), record_number(job_id))))


def _create(service: Service, name: str, body: NewJob) -> index_jobs.Job:
    collection = service.collection(name, for_model=True)
    folder = allowed_folder(body.folder, service.settings.roots())
    return index_jobs.create_folder_job(
        collection,
        folder,
        recursive=body.recursive,
        metadata=body.metadata,
        segmentation=asked_segmentation(body.segmentation),
    )


def _page(service: Service, name: str, limit: int, before: int | None) -> Jobs:
    page, more = cut(index_jobs.jobs(service.collection(name), limit + 1, before), limit, lambda job: job.id)
    return Jobs(jobs=[_view(job) for job in page], next_cursor=more)


def _items(
    service: Service, name: str, job_id: int, state: ItemState | None, limit: int, after: int | None
) -> JobItems:
    found = index_jobs.items(service.collection(name), job_id, state, limit + 1, -1 if after is None else after)
    page, more = cut(found, limit, lambda item: item.position)
    views = [
        JobItem(
            path=item.path,
            state=item.state,
            reason=item.reason,
            video_id=None if item.video_id is None else str(item.video_id),
        )
        for item in page
    ]
    return JobItems(items=views, next_cursor=more)


def _view(job: index_jobs.Job) -> Job:
    counts = job.counts
    return Job(
        id=str(job.id),
        folder=job.folder,
        state=job.state,
        error=job.error,
        cancel_requested=job.cancel_requested,
        total=counts.total,
        done=counts.done,
        counts=JobCounts(
            queued=counts.queued,
            running=counts.running,
            succeeded=counts.succeeded,
            failed=counts.failed,
            skipped=counts.skipped,
            cancelled=counts.cancelled,
        ),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
