"""What one running service holds: the models, the library, owned media, the job worker, and its threads."""

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
from service.http.auth import Authenticator
from service.http.idempotency import Idempotency
from service.http.limits import ConcurrencyLimiter, RateLimiter
from service.http.parameters import record_number
from service.http_client.client import SafeClient
from service.inference.model_caches import Caches
from service.inference.registry import Models
from service.inference.scheduler import Scheduler
from service.instrumentation import Observer
from service.load_shedding import QueueLimiter
from service.media_store import MediaStore
from service.operations import Operations
from service.pools import Pool
from service.settings import Settings
from service.webhooks.dispatcher import Dispatcher
from service.worker import JobWorker
from vitascope.errors import CollectionNotFound, EngineUnavailable
from vitascope.model import Model
from vitascope.sandbox.pool import DecodingPool

LOOP_SECONDS = 60.0
"""Without a turn of the event loop, after which the service counts as dead."""
LOOK_SECONDS = 1.0
"""Between two of the turns that are noted."""
LEAVING_SHARE = 0.2
"""Of the time for stopping: what a job has at least to leave its files in order, however long requests took."""


@dataclass
class Service:
    """Everything that routes work with; ``service.lifespan`` makes it."""

    settings: Settings
    models: Models
    scheduler: Scheduler
    decoding: DecodingPool
    """Processes that read media files for requests and jobs."""
    observer: Observer
    caches: Caches
    auth: Authenticator
    concurrency: ConcurrencyLimiter
    rate_limiter: RateLimiter
    idempotency: Idempotency
    library: CollectionStore
    media: MediaStore
    worker: JobWorker
    url_client: SafeClient | None
    """To hosts that nobody vouched for; None where ``url_fetch`` is off."""
    operations: Operations
    broadcaster: Broadcaster
    """Event streams of jobs."""
    webhooks: Dispatcher | None
    """None where the setting ``webhooks`` is off."""
    queue_limiter: QueueLimiter
    """Rejects interactive requests that would be queued for too long."""
    heavy: Pool
    """Threads for interactive requests that decode media or wait for the model."""
    light: Pool
    """Threads for requests that read the catalogue or files."""
    searches: Pool
    """Threads that search in this process: few, since they compute, and the event loop shares the interpreter."""
    writes: Pool
    """Threads for requests that write to the catalogue, and for what arrives of uploads."""
    ingestion: Pool
    """Threads for uploads that are indexed while the client waits."""
    resources: ExitStack
    """Closes what the fields above hold open."""
    stopping_since: float | None = None
    """On the monotonic clock; None while the service stays."""
    turned_at: float = field(default_factory=time.monotonic)
    """When the event loop that answers requests was last seen to turn, on the monotonic clock."""

    @property
    def model(self) -> Model:
        """The default, with engines of its own. Raises NotReady."""
        return self.models.named(None).model

    def begin_to_stop(self) -> None:
        """Be not ready any more, and begin nothing new in the background; requests are answered as before."""
        if self.stopping_since is None:
            self.stopping_since = time.monotonic()
        self.worker.begin_to_stop()
        self.operations.begin_to_stop()
        self.models.begin_to_stop()

    def close(self) -> None:
        """End decoding processes and inference threads, and close all files."""
        self.resources.close()

    async def note_turns(self) -> None:
        """Note that the event loop turns, until cancelled."""
        while True:
            self.turned_at = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)

    def check_loop(self) -> None:
        """Raise NotReady where the event loop that answers requests stands still."""
        seconds = time.monotonic() - self.turned_at
        if seconds > LOOP_SECONDS:
            raise NotReady(f"the loop that answers requests has stood still for {seconds:.0f} s")

    def check_ready(self) -> None:
        """Raise NotReady while the default does not serve, or ``check_works`` does."""
        self.models.named(None)
        self.check_works()

    async def check_engine(self) -> None:
        """Raise NotReady while the server that runs the graphs of the default, where one does, is not ready."""
        model = self.models.named(None).model
        if model.is_remote:
            try:
                await to_thread.run_sync(model.check_engine)
            except EngineUnavailable as error:
                raise NotReady(
                    "the server that runs the model does not answer; the log of the service says why"
                ) from error

    def check_works(self) -> None:
        """Raise NotReady while the thread that runs models, or the one that runs jobs, has died."""
        if not self.scheduler.is_alive:
            raise NotReady("the thread that runs the model has ended and is being replaced")
        if not self.worker.is_alive and self.stopping_since is None:
            raise NotReady("the thread that runs jobs has ended; the log of the service says why")

    def remaining_shutdown_seconds(self) -> float:
        """Return what is left of ``shutdown_timeout``, of which requests in flight have used a part."""
        most = self.settings.shutdown_timeout
        used = 0.0 if self.stopping_since is None else time.monotonic() - self.stopping_since
        return max(most * LEAVING_SHARE, most - used)

    def check_staying(self) -> None:
        """Raise NotReady once the service has been told to stop."""
        if self.stopping_since is not None:
            raise NotReady("the service is stopping; what comes now is answered still, by a connection that closes")

    def check_decoding(self) -> None:
        """Raise NotReady while there is no process that decodes. Requests wait for the next one; it comes soon."""
        if not self.decoding.alive:
            raise NotReady("no process that decodes is running; they are being started again")

    def collection(self, name: str, *, for_model: bool = False) -> Collection:
        """An open collection; ``for_model``: only if the model that fills it serves.

        Raises CollectionNotFound, FingerprintMismatch, NotReady and StorageError.
        """
        unknown = CollectionNotFound(f"collection {name[:80]!r}: there is no collection of this name")
        if not NAME_PATTERN.fullmatch(name):
            raise unknown
        try:
            collection = self.library.open(name)
        except CollectionNotFound as error:
            raise unknown from error  # whose text names a path of this machine
        if for_model:
            self.models.of(collection)
        return collection

    def video(self, name: str, video_id: str) -> Video:
        """A video. Raises CollectionNotFound, VideoNotFound and StorageError."""
        return self.collection(name).get_video(record_number(video_id))


# Not plain functions: those would each cost a request a way through a thread.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _ready_service(request: Request) -> Service:
    service = await _service(request)
    service.check_works()
    return service


ServiceState = Annotated[Service, Depends(_service)]
ReadyService = Annotated[Service, Depends(_ready_service)]
"""For routes that need a model: 503 while the threads that run models and jobs are not there."""
