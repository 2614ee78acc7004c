"""Server-sent events of indexing jobs.

One task polls the catalogue for all jobs that have followers, and an ``EventBuffer`` per job passes the events on to
its streams. Polling is needed as other processes run and change jobs, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from index.collection import Collection
from index.jobs import jobs as index_jobs
from index.jobs.records import Event, Job, StateEvent
from service.connections import ABORT
from service.errors import Overloaded, TooManyAtOnce
from service.http.auth import Caller
from service.http.limits import Pool
from service.serializers import serialize_item, serialize_job
from vitascope.errors import NotFound, StorageError, VitascopeError
from vitascope.job_states import FINAL_JOB_STATES

_log = logging.getLogger("vitascope.service")

POLL_SECONDS = 0.2
PAGE_SIZE = 100
BUFFER_BYTES = 512 * 1024
"""Number of newest events in memory per job; a stream that is further behind reads the catalogue."""
PROGRESS_SECONDS = 1.0
"""Minimum seconds between two ``progress`` events of a job."""
PROGRESS_FACTOR = 20
"""Minimum time between two ``progress`` events, as a multiple of the time that it takes to count the job's files."""
RETRY_MILLISECONDS = 2000
"""Milliseconds after which a client reconnects."""
HEARTBEAT_SECONDS = 15.0
STREAM_SECONDS = 900.0
"""Seconds after which a stream ends; its client reconnects."""
GRACE_SECONDS = 30.0
"""Further seconds for a client to read the sent data before the connection is closed."""
STALLED_CHECKS = 50
STALLED_CHECK_SECONDS = 0.01
"""Number of checks, and seconds between them, whether streams have ended at shutdown; the rest is cancelled. Checks are
counted, not seconds, because readers cannot read while the process is suspended.
"""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_OPENING = f"retry: {RETRY_MILLISECONDS}\n\n".encode()
_HEARTBEAT = b":\n\n"
_ESCAPES = {character: f"\\u{character:04x}" for character in (0x85, 0x2028, 0x2029)}
"""JSON escapes of characters that some clients treat as the end of a line, unlike the standard."""

JobKey = tuple[str, int]
"""(collection, job id)"""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An encoded event (text/event-stream). ``is_final``: whether it reports a terminal state of the job."""

    number: int
    data: bytes
    is_final: bool


def to_event(event: Event) -> ServerSentEvent:
    """Encode an event of a job: ``state``, with the job at that time, or ``item``."""
    if isinstance(event, StateEvent):
        data = _encode("state", serialize_job(event.job).model_dump_json(), event.number)
        return ServerSentEvent(event.number, data, event.job.state in FINAL_JOB_STATES)
    return ServerSentEvent(
        event.number, _encode("item", serialize_item(event.item).model_dump_json(), event.number), False
    )


def _progress_event(job: Job) -> bytes:
    """Encode the progress of a job. The event has no id, as it is not stored."""
    return _encode("progress", serialize_job(job).model_dump_json())


def _encode(kind: str, data: str, number: int | None = None) -> bytes:
    # JSON has no line breaks outside of strings and escapes those within.
    event_id = "" if number is None else f"id: {number}\n"
    return f"{event_id}event: {kind}\ndata: {data.translate(_ESCAPES)}\n\n".encode()


class EventBuffer:
    """The newest events of one job: all events with a number above ``since``. For use on the event loop."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.newest = since
        self.followers = 0
        self.progress = b""
        self.is_closed = False
        """Whether no more events will follow, because the job is gone or the service stops."""
        self._events: deque[ServerSentEvent] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def add(self, events: Sequence[ServerSentEvent], progress: bytes) -> None:
        """Append events; ``progress``, unless empty, replaces the previous progress event."""
        for event in events:
            self._events.append(event)
            self._bytes += len(event.data)
            self.newest = event.number
        while self._bytes > BUFFER_BYTES and len(self._events) > 1:
            oldest = self._events.popleft()
            self._bytes -= len(oldest.data)
            self.since = oldest.number
        self.progress = progress or self.progress
        self._notify()

    def close(self) -> None:
        self.is_closed = True
        self._notify()

    def after(self, number: int) -> list[ServerSentEvent] | None:
        """Return the events above ``number``; None if the buffer no longer has all of them."""
        return None if number < self.since else [event for event in self._events if event.number > number]

    def next_change(self) -> asyncio.Event:
        """Return an event that is set at the next change."""
        return self._changed

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class _FollowedJob:
    """A followed job. ``counted``: number of its newest event when its progress was last computed."""

    buffer: EventBuffer
    counted: int
    count_at: float = 0.0


class Broadcaster:
    """Distributes the events of jobs to streams, and limits the number of streams. For use on the event loop."""

    def __init__(self, open_collection: Callable[[str], Collection], max_streams: int, max_client_streams: int) -> None:
        self._open_collection = open_collection
        self._max_streams = max_streams
        self._max_client_streams = max_client_streams
        self._jobs: dict[JobKey, _FollowedJob] = {}
        self._streams: Counter[str] = Counter()
        self._aborts: dict[anyio.CancelScope, Callable[[], None]] = {}
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def open_streams(self) -> int:
        return self._streams.total()

    @contextmanager
    def stream(self, client: str, abort: Callable[[], None], seconds: float) -> Iterator[None]:
        """Count a stream during the block, which is cancelled after ``seconds``, or by ``close`` if its reader stalls.

        ``abort`` closes the connection of the stream without sending buffered data.

        Raises Overloaded and TooManyAtOnce.
        """
        if self._stopping or self.open_streams >= self._max_streams:
            reason = "the service is shutting down" if self._stopping else f"{self.open_streams} event streams are open"
            raise Overloaded(f"{reason}; retry in a moment")
        if self._streams[client] >= self._max_client_streams:
            raise TooManyAtOnce(
                f"{self._streams[client]} event streams of this client are open; the limit is "
                f"{self._max_client_streams}",
                {"Retry-After": "5"},
            )
        self._streams[client] += 1
        try:
            with anyio.move_on_after(seconds) as scope:
                self._aborts[scope] = abort
                yield
        finally:
            del self._aborts[scope]
            self._streams[client] -= 1
            if not self._streams[client]:
                del self._streams[client]

    @contextmanager
    def follow(self, key: JobKey, newest: int) -> Iterator[EventBuffer]:
        """Poll a job during the block, and yield its buffer. ``newest``: number of its last event."""
        job = self._jobs.setdefault(key, _FollowedJob(EventBuffer(newest), newest))
        buffer = job.buffer
        if self._stopping:
            buffer.close()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        buffer.followers += 1
        try:
            yield buffer
        finally:
            buffer.followers -= 1
            if not buffer.followers and self._jobs.get(key) is job:
                del self._jobs[key]

    def read_after(self, key: JobKey, number: int) -> list[ServerSentEvent]:
        """Read a page of events above ``number`` from the catalogue. Blocks; raises NotFound and StorageError."""
        name, job_id = key
        events = index_jobs.events_after(self._open_collection(name), job_id, number, PAGE_SIZE)
        return [to_event(event) for event in events]

    async def close(self) -> None:
        """End all streams, and abort the connections of stalled readers."""
        self._stopping = True
        for job in self._jobs.values():
            job.buffer.close()
        for _ in range(STALLED_CHECKS):
            if not self._aborts:
                break
            await asyncio.sleep(STALLED_CHECK_SECONDS)
        for scope, abort in list(self._aborts.items()):
            scope.cancel()
            abort()  # an orderly close would wait for the reader

    async def _poll(self) -> None:
        while self._jobs and not self._stopping:
            is_behind = False
            for key, job in list(self._jobs.items()):
                try:
                    events, progress = await asyncio.to_thread(self._read_new, key, job)
                except NotFound:
                    self._remove(key)
                except VitascopeError as error:  # probably a busy disk
                    _log.warning("collection %s: events of job %d cannot be read: %s", *key, error)
                    await asyncio.sleep(PROGRESS_SECONDS)
                except Exception:
                    _log.exception("collection %s: events of job %d are no longer sent", *key)
                    self._remove(key)
                else:
                    if events or progress:
                        job.buffer.add(events, progress)
                    is_behind = is_behind or len(events) == PAGE_SIZE
            await asyncio.sleep(0 if is_behind else POLL_SECONDS)

    def _remove(self, key: JobKey) -> None:
        job = self._jobs.pop(key, None)
        if job is not None:
            job.buffer.close()

    def _read_new(self, key: JobKey, job: _FollowedJob) -> tuple[list[ServerSentEvent], bytes]:
        """Return new events and, if it has changed, the encoded progress. Runs in a thread."""
        name, job_id = key
        collection = self._open_collection(name)
        newest = job.buffer.newest
        last = index_jobs.last_event_number(collection, job_id)
        if last < newest:
            raise NotFound(f"collection {name}: it was replaced, and job {job_id} is another one")
        events = [] if last == newest else self.read_after(key, newest)
        now = time.monotonic()
        if last == job.counted or now < job.count_at:
            return events, b""
        current = index_jobs.current_job_event(collection, job_id).job
        job.counted = last
        job.count_at = now + max(PROGRESS_SECONDS, PROGRESS_FACTOR * (time.monotonic() - now))
        return events, b"" if current.state in FINAL_JOB_STATES else _progress_event(current)


class EventStream(StreamingResponse):
    """Streaming response with the events of a job."""

    def __init__(
        self,
        broadcaster: Broadcaster,
        pool: Pool,
        key: JobKey,
        current: StateEvent,
        number: int | None,
        is_allowed: Callable[[], bool],
    ) -> None:
        """Prepare the response.

        Args:
            broadcaster: Source of the events.
            pool: Threads that read the catalogue.
            key: The job.
            current: The job's state and last event number.
            number: Number of the last event that the client has received; None: start with the current state.
            is_allowed: Returns whether the client's API key is still valid; called before each event. If it returns
                False, the stream ends.
        """
        self._broadcaster = broadcaster
        self._pool = pool
        self._is_allowed = is_allowed
        self._events = self._generate(key, current, number)
        super().__init__(self._events, 200, HEADERS, "text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope["state"]["caller"]
        abort = scope["state"].get(ABORT, lambda: None)  # only `LimitedProtocol` sets it
        with self._broadcaster.stream(caller.client, abort, STREAM_SECONDS + GRACE_SECONDS):
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._events.aclose()  # ends polling of the job when the client disconnects

    async def _generate(self, key: JobKey, current: StateEvent, number: int | None) -> AsyncGenerator[bytes, None]:
        deadline = time.monotonic() + STREAM_SECONDS
        yield _OPENING
        if number is None:
            first = to_event(current)
            yield first.data
            if first.is_final:
                return
            number = first.number
        with self._broadcaster.follow(key, current.number) as buffer:
            progress = buffer.progress
            while not buffer.is_closed and time.monotonic() < deadline and self._may_go_on():
                change = buffer.next_change()
                since, page = buffer.since, buffer.after(number)
                if page is None:
                    page = await self._pool.run(self._broadcaster.read_after, key, number)
                    if not page:  # the events belonged to files that are being retried
                        number = since
                if page:
                    number = page[-1].number
                    yield b"".join(event.data for event in page)
                if page and page[-1].is_final and number >= max(buffer.newest, current.number):
                    return
                if number < buffer.newest:
                    continue
                if buffer.progress != progress:
                    progress = buffer.progress
                    yield progress
                elif not page and not await _wait(change, min(HEARTBEAT_SECONDS, deadline - time.monotonic())):
                    yield _HEARTBEAT

    def _may_go_on(self) -> bool:
        try:
            return self._is_allowed()
        except StorageError:  # the response has begun
            return False


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Return whether the event was set within ``seconds``."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
            return True
    return False
