"""The lifetime of a service: opening its parts, running its background work, and stopping and closing everything."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from functools import partial

from index.collection_store import CollectionStore
from service.app_state import AppState
from service.events import Broadcaster
from service.files import MediaStore
from service.http.api_keys import KeyStore
from service.http.auth import Authenticator
from service.http.idempotency import Idempotency, IdempotencyStore
from service.http.limits import ConcurrencyLimiter, Pool, QueueLimiter, RateLimiter
from service.http_client.client import SafeClient
from service.inference.cache import open_caches
from service.inference.models import GraphRouter, initial_entries, read_state
from service.inference.registry import ModelRegistry
from service.inference.scheduler import BatchLimits, Scheduler
from service.observability import Metrics, Observer, RecognitionMetrics, create_tracer
from service.operations import OperationResources, Operations, preload_pyarrow, run_operation
from service.previews import PreviewCache
from service.settings import Settings
from service.webhooks.dispatcher import Dispatcher
from service.webhooks.store import WebhookStore
from service.worker import JobWorker
from vitascope.errors import VitascopeError
from vitascope.sandbox.pool import DecodingPool
from vitascope.sandbox.recognition import KINDS
from vitascope.sandbox.recognizers import Recognizers

MIN_ACCEPTED = 16
"""Concurrent interactive requests that are always accepted, so that a few users are never rejected."""
OPERATION_SECONDS = 5.0
"""Seconds for an operation or a webhook delivery to end at shutdown; the next start continues both."""
LOADING_SECONDS = 5.0
"""Seconds to wait at shutdown for a model that is being loaded."""


def open_service(
    settings: Settings, *, url_client: SafeClient | None = None, webhook_client: SafeClient | None = None
) -> AppState:
    """Open bundles, data and databases, and complete what a killed service left unfinished.

    Args:
        settings: Settings of the service.
        url_client, webhook_client: HTTP clients to use instead of the default ones, if the settings enable URLs and
            webhooks.

    Raises:
        BundleError, StorageError: A bundle or the data folder cannot be used.
        Busy: Another service uses the data folder.
    """
    state = read_state(settings.data_dir)
    entries = initial_entries(settings, state)  # before anything is written, so that a broken bundle changes nothing
    preload_pyarrow()
    observer = Observer(Metrics(), create_tracer(settings))
    with ExitStack() as stack:
        media = stack.enter_context(closing(MediaStore(settings.data_dir.absolute(), settings.min_free_bytes)))
        keys = stack.enter_context(closing(KeyStore(settings.data_dir, settings.admin_digest())))
        responses = stack.enter_context(closing(IdempotencyStore(settings.data_dir, settings.max_idempotency_keys)))
        library = stack.enter_context(closing(_open_collections(settings)))
        webhooks = _open_webhooks(settings, library, webhook_client, stack) if settings.webhooks == "on" else None
        router = GraphRouter()
        scheduler = stack.enter_context(closing(_create_scheduler(settings, router, observer)))
        decoding = stack.enter_context(closing(_create_decoding_pool(settings, observer)))
        caches = open_caches(settings, observer.metrics)
        models = ModelRegistry(entries, state, router, scheduler, decoding, caches, settings)
        url_client = (url_client or SafeClient(settings.url_policy())) if settings.url_fetch == "on" else None
        recognizers = stack.enter_context(_create_recognizers(settings, observer))
        worker = JobWorker(library, models, settings, recognizers, None if url_client is None else url_client.fetch)
        service = AppState(
            settings=settings,
            models=models,
            scheduler=scheduler,
            decoding=decoding,
            recognizers=recognizers,
            observer=observer,
            caches=caches,
            auth=Authenticator(keys, requires_keys=not settings.allow_unauthenticated),
            concurrency=ConcurrencyLimiter(
                settings.max_requests, settings.max_requests_bytes, settings.max_writes, settings.max_body_bytes
            ),
            rate_limiter=RateLimiter(),
            idempotency=Idempotency(responses),
            library=library,
            media=media,
            previews=PreviewCache(settings.data_dir.absolute() / "previews", settings.preview_cache_bytes),
            worker=worker,
            url_client=url_client,
            operations=_open_operations(settings, library, models, worker, recognizers),
            broadcaster=Broadcaster(library.open, settings.max_streams, settings.client_streams),
            webhooks=webhooks,
            queue_limiter=QueueLimiter(max(MIN_ACCEPTED, 2 * settings.decode_process_count()), settings.queue_timeout),
            inference_pool=Pool("model", settings.request_threads, settings.max_queue),
            long_pool=Pool("long", max(1, settings.request_threads // 2), queue=0),
            io_pool=Pool("files", settings.io_threads, settings.max_queue),
            search_pool=Pool("searches", (os.cpu_count() or 1) + 1, settings.max_queue),
            write_pool=Pool("writes", settings.write_threads, settings.max_requests),
            upload_pool=Pool("uploads", *settings.upload_pool_size()),
            resources=stack.pop_all(),
        )
    _bind_gauges(service)
    return service


def _open_collections(settings: Settings) -> CollectionStore:
    """Open all collections, which also completes their interrupted changes."""
    library = CollectionStore(settings.data_dir / "collections", vectors=settings.vector_store, holds_lock=True)
    for name in library.names():
        with suppress(VitascopeError):  # reported where the collection is used
            library.open(name)
    return library


def _open_webhooks(
    settings: Settings, library: CollectionStore, client: SafeClient | None, stack: ExitStack
) -> Dispatcher:
    store = stack.enter_context(closing(WebhookStore(settings.data_dir)))
    client = client or SafeClient(settings.webhook_policy())
    return Dispatcher(store, library, client, settings.webhook_retry_seconds)


def _create_scheduler(settings: Settings, router: GraphRouter, observer: Observer) -> Scheduler:
    return Scheduler(
        router.run,
        observer,
        BatchLimits(settings.max_batch_size, settings.max_batch_tokens),
        workers=settings.inference_workers or 1,  # the registry adds as many as suit a model once it is loaded
        max_queue=settings.max_queue,
        max_queue_bytes=settings.max_queue_bytes,
    )


def _create_decoding_pool(settings: Settings, observer: Observer) -> DecodingPool:
    return DecodingPool(
        settings.decode_process_count(),
        memory_bytes=settings.decode_memory_bytes,
        seconds=settings.decode_timeout,
        observer=observer.metrics,
    )


def _create_recognizers(settings: Settings, observer: Observer) -> Recognizers:
    return Recognizers(
        settings.recognizers(),
        is_restricted=True,
        threads=settings.recognition_threads,
        memory_bytes=settings.recognition_memory_bytes,
        time_factor=settings.recognition_time_factor,
        observe=lambda kind: RecognitionMetrics(observer.metrics, kind),
    )


def _open_operations(
    settings: Settings,
    library: CollectionStore,
    models: ModelRegistry,
    worker: JobWorker,
    recognizers: Recognizers,
) -> Operations:
    folder = (settings.operations_dir or settings.data_dir / "operations").absolute()
    resources = OperationResources(library, models, worker, recognizers, settings)
    return Operations(folder, settings.max_operations, partial(run_operation, resources))


@asynccontextmanager
async def run_service(service: AppState) -> AsyncIterator[None]:
    """Run the background work of a service in the context; then stop it and close the service.

    Parts are stopped in reverse order: first jobs and operations, then the models and decoding processes that they use.
    The server must have finished the requests in flight before.
    """
    async with AsyncExitStack() as stack:

        async def run(start: Callable[[], None], stop: Callable[[float], None], max_seconds: float) -> None:
            await asyncio.to_thread(start)
            stack.push_async_callback(
                asyncio.to_thread, lambda: stop(min(max_seconds, service.remaining_shutdown_seconds()))
            )

        stack.push_async_callback(asyncio.to_thread, service.close)
        await asyncio.to_thread(service.decoding.start)
        await asyncio.to_thread(service.recognizers.start)
        if service.webhooks is not None:
            await run(service.webhooks.start, service.webhooks.stop, OPERATION_SECONDS)
        await run(
            partial(service.models.start, service.worker.submit_for), service.models.stop, LOADING_SECONDS
        )  # a loaded model submits its unfinished jobs
        await run(service.operations.start, service.operations.stop, OPERATION_SECONDS)
        await run(service.worker.start, service.worker.stop, service.settings.shutdown_timeout)
        stack.callback(service.request_shutdown)
        heartbeat = asyncio.create_task(service.run_heartbeat())
        stack.callback(heartbeat.cancel)
        yield


def _bind_gauges(service: AppState) -> None:
    """Bind gauges to functions that return their values."""
    bind, scheduler, decoding = service.observer.metrics.bind_gauge, service.scheduler, service.decoding
    bind("vitascope_calls_waiting", scheduler.queue_length)
    bind("vitascope_models_failed", service.models.failed_count)
    bind("vitascope_inference_restarts", lambda: scheduler.restarts)
    bind("vitascope_body_bytes_in_flight", lambda: service.concurrency.bytes)
    bind("vitascope_decoding_processes", lambda: decoding.alive)
    bind("vitascope_decoding_waiting", lambda: decoding.queue_length)
    for kind in KINDS:
        service.observer.metrics.bind_recognizer(kind, partial(service.recognizers.is_ready, kind))
    bind("vitascope_event_streams", lambda: service.broadcaster.open_streams)
    if service.webhooks is not None:
        bind("vitascope_webhooks_pending", service.webhooks.store.pending)
