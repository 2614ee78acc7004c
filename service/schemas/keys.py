"""API keys. Times are Unix seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from service.http.api_keys import Scope
from service.schemas.base import Int, Request, Response, example

EXAMPLE = {
    "id": "3f9c01d2a4b7",
    "name": "the portal",
    "scopes": ["read"],
    "collections": ["holidays"],
    "rate": 20.0,
    "concurrency": 8,
    "created_at": 1764094000.0,
    "last_used_at": None,
    "expires_at": 1771870000.0,
    "revoked_at": None,
}


class NewKey(Request):
    """API key to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "the portal", "scopes": ["read"], "collections": ["holidays"], "rate": 20.0}]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=100, description="purpose of the key")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)]
    collections: Annotated[
        list[str] | None, Field(min_length=1, max_length=1000, description="allowed collections; null: all")
    ] = None
    rate: Annotated[float | None, Field(gt=0, le=1e6, description="requests per second; null: as in the settings")] = (
        None
    )
    concurrency: Annotated[
        Int | None, Field(ge=1, le=1_000_000, description="concurrent requests; null: as in the settings")
    ] = None
    expires_in: Annotated[float | None, Field(gt=0, lt=1e10, description="seconds from now; null: never")] = None


class KeyInfo(Response):
    """API key, without its secret."""

    model_config = example(**EXAMPLE)

    id: str
    name: str
    scopes: list[Scope]
    collections: Annotated[list[str] | None, Field(description="allowed collections; null: all")]
    rate: Annotated[float | None, Field(description="requests per second; null: as in the settings")]
    concurrency: Annotated[int | None, Field(description="concurrent requests; null: as in the settings")]
    created_at: float
    last_used_at: Annotated[float | None, Field(description="last use, accurate to ten minutes; null: never used")]
    expires_at: float | None
    revoked_at: float | None


class CreatedKey(KeyInfo):
    """New API key with its secret."""

    model_config = example(**EXAMPLE, key="vsk_3f9c01d2a4b7_…")

    key: Annotated[str, Field(description="the secret, to be sent as bearer token; no other response contains it")]


class Keys(Response):
    """All keys, oldest first."""

    model_config = example(keys=[EXAMPLE])

    keys: list[KeyInfo]


class KeyPermissions(Response):
    """Permissions of the caller's key."""

    model_config = example(
        keys_required=True,
        id="3f9c01d2a4b7",
        name="the portal",
        scopes=["read"],
        collections=["holidays"],
        expires_at=None,
    )

    keys_required: Annotated[
        bool, Field(description="whether the service requires keys; if not, everything is permitted")
    ]
    id: Annotated[str | None, Field(description="id of the caller's key; null if none is required")]
    name: Annotated[str | None, Field(description="name of the caller's key")]
    scopes: list[Scope]
    collections: Annotated[list[str] | None, Field(description="allowed collections; null: all")]
    expires_at: float | None
