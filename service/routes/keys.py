"""API keys over HTTP, and the cookie with which the page plays media."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from service.app_state import AppState, AppStateDep
from service.errors import KeysOff
from service.http.api_keys import KeyStore
from service.http.auth import (
    MEDIA_COOKIE,
    MEDIA_COOKIE_PATH,
    MEDIA_COOKIE_SECONDS,
    CallerKey,
    requires,
    sign_media_cookie,
)
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.keys import KeyInfo, Keys, MadeKey, NewKey, Rights

router = APIRouter(prefix="/v1", tags=["keys"], route_class=StrictRoute)


@router.get("/keys", summary="List keys", responses=errors(409, 507))
@requires("admin", all_collections=True)
async def list_keys(service: AppStateDep) -> Keys:
    """All keys that were ever made, without their texts, which nobody has but those who got them."""
    store = _store(service)
    return Keys(keys=[KeyInfo(**key.to_dict()) for key in store.all()])


@router.get("/keys/self", summary="Get the caller's key", responses=errors())
@requires("read")
async def get_rights(service: AppStateDep, key: CallerKey) -> Rights:
    """What the key of this request may do, so that a program offers nothing that would be refused."""
    asks = service.auth.requires_keys
    shown = key.to_dict()
    return Rights(
        asks_for_keys=asks,
        id=shown["id"] if asks else None,
        name=shown["name"] if asks else None,
        scopes=shown["scopes"],
        collections=shown["collections"],
        expires_at=shown["expires_at"],
    )


@router.post("/keys", status_code=201, summary="Make a key", responses=errors(409, 422, 507))
@requires("admin", all_collections=True)
async def create_key(body: NewKey, service: AppStateDep, response: Response) -> MadeKey:
    """A new key. Its text is in this answer and nowhere else."""
    key, text = await service.io_pool.run(
        _store(service).create,
        body.name,
        body.scopes,
        collections=body.collections,
        rate=body.rate,
        concurrency=body.concurrency,
        expires_in=body.expires_in,
    )
    response.headers["Location"] = f"/v1/keys/{key.id}"
    response.headers["Cache-Control"] = "no-store"
    return MadeKey(**key.to_dict(), key=text)


@router.delete("/keys/{key_id}", summary="Revoke a key", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def revoke_key(key_id: str, service: AppStateDep) -> KeyInfo:
    """From this answer on the key is of no use. It stays in the list."""
    key = await service.io_pool.run(_store(service).revoke, key_id)
    return KeyInfo(**key.to_dict())


@router.post("/media-cookie", status_code=204, summary="Get a cookie for media", responses=errors())
@requires("read")
async def make_media_cookie(request: Request, service: AppStateDep, key: CallerKey, response: Response) -> None:
    """A cookie for one hour that stands for the key in GET of media and thumbnails and nowhere else, for tags such as
    `<video>`, which cannot send a key.
    """
    if service.auth.requires_keys:
        response.set_cookie(
            MEDIA_COOKIE,
            sign_media_cookie(key, time.time()),
            max_age=MEDIA_COOKIE_SECONDS,
            path=MEDIA_COOKIE_PATH,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def _store(service: AppState) -> KeyStore:
    if not service.auth.requires_keys:
        raise KeysOff("this service asks nobody for a key; `vitascope keys`, on its machine, was expected")
    return service.auth.keys
