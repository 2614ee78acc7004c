"""Reranking, with the interface of Cohere and Jina: a text with stored clips and videos, or one of these with texts."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request

from index.collection import Collection
from index.records import Clip
from index.search.rerank import ScoredClip, can_rerank, score_best_clips
from service.app_state import AppState, ReadyAppStateDep
from service.http.auth import caller_key, requires
from service.http.openapi import errors
from service.http.parsing import StrictRoute, check_max, parse_id
from service.inference.embedding import check_text, check_texts
from service.inference.request_context import RequestContext, request_context
from service.schemas.rerank import DocumentRef, RerankedClip, RerankRequest, RerankResponse, RerankResult
from vitascope.errors import FingerprintMismatch, TaskMissing

router = APIRouter(prefix="/v1", tags=["rerank"], route_class=StrictRoute)


@router.post("/rerank", summary="Rerank", responses=errors(404, 409, 422, 503, 507))
@requires("read")
async def rerank_documents(request: Request, service: ReadyAppStateDep, body: RerankRequest) -> RerankResponse:
    """Rank stored clips and videos by how well a text describes them, or texts by how well they describe one clip.

    The fusion model scores each pair; `relevance_score` is `fused`. Of a video it scores the five clips most similar to
    the text, and the best one counts. Nothing is decoded: the stored visual tokens are scored.
    """
    caller_key(request).require_collection(body.collection)
    _check(service, body)
    async with request_context(request, service) as context:
        name, results = await context.run(_rerank, service, context, body)
    return RerankResponse(id=request.state.request_id, model=name, results=results)


def _check(service: AppState, body: RerankRequest) -> None:
    """Check a request before anything is read. Raises ModelNotFound, InvalidInput and TextError."""
    check_max("documents", len(body.documents), service.settings.max_rerank)
    if isinstance(body.query, str):
        check_text(service, "query", body.query)
    check_texts(service, "documents", [document for document in body.documents if isinstance(document, str)])
    if body.model is not None:
        service.models.get(body.model)


def _rerank(service: AppState, context: RequestContext, body: RerankRequest) -> tuple[str, list[RerankResult]]:
    """Return the model's name and the results, best first, without documents that were deleted meanwhile.

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
        pairs = _pairs(collection, body)
        texts = list(dict.fromkeys(text for text, _ in pairs))
        embeddings = dict(zip(texts, model.embed_text(texts), strict=True))
        scored_clips = score_best_clips(collection, model, pairs, embeddings)
    ranked = [(index, scored) for index, scored in enumerate(scored_clips) if scored is not None]
    ranked.sort(key=lambda pair: (pair[1].scores is None, -_fused(pair[1]), -pair[1].similarity, pair[0]))
    results = [_result(body, index, scored) for index, scored in ranked[: body.top_n]]
    return model.bundle.manifest.name, results


def _pairs(collection: Collection, body: RerankRequest) -> list[tuple[str, Sequence[Clip]]]:
    if isinstance(body.query, str):
        text = body.query
        parts = [document for document in body.documents if isinstance(document, DocumentRef)]
        return [(text, clips) for clips in _clips(collection, parts)]
    clips = _clips(collection, [body.query])[0]
    return [(document, clips) for document in body.documents if isinstance(document, str)]


def _clips(collection: Collection, parts: Sequence[DocumentRef]) -> list[Sequence[Clip]]:
    ids = [parse_id(part.clip_id) for part in parts if part.clip_id is not None]
    clips = iter(collection.clips_by_id(ids))
    return [[next(clips)] if part.video_id is None else collection.clips(parse_id(part.video_id)) for part in parts]


def _result(body: RerankRequest, index: int, scored: ScoredClip) -> RerankResult:
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
