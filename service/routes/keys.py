"""Routes of API keys and of the media cookie."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from service.app_state import AppState, AppStateDep
from service.errors import KeysOff
from service.http.api_keys import KeyStore
from service.http.auth import (
    MEDIA_COOKIE_PATH,
    MEDIA_COOKIE_SECONDS,
    CallerKey,
    media_cookie_name,
    requires,
    sign_media_cookie,
)
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.keys import CreatedKey, KeyInfo, KeyPermissions, Keys, NewKey

router = APIRouter(prefix="/v1", tags=["keys"], route_class=StrictRoute)


@router.get("/keys", summary="List keys", responses=errors(409, 507))
@requires("admin", all_collections=True)
async def list_keys(service: AppStateDep) -> Keys:
    """List all keys, including revoked ones, without their secrets."""
    store = _store(service)
    return Keys(keys=[KeyInfo(**key.to_dict()) for key in store.all()])


@router.get("/keys/self", summary="Get your permissions", responses=errors())
@requires("read")
async def get_key_permissions(service: AppStateDep, key: CallerKey) -> KeyPermissions:
    """Return what the caller's key permits, so that a client can hide what would be rejected."""
    is_required = service.auth.requires_keys
    return KeyPermissions(
        keys_required=is_required,
        id=key.id if is_required else None,
        name=key.name if is_required else None,
        scopes=key.ordered_scopes(),
        collections=None if key.collections is None else list(key.collections),
        expires_at=key.expires_at,
    )


@router.post("/keys", status_code=201, summary="Create a key", responses=errors(409, 422, 507))
@requires("admin", all_collections=True)
async def create_key(body: NewKey, service: AppStateDep, response: Response) -> CreatedKey:
    """Create a key. Only this response contains its secret."""
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
    return CreatedKey(**key.to_dict(), key=text)


@router.delete("/keys/{key_id}", summary="Revoke a key", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def revoke_key(key_id: str, service: AppStateDep) -> KeyInfo:
    """Revoke a key, with immediate effect. It stays in the list."""
    key = await service.io_pool.run(_store(service).revoke, key_id)
    return KeyInfo(**key.to_dict())


@router.post("/media-cookie", status_code=204, summary="Create a media cookie", responses=errors())
@requires("read", uses_model=False)
async def create_media_cookie(request: Request, service: AppStateDep, key: CallerKey, response: Response) -> None:
    """Set a cookie that authorizes GET of media and thumbnails for one hour, for tags such as `<video>`, which cannot
    send a key.
    """
    if service.auth.requires_keys:
        response.set_cookie(
            media_cookie_name(key),
            sign_media_cookie(key, time.time()),
            max_age=MEDIA_COOKIE_SECONDS,
            path=MEDIA_COOKIE_PATH,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def _store(service: AppState) -> KeyStore:
    if not service.auth.requires_keys:
        raise KeysOff("this service requires no keys; use `vitascope keys` on its machine")
    return service.auth.keys
