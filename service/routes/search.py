"""Search of a collection by texts, clips and files, and reranking of texts, clips and videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request, Response

from index.collection import Collection
from index.records import Clip, Float32, Video
from index.search.refinement import EmbeddedPart, refine_results, refined_text
from index.search.relevance import language_warnings
from index.search.request import (
    ClipPart,
    EmbeddingPart,
    QueryPart,
    SearchCursor,
    SearchRequest,
    TextPart,
    decode_cursor,
    encode_cursor,
    request_hash,
)
from index.search.rerank import ScoredClip, can_rerank, default_rerank, score_best_clips, stores_audio_tokens
from index.search.search import search as search_collection
from index.storage.filters import parse_filter
from service.app_state import AppState, ReadyAppStateDep
from service.errors import BadRequest, PathForbidden
from service.http.auth import caller_key, requires
from service.http.multipart import Upload, parse_fields, read_form
from service.http.openapi import errors, form_body
from service.http.parsing import (
    StrictRoute,
    check_max,
    invalid,
    is_json_or_form,
    limit_fields,
    parse_body,
    parse_id,
)
from service.inference.embedding import (
    ClipRange,
    check_text,
    check_texts,
    embed_query,
    embed_source_windows,
    embed_texts,
    stored_file,
)
from service.inference.models import LoadedModel
from service.inference.request_context import RequestContext, request_context
from service.schemas import search as schemas
from service.schemas.rerank import DocumentRef, RerankedClip, RerankRequest, RerankResponse, RerankResult
from service.serializers import serialize_results
from vitascope.errors import FingerprintMismatch, InvalidInput, MediaError, NotFound, TaskMissing, VideoNotFound
from vitascope.media.sampling import Span
from vitascope.model import Model

router = APIRouter(prefix="/v1", route_class=StrictRoute)

BodyParts = Sequence[schemas.TextQuery | schemas.ClipQuery | schemas.FileQuery]


@dataclass(frozen=True)
class ParsedSearch:
    """A valid search: its parts and options, and the cursor unless it is the first page."""

    text: str | None
    parts: BodyParts
    options: schemas.SearchOptions
    request_hash: str
    cursor: SearchCursor | None

    @property
    def file(self) -> schemas.FileQuery | None:
        """The part of the query with an uploaded file, or None."""
        return next((part for part in self.parts if isinstance(part, schemas.FileQuery)), None)


@router.post(
    "/collections/{name}/search",
    tags=["search"],
    summary="Search",
    response_model=schemas.SearchResponse,
    responses=errors(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=form_body(schemas.SearchForm, also_json=schemas.SearchRequest),
)
@requires("read")
async def search(name: str, request: Request, service: ReadyAppStateDep) -> Response:
    """The clips most similar to a text, a picture, a video, a sound, a stored clip or a mix of these, each with the
    second at which it starts; or the events or videos that they belong to.

    `signals` chooses what is compared: pictures, sound, or words in speech, on screen, in titles and paths; each result
    states which of them returned it, and the words that match with their seconds. A part of the text in double quotes
    must occur literally, and `Haus*` matches words that begin so. `rerank` scores that many of the best clips with the
    fusion model, which is slower; by default as many as the bundle of the collection's model states. `refine` finds the
    moment of each result, as `/v1/moments` does in the seconds around it. Pages neither repeat nor miss results while
    the collection changes: `changed` says whether it has, and 409 `cursor_expired` that it was replaced.
    """
    if is_json_or_form(request, "a search", "a search with a file"):
        parsed = _parse_search(service, parse_body(schemas.SearchRequest, await request.json()))
        async with request_context(request, service) as context:
            return await _run_search(service, context, name, parsed, None)
    # Checked before the file is received.
    await service.io_pool.run(service.collection, name, for_model=True)
    async with read_form(request, service) as form:
        parsed = _parse_search(service, parse_fields(schemas.SearchForm, form))
        async with request_context(request, service) as context:
            return await _run_search(service, context, name, parsed, form.upload)


def _parse_search(service: AppState, body: schemas.SearchRequest | schemas.SearchForm) -> ParsedSearch:
    """Check a request body before any file is read. Raises InvalidInput, TextError and BadRequest."""
    settings = service.settings
    limit_fields(
        body,
        limit=settings.max_results,
        clips=settings.max_results,
        rerank=settings.max_rerank,
        candidates=settings.max_candidates,
    )
    parts: BodyParts = body.query or []
    if body.query is None:
        parts = [] if body.text is None else [schemas.TextQuery(kind="text", value=body.text)]
        if isinstance(body, schemas.SearchForm):
            parts = [*parts, schemas.FileQuery(kind="file")]
    check_max("query", len(parts), settings.max_query_parts)
    for index, part in enumerate(parts):
        if isinstance(part, schemas.TextQuery):
            check_text(service, "text" if body.query is None else f"query.{index}.value", part.value)
    fields = body.model_dump(mode="json", exclude={"text", "query", "cursor", "limit", "clips", "refine"})
    body_hash = request_hash({**fields, "parts": [part.model_dump(mode="json") for part in parts]})
    try:
        cursor = None if body.cursor is None else decode_cursor(body.cursor, body_hash)
    except InvalidInput as error:
        raise BadRequest(str(error)) from error
    return ParsedSearch(body.text, parts, body, body_hash, cursor)


async def _run_search(
    service: AppState, context: RequestContext, collection_name: str, parsed: ParsedSearch, upload: Upload | None
) -> Response:
    """Search with the model of the collection and return a ``SearchResponse``.

    Raises the errors of ``search_collection``, ``ModelRegistry.for_collection`` and ``RequestContext``, media errors
    and RequestValidationError.
    """
    file_embedding = None if parsed.cursor is None else parsed.cursor.embedding
    if parsed.file is not None and upload is None and file_embedding is None:
        raise invalid("query", 'a part of kind "file" needs a form with the file, or the cursor of a response to one')
    collection = service.library.get_if_open(collection_name)
    if collection is None:
        collection = await context.read(service.collection, collection_name)
    page = None
    while page is None:  # repeated if a collection of another model replaces the collection meanwhile
        loaded = service.models.for_collection(collection)
        if parsed.file is not None and upload is not None:
            clip_range = ClipRange(parsed.file.start, parsed.file.end)
            file_embedding = await context.run(
                embed_query, context, context.model(loaded), upload, clip_range, parsed.file.signal
            )
        parts = await _embed_parts(context, loaded, parsed.parts, file_embedding)
        rerank = parsed.options.rerank
        if rerank is None:
            manifest = loaded.bundle.manifest
            hears = manifest.sound_reranking is not None and await context.read(stores_audio_tokens, collection)
            default = default_rerank(manifest, parts, parsed.options.signals, hears)
            rerank = min(default, service.settings.max_rerank)
        search_page = partial(
            _search_page, service, context, collection_name, loaded, parsed, parts, file_embedding, rerank
        )
        # Reranking and refining wait for the model, so they use the larger pool.
        uses_model = rerank or parsed.options.refine
        run = context.run(search_page) if uses_model else context.search(collection, search_page)
        collection, page = await run
    return Response(page, media_type="application/json")  # FastAPI would serialize it again


async def _embed_parts(
    context: RequestContext, loaded: LoadedModel, parts: BodyParts, file_embedding: Float32 | None
) -> list[QueryPart]:
    texts = [part.value for part in parts if isinstance(part, schemas.TextQuery)]
    embeddings = {}
    if texts:
        with context.service.observer.stage("embed"):
            rows, _ = await embed_texts(context, loaded, texts)
        embeddings = dict(zip(texts, rows, strict=True))
    embedded: list[QueryPart] = []
    for index, part in enumerate(parts):
        if isinstance(part, schemas.TextQuery):
            embedded.append(TextPart(part.value, embeddings[part.value], part.weight))
        elif isinstance(part, schemas.ClipQuery):
            clip_id = parse_id(part.value, name=f"query.{index}.value")
            embedded.append(ClipPart(clip_id, part.weight, part.signal))
        elif file_embedding is not None:
            embedded.append(EmbeddingPart(file_embedding, part.weight))
    return embedded


def _search_page(
    service: AppState,
    context: RequestContext,
    collection_name: str,
    loaded: LoadedModel,
    parsed: ParsedSearch,
    parts: Sequence[QueryPart],
    file_embedding: Float32 | None,
    rerank: int,
) -> tuple[Collection, bytes | None]:
    """Return the collection and the page as JSON; the page is None if the collection has another model by now."""
    collection = service.collection(collection_name)
    if collection.fingerprint != loaded.fingerprint:
        return collection, None
    options, model = parsed.options, context.model(loaded)
    text = refined_text(model, parts) if options.refine else None
    page = search_collection(
        collection,
        SearchRequest(
            fingerprint=loaded.fingerprint,
            parts=parts,
            limit=options.limit,
            after=None if parsed.cursor is None else parsed.cursor.position,
            where=None if options.filter is None else parse_filter(options.filter),
            rerank=rerank,
            signals=options.signals,
            group=options.group,
            candidates=options.candidates,
            clips_per_result=options.clips,
            min_similarity=options.min_similarity,
            min_relevance=options.min_relevance,
            include_query_clips=options.include_query_clips,
            calibration=loaded.bundle.manifest.calibration,
        ),
        model if rerank else None,
        service.observer.stage,
    )
    results = page.results
    if text is not None:
        embed_part = partial(_embed_windows, context, model, collection)
        with service.observer.stage("refine"):
            results = refine_results(model, text, results, embed_part, service.settings.max_moment_windows)
    warnings = page.warnings
    if parsed.cursor is None:
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        warnings = [*language_warnings(texts, loaded.bundle.manifest.languages, loaded.model.tokenizer), *warnings]
    position = page.next_position
    cursor = None if position is None else SearchCursor(parsed.request_hash, position, file_embedding)
    response = schemas.SearchResponse(
        text=parsed.text,
        results=serialize_results(collection, results),
        next_cursor=None if cursor is None else encode_cursor(cursor),
        changed=page.changed,
        warnings=[schemas.SearchWarning(code=warning.code, detail=warning.detail) for warning in warnings],
    )
    return collection, response.model_dump_json(by_alias=True).encode()


def _embed_windows(
    context: RequestContext, model: Model, collection: Collection, video: Video, part: Span
) -> EmbeddedPart | None:
    """Return the windows of a part of a stored video; None if its file is gone, or has no pictures to decode."""
    try:
        with stored_file(context, collection.name, str(video.id)) as source:
            limit = context.service.settings.max_moment_windows
            return embed_source_windows(context, model, source, ClipRange(*part), limit)
    except (MediaError, InvalidInput, NotFound, PathForbidden):
        return None


@router.post("/rerank", tags=["rerank"], summary="Rerank", responses=errors(404, 409, 422, 503, 507))
@requires("read")
async def rerank_documents(request: Request, service: ReadyAppStateDep, body: RerankRequest) -> RerankResponse:
    """Rank stored clips and videos by how well a text describes them, or texts by how well they describe one clip.

    The fusion model scores each pair; scores are those of a reranked search of all signals, sound included.
    `relevance_score` is `fused`. For a video it scores the five clips whose pictures and sound fit the text best, and
    the best one counts. Nothing is decoded: stored tokens are scored.
    """
    caller_key(request).require_collection(body.collection)
    _check_rerank(service, body)
    async with request_context(request, service) as context:
        name, results = await context.run(_rerank, service, context, body)
    return RerankResponse(id=request.state.request_id, model=name, results=results)


def _check_rerank(service: AppState, body: RerankRequest) -> None:
    """Check a request before anything is read. Raises ModelNotFound, InvalidInput and TextError."""
    check_max("documents", len(body.documents), service.settings.max_rerank)
    if isinstance(body.query, str):
        check_text(service, "query", body.query)
    check_texts(service, "documents", [document for document in body.documents if isinstance(document, str)])
    if body.model is not None:
        service.models.get(body.model)


def _rerank(service: AppState, context: RequestContext, body: RerankRequest) -> tuple[str, list[RerankResult]]:
    """Return the name of the model and the results, best first; documents deleted meanwhile are left out.

    Raises CollectionNotFound, VideoNotFound, NotFound, FingerprintMismatch (also if the request names another model
    than the collection's), NotReady, TaskMissing, EngineError, StorageError.
    """
    collection, model = context.collection(body.collection)
    entry = service.models.entry(collection.fingerprint)
    if body.model is not None and not entry.matches(body.model):
        raise FingerprintMismatch(
            f"model: {body.model[:80]!r}; {entry.label} was expected, which fills collection {collection.name}"
        )
    if not can_rerank(model):
        raise TaskMissing(f"{collection.bundle_name}: the bundle has no task 'matching'")
    with service.observer.stage("rerank"):
        pairs = _rerank_pairs(collection, body)
        texts = list(dict.fromkeys(text for text, _ in pairs))
        embeddings = dict(zip(texts, model.embed_text(texts), strict=True))
        scored_clips = score_best_clips(collection, model, pairs, embeddings)
    ranked = [(index, scored) for index, scored in enumerate(scored_clips) if scored is not None]
    ranked.sort(key=lambda pair: (pair[1].scores is None, -_fused(pair[1]), -pair[1].similarity, pair[0]))
    results = [_to_rerank_result(body, index, scored) for index, scored in ranked[: body.top_n]]
    return model.bundle.manifest.name, results


def _rerank_pairs(collection: Collection, body: RerankRequest) -> list[tuple[str, Sequence[Clip]]]:
    if isinstance(body.query, str):
        text = body.query
        parts = [document for document in body.documents if isinstance(document, DocumentRef)]
        return [(text, clips) for clips in _clips_of(collection, parts)]
    clips = _clips_of(collection, [body.query])[0]
    return [(document, clips) for document in body.documents if isinstance(document, str)]


def _clips_of(collection: Collection, parts: Sequence[DocumentRef]) -> list[Sequence[Clip]]:
    ids = [parse_id(part.clip_id, name="clip_id") for part in parts if part.clip_id is not None]
    clips = iter(collection.clips_by_id(ids))
    return [
        [next(clips)] if part.video_id is None else collection.clips(parse_id(part.video_id, VideoNotFound, "video_id"))
        for part in parts
    ]


def _to_rerank_result(body: RerankRequest, index: int, scored: ScoredClip) -> RerankResult:
    clip = scored.clip
    return RerankResult(
        index=index,
        relevance_score=_fused(scored),
        similarity=scored.similarity,
        match=None if scored.scores is None else scored.scores.match,
        fused=None if scored.scores is None else scored.scores.fused,
        clip=RerankedClip(clip_id=str(clip.id), video_id=str(clip.video_id), start=clip.start, end=clip.end),
        document=body.documents[index] if body.return_documents else None,
    )


def _fused(scored: ScoredClip) -> float:
    return 0.0 if scored.scores is None else scored.scores.fused
