"""Embeddings, with the interface of OpenAI.

Shape letters: N inputs, D embedding dim.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from service.app_state import AppState, ReadyAppStateDep
from service.http.auth import requires
from service.http.multipart import Upload, parse_fields, read_form
from service.http.openapi import errors, form_body
from service.http.parsing import StrictRoute, check_max, is_json_or_form, parse_body
from service.inference.embedding import ClipRange, check_text, embed_sound, embed_texts, embed_upload
from service.inference.models import LoadedModel
from service.inference.request_context import RequestContext, request_context
from service.schemas.embeddings import (
    EmbeddingForm,
    EmbeddingOptions,
    EmbeddingRequest,
    Embeddings,
    MediaInput,
    MediaType,
    TextInput,
)
from vitascope.bundle.manifest import InputType
from vitascope.embeddings import Floats
from vitascope.errors import InvalidInput, StorageError, TaskMissing
from vitascope.model import Model
from vitascope.scoring import truncate

router = APIRouter(prefix="/v1", tags=["embeddings"], route_class=StrictRoute)

FEW_EMBEDDINGS = 32
"""Up to this number of embeddings are serialized on the event loop, where a thread would take longer."""
_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)


@router.post(
    "/embeddings",
    summary="Embed texts, pictures, videos and sounds",
    response_model=Embeddings,
    responses=errors(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=form_body(EmbeddingForm, also_json=EmbeddingRequest),
)
@requires("read")
async def embed(request: Request, service: ReadyAppStateDep) -> Response:
    """Embeddings of length 1 of texts, pictures, videos and sounds in one space: their inner product is `similarity`.

    Requests and responses have the format of OpenAI, so its clients work. Inputs may also be pictures, videos and, if
    the model has sound, sounds: as data URLs in JSON or as the file of a form. Token ids are rejected.
    """
    if is_json_or_form(request, "texts, or files as data URLs", "a file"):
        body = parse_body(EmbeddingRequest, await request.json())
        loaded = _resolve_model(service, body)
        _check_inputs(service, body)
        async with request_context(request, service) as context:
            embeddings, tokens = await _embed_inputs(context, loaded, body.input, body.input_type)
        return await _respond(service, loaded, embeddings, tokens, body)
    async with read_form(request, service) as form:
        fields = parse_fields(EmbeddingForm, form)
        loaded = _resolve_model(service, fields)
        async with request_context(request, service) as context:
            clip_range = ClipRange(fields.start, fields.end)
            embeddings = await context.run(
                _embed_file, context, context.model(loaded), form.upload, fields.type, clip_range
            )
    return await _respond(service, loaded, embeddings, 0, fields)


def _resolve_model(service: AppState, options: EmbeddingOptions) -> LoadedModel:
    """Return the model of a request.

    Raises ModelNotFound, NotReady, TaskMissing for a model without text embeddings, and InvalidInput for a number of
    dimensions that its embeddings cannot have.
    """
    loaded = service.models.get(options.model)
    manifest = loaded.bundle.manifest
    if not {"retrieval", "audio_retrieval"} & set(manifest.tasks):
        raise TaskMissing(f"{manifest.name}: it cannot embed; its tasks are {', '.join(manifest.tasks)}")
    manifest.check_dimensions(options.dimensions)
    return loaded


def _check_inputs(service: AppState, body: EmbeddingRequest) -> None:
    """Raise InvalidInput and TextError for invalid inputs before any is embedded."""
    check_max("input", len(body.input), service.settings.max_inputs)
    for index, item in enumerate(body.input):
        if not isinstance(item, MediaInput):
            check_text(service, f"input[{index}]", _text(item))


async def _embed_inputs(
    context: RequestContext,
    loaded: LoadedModel,
    inputs: Sequence[str | TextInput | MediaInput],
    input_type: InputType,
) -> tuple[Floats, int]:
    """Return the embeddings (N, D), and the number of text tokens. Raises media errors and as ``RequestContext``."""
    texts = {index: _text(item) for index, item in enumerate(inputs) if not isinstance(item, MediaInput)}
    media = {index: item for index, item in enumerate(inputs) if isinstance(item, MediaInput)}
    embeddings = np.empty((len(inputs), loaded.bundle.manifest.vector_width), np.float32)
    tokens = 0
    if texts:
        embeddings[list(texts)], tokens = await embed_texts(context, loaded, list(texts.values()), input_type)
    for index, item in media.items():
        model, name = context.model(loaded), f"input[{index}]"
        embeddings[index] = await context.run(_embed_media, context, model, name, item)
    return embeddings, tokens


def _embed_media(context: RequestContext, model: Model, name: str, item: MediaInput) -> Floats:
    with _decoded_file(context.service, name, item.data) as upload:
        embedding: Floats = _embed_file(context, model, upload, item.type, ClipRange(item.start, item.end))[0]
    return embedding


def _embed_file(
    context: RequestContext, model: Model, upload: Upload, media_type: MediaType, clip: ClipRange
) -> Floats:
    """Return the embedding (1, D) of the pictures or the sound of a file."""
    if media_type == "audio":
        return embed_sound(context, model, upload, clip)
    return embed_upload(context, model, upload, clip).embedding.vectors


@contextmanager
def _decoded_file(service: AppState, name: str, data: str) -> Iterator[Upload]:
    """Write a data URL to a temporary file. Raises InvalidInput and StorageError."""
    match = _DATA_URL.match(data)
    if match is None:
        raise InvalidInput(f"{name}.data: {data[:40]!r}; a data URL (data:image/png;base64,…) was expected")
    try:
        content = base64.b64decode(data[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{name}.data: not base64 ({error})") from error
    path = service.media.new_upload()
    try:
        try:
            path.write_bytes(content)
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error
        yield Upload(path, name, hashlib.sha256(content).hexdigest(), len(content))
    finally:
        path.unlink(missing_ok=True)


def _text(item: str | TextInput | MediaInput) -> str:
    assert not isinstance(item, MediaInput)
    return item if isinstance(item, str) else item.text


async def _respond(
    service: AppState, loaded: LoadedModel, embeddings: Floats, tokens: int, options: EmbeddingOptions
) -> Response:
    embeddings = truncate(embeddings, loaded.bundle.manifest.check_dimensions(options.dimensions))
    arguments = (embeddings, tokens, loaded, options.encoding_format)
    if len(embeddings) <= FEW_EMBEDDINGS:
        body = _encode_response(*arguments)
    else:
        body = await service.io_pool.run(_encode_response, *arguments)
    return Response(body, media_type="application/json")  # FastAPI would validate it again, number by number


def _encode_response(embeddings: Floats, tokens: int, loaded: LoadedModel, encoding: str) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(row) if encoding == "base64" else row}
        for index, row in enumerate(embeddings)
    ]
    model = {"model": loaded.name, "fingerprint": loaded.fingerprint}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, **model, "usage": usage}, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(embedding: Floats) -> str:
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
