"""Execution backends: where the files of a job run are decoded and embedded, and the result of each file."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol, Self

from index.collection import Collection
from index.jobs.ingest import (
    HashedFile,
    IngestResult,
    PreparedFile,
    check_unchanged,
    hash_file,
    prepare_file,
    store_video,
)
from index.jobs.pipeline import ItemResult, Pipeline, PipelineConfig, StageTimer
from index.jobs.records import Job, JobItem, JobOptions
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import Fetcher, file_name
from index.records import NewClip
from vitascope.errors import VitascopeError
from vitascope.media.limits import MediaLimits
from vitascope.model import Model
from vitascope.sandbox.decoder import Decoder

_MAX_REASON = 2000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunContext:
    """Dependencies of one run of a job."""

    collection: Collection
    model: Model
    job: Job
    fetcher: Fetcher
    policy: AccessPolicy
    limits: MediaLimits
    config: PipelineConfig
    timer: StageTimer


class Executor(Protocol):
    """Ingests files concurrently, as a context manager; used by one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, item: JobItem) -> None:
        """Start an item without waiting; the caller limits how many are in flight."""

    def results(self, timeout: float) -> list[ItemResult[JobItem]]:
        """Return new results, whose videos are stored, waiting up to ``timeout`` seconds for the first."""

    def progress(self) -> list[tuple[JobItem, float]]:
        """Return the share that is done, 0 to 1, of items in progress, where it is known."""

    def cancel(self) -> list[ItemResult[JobItem]]:
        """Stop as soon as possible; return the results until then."""


class ExecutionBackend(Protocol):
    """A backend that decodes and embeds files.

    ``is_local``: in this process, which a file may kill. An executor of another backend reports that by ``WorkerDied``.
    """

    @property
    def is_local(self) -> bool: ...

    def executor(self, context: RunContext) -> Executor: ...


class WorkerDied(Exception):
    """The worker process that was working on an item has died, perhaps because of the item."""


class LocalBackend:
    """Decodes and embeds in threads of this process."""

    is_local = True

    def executor(self, context: RunContext) -> Executor:
        def prepare(item: JobItem) -> PreparedFile | IngestResult:
            return prepare_unless_known(context, item)

        def store(item: JobItem, prepared: PreparedFile, clips: list[NewClip]) -> IngestResult:
            check_unchanged(prepared)
            return store_video(context.collection, prepared.description, clips)

        return Pipeline(context.model, prepare, store, context.limits, context.config, context.timer)


def prepare_unless_known(context: RunContext, item: JobItem) -> PreparedFile | IngestResult:
    """Fetch, hash, probe and segment an item's file, unless the collection has a video of this content.

    Raises InvalidInput, media errors, StorageError, FetchInterrupted.
    """
    hashed = hash_file(context.fetcher.fetch(item.path, item.position), context.limits)
    with ExitStack() as close_if_known:
        close_if_known.enter_context(hashed.media)
        known = context.collection.find_by_hash(hashed.content_sha256)
        if known is not None:
            return IngestResult(known, created=False)
        close_if_known.pop_all()
    return prepare_item(hashed, item, context.job.options, context.fetcher, context.limits, context.model.decoder)


def prepare_item(
    hashed: HashedFile, item: JobItem, options: JobOptions, fetcher: Fetcher, limits: MediaLimits, decoder: Decoder
) -> PreparedFile:
    """Probe and segment an item's file. Subtitle files are looked for only beside files that are read in place.

    Raises InvalidInput and media errors.
    """
    return prepare_file(
        hashed,
        title=item.title or PurePosixPath(file_name(item.path)).stem,
        metadata={**options.metadata, **item.metadata},
        segmentation=options.segmentation,
        limits=limits,
        decoder=decoder,
        policy=fetcher.policy if fetcher.is_external(item.path) else None,
    )


def item_outcome(result: ItemResult[JobItem], job: Job, fetcher: Fetcher, collection: Collection) -> JobItem:
    """Return the item as succeeded, skipped or failed, with the reason."""
    item = result.item
    local_path = fetcher.local_path(item.path, item.position)
    if result.ingested is not None:
        video = result.ingested.video
        # Killed between adding the video and recording that: this job added it, in an earlier attempt.
        is_same = video.path == collection.media.path_of(local_path)
        was_added_before = item.attempts > 1 and is_same and video.added_at >= job.created_at
        if result.ingested.created or was_added_before:
            notes = "; ".join(result.ingested.notes).replace(local_path.name, file_name(item.path))
            reason = sanitize_reason(notes) or None
            return replace(item, state="succeeded", reason=reason, video_id=video.id, seconds=video.duration)
        reason = f"the collection has this content already: video {video.id}, {video.path}"
        return replace(item, state="skipped", reason=reason, video_id=video.id)
    if isinstance(result.error, VitascopeError):
        reason = str(result.error).replace(local_path.name, file_name(item.path))
        return replace(item, state="failed", reason=sanitize_reason(reason))
    # A defect in reading one file must not end the job.
    _log.error("job %d: %s", item.job_id, item.path, exc_info=result.error)
    reason = f"unexpected {type(result.error).__name__}: {result.error}"
    return replace(item, state="failed", reason=sanitize_reason(reason))


def sanitize_reason(reason: str) -> str:
    """Return a reason as valid UTF-8 of limited length, which the catalogue can store."""
    return reason.encode("utf-8", "backslashreplace").decode()[:_MAX_REASON]
