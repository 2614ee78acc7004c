"""Videos of a collection: uploaded, listed, looked at, deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from index.jobs.ingest import Ingested
from index.jobs.jobs import Job as IndexJob
from index.pagination import paginate
from index.storage.filters import Filter, parse_filter
from service.app_state import ReadyService, Service, ServiceState
from service.errors import DeadlineExceeded, Overloaded
from service.http.auth import requires
from service.http.idempotency import accepts_idempotency_key
from service.http.multipart import Upload, body_kind, parse_fields, read_form, validated
from service.http.openapi import errors, form_body, successes
from service.http.parameters import page_limit, read_cursor
from service.http.parsing import StrictRoute, parse_json
from service.http.prefer_header import APPLIED, PREFER, RESPOND_ASYNC, seconds_before_a_job
from service.inference.request_context import Turn, turn
from service.job_views import job_view
from service.routes.jobs import begin_job, job_address
from service.schemas.jobs import Job, NewJob
from service.schemas.library import AddedVideo, UploadFields, VideoAtUrl, Videos, VideoWithClips
from service.schemas.sources import UrlSource
from service.serializers import video_view, video_with_clips
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
        _202={"model": Job, "description": "A job that indexes the video, or fetches the URL and does."},
    )
    | errors(400, 403, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=form_body(UploadFields, also_json=VideoAtUrl),
)
@requires("write")
@accepts_idempotency_key
async def add_video(name: str, request: Request, response: Response, service: ReadyService) -> AddedVideo | Response:
    """Keep a video or picture and index it; when this answers 201, it can be found, and survives a crash.

    What kind of file it is, is told by its content, not by its name. The same content again is not indexed
    again: the answer is 200 with the video that is there, and title and metadata stay as they are.

    What takes longer than a request may is answered 504, and nothing of it is kept. With `Prefer: respond-async` the
    answer is 202 with a job that indexes the file, which survives a crash from then on; with `wait=20` besides, only
    if that is not done within 20 seconds. What is no video is refused either way.

    In place of the file, JSON may name a URL that the service is to fetch: the answer is 202 with the job that does
    so, unless the service fetches none (403).
    """
    # Before a byte is taken in: is there such a collection, and does its model serve?
    await service.light.run(service.collection, name, for_model=True)
    if body_kind(request, "a URL", "a file") == "application/json":
        return await _add_at_url(service, name, validated(VideoAtUrl, await request.json()))
    with _place(service, seconds_before_a_job(request.headers.getlist(PREFER))) as patience:
        async with read_form(request, service, service.writes) as form:
            fields = parse_fields(UploadFields, form)
            async with turn(request, service, bulk=True) as mine:
                added = await _add(service, mine, name, form.upload, fields, patience)
    if not isinstance(added, Ingested):
        headers = {"Location": job_address(name, added.id), APPLIED: RESPOND_ASYNC}
        return JSONResponse(job_view(added).model_dump(mode="json"), 202, headers)
    response.status_code = 201 if added.created else 200
    response.headers["Location"] = f"/v1/collections/{name}/videos/{added.video.id}"
    return AddedVideo(**dict(video_view(name, added.video)), notes=list(added.notes))


@router.get("", summary="List videos", responses=errors(400, 404, 422, 507))
@requires("read")
async def list_videos(
    name: str,
    service: ServiceState,
    limit: Annotated[int | None, Query(ge=1, description="videos on a page")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the page before")] = None,
    filter: Annotated[
        str | None, Query(description='JSON, such as {"camera": "north", "added_at": {"gte": "2026-03-31"}}')
    ] = None,
) -> Videos:
    """A page of videos, in the order in which they were added."""
    size = page_limit(limit, service.settings)
    return await service.light.run(
        _page, service, name, size, read_cursor(cursor), _query_filter(filter, service.settings)
    )


@router.get("/{video_id}", summary="Look at a video", responses=errors(404, 507))
@requires("read")
async def get_video(name: str, video_id: str, service: ServiceState) -> VideoWithClips:
    """A video, and the clips that it was paginate into."""
    return await service.light.run(_with_clips, service, name, video_id)


@router.delete("/{video_id}", status_code=204, summary="Delete a video", responses=errors(404, 507))
@requires("write")
async def delete_video(name: str, video_id: str, service: ServiceState) -> None:
    """Remove a video from the collection, and its file if it was uploaded; files in folders stay."""
    await service.writes.run(_delete, service, name, video_id)


@contextmanager
def _place(service: Service, patience: float | None) -> Iterator[float | None]:
    """A place among the uploads whose clients wait, before a byte of the file is taken in; how long they wait then.

    Raises Overloaded where all places are taken and the client takes no job instead.
    """
    with ExitStack() as place:
        if patience != 0:
            try:
                place.enter_context(service.ingestion.place())
            except Overloaded:
                if patience is None:
                    raise
                patience = 0.0
        yield patience


async def _add(
    service: Service, mine: Turn, name: str, upload: Upload, fields: UploadFields, patience: float | None
) -> Ingested | IndexJob:
    """Index an upload; have a job do it where that takes more than ``patience`` seconds, waiting included."""
    began = time.monotonic()

    def add() -> Ingested | IndexJob:
        left = None if patience is None else max(0.0, patience - (time.monotonic() - began))
        return add_upload(service, mine, name, upload, fields, left)

    if patience != 0:
        try:
            return await mine.ingest(add, patience)
        except DeadlineExceeded as error:
            if patience is None:
                hint = f"nothing of it was kept, and with {PREFER}: {RESPOND_ASYNC} a job would go on with it"
                raise DeadlineExceeded(f"{error}; {hint}") from error
    return await mine.write(add)


async def _add_at_url(service: Service, name: str, asked: VideoAtUrl) -> Response:
    source = UrlSource(kind="url", url=asked.url, title=asked.title)
    body = NewJob(source=source, metadata=asked.metadata, segmentation=asked.segmentation)
    job, address = await begin_job(service, name, body)
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": address})


def _page(service: Service, name: str, limit: int, after: int | None, where: Filter | None) -> Videos:
    page, more = paginate(service.collection(name).videos(limit + 1, after, where), limit, lambda video: video.id)
    return Videos(videos=[video_view(name, video) for video in page], next_cursor=more)


def _query_filter(text: str | None, settings: Settings) -> Filter | None:
    if text is None:
        return None
    try:
        return parse_filter(parse_json(text, settings.max_json_values, "filter", "query"))
    except RequestValidationError as error:
        raise FilterError(f"filter: {error.errors()[0]['msg']}") from error


def _with_clips(service: Service, name: str, video_id: str) -> VideoWithClips:
    video = service.video(name, video_id)
    return video_with_clips(name, video, service.collection(name).clips(video.id))


def _delete(service: Service, name: str, video_id: str) -> None:
    video = service.video(name, video_id)
    service.collection(name).delete_video(video.id)
