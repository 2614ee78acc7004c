"""A search as it was asked for, as the index takes it; and what the index finds, as it is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from index.records import Float32
from index.search.cursor import Cursor, name_of, read_cursor, write_cursor
from index.search.query import ClipPart, Part, TextPart, VectorPart
from index.search.search import Search, search
from index.storage.filters import parse_filter
from service.app_state import Service
from service.embedding import embed_texts
from service.errors import BadRequest
from service.http.multipart import Upload
from service.http.parameters import at_most, record_number
from service.http.parsing import invalid
from service.inference.clip_embedding import Part as FilePart
from service.inference.clip_embedding import check_text, look_at_upload
from service.inference.loaded_model import Loaded
from service.inference.request_context import Turn
from service.schemas.search import (
    ClipQuery,
    FileQuery,
    SearchForm,
    SearchOptions,
    SearchRequest,
    SearchResponse,
    TextQuery,
)
from service.serializers import result_view
from vitascope.errors import InvalidInput
from vitascope.model import Floats, Model
from vitascope.tracing import Stage

Parts = Sequence[TextQuery | ClipQuery | FileQuery]


@dataclass(frozen=True)
class Asked:
    """A search that can be done: its parts and options, and the cursor of the page if it is not the first."""

    text: str | None
    parts: Parts
    options: SearchOptions
    name: str
    cursor: Cursor | None


def asked(service: Service, body: SearchRequest | SearchForm) -> Asked:
    """What ``body`` asks for, before any file is looked at. Raises InvalidInput, TextError and BadRequest."""
    settings = service.settings
    at_most("limit", body.limit, settings.max_results)
    at_most("clips", body.clips, settings.max_results)
    at_most("rerank", body.rerank, settings.max_rerank)
    if body.candidates is not None:
        at_most("candidates", body.candidates, settings.max_candidates)
    parts = _parts(body)
    at_most("query", len(parts), settings.max_query_parts)
    for number, part in enumerate(parts):
        if isinstance(part, TextQuery):
            check_text(service, "text" if body.query is None else f"query.{number}.value", part.value)
    stated = body.model_dump(mode="json", exclude={"text", "query", "cursor", "limit", "clips"})
    name = name_of({**stated, "parts": [part.model_dump(mode="json") for part in parts]})
    return Asked(body.text, parts, body, name, None if body.cursor is None else _cursor(body.cursor, name))


@dataclass(frozen=True)
class _Embedded:
    """Vectors (D,) of the texts of a search, and the model that they are of."""

    loaded: Loaded
    vectors: Mapping[str, Floats]


async def answer_search(
    service: Service, mine: Turn, collection_name: str, wanted: Asked, upload: Upload | None
) -> bytes:
    """Look and answer, by the model of the collection: a ``SearchResponse`` as JSON.

    Raises as ``search``, ``Models.of`` and ``Turn`` do, media errors for the file, RequestValidationError.
    """
    if upload is not None or wanted.options.rerank:
        return await mine.run(_find, service, mine, collection_name, wanted, upload, None)
    # No thread waits for the model, and finding is short: few threads do it for many requests.
    collection = service.library.opened(collection_name)
    if collection is None:
        collection = await mine.read(service.collection, collection_name)
    loaded = service.models.of(collection)
    texts = [part.value for part in wanted.parts if isinstance(part, TextQuery)]
    embedded = None
    if texts:
        with service.observer.stage("embed"):
            vectors, _ = await embed_texts(service, mine, loaded, texts)
        embedded = _Embedded(loaded, dict(zip(texts, vectors, strict=True)))
    find = partial(_find, service, mine, collection_name, wanted, None, embedded)
    return await mine.search(collection, find)


def _find(
    service: Service,
    mine: Turn,
    collection_name: str,
    wanted: Asked,
    upload: Upload | None,
    embedded: _Embedded | None,
) -> bytes:
    collection = service.collection(collection_name)
    stage: Stage = service.observer.stage
    # A collection that was replaced meanwhile has another model; one that was removed meanwhile serves to the end.
    if embedded is None or embedded.loaded.fingerprint != collection.fingerprint:
        model = mine.model(service.models.of(collection))
    else:
        known = embedded.vectors
        model = mine.model(embedded.loaded).through(
            text_vectors=lambda _, texts: np.stack([known[text] for text in texts])
        )
        stage = partial(_unless_embedding, stage)
    vector = _file_vector(service, mine, model, wanted, upload)
    options = wanted.options
    found = search(
        collection,
        model,
        Search(
            parts=[_index_part(part, vector) for part in wanted.parts],
            limit=options.limit,
            after=None if wanted.cursor is None else wanted.cursor.position,
            where=None if options.filter is None else parse_filter(options.filter),
            rerank=options.rerank,
            hybrid=options.hybrid,
            group=options.group,
            candidates=options.candidates,
            listed=options.clips,
            min_similarity=options.min_similarity,
            include_query_clips=options.include_query_clips,
        ),
        stage,
    )
    following = found.next_position
    answer = SearchResponse(
        text=wanted.text,
        results=[result_view(collection_name, result) for result in found.results],
        next_cursor=None if following is None else write_cursor(Cursor(wanted.name, following, vector)),
        changed=found.changed,
    )
    return answer.model_dump_json(by_alias=True).encode()


def _unless_embedding(stage: Stage, name: str) -> AbstractContextManager[None]:
    return nullcontext() if name == "embed" else stage(name)


def _parts(body: SearchRequest | SearchForm) -> Parts:
    if body.query is not None:
        return body.query
    text = [] if body.text is None else [TextQuery(kind="text", value=body.text)]
    return [*text, FileQuery(kind="file")] if isinstance(body, SearchForm) else text


def _cursor(text: str, name: str) -> Cursor:
    try:
        return read_cursor(text, name)
    except InvalidInput as error:
        raise BadRequest(str(error)) from error


def _file_vector(service: Service, mine: Turn, model: Model, wanted: Asked, upload: Upload | None) -> Float32 | None:
    """The vector (D,) of the query's file: of the one that came, else of the one that came for the page before."""
    part = next((part for part in wanted.parts if isinstance(part, FileQuery)), None)
    if part is None:
        return None
    if upload is not None:
        vector: Float32 = look_at_upload(
            service, mine, model, upload, FilePart(part.start, part.end)
        ).embedding.vectors[0]
        return vector
    if wanted.cursor is not None and wanted.cursor.vector is not None:
        return wanted.cursor.vector
    raise invalid("query", 'a part of kind "file" needs a form with the file, or the cursor of an answer to one')


def _index_part(part: TextQuery | ClipQuery | FileQuery, vector: Float32 | None) -> Part:
    if isinstance(part, TextQuery):
        return TextPart(part.value, part.weight)
    if isinstance(part, ClipQuery):
        return ClipPart(record_number(part.value), part.weight)
    assert vector is not None
    return VectorPart(vector, part.weight)
