"""Collections: create, list, change, drop."""

from __future__ import annotations

import logging
from contextlib import suppress

from fastapi import APIRouter, Response

import index.collection
from index.jobs.captioning import check_caption_task
from index.jobs.jobs import cancel_all
from index.jobs.recognition import check_recognizers
from index.jobs.recognition_settings import (
    RecognitionSettings,
    merge_settings,
    read_recognition_settings,
    write_recognition_settings,
)
from service.app_state import AppState, AppStateDep
from service.http.api_keys import Key
from service.http.auth import CallerKey, requires
from service.http.idempotency import accepts_idempotency_key
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.library import Collection, CollectionChanges, Collections, Facets, NewCollection
from service.serializers import serialize_collection, serialize_facets
from vitascope.errors import CollectionNotFound, StorageError

_log = logging.getLogger("vitascope.service")

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=StrictRoute)


@router.get("", summary="List collections", responses=errors(507))
@requires("read")
async def list_collections(service: AppStateDep, key: CallerKey) -> Collections:
    """All collections that the key may use, by name, with their sizes and whether their models are loaded."""
    return await service.io_pool.run(_list, service, key)


@router.post("", status_code=201, summary="Create a collection", responses=errors(404, 409, 422, 503, 507))
@requires("admin")
@accepts_idempotency_key
async def create_collection(
    body: NewCollection, service: AppStateDep, key: CallerKey, response: Response
) -> Collection:
    """Create an empty collection for the default model, or the named one."""
    key.require_collection(body.name)
    created = await service.write_pool.run(_create, service, body)
    response.headers["Location"] = f"/v1/collections/{created.name}"
    return created


@router.get("/{name}", summary="Get a collection", responses=errors(404, 507))
@requires("read")
async def get_collection(name: str, service: AppStateDep) -> Collection:
    """A collection with its size, model and index."""
    return await service.io_pool.run(lambda: _serialize(service, service.collection(name)))


@router.get("/{name}/facets", summary="Get facets", responses=errors(404, 507))
@requires("read")
async def get_facets(name: str, service: AppStateDep) -> Facets:
    """Folders, dates, durations and metadata that the videos can be filtered by, with the number of videos of each."""
    return await service.io_pool.run(lambda: serialize_facets(service.collection(name).facets()))


@router.patch("/{name}", summary="Change a collection", responses=errors(404, 409, 422, 507))
@requires("admin")
async def change_collection(name: str, body: CollectionChanges, service: AppStateDep) -> Collection:
    """Change the kind of index, which is built in the background (`index` shows the one in use), the stemming of words,
    or what later jobs recognise.
    """
    return await service.write_pool.run(_change, service, name, body)


@router.delete("/{name}", status_code=204, summary="Drop a collection", responses=errors(404, 507))
@requires("admin")
async def delete_collection(name: str, service: AppStateDep) -> None:
    """Delete a collection with its videos and media files; indexed files in other folders stay."""
    await service.write_pool.run(_drop, service, name)


def _list(service: AppState, key: Key) -> Collections:
    collections, unreadable = [], []
    for name in filter(key.allows, service.library.names()):
        try:
            collections.append(_serialize(service, service.library.open(name)))
        except CollectionNotFound:
            continue  # dropped meanwhile
        except StorageError as error:
            _log.error("collection %s: %s", name, error)
            unreadable.append(name)
    return Collections(collections=collections, unreadable=unreadable)


def _serialize(service: AppState, collection: index.collection.Collection) -> Collection:
    default_rerank = min(service.models.default_rerank(collection), service.settings.max_rerank)
    return serialize_collection(collection, service.models.is_available(collection.fingerprint), default_rerank)


def _create(service: AppState, body: NewCollection) -> Collection:
    model = service.models.get_open(body.model)
    recognition = merge_settings(
        RecognitionSettings(), transcribe=body.transcribe, read_text=body.read_text, caption=body.caption
    )
    check_recognizers(recognition, service.recognizers)
    if recognition.caption:
        check_caption_task(model.bundle.manifest)
    collection = service.library.create(
        body.name,
        model.bundle.manifest,
        token_encoding=body.token_encoding,
        index_kind=body.index_kind,
        dimensions=body.dimensions,
        stemming=body.stemming,
    )
    write_recognition_settings(collection, recognition)
    return _serialize(service, collection)


def _change(service: AppState, name: str, changes: CollectionChanges) -> Collection:
    collection = service.collection(name)
    settings = read_recognition_settings(collection)
    changed = merge_settings(
        settings, transcribe=changes.transcribe, read_text=changes.read_text, caption=changes.caption
    )
    if changed != settings:
        check_recognizers(changed, service.recognizers)
        if changed.caption:
            check_caption_task(service.models.for_collection(collection).bundle.manifest)
    if changes.index_kind is not None:
        collection.set_index_kind(changes.index_kind)  # raises InvalidInput before anything is changed
    if changed != settings:
        write_recognition_settings(collection, changed)
    if changes.stemming is not None:
        collection.set_stemming(changes.stemming)
    return _serialize(service, collection)


def _drop(service: AppState, name: str) -> None:
    with suppress(StorageError):  # a damaged one can be dropped, too
        collection = service.collection(name)
        if service.webhooks is not None:
            cancel_all(collection)  # so that messages are sent about unfinished jobs, too
            service.webhooks.queue_messages(collection)
    service.library.drop(name)
    service.previews.remove("")  # some may show its videos
