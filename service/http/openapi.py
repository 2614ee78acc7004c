"""The OpenAPI document: errors of every route, multipart bodies, security and idempotency."""

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
from service.http.multipart import JSON_FIELDS
from service.http.parsing import PREFER
from service.http.problems import CONTENT_TYPE, TYPE_PREFIX, title_of
from service.schemas.base import Problem
from service.schemas.chapters import ChapterForm, ChapterRequest
from service.schemas.embeddings import EmbeddingRequest
from service.schemas.library import UploadFields, VideoAtUrl
from service.schemas.scores_answers import CaptionForm, CaptionRequest
from service.schemas.search import SearchForm, SearchRequest

ERRORS = {
    400: ("bad_request", "The request is malformed."),
    403: ("path_forbidden", "The key, or the service, may not access this."),
    404: ("collection_not_found", "Something that the request names does not exist."),
    409: ("fingerprint_mismatch", "The present state does not allow this."),
    413: ("payload_too_large", "A limit of bytes, pixels, seconds or frames is exceeded."),
    415: ("media_unsupported", "The type of the body or media is not supported."),
    416: ("range_not_satisfiable", "The range is outside the file."),
    422: ("validation_failed", "A value is invalid; the response names it."),
    429: ("too_many_at_once", "The client exceeds its rate, or its limit of concurrent requests."),
    503: ("not_ready", "The model, the decoders or the vector store are unavailable; a retry may help."),
    507: ("storage_error", "Storage failed; nothing was saved."),
}

DESCRIPTION = """\
Search, score and question video. Three scores are distinguished everywhere:

* **similarity**: cosine of the embeddings of query and clip, -1 to 1; searches rank by it
* **match**: calibrated probability by the fusion model that the text describes the clip
* **fused**: both combined, 0 to 1; results are ranked by it after reranking

Errors are problem details (RFC 9457) with a stable `code`. Times are seconds, sizes are bytes or pixels. Ids
and cursors are opaque.

Requests carry an API key, as `Authorization: Bearer vsk_…` or `X-API-Key: vsk_…`, unless the service is configured
to require none. A key has scopes: `read` (list, play, search, score, ask), `write` (upload, index, edit, delete
videos), `admin` (collections, models, operations, webhooks, keys, metrics). POST of collections, videos, jobs and
operations accepts an `Idempotency-Key`: repeated with the same key within 24 hours, the request is not run again, and
the response is the stored one, with `Idempotency-Replayed`. `X-Request-Timeout` limits the seconds of a request that
uses the model or decodes a file; 504 says that they have passed.
"""

TAGS = [
    {"name": "collections", "description": "Sets of videos, each filled by one model."},
    {"name": "videos", "description": "Upload, list, play and delete videos."},
    {"name": "jobs", "description": "Index folders, file lists, shards and URLs in the background."},
    {"name": "operations", "description": "Back up, export and re-embed collections in the background."},
    {"name": "search", "description": "Find clips, events and videos by text, image, video, sound, or a combination."},
    {
        "name": "rerank",
        "description": "Rerank texts or stored clips by the fusion model, in the format of Cohere and Jina.",
    },
    {"name": "scores", "description": "Score how well captions describe a clip."},
    {"name": "answers", "description": "Answer questions about a clip."},
    {"name": "entailment", "description": "Tell whether a clip entails or contradicts a sentence, or neither."},
    {"name": "moments", "description": "Find the spans of a video in which a text is true."},
    {"name": "captions", "description": "Generate captions of clips, and chapters of videos."},
    {"name": "groundings", "description": "Find the objects in a frame that phrases describe."},
    {"name": "embeddings", "description": "Embed texts, images and videos, in the format of OpenAI."},
    {"name": "transcriptions", "description": "Transcribe the speech of a file, in the format of OpenAI."},
    {"name": "models", "description": "List, add and remove models."},
    {"name": "keys", "description": "Manage API keys."},
    {"name": "webhooks", "description": "Receive signed messages about ended jobs."},
    {"name": "health", "description": "Monitor the service."},
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
    "description": "Chosen by the client for this request, such as a UUID. 409 while the first request with it is in "
    "progress, 422 for a different request with it.",
}

UPLOADS = "/v1/collections/{name}/videos"
PREFER_HEADER = {
    "name": PREFER,
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "`respond-async` (RFC 7240): 202 with a job that indexes the file. `respond-async, wait=20`: only "
    "if that is not done within 20 seconds.",
}

REF_TEMPLATE = "#/components/schemas/{model}"
NESTED_BODIES: tuple[type[BaseModel], ...] = (
    *(SearchRequest, SearchForm, UploadFields, VideoAtUrl, EmbeddingRequest),
    *(CaptionRequest, CaptionForm, ChapterRequest, ChapterForm),
)
"""Schemas of bodies that routes parse themselves and that have nested schemas, which FastAPI does not know."""

Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """Document the errors of a route, in addition to those that every route has."""
    return {status: _response(*ERRORS[status], status) for status in statuses} | {
        "default": {
            "description": "Any other error: a malformed header (400), no valid key (401), a missing scope (403), a "
            "Host or Origin header that is not allowed (421, 403), a limit of the client (429) or of the service "
            "(503), both with Retry-After, a body that stops (408), is too large (413) or not JSON by its type (415), "
            "headers that are too large (431), a request that takes too long (504), an unexpected error (500).",
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }


def successes(**responses: dict[str, Any]) -> Responses:
    """Document the successful responses of a route by status: ``successes(_200={...})``."""
    return {int(status.lstrip("_")): response for status, response in responses.items()}


def _response(code: str, meaning: str, status: int) -> dict[str, Any]:
    example = {
        "type": TYPE_PREFIX + code,
        "title": title_of(code),
        "status": status,
        "detail": "The name of the value, the value, and what was expected.",
        "code": code,
        "instance": "/v1/…",
        "request_id": "3f2a…",
    }
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    return {"description": meaning, "content": {CONTENT_TYPE: content}}


def form_body(
    schema: type[BaseModel], also_json: type[BaseModel] | None = None, kinds: str = "video or image"
) -> dict[str, Any]:
    """Document a multipart body with a file (``kinds``) and the fields of ``schema``; ``also_json``: or a JSON body.

    Schemas with nested schemas must be in ``NESTED_BODIES``.
    """
    form = _schema_of(schema)
    file = {"type": "string", "format": "binary", "description": f"{kinds}, detected by its content"}
    form["properties"] = {"file": file, **form.get("properties", {})}
    form["required"] = ["file", *form.get("required", [])]
    content: dict[str, Any] = {}
    if also_json is not None:
        content["application/json"] = {
            "schema": _reference(also_json) if also_json in NESTED_BODIES else _schema_of(also_json)
        }
    content["multipart/form-data"] = {"schema": form}
    encoding = {name: {"contentType": "application/json"} for name in form["properties"] if name in JSON_FIELDS}
    if encoding:
        content["multipart/form-data"]["encoding"] = encoding
    return {"requestBody": {"required": True, "content": content}}


def _schema_of(schema: type[BaseModel]) -> dict[str, Any]:
    json_schema = schema.model_json_schema(ref_template=REF_TEMPLATE)
    if "$defs" in json_schema and schema not in NESTED_BODIES:
        raise TypeError(f"{schema.__name__}: has nested schemas; NESTED_BODIES was expected to contain it")
    json_schema.pop("$defs", None)
    return json_schema


def _reference(schema: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF_TEMPLATE.format(model=schema.__name__)}


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return a function that creates the OpenAPI document of an application at its first call."""

    def create() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
            )
            schemas = document["components"]["schemas"]
            unknown: tuple[type[BaseModel], ...] = (Problem, *NESTED_BODIES)
            for schema in unknown:
                mode: JsonSchemaMode = "serialization" if schema is Problem else "validation"
                json_schema = schema.model_json_schema(mode=mode, ref_template=REF_TEMPLATE)
                schemas.update(json_schema.pop("$defs"))
                schemas[schema.__name__] = json_schema
            document["components"]["securitySchemes"] = SECURITY
            document["security"] = [{name: []} for name in SECURITY]
            for route in app.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    for method in route.methods or ():
                        operation = document["paths"][route.path][method.lower()]
                        if permission_of(route).scope is None:
                            operation["security"] = []
                        if is_idempotent(route.endpoint):
                            operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
            document["paths"][UPLOADS]["post"]["parameters"].append(PREFER_HEADER)
            app.openapi_schema = document
        return app.openapi_schema

    return create
