# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""The part of the client that is about jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

from vitascope import errors
from vitascope.client import response_types
from vitascope.client.compat import pause
from vitascope.client.errors import ServiceError
from vitascope.client.progress import shown_job
from vitascope.client.request_building import JSON, address, given, once
from vitascope.client.request_types import ItemState, JobEvent, JobState, Metadata
from vitascope.client.retries import Retries
from vitascope.client.synchronous.following import Following

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Jobs(Following):
    """Indexing in the background."""

    def create_job(
        self,
        collection: str,
        folder: str | None = None,
        *,
        source: Mapping[str, Any] | None = None,
        recursive: bool = True,
        metadata: Metadata | None = None,
        segmentation: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> response_types.Job:
        """Index a folder on the service's machine, or another ``source``, in the background.

        A source is ``{"kind": "folder" | "files" | "list" | "shards" | "url", ...}`` as docs/jobs.md describes it. It
        must lie below an allowed root or URL. ``segmentation`` as for ``add_video``.
        """
        if (folder is None) == (source is None):
            raise errors.InvalidInput(f"folder: {folder!r}, source: {source!r}; exactly one of them was expected")
        body: JSON = {"metadata": dict(metadata or {}), **given(segmentation=segmentation)}
        body |= {"folder": folder, "recursive": recursive} if source is None else {"source": dict(source)}
        return self._call(response_types.Job, "POST", _jobs(collection), json=body, headers=once(idempotency_key))

    def jobs(
        self, collection: str, *, state: JobState | None = None, limit: int | None = None, cursor: str | None = None
    ) -> response_types.Jobs:
        """One page of jobs, newest first, of one ``state`` if given."""
        params = given(state=state, limit=limit, cursor=cursor)
        return self._call(response_types.Jobs, "GET", _jobs(collection), params=params)

    def all_jobs(self, collection: str, *, state: JobState | None = None) -> Iterator[response_types.Job]:
        """All jobs, newest first, or those of one ``state``, one by one."""
        for page in self._pages(lambda cursor: self.jobs(collection, state=state, cursor=cursor)):
            yield from page["jobs"]

    def job(self, collection: str, job_id: str) -> response_types.Job:
        return self._call(response_types.Job, "GET", _jobs(collection, job_id))

    def job_items(
        self,
        collection: str,
        job_id: str,
        *,
        state: ItemState | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> response_types.JobItems:
        """One page of a job's files, of one ``state`` if given, with the reason for a failure."""
        params = given(state=state, limit=limit, cursor=cursor)
        return self._call(response_types.JobItems, "GET", _jobs(collection, job_id, "items"), params=params)

    def all_job_items(
        self, collection: str, job_id: str, *, state: ItemState | None = None
    ) -> Iterator[response_types.JobItem]:
        """All files of a job, or those of one ``state``, one by one."""
        for page in self._pages(lambda cursor: self.job_items(collection, job_id, state=state, cursor=cursor)):
            yield from page["items"]

    def pause_job(self, collection: str, job_id: str) -> response_types.Job:
        """Let a job rest, at once or after the files at hand."""
        return self._call(response_types.Job, "POST", _jobs(collection, job_id, "pause"))

    def resume_job(self, collection: str, job_id: str) -> response_types.Job:
        """Let a paused job go on."""
        return self._call(response_types.Job, "POST", _jobs(collection, job_id, "resume"))

    def retry_job(self, collection: str, job_id: str) -> response_types.Job:
        """Try again what failed in a finished job."""
        return self._call(response_types.Job, "POST", _jobs(collection, job_id, "retry"))

    def cancel_job(self, collection: str, job_id: str) -> response_types.Job:
        return self._call(response_types.Job, "DELETE", _jobs(collection, job_id))

    def job_events(self, collection: str, job_id: str, *, after: int | None = None) -> Generator[JobEvent, None, None]:
        """What happens to a job, as it happens, until it has ended: ``{"id": …, "event": …, "data": …}``.

        ``event`` is ``state``, ``progress`` (``data``: the job) or ``item`` (one of its files). A connection that is
        lost is made again, and nothing is missed. ``after``: the ``id`` of the last event that is known, 0 for all from
        the first; else it begins with the job as it is. Raises `ServiceError` where the service stays away.
        """
        return self._follow(_jobs(collection, job_id, "events"), after, FINAL_STATES, None)

    def wait_for_job(
        self,
        collection: str,
        job_id: str,
        *,
        interval: float = 0.5,
        on_change: Callable[[response_types.Job], None] | None = None,
        progress: bool = False,
    ) -> response_types.Job:
        """Follow the job until it has ended, through pauses, too; ``on_change`` gets it whenever something happened.

        Where it cannot be followed, it is asked for every ``interval`` seconds. ``progress``: draw a bar in a terminal
        or notebook. Giving up waiting does not end the job: see ``cancel_job``.
        """
        with shown_job(job_id, progress) as show:

            def changed(job: response_types.Job) -> None:
                show(job)
                if on_change:
                    on_change(job)

            followed = self._follow_to_the_end(collection, job_id, changed)
            if followed is not None:
                return followed
            while True:
                job = self.job(collection, job_id)
                changed(job)
                if job["state"] in FINAL_STATES:
                    return job
                pause(interval)

    def _follow_to_the_end(
        self, collection: str, job_id: str, changed: Callable[[response_types.Job], None]
    ) -> response_types.Job | None:
        """The job as it has ended; None where it cannot be followed: an earlier version, or too many streams."""
        job: response_types.Job | None = None
        stream = self._follow(_jobs(collection, job_id, "events"), None, FINAL_STATES, Retries(tries=1))
        with closing(stream) as events:
            while True:
                try:
                    event = next(events, None)
                except ServiceError:
                    return None
                if event is None:
                    return job
                if event["event"] != "item":
                    job = event["data"]
                    changed(job)


def _jobs(collection: str, *parts: str) -> str:
    return address("collections", collection, "jobs", *parts)
