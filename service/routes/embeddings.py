"""Embeddings, for the clients of OpenAI's interface."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.app_state import ReadyService, Service
from service.embedding import FEW_VECTORS, check_inputs, embed_inputs, embedder, written
from service.http.auth import requires
from service.http.multipart import body_kind, parse_fields, read_form, validated
from service.http.openapi import errors, form_body
from service.http.parsing import StrictRoute
from service.inference.clip_embedding import Part, look_at_upload
from service.inference.loaded_model import Loaded
from service.inference.request_context import turn
from service.schemas.embeddings import EmbeddingForm, EmbeddingOptions, EmbeddingRequest, Embeddings
from vitascope.model import Floats

router = APIRouter(prefix="/v1", tags=["embeddings"], route_class=StrictRoute)


@router.post(
    "/embeddings",
    summary="Embed texts, pictures and videos",
    response_model=Embeddings,
    responses=errors(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=form_body(EmbeddingForm, also_json=EmbeddingRequest),
)
@requires("read")
async def embed(request: Request, service: ReadyService) -> Response:
    """Vectors of length 1 of texts, pictures and videos, all in one space: their inner product is `similarity`.

    The shape is OpenAI's, so its clients work. Inputs may also be pictures and videos, as data URLs in JSON or as the
    file of a form. Token numbers are refused.
    """
    if body_kind(request, "texts, or files as data URLs", "a file") == "application/json":
        asked = validated(EmbeddingRequest, await request.json())
        loaded = embedder(service, asked)
        check_inputs(service, asked)
        async with turn(request, service) as mine:
            vectors, tokens = await embed_inputs(service, mine, loaded, asked.input)
        return await _answer(service, loaded, vectors, tokens, asked)
    async with read_form(request, service) as form:
        fields = parse_fields(EmbeddingForm, form)
        loaded = embedder(service, fields)
        async with turn(request, service) as mine:
            part = Part(fields.start, fields.end)
            look = await mine.run(look_at_upload, service, mine, mine.model(loaded), form.upload, part)
    return await _answer(service, loaded, look.embedding.vectors, 0, fields)


async def _answer(service: Service, loaded: Loaded, vectors: Floats, tokens: int, asked: EmbeddingOptions) -> Response:
    """Written here and not by the framework, which would check every number again."""
    stated = (vectors, tokens, loaded, asked.encoding_format)
    body = written(*stated) if len(vectors) <= FEW_VECTORS else await service.light.run(written, *stated)
    return Response(body, media_type="application/json")
