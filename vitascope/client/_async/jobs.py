"""Methods for indexing jobs and their events."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from vitascope import errors
from vitascope.client import response_types
from vitascope.client._async.transport import RECONNECT_SECONDS, BaseClient
from vitascope.client.api import (
    JSON,
    JobEvent,
    Metadata,
    ServiceError,
    api_path,
    drop_none,
    idempotency_header,
    to_dict,
)
from vitascope.client.compat import sleep_async
from vitascope.client.progress import job_progress
from vitascope.client.retry import RetryConfig
from vitascope.client.sse import EventStreamParser
from vitascope.job_states import FINAL_JOB_STATES, ItemState, JobState

EVENT_STREAM = "text/event-stream"
QUIET_SECONDS = 45.0
"""Seconds without data after which an event stream is treated as lost; the service sends a comment every 15 s."""
SHORT_SECONDS = 5.0
MAX_SHORT_STREAMS = 10
"""Maximum number of consecutive streams that end within `SHORT_SECONDS` and without an event."""


class Jobs(BaseClient):
    """Indexing jobs."""

    async def create_job(
        self,
        collection: str,
        folder: str | Path | None = None,
        *,
        source: Mapping[str, Any] | None = None,
        recursive: bool = True,
        metadata: Metadata | None = None,
        segmentation: Mapping[str, Any] | None = None,
        transcribe: bool | str | None = None,
        read_text: bool | float | None = None,
        caption: bool | None = None,
        idempotency_key: str | None = None,
    ) -> response_types.Job:
        """Start a job that indexes a folder on the service's machine, or another source.

        Args:
            collection: name of the collection.
            folder: folder below an allowed root of the service; exactly one of ``folder`` and ``source`` must be given.
            source: ``{"kind": "folder" | "files" | "list" | "shards" | "url", ...}``; see docs/jobs.md.
            recursive: include subfolders of ``folder``.
            metadata: metadata of every video.
            segmentation: as for ``add_video``.
            transcribe: recognise speech: True, or the name of the service's model; None: as the collection has it.
            read_text: read the text on screen: seconds between frames, or True; None: as the collection has it.
            caption: generate a caption of each clip, by the model of the collection; None: as the collection has it.
            idempotency_key: as for ``create_collection``.
        """
        if (folder is None) == (source is None):
            raise errors.InvalidInput(f"folder: {folder!r}, source: {source!r}; exactly one of them was expected")
        body: JSON = {"metadata": to_dict("metadata", metadata or {}), **drop_none(segmentation=segmentation)}
        body |= drop_none(transcribe=transcribe, read_text=read_text, caption=caption)
        body |= {"folder": str(folder), "recursive": recursive} if source is None else {"source": dict(source)}
        headers = idempotency_header(idempotency_key)
        return await self._call(response_types.Job, "POST", _path(collection), json=body, headers=headers)

    async def list_jobs(
        self, collection: str, *, state: JobState | None = None, limit: int | None = None, cursor: str | None = None
    ) -> response_types.Jobs:
        """Return a page of jobs, newest first, optionally of one state."""
        params = drop_none(state=state, limit=limit, cursor=cursor)
        return await self._call(response_types.Jobs, "GET", _path(collection), params=params)

    async def iter_jobs(self, collection: str, *, state: JobState | None = None) -> AsyncIterator[response_types.Job]:
        """Iterate over all jobs, newest first, optionally of one state."""
        async for page in self._pages(lambda cursor: self.list_jobs(collection, state=state, cursor=cursor)):
            for job in page["jobs"]:
                yield job

    async def get_job(self, collection: str, job_id: str) -> response_types.Job:
        """Return a job. Raises `JobNotFound`."""
        return await self._call(response_types.Job, "GET", _path(collection, job_id))

    async def list_job_items(
        self,
        collection: str,
        job_id: str,
        *,
        state: ItemState | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> response_types.JobItems:
        """Return a page of a job's files with their states and reasons, optionally of one state."""
        params = drop_none(state=state, limit=limit, cursor=cursor)
        return await self._call(response_types.JobItems, "GET", _path(collection, job_id, "items"), params=params)

    async def iter_job_items(
        self, collection: str, job_id: str, *, state: ItemState | None = None
    ) -> AsyncIterator[response_types.JobItem]:
        """Iterate over all files of a job, optionally of one state."""
        async for page in self._pages(
            lambda cursor: self.list_job_items(collection, job_id, state=state, cursor=cursor)
        ):
            for item in page["items"]:
                yield item

    async def pause_job(self, collection: str, job_id: str) -> response_types.Job:
        """Pause a job, at once or after the files in progress."""
        return await self._call(response_types.Job, "POST", _path(collection, job_id, "pause"))

    async def resume_job(self, collection: str, job_id: str) -> response_types.Job:
        """Queue a paused job again."""
        return await self._call(response_types.Job, "POST", _path(collection, job_id, "resume"))

    async def retry_job(self, collection: str, job_id: str) -> response_types.Job:
        """Queue a finished job again for its failed files."""
        return await self._call(response_types.Job, "POST", _path(collection, job_id, "retry"))

    async def cancel_job(self, collection: str, job_id: str) -> response_types.Job:
        """Cancel a job, at once or after the files in progress."""
        return await self._call(response_types.Job, "DELETE", _path(collection, job_id))

    def iter_job_events(
        self, collection: str, job_id: str, *, after: int | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """Iterate over the events of a job until it has finished: ``{"id": ..., "event": ..., "data": ...}``.

        Lost connections are reopened without missing an event, also if the service restarts within five minutes.

        Args:
            collection: name of the collection.
            job_id: id of the job.
            after: ``id`` of the last known event, 0 for all events; by default the first event is the job's current
                state.
        Yields:
            ``event`` is ``state`` or ``progress`` with the job as ``data``, or ``item`` with one of its files.
        Raises:
            ServiceError: the service cannot be reached any more.
        """
        return self._event_stream(_path(collection, job_id, "events"), after, None)

    async def wait_for_job(
        self,
        collection: str,
        job_id: str,
        *,
        interval: float = 0.5,
        on_change: Callable[[response_types.Job], None] | None = None,
        progress: bool = False,
    ) -> response_types.Job:
        """Wait until a job has finished, also while it is paused or the service restarts within five minutes.

        Cancelling the wait does not cancel the job.

        Args:
            collection: name of the collection.
            job_id: id of the job.
            interval: seconds between requests, if the service has no event stream.
            on_change: called with the job on every change.
            progress: draw a progress bar in a terminal or notebook.
        """
        with job_progress(job_id, progress) as show:

            def notify(job: response_types.Job) -> None:
                show(job)
                if on_change:
                    on_change(job)

            finished = await self._wait_by_events(collection, job_id, notify)
            if finished is not None:
                return finished
            reached_at = -math.inf
            while True:
                job = await self._call_during_outage(partial(self.get_job, collection, job_id), reached_at)
                reached_at = time.monotonic()
                notify(job)
                if job["state"] in FINAL_JOB_STATES:
                    return job
                await sleep_async(interval)

    async def _wait_by_events(
        self, collection: str, job_id: str, notify: Callable[[response_types.Job], None]
    ) -> response_types.Job | None:
        """Return the finished job; None without an event stream: an older service, or too many open streams."""
        job: response_types.Job | None = None
        stream = self._event_stream(_path(collection, job_id, "events"), None, RetryConfig(max_attempts=1))
        async with aclosing(stream) as events:
            while True:
                try:
                    event = await anext(events, None)
                except ServiceError:
                    return None
                if event is None:
                    return job
                if event["event"] != "item":
                    job = event["data"]
                    notify(job)

    async def _event_stream(
        self, path: str, after: int | None, retries: RetryConfig | None
    ) -> AsyncGenerator[JobEvent, None]:
        """Yield the events at ``path`` until the job has finished, over as many connections as needed.

        Raises as other calls if the first connection cannot be opened or a later one for `MAX_OUTAGE`, and ServiceError
        after `MAX_SHORT_STREAMS`.
        """
        is_finished = False
        short_streams = 0
        reached_at = -math.inf
        while True:
            connect = partial(self._open_event_stream, path, after, retries)
            response = await self._call_during_outage(connect, reached_at)
            opened_at = time.monotonic()
            short_streams += 1
            async with aclosing(response):
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                try:
                    async with aclosing(_parse_events(response)) as events:
                        async for event in events:
                            short_streams = 0
                            after = after if event["id"] is None else int(event["id"])
                            if event["event"] == "state":
                                is_finished = event["data"]["state"] in FINAL_JOB_STATES
                            yield event
                    if is_finished:
                        return
                except httpx.HTTPError:
                    pass  # the next connection resumes after the last event
            reached_at = time.monotonic()
            if reached_at - opened_at >= SHORT_SECONDS:
                short_streams = 0
            if short_streams == MAX_SHORT_STREAMS:
                raise ServiceError(f"the service at {self.url} ended GET {path} {short_streams} times without an event")
            await sleep_async(RECONNECT_SECONDS)

    async def _open_event_stream(self, path: str, after: int | None, retries: RetryConfig | None) -> httpx.Response:
        headers = {"Accept": EVENT_STREAM} | ({} if after is None else {"Last-Event-ID": str(after)})
        response = await self._open_stream(path, headers, retries=retries, read_timeout=QUIET_SECONDS)
        content_type = response.headers.get("content-type", "")
        if response.status_code != httpx.codes.NO_CONTENT and EVENT_STREAM not in content_type:
            await response.aclose()
            raise ServiceError(f"the service at {self.url} did not answer GET {path} with events", response.status_code)
        return response


async def _parse_events(response: httpx.Response) -> AsyncGenerator[JobEvent, None]:
    parser = EventStreamParser()
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


def _path(collection: str, *segments: str) -> str:
    return api_path("collections", collection, "jobs", *segments)
