"""API keys over HTTP, and the cookie with which the page plays media."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from service.app_state import Service, ServiceState
from service.http import media_cookie
from service.http.api_keys import KeyStore
from service.http.errors import KeysOff
from service.http.gate import CallersKey
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.keys import KeyInfo, Keys, MadeKey, NewKey, Rights

router = APIRouter(prefix="/v1", tags=["keys"], route_class=StrictRoute)


@router.get("/keys", summary="List keys", responses=errors(409, 507))
async def list_keys(service: ServiceState) -> Keys:
    """All keys that were ever made, without their texts, which nobody has but those who got them."""
    store = _store(service)
    return Keys(keys=[KeyInfo(**key.shown()) for key in store.listed()])


@router.get("/keys/self", summary="Look at the caller's key", responses=errors())
async def get_rights(service: ServiceState, key: CallersKey) -> Rights:
    """What the key of this request may do, so that a program offers nothing that would be refused."""
    asks = service.gate.asks_for_keys
    shown = key.shown()
    return Rights(
        asks_for_keys=asks,
        id=shown["id"] if asks else None,
        name=shown["name"] if asks else None,
        scopes=shown["scopes"],
        collections=shown["collections"],
        expires_at=shown["expires_at"],
    )


@router.post("/keys", status_code=201, summary="Make a key", responses=errors(409, 422, 507))
async def create_key(body: NewKey, service: ServiceState, response: Response) -> MadeKey:
    """A new key. Its text is in this answer and nowhere else."""
    key, text = await service.light.run(
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
    return MadeKey(**key.shown(), key=text)


@router.delete("/keys/{key_id}", summary="Revoke a key", responses=errors(404, 409, 507))
async def revoke_key(key_id: str, service: ServiceState) -> KeyInfo:
    """From this answer on the key is of no use. It stays in the list."""
    key = await service.light.run(_store(service).revoke, key_id)
    return KeyInfo(**key.shown())


@router.post("/media-cookie", status_code=204, summary="Get a cookie for media", responses=errors())
async def make_media_cookie(request: Request, service: ServiceState, key: CallersKey, response: Response) -> None:
    """A cookie for one hour that stands for the key in GET of media and thumbnails and nowhere else, for tags such as
    `<video>`, which cannot send a key.
    """
    if service.gate.asks_for_keys:
        response.set_cookie(
            media_cookie.NAME,
            media_cookie.made(key, time.time()),
            max_age=media_cookie.SECONDS,
            path=media_cookie.PATH,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def _store(service: Service) -> KeyStore:
    if not service.gate.asks_for_keys:
        raise KeysOff("this service asks nobody for a key; `vitascope keys`, on its machine, was expected")
    return service.gate.keys
