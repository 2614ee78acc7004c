"""Search: embed the query with the collection's model, search the index, and serialize the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from index.collection import Collection
from index.records import Float32
from index.search.cursor import SearchCursor, decode_cursor, encode_cursor, request_hash
from index.search.request import ClipPart, EmbeddingPart, QueryPart, SearchRequest, TextPart
from index.search.rerank import pair_scorer
from index.search.search import search
from index.storage.filters import parse_filter
from service.app_state import Service
from service.embedding import embed_texts
from service.errors import BadRequest
from service.http.multipart import Upload
from service.http.parameters import at_most, record_number
from service.http.parsing import invalid
from service.inference.clip_embedding import Part, check_text, look_at_upload
from service.inference.loaded_model import Loaded
from service.inference.request_context import Turn
from service.schemas import search as schemas
from service.serializers import result_view
from vitascope.errors import InvalidInput

BodyParts = Sequence[schemas.TextQuery | schemas.ClipQuery | schemas.FileQuery]


@dataclass(frozen=True)
class ParsedSearch:
    """A valid search: its parts and options, and the cursor of every page but the first."""

    text: str | None
    parts: BodyParts
    options: schemas.SearchOptions
    request_hash: str
    cursor: SearchCursor | None

    @property
    def file(self) -> schemas.FileQuery | None:
        """The part that is an uploaded file."""
        return next((part for part in self.parts if isinstance(part, schemas.FileQuery)), None)


def parse_search(service: Service, body: schemas.SearchRequest | schemas.SearchForm) -> ParsedSearch:
    """Check a request body before any file is read. Raises InvalidInput, TextError and BadRequest."""
    settings = service.settings
    at_most("limit", body.limit, settings.max_results)
    at_most("clips", body.clips, settings.max_results)
    at_most("rerank", body.rerank, settings.max_rerank)
    if body.candidates is not None:
        at_most("candidates", body.candidates, settings.max_candidates)
    parts: BodyParts = body.query or []
    if body.query is None:
        parts = [] if body.text is None else [schemas.TextQuery(kind="text", value=body.text)]
        if isinstance(body, schemas.SearchForm):
            parts = [*parts, schemas.FileQuery(kind="file")]
    at_most("query", len(parts), settings.max_query_parts)
    for index, part in enumerate(parts):
        if isinstance(part, schemas.TextQuery):
            check_text(service, "text" if body.query is None else f"query.{index}.value", part.value)
    fields = body.model_dump(mode="json", exclude={"text", "query", "cursor", "limit", "clips"})
    body_hash = request_hash({**fields, "parts": [part.model_dump(mode="json") for part in parts]})
    try:
        cursor = None if body.cursor is None else decode_cursor(body.cursor, body_hash)
    except InvalidInput as error:
        raise BadRequest(str(error)) from error
    return ParsedSearch(body.text, parts, body, body_hash, cursor)


async def run_search(
    service: Service, turn: Turn, collection_name: str, parsed: ParsedSearch, upload: Upload | None
) -> bytes:
    """Search with the model of the collection and return a ``SearchResponse`` as JSON.

    Raises as ``search``, ``Models.of`` and ``Turn`` do, media errors for the file, RequestValidationError.
    """
    file_embedding = None if parsed.cursor is None else parsed.cursor.embedding
    if parsed.file is not None and upload is None and file_embedding is None:
        raise invalid("query", 'a part of kind "file" needs a form with the file, or the cursor of a response to one')
    collection = service.library.get_if_open(collection_name)
    if collection is None:
        collection = await turn.read(service.collection, collection_name)
    page = None
    while page is None:  # repeated if the collection is replaced meanwhile by one of another model
        loaded = service.models.of(collection)
        if parsed.file is not None and upload is not None:
            part = Part(parsed.file.start, parsed.file.end)
            clip = await turn.run(look_at_upload, service, turn, turn.model(loaded), upload, part)
            file_embedding = clip.embedding.vectors[0]
        parts = await _embed_parts(service, turn, loaded, parsed.parts, file_embedding)
        search_page = partial(_search_page, service, turn, collection_name, loaded, parsed, parts, file_embedding)
        # Reranking waits for the model, which needs more threads than what computes.
        run = turn.run(search_page) if parsed.options.rerank else turn.search(collection, search_page)
        collection, page = await run
    return page


async def _embed_parts(
    service: Service, turn: Turn, loaded: Loaded, parts: BodyParts, file_embedding: Float32 | None
) -> list[QueryPart]:
    texts = [part.value for part in parts if isinstance(part, schemas.TextQuery)]
    embeddings = {}
    if texts:
        with service.observer.stage("embed"):
            rows, _ = await embed_texts(service, turn, loaded, texts)
        embeddings = dict(zip(texts, rows, strict=True))
    embedded: list[QueryPart] = []
    for part in parts:
        if isinstance(part, schemas.TextQuery):
            embedded.append(TextPart(part.value, embeddings[part.value], part.weight))
        elif isinstance(part, schemas.ClipQuery):
            embedded.append(ClipPart(record_number(part.value), part.weight))
        elif file_embedding is not None:
            embedded.append(EmbeddingPart(file_embedding, part.weight))
    return embedded


def _search_page(
    service: Service,
    turn: Turn,
    collection_name: str,
    loaded: Loaded,
    parsed: ParsedSearch,
    parts: Sequence[QueryPart],
    file_embedding: Float32 | None,
) -> tuple[Collection, bytes | None]:
    """Return the collection and the page as JSON; None if the embeddings are not of the collection's model."""
    collection = service.collection(collection_name)
    if collection.fingerprint != loaded.fingerprint:
        return collection, None
    options = parsed.options
    page = search(
        collection,
        SearchRequest(
            fingerprint=loaded.fingerprint,
            parts=parts,
            limit=options.limit,
            after=None if parsed.cursor is None else parsed.cursor.position,
            where=None if options.filter is None else parse_filter(options.filter),
            rerank=options.rerank,
            hybrid=options.hybrid,
            group=options.group,
            candidates=options.candidates,
            clips_per_result=options.clips,
            min_similarity=options.min_similarity,
            include_query_clips=options.include_query_clips,
        ),
        pair_scorer(turn.model(loaded)) if options.rerank else None,
        service.observer.stage,
    )
    position = page.next_position
    cursor = None if position is None else SearchCursor(parsed.request_hash, position, file_embedding)
    response = schemas.SearchResponse(
        text=parsed.text,
        results=[result_view(collection_name, result) for result in page.results],
        next_cursor=None if cursor is None else encode_cursor(cursor),
        changed=page.changed,
    )
    return collection, response.model_dump_json(by_alias=True).encode()
