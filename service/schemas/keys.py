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
    """A key to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "the portal", "scopes": ["read"], "collections": ["holidays"], "rate": 20.0}]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=100, description="what it is for")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)]
    collections: Annotated[list[str] | None, Field(min_length=1, max_length=1000, description="null: all")] = None
    rate: Annotated[float | None, Field(gt=0, le=1e6, description="requests a second; null: as the settings say")] = (
        None
    )
    concurrency: Annotated[
        Int | None, Field(ge=1, le=1_000_000, description="requests under way; null: as the settings say")
    ] = None
    expires_in: Annotated[float | None, Field(gt=0, lt=1e10, description="seconds from now; null: never")] = None


class KeyInfo(Response):
    """A key, without its text."""

    model_config = example(**EXAMPLE)

    id: str
    name: str
    scopes: list[Scope]
    collections: Annotated[list[str] | None, Field(description="null: all")]
    rate: Annotated[float | None, Field(description="requests a second; null: as the settings say")]
    concurrency: Annotated[int | None, Field(description="requests under way; null: as the settings say")]
    created_at: float
    last_used_at: Annotated[float | None, Field(description="to ten minutes")]
    expires_at: float | None
    revoked_at: float | None


class MadeKey(KeyInfo):
    """A key that was made just now."""

    model_config = example(**EXAMPLE, key="vsk_3f9c01d2a4b7_…")

    key: Annotated[str, Field(description="the key's text, which is shown only here")]


class Keys(Response):
    """All keys that were ever made, oldest first."""

    model_config = example(keys=[EXAMPLE])

    keys: list[KeyInfo]


class Rights(Response):
    """What the caller may do."""

    model_config = example(
        asks_for_keys=True,
        id="3f9c01d2a4b7",
        name="the portal",
        scopes=["read"],
        collections=["holidays"],
        expires_at=None,
    )

    asks_for_keys: Annotated[bool, Field(description="whether the service asks for keys; if not, everybody may do all")]
    id: Annotated[str | None, Field(description="of the caller's key; null without one")]
    name: Annotated[str | None, Field(description="what the key is for")]
    scopes: list[Scope]
    collections: Annotated[list[str] | None, Field(description="null: all")]
    expires_at: float | None
