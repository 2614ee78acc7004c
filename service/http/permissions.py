"""What a request needs, told by its method and path alone: before a byte of its body is read."""

from __future__ import annotations

from dataclasses import dataclass

from service.http.api_keys import Scope

HEALTH = frozenset({"/livez", "/readyz"})
"""Never refused and never counted: whoever watches over the service must get an answer."""
_OPEN = frozenset({"/", "/openapi.json", *HEALTH})
_ASKING = frozenset({"search", "embeddings"})
_CONTENT = frozenset({"videos", "jobs", "clips"})
_PICTURES = frozenset({"media", "thumbnail"})


@dataclass(frozen=True)
class Need:
    """``scope``: None for what is open to everybody. ``collection``: the one that the path names."""

    scope: Scope | None
    collection: str | None = None
    is_picture: bool = False
    """Whether the page's media cookie is enough."""
    every_collection: bool = False
    """Whether a key that is for some collections only is not enough."""


def needed(method: str, path: str) -> Need:
    """What a request needs. What nobody thought of here needs the admin scope."""
    if path in _OPEN or path.startswith("/static/"):
        return Need(None)
    reads = method in ("GET", "HEAD")
    parts = path.strip("/").split("/")
    match parts:
        case ["v1", "collections"]:
            return Need("read" if reads else "admin")
        case ["v1", "collections", name]:
            return Need("read" if reads else "admin", name)
        case ["v1", "collections", name, "videos", _, last] if reads and last in _PICTURES:
            return Need("read", name, is_picture=True)
        case ["v1", "collections", name, kind, *_] if reads or kind in _ASKING:
            return Need("read", name)
        case ["v1", "collections", name, kind, *_] if kind in _CONTENT:
            return Need("write", name)
        case ["v1", "collections", name, *_]:
            return Need("admin", name)
        case ["v1", "caption-scores" | "answers" | "embeddings" | "rerank" | "media-cookie"]:
            return Need("read")
        case ["v1", "models"] | ["v1", "models", _] | ["v1", "keys", "self"] if reads:
            return Need("read")
        case _:  # keys, models, metrics, webhooks, operations, whose files are whole collections, and what is new
            return Need("admin", every_collection=True)
