"""State of a running service, and the FastAPI dependencies that provide it to routes."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Request

from index.collection import Collection
from index.collection_store import NAME_PATTERN, CollectionStore
from index.records import Video
from service.errors import NotReady
from service.events import Broadcaster
from service.files import MediaStore
from service.http.auth import Authenticator
from service.http.idempotency import Idempotency
from service.http.limits import ConcurrencyLimiter, Pool, QueueLimiter, RateLimiter
from service.http.parsing import parse_id
from service.http_client.client import SafeClient
from service.inference.cache import Caches
from service.inference.registry import ModelRegistry
from service.inference.scheduler import Scheduler
from service.observability import Observer
from service.operations import Operations
from service.previews import PreviewCache
from service.settings import Settings
from service.webhooks.dispatcher import Dispatcher
from service.worker import JobWorker
from vitascope.errors import CollectionNotFound, EngineUnavailable, VideoNotFound
from vitascope.model import Model
from vitascope.sandbox.pool import DecodingPool
from vitascope.sandbox.recognizers import Recognizers

MAX_HEARTBEAT_AGE = 60.0
"""Seconds without a heartbeat of the event loop after which the service is reported as not alive."""
HEARTBEAT_SECONDS = 1.0
MIN_SHUTDOWN_FRACTION = 0.2
"""Fraction of ``shutdown_timeout`` that is reserved for a job to store its state, however long requests take."""


@dataclass
class AppState:
    """The parts of a service that routes use; opened by ``service.lifespan``."""

    settings: Settings
    models: ModelRegistry
    scheduler: Scheduler
    decoding: DecodingPool
    """Processes that read media files for requests and jobs."""
    recognizers: Recognizers
    """Processes that recognise speech and screen text for jobs and operations."""
    observer: Observer
    caches: Caches
    auth: Authenticator
    concurrency: ConcurrencyLimiter
    rate_limiter: RateLimiter
    idempotency: Idempotency
    library: CollectionStore
    media: MediaStore
    previews: PreviewCache
    worker: JobWorker
    url_client: SafeClient | None
    """Fetches public URLs; None if the setting ``url_fetch`` is off."""
    operations: Operations
    broadcaster: Broadcaster
    """Event streams of jobs."""
    webhooks: Dispatcher | None
    """None if the setting ``webhooks`` is off."""
    queue_limiter: QueueLimiter
    """Rejects interactive requests that would be queued for too long."""
    inference_pool: Pool
    """Threads of interactive requests that decode media or wait for the model."""
    long_pool: Pool
    """Threads of requests that embed many clips; further ones are rejected."""
    io_pool: Pool
    """Threads of requests that read the catalogue or files."""
    search_pool: Pool
    """Threads that search in this process: few, since they compute and compete with the event loop for the GIL."""
    write_pool: Pool
    """Threads of requests that write to the catalogue or receive an upload."""
    upload_pool: Pool
    """Threads of requests that run the job of an upload."""
    resources: ExitStack
    """Closes the resources of the fields above."""
    stopping_since: float | None = None
    """Time at which the shutdown began, on the monotonic clock."""
    heartbeat_at: float = field(default_factory=time.monotonic)
    """Last heartbeat of the event loop, on the monotonic clock."""

    @property
    def model(self) -> Model:
        """The default model, which runs graphs directly, without the scheduler. Raises NotReady."""
        return self.models.get(None).model

    def request_shutdown(self) -> None:
        """Report the service as not ready, and start no further background work; requests are still answered."""
        if self.stopping_since is None:
            self.stopping_since = time.monotonic()
        self.worker.request_shutdown()
        self.operations.request_shutdown()
        self.models.request_shutdown()

    def close(self) -> None:
        """End decoding and recognition processes and inference threads, and close all files."""
        self.resources.close()

    async def run_heartbeat(self) -> None:
        """Record heartbeats of the event loop until cancelled."""
        while True:
            self.heartbeat_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def check_loop(self) -> None:
        """Raise NotReady if the event loop hangs."""
        seconds = time.monotonic() - self.heartbeat_at
        if seconds > MAX_HEARTBEAT_AGE:
            raise NotReady(f"the event loop has not responded for {seconds:.0f} s")

    def check_ready(self) -> None:
        """Raise NotReady if the default model is not ready, or background threads died."""
        self.models.get(None)
        self.check_threads()

    async def check_engine(self) -> None:
        """Raise NotReady if the default model runs on an inference server that does not respond."""
        model = self.models.get(None).model
        if model.is_remote:
            try:
                await to_thread.run_sync(model.check_ready)
            except EngineUnavailable as error:
                raise NotReady("the server that runs the model does not respond; see the log of the service") from error

    def check_threads(self) -> None:
        """Raise NotReady if an inference worker or a thread that runs jobs has died."""
        if not self.scheduler.is_alive:
            raise NotReady("an inference worker has died and is being replaced")
        if not self.worker.is_alive and self.stopping_since is None:
            raise NotReady("a thread that runs jobs has died; see the log of the service")

    def remaining_shutdown_seconds(self) -> float:
        """Return the seconds of ``shutdown_timeout`` that remain after the time taken by requests in flight."""
        timeout = self.settings.shutdown_timeout
        used = 0.0 if self.stopping_since is None else time.monotonic() - self.stopping_since
        return max(timeout * MIN_SHUTDOWN_FRACTION, timeout - used)

    def check_not_stopping(self) -> None:
        """Raise NotReady during a shutdown."""
        if self.stopping_since is not None:
            raise NotReady("the service is shutting down; send further requests elsewhere")

    def check_decoding(self) -> None:
        """Raise NotReady if no decoding process runs. Requests wait for the next one."""
        if not self.decoding.alive:
            raise NotReady("no decoding process is running; new ones are being started")

    def collection(self, name: str, *, for_model: bool = False) -> Collection:
        """Return an open collection. ``for_model``: raise NotReady or FingerprintMismatch unless its model is ready.

        Raises CollectionNotFound, FingerprintMismatch, NotReady and StorageError.
        """
        unknown = CollectionNotFound(f"collection {name[:80]!r}: there is no collection of this name")
        if not NAME_PATTERN.fullmatch(name):
            raise unknown
        try:
            collection = self.library.open(name)
        except CollectionNotFound as error:
            raise unknown from error  # the text of ``error`` contains a path of this machine
        if for_model:
            self.models.for_collection(collection)
        return collection

    def video(self, name: str, video_id: str) -> Video:
        """Return a video. Raises CollectionNotFound, VideoNotFound and StorageError."""
        return self.collection(name).get_video(parse_id(video_id, VideoNotFound, "video_id"))


# Coroutines, since FastAPI calls plain functions in a thread.
async def _app_state(request: Request) -> AppState:
    state: AppState = request.app.state.service
    return state


async def _ready_app_state(request: Request) -> AppState:
    state = await _app_state(request)
    state.check_threads()
    return state


AppStateDep = Annotated[AppState, Depends(_app_state)]
ReadyAppStateDep = Annotated[AppState, Depends(_ready_app_state)]
"""Dependency of routes that need a model or run jobs: 503 if the threads for these have died."""
