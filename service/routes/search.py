"""Search by a sentence."""

from __future__ import annotations

from fastapi import APIRouter

from index.collection import MAX_K
from index.filters import parse_filter
from index.search import RankedHit, search_text
from service.cursors import at_most
from service.looking import check_texts
from service.openapi import errors
from service.schemas.tasks import SearchRequest, SearchResponse
from service.state import ReadyService, Service
from service.views import result_view

router = APIRouter(prefix="/v1/collections/{name}", tags=["search"])

DEPTH = 8
"""How many times more clips than videos are looked at first when only the best clip of each video is wanted.
"""


@router.post("/search", summary="Find clips", responses=errors(404, 409, 422, 503, 507))
async def search(name: str, body: SearchRequest, service: ReadyService) -> SearchResponse:
    """The clips that fit a sentence best, each with the second at which to play it.

    `rerank` lets the fusion model look at that many of the most similar clips: slower, better.
    """
    at_most("limit", body.limit, service.settings.max_results)
    at_most("rerank", body.rerank, service.settings.max_rerank)
    check_texts(service, "text", [body.text])
    found = await service.heavy.run(_search, service, name, body)
    return SearchResponse(text=body.text, results=[result_view(name, ranked) for ranked in found])


def _search(service: Service, name: str, body: SearchRequest) -> list[RankedHit]:
    collection = service.collection(name, for_model=True)
    where = None if body.filter is None else parse_filter(body.filter)
    if body.group == "clip":
        return search_text(collection, service.model, body.text, body.limit, where, body.rerank)
    clips = collection.stats().clips
    k = body.limit * DEPTH
    while True:
        k = min(k, MAX_K)
        best = _best_of_each(search_text(collection, service.model, body.text, k, where, body.rerank))
        if len(best) >= body.limit or k >= min(clips, MAX_K):
            return best[: body.limit]
        k *= DEPTH


def _best_of_each(found: list[RankedHit]) -> list[RankedHit]:
    first: dict[int, RankedHit] = {}
    for ranked in found:
        first.setdefault(ranked.hit.video_id, ranked)
    return list(first.values())
