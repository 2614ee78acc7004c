"""How the interface describes itself: errors of every route, bodies read by hand, one document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from service.http.auth import permission_of
from service.http.idempotency import is_idempotent
from service.http.prefer_header import PREFER
from service.http.problems import CONTENT_TYPE, TYPE_PREFIX, title_of
from service.schemas.base import Problem
from service.schemas.embeddings import EmbeddingRequest
from service.schemas.library import UploadFields, VideoAtUrl
from service.schemas.search import SearchForm, SearchRequest

MEANING = {
    400: ("bad_request", "The request cannot be read."),
    403: ("path_forbidden", "Outside of what the key, or the service, may read."),
    404: ("collection_not_found", "There is no such thing."),
    409: ("fingerprint_mismatch", "The state of things does not allow this."),
    413: ("payload_too_large", "Larger than a limit in bytes, pixels, seconds or frames."),
    415: ("media_unsupported", "A type of body or media that is not read here."),
    416: ("range_not_satisfiable", "The range names no byte of the file."),
    422: ("validation_failed", "A value is not what was expected; the answer names it."),
    429: ("too_many_at_once", "More than this client may have at once."),
    503: ("not_ready", "Model, decoders or vectors are not there now; trying again may help."),
    507: ("storage_error", "Storage failed; nothing was acknowledged."),
}

DESCRIPTION = """\
Search, check and question video. Three numbers are kept apart everywhere:

* **similarity**: cosine of the vectors of query and clip, -1 to 1; cheap, what a search ranks by
* **match**: calibrated probability, by the fusion model, that the text describes the clip
* **fused**: both together, 0 to 1; what results are ranked by after reranking

Errors are problem details (RFC 9457) with a stable `code`. Times are seconds, sizes are bytes or pixels. Ids
and cursors are opaque.

Requests carry an API key, as `Authorization: Bearer vsk_…` or as `X-API-Key: vsk_…`, unless the service was told to
ask for none. A key has scopes: `read` (list, look at, search, score, ask), `write` (upload, index, delete videos),
`admin` (collections, models, operations, keys, metrics). POST of collections, videos, jobs and operations takes an
`Idempotency-Key`: repeated with the same key within 24 hours, it is not done again, and the answer is the first one's,
with `Idempotency-Replayed`.
"""

TAGS = [
    {"name": "collections", "description": "Sets of videos, each filled by one model."},
    {"name": "videos", "description": "Whole files: upload, list, play, delete."},
    {"name": "jobs", "description": "Folders, file lists, shards and URLs, indexed in the background."},
    {"name": "operations", "description": "Backups, exports and embedding again, in the background."},
    {"name": "search", "description": "Clips, events and videos by sentences, pictures, videos, or a mix."},
    {"name": "rerank", "description": "Texts with stored clips, judged pair by pair, in the shape of Cohere and Jina."},
    {"name": "scores", "description": "How well captions describe a clip."},
    {"name": "answers", "description": "Questions about a clip."},
    {"name": "embeddings", "description": "Vectors of texts, pictures and videos, in OpenAI's shape."},
    {"name": "models", "description": "Which models serve, what they can do, and what they were made of."},
    {"name": "keys", "description": "Who may come in, and what they may do."},
    {"name": "webhooks", "description": "Who is told, by signed messages, that jobs have ended."},
    {"name": "health", "description": "For whoever watches over the service."},
]

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Chosen by the client for this request alone, such as a UUID. 409 while the first request with it "
    "is under way, 422 for another request with it.",
}

UPLOADS = "/v1/collections/{name}/videos"
PREFERENCE = {
    "name": PREFER,
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "`respond-async` (RFC 7240): 202 with a job that indexes the file. `respond-async, wait=20`: only "
    "where that is not done within 20 seconds.",
}

REFERENCE = "#/components/schemas/{model}"
WITH_PARTS: tuple[type[BaseModel], ...] = (SearchRequest, SearchForm, UploadFields, VideoAtUrl, EmbeddingRequest)
"""Bodies that are read by hand and have parts of their own: the framework does not know of them."""

Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """The errors of a route for its documentation, besides those that every route has."""
    return {status: _response(*MEANING[status], status) for status in statuses} | {
        "default": {
            "description": "Any other error: no valid key (401), a key that may not do this (403), a Host or Origin "
            "header that is not allowed (421, 403), more than this client may send (429) or the service takes at once "
            "(503), both with Retry-After, a body that stops coming (408), is too large (413) or no JSON by its type "
            "(415), a fault (500).",
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }


def successes(**answers: dict[str, Any]) -> Responses:
    """What a route answers when all is well, by status: ``successes(_200={...})``."""
    return {int(status.lstrip("_")): answer for status, answer in answers.items()}


def _response(code: str, meaning: str, status: int) -> dict[str, Any]:
    example = {
        "type": TYPE_PREFIX + code,
        "title": title_of(code),
        "status": status,
        "detail": "What was wrong with which value, and what was expected.",
        "code": code,
        "instance": "/v1/…",
        "request_id": "3f2a…",
    }
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    return {"description": meaning, "content": {CONTENT_TYPE: content}}


def form_body(schema: type[BaseModel], also_json: type[BaseModel] | None = None) -> dict[str, Any]:
    """The documentation of a form with a file and the fields of ``schema``, or the same as JSON without the
    file. Schemas that have parts of their own must be in ``WITH_PARTS``.
    """
    form = _described(schema)
    file = {"type": "string", "format": "binary", "description": "video or picture, known by its content"}
    form["properties"] = {"file": file, **form.get("properties", {})}
    form["required"] = ["file", *form.get("required", [])]
    content: dict[str, Any] = {}
    if also_json is not None:
        content["application/json"] = {
            "schema": _reference(also_json) if also_json in WITH_PARTS else _described(also_json)
        }
    content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _described(schema: type[BaseModel]) -> dict[str, Any]:
    described = schema.model_json_schema(ref_template=REFERENCE)
    if "$defs" in described and schema not in WITH_PARTS:
        raise TypeError(f"{schema.__name__}: has parts of its own; WITH_PARTS was expected to name it")
    described.pop("$defs", None)
    return described


def _reference(schema: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=schema.__name__)}


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The function that makes the OpenAPI document of ``app``, once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
            )
            schemas = made["components"]["schemas"]
            by_hand: tuple[type[BaseModel], ...] = (Problem, *WITH_PARTS)
            for schema in by_hand:
                mode: JsonSchemaMode = "serialization" if schema is Problem else "validation"
                described = schema.model_json_schema(mode=mode, ref_template=REFERENCE)
                schemas.update(described.pop("$defs"))
                schemas[schema.__name__] = described
            made["components"]["securitySchemes"] = SECURITY
            made["security"] = [{name: []} for name in SECURITY]
            for route in app.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    for method in route.methods or ():
                        operation = made["paths"][route.path][method.lower()]
                        if permission_of(route.endpoint).scope is None:
                            operation["security"] = []
                        if is_idempotent(route.endpoint):
                            operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
            made["paths"][UPLOADS]["post"]["parameters"].append(PREFERENCE)
            app.openapi_schema = made
        return app.openapi_schema

    return document
