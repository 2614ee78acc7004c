"""Collections: made, listed, changed, dropped."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response

import index.collection
from service.app_state import AppState, AppStateDep
from service.http.api_keys import Key
from service.http.auth import CallerKey, requires
from service.http.idempotency import accepts_idempotency_key
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.library import Collection, CollectionChanges, Collections, NewCollection
from service.serializers import serialize_collection
from vitascope.errors import CollectionNotFound, StorageError

_log = logging.getLogger("vitascope.service")

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=StrictRoute)


@router.get("", summary="List collections", responses=errors(507))
@requires("read")
async def list_collections(service: AppStateDep, key: CallerKey) -> Collections:
    """All collections that the key is for, by name, with how much they hold and whether their models are loaded."""
    return await service.io_pool.run(_all, service, key)


@router.post("", status_code=201, summary="Make a collection", responses=errors(404, 409, 422, 503, 507))
@requires("admin")
@accepts_idempotency_key
async def create_collection(
    body: NewCollection, service: AppStateDep, key: CallerKey, response: Response
) -> Collection:
    """An empty collection for the default model, or for the one that is named."""
    key.require_collection(body.name)
    made = await service.write_pool.run(_create, service, body)
    response.headers["Location"] = f"/v1/collections/{made.name}"
    return made


@router.get("/{name}", summary="Get a collection", responses=errors(404, 507))
@requires("read")
async def get_collection(name: str, service: AppStateDep) -> Collection:
    """How much it holds, which model fills it, and which index is searched."""
    return await service.io_pool.run(lambda: _view(service, service.collection(name)))


@router.patch("/{name}", summary="Change a collection", responses=errors(404, 422, 507))
@requires("admin")
async def change_collection(name: str, body: CollectionChanges, service: AppStateDep) -> Collection:
    """Ask for another kind of index. It is built beside the searches, which go on in the old one until then; `index`
    says which one serves.
    """
    return await service.write_pool.run(_change, service, name, body)


@router.delete("/{name}", status_code=204, summary="Drop a collection", responses=errors(404, 507))
@requires("admin")
async def delete_collection(name: str, service: AppStateDep) -> None:
    """Delete a collection with all its clips, and the files that were uploaded to it; files in folders stay."""
    await service.write_pool.run(_drop, service, name)


def _all(service: AppState, key: Key) -> Collections:
    views, unreadable = [], []
    for name in filter(key.allows, service.library.names()):
        try:
            views.append(_view(service, service.library.open(name)))
        except CollectionNotFound:
            continue  # dropped a moment ago
        except StorageError as error:
            _log.error("collection %s: %s", name, error)
            unreadable.append(name)
    return Collections(collections=views, unreadable=unreadable)


def _view(service: AppState, collection: index.collection.Collection) -> Collection:
    return serialize_collection(collection, service.models.is_available(collection.fingerprint))


def _create(service: AppState, body: NewCollection) -> Collection:
    model = service.models.get_open(body.model)
    made = service.library.create(
        body.name, model.bundle.manifest, token_encoding=body.token_encoding, index_kind=body.index_kind
    )
    return _view(service, made)


def _change(service: AppState, name: str, changes: CollectionChanges) -> Collection:
    collection = service.collection(name)
    collection.set_index_kind(changes.index_kind)
    return _view(service, collection)


def _drop(service: AppState, name: str) -> None:
    service.collection(name)
    service.library.drop(name)
