"""What became of one file of a job, as its item says it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from index.collection import Collection
from index.jobs.pipeline import Finished
from index.jobs.records import Job, JobItem
from index.jobs.sources.access_policy import is_url
from index.jobs.sources.fetcher import Fetcher
from index.jobs.sources.webdataset import split_member
from vitascope.errors import VitascopeError

_MAX_REASON = 2000
_log = logging.getLogger(__name__)


def outcome_of(finished: Finished[JobItem], job: Job, fetcher: Fetcher, collection: Collection) -> JobItem:
    """The item succeeded, skipped or failed, with the reason."""
    item = finished.item
    kept = fetcher.kept_path(item.path, item.position)
    if finished.ingested is not None:
        video = finished.ingested.video
        # Killed between adding the video and noting so: this job added it, however often it was tried.
        is_same = video.path == collection.media.path_of(kept)
        of_this_job = item.tries > 1 and is_same and video.added_at >= job.created_at
        if finished.ingested.created or of_this_job:
            remarks = "; ".join(finished.ingested.notes).replace(kept.name, file_name(item.path))
            reason = storable(remarks) or None
            return replace(item, state="succeeded", reason=reason, video_id=video.id, seconds=video.duration)
        reason = f"the collection has this content already: video {video.id}, {video.path}"
        return replace(item, state="skipped", reason=reason, video_id=video.id)
    if isinstance(finished.error, VitascopeError):
        reason = str(finished.error).replace(kept.name, file_name(item.path))
        return replace(item, state="failed", reason=storable(reason))
    # A defect in reading one file must not end the job.
    _log.error("job %d: %s", item.job_id, item.path, exc_info=finished.error)
    reason = f"unexpected {type(finished.error).__name__}: {finished.error}"
    return replace(item, state="failed", reason=storable(reason))


def file_name(path: str) -> str:
    """What a path, a URL or a member of an archive is called."""
    member = split_member(path)
    if member is not None:
        return PurePosixPath(member[0]).name
    if is_url(path):
        parts = urlsplit(path)
        return PurePosixPath(unquote(parts.path)).name or parts.netloc
    return PurePosixPath(path).name


def storable(reason: str) -> str:
    """A reason as the catalogue can keep it."""
    return reason.encode("utf-8", "backslashreplace").decode()[:_MAX_REASON]
