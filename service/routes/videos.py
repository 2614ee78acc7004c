"""Videos of a collection: upload, list, get, delete."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from index.jobs.ingest import IngestResult
from index.jobs.records import Job as IndexJob
from index.pagination import paginate
from index.storage.filters import Filter, parse_filter
from service.app_state import AppState, AppStateDep, ReadyAppStateDep
from service.errors import DeadlineExceeded, Overloaded
from service.http.auth import requires
from service.http.idempotency import accepts_idempotency_key
from service.http.multipart import Upload, parse_fields, read_form
from service.http.openapi import errors, form_body, successes
from service.http.parsing import (
    PREFER,
    PREFERENCE_APPLIED,
    RESPOND_ASYNC,
    StrictRoute,
    async_wait_seconds,
    is_json_or_form,
    page_limit,
    parse_body,
    parse_cursor,
    parse_json,
)
from service.inference.request_context import RequestContext, request_context
from service.routes.jobs import job_url, start_job
from service.schemas.jobs import Job, NewJob
from service.schemas.library import AddedVideo, UploadFields, VideoAtUrl, Videos, VideoWithClips
from service.schemas.sources import UrlSource
from service.serializers import serialize_job, serialize_video, serialize_video_with_clips
from service.settings import Settings
from service.uploads import add_upload
from vitascope.errors import FilterError

router = APIRouter(prefix="/v1/collections/{name}/videos", tags=["videos"], route_class=StrictRoute)


@router.post(
    "",
    status_code=201,
    summary="Add a video",
    response_model=AddedVideo,
    responses=successes(
        _200={"model": AddedVideo, "description": "The collection has this content already."},
        _202={"model": Job, "description": "The job that goes on with the file, or fetches the URL."},
    )
    | errors(400, 403, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=form_body(UploadFields, also_json=VideoAtUrl),
)
@requires("write")
@accepts_idempotency_key
async def add_video(
    name: str, request: Request, response: Response, service: ReadyAppStateDep
) -> AddedVideo | Response:
    """Store a video or picture and index it. Once this answers 201, searches find it, and it survives a crash.

    The content decides what kind of file it is, not the name. Content that the collection has already is not indexed
    again: the answer is 200 with the existing video, whose title and metadata stay unchanged.

    Every upload is a job, and the request waits for it. Where that takes longer than a request may, the answer is 504:
    the job is cancelled, and nothing of the file is kept. With `Prefer: respond-async` the answer is 202 at once, with
    the job, which survives a crash from then on; with `wait=20` as well, only if the job has not finished within 20
    seconds. A file that is no video is refused in any case.

    In place of the file, JSON may name a URL for the service to fetch: the answer is 202 with the job that fetches it,
    or 403 where the service fetches none.
    """
    # Checked before the file is received.
    await service.io_pool.run(service.collection, name, for_model=True)
    if is_json_or_form(request, "a URL", "a file"):
        return await _add_at_url(service, name, parse_body(VideoAtUrl, await request.json()))
    with _upload_slot(service, async_wait_seconds(request.headers.getlist(PREFER))) as wait_seconds:
        async with read_form(request, service, service.write_pool) as form:
            fields = parse_fields(UploadFields, form)
            async with request_context(request, service, bulk=True) as context:
                added = await _add(service, context, name, form.upload, fields, wait_seconds)
    if not isinstance(added, IngestResult):
        headers = {"Location": job_url(name, added.id), PREFERENCE_APPLIED: RESPOND_ASYNC}
        return JSONResponse(serialize_job(added).model_dump(mode="json"), 202, headers)
    response.status_code = 201 if added.created else 200
    response.headers["Location"] = f"/v1/collections/{name}/videos/{added.video.id}"
    return AddedVideo(**dict(serialize_video(name, added.video)), notes=list(added.notes))


@router.get("", summary="List videos", responses=errors(400, 404, 422, 507))
@requires("read")
async def list_videos(
    name: str,
    service: AppStateDep,
    limit: Annotated[int | None, Query(ge=1, description="videos per page")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the previous page")] = None,
    filter: Annotated[
        str | None, Query(description='JSON, such as {"camera": "north", "added_at": {"gte": "2026-03-31"}}')
    ] = None,
) -> Videos:
    """A page of videos, in the order in which they were added."""
    size = page_limit(limit, service.settings)
    return await service.io_pool.run(
        _page, service, name, size, parse_cursor(cursor), _query_filter(filter, service.settings)
    )


@router.get("/{video_id}", summary="Get a video", responses=errors(404, 507))
@requires("read")
async def get_video(name: str, video_id: str, service: AppStateDep) -> VideoWithClips:
    """A video and its clips."""
    return await service.io_pool.run(_with_clips, service, name, video_id)


@router.delete("/{video_id}", status_code=204, summary="Delete a video", responses=errors(404, 507))
@requires("write")
async def delete_video(name: str, video_id: str, service: AppStateDep) -> None:
    """Delete a video, and its file if it was uploaded; indexed files in other folders stay."""
    await service.write_pool.run(_delete, service, name, video_id)


@contextmanager
def _upload_slot(service: AppState, wait_seconds: float | None) -> Iterator[float | None]:
    """Hold a slot for an upload that a request waits for, before the file is received; yield for how long to wait.

    Raises Overloaded where all slots are taken and the client accepts no job instead.
    """
    with ExitStack() as slot:
        if wait_seconds != 0:
            try:
                slot.enter_context(service.upload_pool.slot())
            except Overloaded:
                if wait_seconds is None:
                    raise
                wait_seconds = 0.0
        yield wait_seconds


async def _add(
    service: AppState,
    context: RequestContext,
    name: str,
    upload: Upload,
    fields: UploadFields,
    wait_seconds: float | None,
) -> IngestResult | IndexJob:
    """Run the job of an upload for at most ``wait_seconds``, queueing included, then leave it to the worker."""
    began = time.monotonic()

    def add() -> IngestResult | IndexJob:
        left = None if wait_seconds is None else max(0.0, wait_seconds - (time.monotonic() - began))
        return add_upload(service, context, name, upload, fields, left)

    if wait_seconds != 0:
        try:
            return await context.upload(add, wait_seconds)
        except DeadlineExceeded as error:
            if wait_seconds is None:
                hint = f"nothing of the file was kept; with {PREFER}: {RESPOND_ASYNC} a job would go on with it"
                raise DeadlineExceeded(f"{error}; {hint}") from error
    return await context.write(add)


async def _add_at_url(service: AppState, name: str, video: VideoAtUrl) -> Response:
    source = UrlSource(kind="url", url=video.url, title=video.title)
    body = NewJob(source=source, metadata=video.metadata, segmentation=video.segmentation)
    job, address = await start_job(service, name, body)
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": address})


def _page(service: AppState, name: str, limit: int, after: int | None, where: Filter | None) -> Videos:
    page, more = paginate(service.collection(name).videos(limit + 1, after, where), limit, lambda video: video.id)
    return Videos(videos=[serialize_video(name, video) for video in page], next_cursor=more)


def _query_filter(text: str | None, settings: Settings) -> Filter | None:
    if text is None:
        return None
    try:
        return parse_filter(parse_json(text, settings.max_json_values, "filter", "query"))
    except RequestValidationError as error:
        raise FilterError(f"filter: {error.errors()[0]['msg']}") from error


def _with_clips(service: AppState, name: str, video_id: str) -> VideoWithClips:
    video = service.video(name, video_id)
    return serialize_video_with_clips(name, video, service.collection(name).clips(video.id))


def _delete(service: AppState, name: str, video_id: str) -> None:
    video = service.video(name, video_id)
    service.collection(name).delete_video(video.id)
