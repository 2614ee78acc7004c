"""Uploads: each is a job, which the request runs while its client waits."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Self

from index.collection import Collection
from index.jobs.ingest import IngestResult, embed_file, store_video
from index.jobs.jobs import create_upload_job
from index.jobs.pipeline import ItemResult, RunContext, prepare_unless_known
from index.jobs.records import Job, JobItem, JobOptions
from index.jobs.sources.fetcher import FetchInterrupted
from index.jobs.sources.source_types import UploadSource
from index.records import Video
from service.app_state import AppState
from service.errors import DeadlineExceeded, Overloaded, RequestAbandoned
from service.file_access import rename_errors
from service.http.multipart import Upload
from service.inference.call import CallContext
from service.inference.request_context import RequestContext
from service.media_store import EXTENSION_OF
from service.schemas.library import UploadFields
from service.schemas.segmentation import parse_segmentation
from vitascope.errors import Conflict
from vitascope.model import Model


class UploadBackend:
    """Execution backend that runs the job of an upload in the thread of its request, and keeps the result.

    If the deadline of the request passes first, the file is neither added nor failed, so that the job can run again.
    """

    is_local = True

    def __init__(self, context: CallContext) -> None:
        self.ingested: IngestResult | None = None
        self.error: Exception | None = None
        self._call_context = context
        self._items: list[JobItem] = []
        self._is_interrupted = False

    def should_stop(self) -> bool:
        """Whether the request has stopped waiting."""
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
        """Index the file; takes as long as that takes."""
        item = self._items.pop()
        try:
            self.ingested = self._index(item)
        except (DeadlineExceeded, RequestAbandoned) as error:
            self._is_interrupted = True
            return [ItemResult(item, None, FetchInterrupted(str(error)))]
        except Exception as error:
            self.error = error
        return [ItemResult(item, self.ingested, self.error)]

    def progress(self) -> list[tuple[JobItem, float]]:
        return []

    def cancel(self) -> list[ItemResult[JobItem]]:
        return []

    def _index(self, item: JobItem) -> IngestResult:
        context = self._context
        prepared = prepare_unless_known(context, item)
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
) -> IngestResult | Job:
    """Create a job that makes a video of an uploaded file, and run it; or find the video of the same content.

    Args:
        context: The request; its deadline ends the run.
        name: The collection.
        wait_seconds: After so many seconds the job is left to the worker; 0: at once. None: the job is cancelled at the
            deadline, and nothing of the file is kept.

    Returns:
        The video, or the job that goes on.

    Raises:
        CollectionNotFound, FingerprintMismatch, NotReady, InvalidInput, media errors, EngineError, StorageError,
        DeadlineExceeded: The job is cancelled, and nothing of the file is kept.
    """
    limited = context if wait_seconds is None else context.within(wait_seconds)
    collection, model = limited.collection(name)
    title = Path(upload.name).stem if fields.title is None else fields.title
    options = JobOptions(parse_segmentation(fields.segmentation), fields.metadata, confined=True)
    with rename_errors(upload.path, upload.name):
        if (known := _find_known(collection, upload)) is not None:
            return IngestResult(known, created=False)
        # Before the job is created, so that a file that is no video is always rejected.
        info = context.collection(name)[1].decoder.probe(upload.path, service.settings.media_limits())
        extension = EXTENSION_OF[info.container]
        job = create_upload_job(collection, upload.path, extension, name=upload.name, title=title, options=options)
    if wait_seconds == 0:
        service.worker.submit(name, job)
        return job
    return _run(service, limited, collection, model, job, upload.name, hand_over=wait_seconds is not None)


def _run(
    service: AppState,
    context: RequestContext,
    collection: Collection,
    model: Model,
    job: Job,
    name: str,
    *,
    hand_over: bool,
) -> IngestResult | Job:
    """Run the job of an upload in this thread until the deadline; then hand it over to the worker, or cancel it."""
    backend = UploadBackend(context.call_context)
    try:
        state = service.worker.run_now(collection, model, job.id, backend, backend.should_stop).state
    except Conflict as error:  # the worker runs it, as can happen just after a model was loaded
        raise Overloaded(f"{error}; try again in a moment") from error
    except BaseException:
        if backend.ingested is None:
            service.worker.cancel(collection, job.id)
            raise
        service.worker.submit(collection.name, job)  # the video is stored, and only the end of the job could not be
    if backend.ingested is not None or backend.error is not None:
        return _result(collection, job, backend, name)
    if hand_over and state != "cancelled":
        service.worker.submit(collection.name, job)
        return job
    service.worker.cancel(collection, job.id)
    raise context.call_context.cancellation_error(time.monotonic()) or Conflict(
        f"job {job.id}: {state} by another request"
    )


def _result(collection: Collection, job: Job, backend: UploadBackend, name: str) -> IngestResult:
    assert isinstance(job.source, UploadSource)
    file = collection.media.file(job.source.stored_path)
    if backend.ingested is None:
        assert backend.error is not None
        with rename_errors(file, name):
            raise backend.error
    notes = tuple(note.replace(file.name, name) for note in backend.ingested.notes)
    return replace(backend.ingested, notes=notes)


def _find_known(collection: Collection, upload: Upload) -> Video | None:
    """Return the video of the same content, with its file replaced by the upload if it is missing."""
    known = collection.find_by_hash(upload.sha256)
    if known is None or not collection.owns(known) or collection.media_path(known).exists():
        return known
    return known if collection.media.replace_missing(upload.sha256, known.path, upload.path) else None
