"""Reranking, for the clients of Cohere's and Jina's interfaces."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.app_state import ReadyService
from service.http.auth import caller_key, requires
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.inference.request_context import turn
from service.reranking import check_rerank, rerank
from service.schemas.rerank import Reranked, RerankRequest

router = APIRouter(prefix="/v1", tags=["rerank"], route_class=StrictRoute)


@router.post("/rerank", summary="Judge texts with clips", responses=errors(404, 409, 422, 503, 507))
@requires("read")
async def rerank_documents(request: Request, service: ReadyService, asked: RerankRequest) -> Reranked:
    """Order stored clips and videos by how well a text fits them, or texts by how well they fit a clip or video.

    The fusion model judges each pair; `relevance_score` is `fused`. Of a video it looks at the five clips that are most
    similar to the text, and the best one counts. Nothing is decoded: clips are judged by what is stored of them.
    """
    caller_key(request).require_collection(asked.collection)
    check_rerank(service, asked)
    async with turn(request, service) as mine:
        name, results = await mine.run(rerank, service, mine, asked)
    return Reranked(id=request.state.request_id, model=name, results=results)
