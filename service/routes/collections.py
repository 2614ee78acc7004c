"""Collections: made, listed, dropped."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response

from service.openapi import errors
from service.schemas.library import Collection, Collections, NewCollection
from service.state import Service, ServiceState
from service.views import collection_view
from vitascope.errors import CollectionNotFound, StorageError

_log = logging.getLogger("vitascope.service")

router = APIRouter(prefix="/v1/collections", tags=["collections"])


@router.get("", summary="List collections", responses=errors(507))
async def list_collections(service: ServiceState) -> Collections:
    """All collections by name, with how much they hold and whether the model in use fits them."""
    return await service.light.run(_all, service)


@router.post("", status_code=201, summary="Make a collection", responses=errors(409, 422, 507))
async def create_collection(body: NewCollection, service: ServiceState, response: Response) -> Collection:
    """An empty collection for the model in use."""
    made = await service.light.run(_create, service, body.name)
    response.headers["Location"] = f"/v1/collections/{made.name}"
    return made


@router.get("/{name}", summary="Look at a collection", responses=errors(404, 507))
async def get_collection(name: str, service: ServiceState) -> Collection:
    """How much it holds, and which model fills it."""
    return await service.light.run(lambda: collection_view(service.collection(name), service.fingerprint))


@router.delete("/{name}", status_code=204, summary="Drop a collection", responses=errors(404, 507))
async def delete_collection(name: str, service: ServiceState) -> None:
    """Delete a collection with all its clips, and the files that were uploaded to it; files in folders stay."""
    await service.light.run(_drop, service, name)


def _all(service: Service) -> Collections:
    views, unreadable = [], []
    for name in service.library.names():
        try:
            views.append(collection_view(service.library.open(name), service.fingerprint))
        except CollectionNotFound:
            continue  # dropped a moment ago
        except StorageError as error:
            _log.error("collection %s: %s", name, error)
            unreadable.append(name)
    return Collections(collections=views, unreadable=unreadable)


def _create(service: Service, name: str) -> Collection:
    with service.media.turn(name):
        return collection_view(service.library.create(name, service.model), service.fingerprint)


def _drop(service: Service, name: str) -> None:
    service.collection(name)
    folder = service.media.media / name
    with service.media.turn(name), service.media.intent(service.library, name, folder):
        service.library.drop(name)
