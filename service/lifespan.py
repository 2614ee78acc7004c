"""Opening a service: everything that it holds, made in the order in which one needs another."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from functools import partial

from index.collection_store import Library
from service.app_state import Service
from service.backlog import Backlog
from service.events.broadcaster import Feeds
from service.http.api_keys import KeyStore
from service.http.auth import Authenticator
from service.http.idempotency import Idempotency, IdempotencyStore
from service.http.limits import ConcurrencyLimiter, RateLimiter
from service.http_client.for_jobs import fetch_for_job
from service.http_client.safe_client import Door
from service.inference.batching import BatchLimits
from service.inference.loaded_model import Engines
from service.inference.model_caches import open_caches
from service.inference.model_entry import entries_at_start
from service.inference.registry import Models
from service.inference.registry_state import read_record
from service.inference.scheduler import Scheduler
from service.instrumentation import Observer
from service.media_store import MediaStore
from service.metrics import Metrics
from service.operation_work import do, load_what_exports_need
from service.operations import Operations
from service.pools import Pool
from service.settings import Settings
from service.tracing import tracer_for
from service.webhooks.dispatcher import Courier
from service.webhooks.store import WebhookStore
from service.worker import JobWorker
from vitascope.errors import VitascopeError
from vitascope.sandbox.pool import DecodingPool

AT_ONCE = 16
"""Interactive requests that are always taken: a few people who ask for much are not to be sent away."""


def open_service(settings: Settings, door: Door | None = None, *, webhook_door: Door | None = None) -> Service:
    """Open the bundles and the library and finish what a killed service left half done.

    ``door``, ``webhook_door``: others than the settings' own, where ``url_fetch`` and ``webhooks`` are on. Raises
    BundleError and its kinds, StorageError, and Busy when another service has the data folder.
    """
    # First, so that a broken bundle is named before anything is written.
    record = read_record(settings.data_dir)
    entries = entries_at_start(settings, record)
    engines = Engines()
    load_what_exports_need()
    observer = Observer(Metrics(), tracer_for(settings))
    scheduler = _scheduler(settings, engines, observer)
    decoding = _decoding(settings, observer)
    caches = open_caches(settings, observer.metrics)
    models = Models(entries, record, engines, scheduler, decoding, caches, settings)
    with ExitStack() as undo:
        undo.callback(scheduler.close)
        media = MediaStore(settings.data_dir.absolute())
        undo.callback(media.close)
        library = Library(settings.data_dir / "collections", vectors=settings.vectors, holds_lock=True)
        undo.callback(library.close)
        for name in library.names():
            with suppress(VitascopeError):  # said where it is used
                library.open(name)  # and remove what a killed service has left to be removed
        door = (door or Door(settings.url_rules())) if settings.url_fetch == "on" else None
        worker = JobWorker(library, models, settings, None if door is None else partial(fetch_for_job, door))
        operations = Operations(
            (settings.operations_dir or settings.data_dir / "operations").absolute(),
            settings.max_operations,
            partial(do, library, models, worker, settings),
        )
        keys = KeyStore(settings.data_dir, settings.admin_digest())
        undo.callback(keys.close)
        idempotency = Idempotency(IdempotencyStore(settings.data_dir, settings.max_kept_answers))
        undo.callback(idempotency.store.close)
        courier = _courier(settings, library, webhook_door)
        undo.pop_all()
    service = Service(
        settings=settings,
        models=models,
        scheduler=scheduler,
        decoding=decoding,
        observer=observer,
        caches=caches,
        auth=Authenticator(keys, requires_keys=not settings.allow_unauthenticated),
        concurrency=ConcurrencyLimiter(
            settings.max_requests, settings.max_requests_bytes, settings.max_writes, settings.max_body_bytes
        ),
        rate_limiter=RateLimiter(),
        idempotency=idempotency,
        library=library,
        media=media,
        worker=worker,
        door=door,
        operations=operations,
        feeds=Feeds(library.open, settings.max_streams, settings.client_streams),
        courier=courier,
        backlog=Backlog(max(AT_ONCE, 2 * settings.processes()), settings.queue_seconds),
        heavy=Pool("model", settings.workers, settings.max_waiting),
        light=Pool("files", settings.readers, settings.max_waiting),
        searches=Pool("searches", (os.cpu_count() or 1) + 1, settings.max_waiting),
        writes=Pool("writes", settings.writers, settings.max_requests),
        ingestion=Pool("ingestion", *settings.upload_places()),
    )
    _show(service)
    return service


def _scheduler(settings: Settings, engines: Engines, observer: Observer) -> Scheduler:
    return Scheduler(
        engines.run,
        observer,
        BatchLimits(settings.batch_rows, settings.batch_tokens),
        lanes=settings.lanes or 1,  # and as many as suit a model once it is seen where its graphs run
        max_waiting=settings.max_waiting,
        max_waiting_bytes=settings.max_waiting_bytes,
    )


def _decoding(settings: Settings, observer: Observer) -> DecodingPool:
    return DecodingPool(
        settings.processes(),
        memory_bytes=settings.decoding_memory_bytes,
        seconds=settings.decoding_seconds,
        observer=observer.metrics,
    )


def _courier(settings: Settings, library: Library, door: Door | None) -> Courier | None:
    """Who tells others that jobs have ended, through ``door`` or the settings' own; None where ``webhooks`` is off."""
    if settings.webhooks != "on":
        return None
    store = WebhookStore(settings.data_dir)
    return Courier(store, library, door or Door(settings.webhook_rules()), settings.webhook_retry_seconds)


def _show(service: Service) -> None:
    """Gauges of what a service holds, asked for at every scrape."""
    show, scheduler, decoding = service.observer.metrics.show, service.scheduler, service.decoding
    show("vitascope_calls_waiting", "Calls that wait for the model", scheduler.waiting)
    show("vitascope_models_failed", "Models that should serve and could not be loaded", service.models.failed)
    show("vitascope_inference_restarts", "Deaths of the model's thread", lambda: scheduler.restarts)
    show("vitascope_body_bytes_in_flight", "Of bodies under way", lambda: service.concurrency.bytes)
    show("vitascope_decoding_processes", "Decoding processes that are ready or at work", lambda: decoding.alive)
    show("vitascope_decoding_waiting", "Tasks that wait for a decoding process", lambda: decoding.queue_length)
    show("vitascope_event_streams", "Event streams that are open", lambda: service.feeds.open)
    if service.courier is not None:
        show("vitascope_webhooks_pending", "Messages that were not taken yet", service.courier.store.pending)
