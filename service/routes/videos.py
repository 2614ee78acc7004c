"""Videos of a collection: upload, list, get, edit, delete. An upload creates a job and runs it in the request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from index.collection import Collection
from index.edits import edit_video
from index.jobs.execution import RunContext, prepare_unless_known, transcribe_if_needed
from index.jobs.ingest import IngestResult, embed_file, embedded_signals, store_video
from index.jobs.jobs import create_upload_job
from index.jobs.pipeline import ItemResult
from index.jobs.recognition import RecognitionDeferred
from index.jobs.recognition_settings import read_recognition_settings
from index.jobs.records import ItemProgress, JobItem, JobOptions
from index.jobs.records import Job as IndexJob
from index.jobs.sources.fetcher import FetchInterrupted
from index.jobs.sources.source_types import UploadSource
from index.pagination import paginate
from index.records import Video
from index.storage.filters import Filter, parse_filter
from service.app_state import AppState, AppStateDep, ReadyAppStateDep
from service.errors import DeadlineExceeded, Overloaded, RequestAbandoned
from service.files import EXTENSION_OF, rename_errors
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
    parse_id,
    parse_json,
)
from service.inference.request_context import RequestContext, request_context
from service.inference.scheduler import CallContext
from service.routes.jobs import job_url, start_job
from service.schemas.jobs import Job, NewJob, UrlSource, parse_segmentation
from service.schemas.library import (
    AddedVideo,
    UpdatedVideo,
    UploadFields,
    VideoAtUrl,
    VideoChanges,
    Videos,
    VideoWithClips,
)
from service.serializers import serialize_job, serialize_video, serialize_video_with_clips, serialize_videos
from service.settings import Settings
from vitascope.errors import Conflict, FilterError, VideoNotFound
from vitascope.model import Model

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
    return await service.io_pool.run(_serialize_added, service, name, added)


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


@router.patch("/{video_id}", summary="Edit a video", responses=errors(404, 413, 422, 507))
@requires("write")
async def update_video(name: str, video_id: str, service: AppStateDep, body: VideoChanges) -> UpdatedVideo:
    """Change the title, metadata and subtitles of a video. Searches find the change once this answers.

    Clips keep their start, end and embedding. The change stays when the file is indexed again, until its source states
    something new.
    """
    return await service.write_pool.run(_update, service, name, video_id, body)


@router.delete("/{video_id}", status_code=204, summary="Delete a video", responses=errors(404, 507))
@requires("write")
async def delete_video(name: str, video_id: str, service: AppStateDep) -> None:
    """Delete a video, and its file if it was uploaded; indexed files in other folders stay."""
    await service.write_pool.run(_delete, service, name, video_id)


@contextmanager
def _upload_slot(service: AppState, wait_seconds: float | None) -> Iterator[float | None]:
    """Hold a slot for an upload while the file is received and indexed; yield the seconds to wait for the result.

    Raises Overloaded if all slots are taken and the client does not accept a job instead.
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
    """Run the job of an upload for at most ``wait_seconds``, including queueing; then pass it to the worker."""
    started_at = time.monotonic()

    def add() -> IngestResult | IndexJob:
        left = None if wait_seconds is None else max(0.0, wait_seconds - (time.monotonic() - started_at))
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


def _serialize_added(service: AppState, name: str, added: IngestResult) -> AddedVideo:
    video = serialize_video(service.collection(name), added.video)
    return AddedVideo(**dict(video), notes=list(added.notes))


def _page(service: AppState, name: str, limit: int, after: int | None, where: Filter | None) -> Videos:
    collection = service.collection(name)
    page, more = paginate(collection.videos(limit + 1, after, where), limit, lambda video: video.id)
    return Videos(videos=serialize_videos(collection, page), next_cursor=more)


def _query_filter(text: str | None, settings: Settings) -> Filter | None:
    if text is None:
        return None
    try:
        return parse_filter(parse_json(text, settings.max_json_values, "filter", "query"))
    except RequestValidationError as error:
        raise FilterError(f"filter: {error.errors()[0]['msg']}") from error


def _with_clips(service: AppState, name: str, video_id: str) -> VideoWithClips:
    video, collection = service.video(name, video_id), service.collection(name)
    return serialize_video_with_clips(collection, video, collection.clips(video.id))


def _update(service: AppState, name: str, video_id: str, body: VideoChanges) -> UpdatedVideo:
    collection = service.collection(name)
    edited = edit_video(
        collection,
        parse_id(video_id, VideoNotFound, "video_id"),
        title=body.title,
        metadata=body.metadata,
        subtitles=body.subtitles_text,
        from_source=body.from_source,
    )
    video = serialize_video(collection, edited.video)
    return UpdatedVideo(**dict(video), changes=list(edited.changes), notes=list(edited.notes))


def _delete(service: AppState, name: str, video_id: str) -> None:
    video = service.video(name, video_id)
    service.collection(name).delete_video(video.id)
    service.previews.remove(video.content_sha256)


class UploadBackend:
    """Execution backend that runs the job of an upload in the thread of its request, and keeps the result.

    If the deadline of the request passes first, the file is neither added nor failed, so that the job can run again.
    A later run of the job recognises speech and screen text, except speech that is needed to segment the file.
    """

    is_local = True

    def __init__(self, context: CallContext) -> None:
        self.ingested: IngestResult | None = None
        self.error: Exception | None = None
        self._call_context = context
        self._items: list[JobItem] = []
        self._is_interrupted = False

    def should_stop(self) -> bool:
        """Return whether the deadline has passed or the client has disconnected."""
        return self._is_interrupted or self._call_context.cancellation_error(time.monotonic()) is not None

    def executor(self, context: RunContext) -> Self:
        self._context = context
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._items.clear()

    def submit(self, item: JobItem) -> None:
        self._items.append(item)

    def results(self, timeout: float) -> list[ItemResult[JobItem]]:
        """Index the submitted file. Blocks until it is done; ignores ``timeout``."""
        item = self._items.pop()
        try:
            self.ingested = self._index(item)
        except (DeadlineExceeded, RequestAbandoned) as error:
            self._is_interrupted = True
            return [ItemResult(item, None, FetchInterrupted(str(error)))]
        except Exception as error:
            self.error = error
        if self.ingested is not None and self._context.text_tasks():
            return [ItemResult(item, None, RecognitionDeferred(self.ingested))]
        return [ItemResult(item, self.ingested, self.error)]

    def progress(self) -> list[ItemProgress[JobItem]]:
        return []

    def cancel(self) -> list[ItemResult[JobItem]]:
        return []

    def _index(self, item: JobItem) -> IngestResult:
        context = self._context
        prepared = prepare_unless_known(context, item)
        if isinstance(prepared, IngestResult):
            return prepared
        prepared = transcribe_if_needed(context, prepared, self._call_context)
        if isinstance(prepared, IngestResult):
            return prepared
        return store_video(
            context.collection, prepared.description, embed_file(context.model, prepared, context.limits)
        )


def add_upload(
    service: AppState,
    context: RequestContext,
    name: str,
    upload: Upload,
    fields: UploadFields,
    wait_seconds: float | None = None,
) -> IngestResult | IndexJob:
    """Create a job that indexes an uploaded file and run it, or return the existing video with the same content.

    Args:
        service: The service.
        context: Context of the request; its deadline ends the run.
        name: Name of the collection.
        upload: The uploaded file.
        fields: Title, metadata and options of the job.
        wait_seconds: Seconds after which the job is passed to the worker; 0: at once. None: the job is cancelled at
            the deadline, and the file is deleted.

    Returns:
        The video, or the job if the worker continues it.

    Raises:
        CollectionNotFound, FingerprintMismatch, NotReady, InvalidInput, media errors, EngineError, StorageError,
        DeadlineExceeded: The job was cancelled, and the file is deleted.
    """
    limited = context if wait_seconds is None else context.within(wait_seconds)
    collection, model = limited.collection(name)
    title = Path(upload.name).stem if fields.title is None else fields.title
    recognition = read_recognition_settings(collection)
    options = JobOptions(parse_segmentation(fields.segmentation), fields.metadata, True, *recognition)
    with rename_errors(upload.path, upload.name):
        if (known := _find_known(collection, upload)) is not None:
            return IngestResult(known, created=False)
        # Before the job is created, so that a file that is not a video is always rejected.
        info = context.collection(name)[1].decoder.probe(upload.path, service.settings.media_limits())
        embedded_signals(info, upload.path.name, collection.signals)
        extension = EXTENSION_OF[info.container]
        job = create_upload_job(collection, upload.path, extension, name=upload.name, title=title, options=options)
    if wait_seconds == 0:
        service.worker.submit(name, job)
        return job
    return _run_upload(service, limited, collection, model, job, upload.name, hand_over=wait_seconds is not None)


def _run_upload(
    service: AppState,
    context: RequestContext,
    collection: Collection,
    model: Model,
    job: IndexJob,
    name: str,
    *,
    hand_over: bool,
) -> IngestResult | IndexJob:
    """Run the job of an upload in this thread until the deadline; then pass it to the worker, or cancel it."""
    backend = UploadBackend(context.call_context)
    try:
        state = service.worker.run_now(collection, model, job.id, backend, backend.should_stop).state
    except Conflict as error:  # the worker already runs it, which can happen just after a model was loaded
        raise Overloaded(f"{error}; try again in a moment") from error
    except BaseException:
        if backend.ingested is None:
            service.worker.cancel(collection, job.id)
            raise
        service.worker.submit(collection.name, job)  # the video is stored, but the end of the job could not be recorded
        return _upload_result(collection, job, backend, name)
    if backend.ingested is not None and state == "queued":
        service.worker.submit_recognition(collection.name, job)
    if backend.ingested is not None or backend.error is not None:
        return _upload_result(collection, job, backend, name)
    if hand_over and state != "cancelled":
        service.worker.submit(collection.name, job)
        return job
    service.worker.cancel(collection, job.id)
    raise context.call_context.cancellation_error(time.monotonic()) or Conflict(
        f"job {job.id}: {state} by another request"
    )


def _upload_result(collection: Collection, job: IndexJob, backend: UploadBackend, name: str) -> IngestResult:
    assert isinstance(job.source, UploadSource)
    file = collection.media.file(job.source.stored_path)
    if backend.ingested is None:
        assert backend.error is not None
        with rename_errors(file, name):
            raise backend.error
    notes = tuple(note.replace(file.name, name) for note in backend.ingested.notes)
    return replace(backend.ingested, notes=notes)


def _find_known(collection: Collection, upload: Upload) -> Video | None:
    """Return the video with the same content; if its file is missing, replace the file by the upload.

    Returns None if there is no such video, or if a job has to replace a missing file that the collection does not own.
    """
    known = collection.find_by_hash(upload.sha256)
    if known is None or not collection.media.is_missing(known.path, known.file_size):
        return known
    if not collection.owns(known):
        return None
    return known if collection.media.replace_missing(upload.sha256, known.path, upload.path) else None
