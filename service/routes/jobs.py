"""Indexing jobs: create, list, follow, pause, cancel, retry."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from index.collection import Collection
from index.jobs import jobs as index_jobs
from index.jobs.captioning import check_caption_task
from index.jobs.jobs import current_job_event
from index.jobs.recognition import check_recognizers
from index.jobs.recognition_settings import merge_settings, read_recognition_settings
from index.jobs.records import Job as IndexJob
from index.jobs.records import JobOptions
from index.jobs.sources import source_types as sources
from index.jobs.sources.access_policy import check_url, expand_home, is_inside
from index.pagination import paginate
from service.app_state import AppState, AppStateDep, ReadyAppStateDep
from service.errors import BadRequest, PathForbidden
from service.events import EventStream
from service.files import JOB_ROOTS, RootsDescription, allowed_file, allowed_folder
from service.http.auth import CallerKey, requires
from service.http.idempotency import accepts_idempotency_key
from service.http.openapi import errors, successes
from service.http.parsing import StrictRoute, page_limit, parse_cursor, parse_id
from service.schemas import jobs as schemas
from service.schemas.jobs import Job, JobItems, Jobs, NewJob, parse_segmentation
from service.serializers import serialize_item, serialize_job
from service.settings import Settings
from vitascope.errors import JobNotFound, NotFound
from vitascope.job_states import FINAL_JOB_STATES, ItemState, JobState

router = APIRouter(prefix="/v1/collections/{name}/jobs", tags=["jobs"], route_class=StrictRoute)

Limit = Annotated[int | None, Query(ge=1, description="entries per page")]
Cursor = Annotated[str | None, Query(max_length=200, description="next_cursor of the previous page")]

EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string", "enum": ["state", "item", "progress"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
"""An event of a stream, for OpenAPI 3.2. `data` is a Job, or a JobItem if `event` is `item`."""


@router.post("", status_code=202, summary="Index videos", responses=errors(403, 404, 409, 422, 503, 507))
@requires("write")
@accepts_idempotency_key
async def create_job(name: str, body: NewJob, service: ReadyAppStateDep, response: Response) -> Job:
    """Index a folder, files, a file list or shards on the service's machine, or a URL, in the background.

    Jobs run one after the other and survive a restart; content that the collection has is skipped. Files stay where
    they are; members of shards and files at URLs are copied into the collection. A video can be searched before its
    speech and screen text are recognised and captions generated.
    """
    job, response.headers["Location"] = await start_job(service, name, body)
    return job


async def start_job(service: AppState, name: str, body: NewJob) -> tuple[Job, str]:
    """Create and queue a job; return it and its URL."""
    job = await service.write_pool.run(_create, service, name, body)
    service.worker.submit(name, job)
    return serialize_job(job), job_url(name, job.id)


def job_url(name: str, job_id: int) -> str:
    """Return the URL of a job."""
    return f"/v1/collections/{name}/jobs/{job_id}"


@router.get("", summary="List jobs", responses=errors(400, 404, 422, 507))
@requires("read")
async def list_jobs(
    name: str,
    service: AppStateDep,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> Jobs:
    """A page of jobs, newest first."""
    size = page_limit(limit, service.settings)
    return await service.io_pool.run(_page, service, name, state, size, parse_cursor(cursor))


@router.get("/{job_id}", summary="Get a job", responses=errors(404, 507))
@requires("read")
async def get_job(name: str, job_id: str, service: AppStateDep) -> Job:
    """A job and its progress."""
    return await service.io_pool.run(
        lambda: serialize_job(index_jobs.get_job(service.collection(name), parse_id(job_id, JobNotFound)))
    )


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses=successes(
        _200={
            "description": "Events with `event`, `data` (JSON) and, except for `progress`, `id`.",
            "content": {
                "text/event-stream": {
                    "itemSchema": EVENT,
                    "example": 'id: 12\nevent: item\ndata: {"path": "/videos/a.mp4", "state": "succeeded", …}\n\n',
                }
            },
        },
        _204={"description": "The job is finished, and its last event was received: do not reconnect."},
    )
    | errors(400, 404, 422, 429, 503, 507),
)
@requires("read")
async def follow_job(
    name: str,
    job_id: str,
    service: AppStateDep,
    caller: CallerKey,
    last_event_id: Annotated[
        str | None, Header(max_length=20, description="`id` of the last event received; 0: from the first")
    ] = None,
) -> Response:
    """Follow a job by server-sent events until it is finished.

    `state`: the job, after its `state` or `requested` changed, or its source was listed. `item`: a file that was added,
    failed, skipped or quarantined. `progress`: the job, at most once a second. Without `Last-Event-ID`, the stream
    begins with the current state of the job; with it, with all later events.
    """
    number = _event_number(last_event_id)
    key = name, parse_id(job_id, JobNotFound)
    now = await service.io_pool.run(lambda: current_job_event(service.collection(name), key[1]))
    if number == now.number and now.job.state in FINAL_JOB_STATES:
        return Response(status_code=204)
    # A higher number belongs to an earlier collection of this name: start with the current state.
    if number is not None and number > now.number:
        number = None
    is_allowed = partial(service.auth.is_valid, caller)
    return EventStream(service.broadcaster, service.io_pool, key, now, number, is_allowed)


@router.get("/{job_id}/items", summary="List a job's files", responses=errors(400, 404, 422, 507))
@requires("read")
async def list_job_items(
    name: str,
    job_id: str,
    service: AppStateDep,
    state: Annotated[ItemState | None, Query(description="only files in this state")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> JobItems:
    """A page of the files of a job, with states and reasons."""
    size = page_limit(limit, service.settings)
    return await service.io_pool.run(
        _items, service, name, parse_id(job_id, JobNotFound), state, size, parse_cursor(cursor)
    )


@router.delete("/{job_id}", summary="Cancel a job", responses=errors(404, 409, 507))
@requires("write")
async def cancel_job(name: str, job_id: str, service: AppStateDep) -> Job:
    """Cancel a job, at once or after the files in progress. Added videos stay."""
    return await service.write_pool.run(
        lambda: serialize_job(index_jobs.cancel(service.collection(name), parse_id(job_id, JobNotFound)))
    )


@router.post("/{job_id}/pause", summary="Pause a job", responses=errors(404, 409, 507))
@requires("write")
async def pause_job(name: str, job_id: str, service: AppStateDep) -> Job:
    """Pause a job, at once or after the files in progress; other jobs go on."""
    return await service.write_pool.run(
        lambda: serialize_job(index_jobs.pause(service.collection(name), parse_id(job_id, JobNotFound)))
    )


@router.post("/{job_id}/resume", summary="Resume a paused job", responses=errors(404, 409, 503, 507))
@requires("write")
async def resume_job(name: str, job_id: str, service: ReadyAppStateDep) -> Job:
    """Queue a paused job again, or withdraw a request to pause."""
    return await service.write_pool.run(_requeue, service, name, parse_id(job_id, JobNotFound), index_jobs.resume)


@router.post("/{job_id}/retry", summary="Retry failed files", responses=errors(404, 409, 503, 507))
@requires("write")
async def retry_job(name: str, job_id: str, service: ReadyAppStateDep) -> Job:
    """Queue a finished job again for the files that failed, were quarantined or cancelled.

    Items that the source itself excludes, such as a malformed line of a list, are not retried.
    """
    return await service.write_pool.run(_requeue, service, name, parse_id(job_id, JobNotFound), index_jobs.retry)


def _create(service: AppState, name: str, body: NewJob) -> IndexJob:
    collection = service.collection(name, for_model=True)
    recognition = merge_settings(
        read_recognition_settings(collection),
        transcribe=body.transcribe,
        read_text=body.read_text,
        caption=body.caption,
    )
    check_recognizers(recognition, service.recognizers)
    if recognition.caption:
        check_caption_task(service.models.for_collection(collection).bundle.manifest)
    options = JobOptions(parse_segmentation(body.segmentation), body.metadata, True, *recognition)
    source = body.source
    if source is None:
        source = schemas.FolderSource(kind="folder", folder=body.folder or "", recursive=body.recursive)
    policy = service.settings.access_policy()
    return index_jobs.create_job(collection, _resolve_source(source, service), options, policy)


def _event_number(header: str | None) -> int | None:
    if not header:
        return None
    try:
        return parse_id(header)
    except NotFound as error:
        raise BadRequest(f"Last-Event-ID: {header!r}; the id of an event of this job was expected") from error


def _resolve_source(source: schemas.Source, service: AppState) -> sources.Source:
    """Return the source with real paths. Raises PathForbidden, UrlRefused, NotFound and InvalidInput."""
    settings = service.settings
    roots, policy = settings.roots(), settings.access_policy()

    def resolve_file(field: str, file: str) -> str:
        return str(allowed_file(field, file, roots, _job_roots(settings, str(Path(file).parent))))

    match source:
        case schemas.FolderSource():
            folder = allowed_folder(source.folder, roots, _job_roots(settings, source.folder))
            return sources.FolderSource(str(folder), source.recursive)
        case schemas.FilesSource():
            return sources.FilesSource(tuple(resolve_file("files", file) for file in source.files))
        case schemas.ListSource():
            return sources.ListSource(resolve_file("file", source.file), source.path_column, source.title_column)
        case schemas.ShardsSource():
            return sources.ShardsSource(tuple(resolve_file("shards", shard) for shard in source.shards))
        case schemas.UrlSource():
            check_url("url", source.url)
            if (local := sources.path_of_file_url(source.url)) is not None:
                is_folder = is_inside(Path(local), roots) and Path(local).is_dir()
                kind = schemas.FolderSource(kind="folder", folder=local) if is_folder else None
                return _resolve_source(kind or schemas.FilesSource(kind="files", files=[local]), service)
            if (refused := policy.url_error(source.url)) is not None:
                raise PathForbidden(f"url: {refused}")
            if service.url_client is not None and policy.is_public_url(source.url):
                service.url_client.check(source.url)
            return sources.UrlSource(source.url, source.title)


def _job_roots(settings: Settings, folder: str) -> RootsDescription:
    """Describe the folders that jobs may name, with the command that adds ``folder``."""
    if not os.path.isabs(expanded := expand_home(folder)):
        return JOB_ROOTS
    return JOB_ROOTS._replace(remedy=f"restart with `{settings.serve_command(Path(expanded))}` to allow it")


def _requeue(service: AppState, name: str, job_id: int, change: Callable[[Collection, int], IndexJob]) -> Job:
    job = change(service.collection(name, for_model=True), job_id)
    service.worker.submit(name, job)
    return serialize_job(job)


def _page(service: AppState, name: str, state: JobState | None, limit: int, before: int | None) -> Jobs:
    jobs = index_jobs.list_jobs(service.collection(name), limit + 1, before, state)
    page, more = paginate(jobs, limit, lambda job: job.id)
    return Jobs(jobs=[serialize_job(job) for job in page], next_cursor=more)


def _items(
    service: AppState, name: str, job_id: int, state: ItemState | None, limit: int, after: int | None
) -> JobItems:
    items = index_jobs.list_items(service.collection(name), job_id, state, limit + 1, -1 if after is None else after)
    page, more = paginate(items, limit, lambda item: item.position)
    return JobItems(items=[serialize_item(item) for item in page], next_cursor=more)
