"""Search: as JSON, or as a form with a picture or video to search with."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.app_state import ReadyService
from service.http.auth import requires
from service.http.multipart import body_kind, parse_fields, read_form, validated
from service.http.openapi import errors, form_body
from service.http.parsing import StrictRoute
from service.inference.request_context import turn
from service.schemas.search import SearchForm, SearchRequest, SearchResponse
from service.searching import parse_search, run_search

router = APIRouter(prefix="/v1/collections/{name}", tags=["search"], route_class=StrictRoute)


@router.post(
    "/search",
    summary="Find clips",
    response_model=SearchResponse,
    responses=errors(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra=form_body(SearchForm, also_json=SearchRequest),
)
@requires("read")
async def search(name: str, request: Request, service: ReadyService) -> Response:
    """The clips that fit a sentence, a picture, a video, a stored clip or a mix of them best, each with the second at
    which to play it; or the events or videos that they belong to.

    `hybrid` also looks for the sentence's words. `rerank` lets the fusion model look at that many of the best clips:
    slower, better. Pages repeat and miss nothing, also while the collection changes; `changed` says that it
    has, 409 `cursor_expired` that it was replaced.
    """
    if body_kind(request, "a search", "a search with a file") == "application/json":
        parsed = parse_search(service, validated(SearchRequest, await request.json()))
        async with turn(request, service) as mine:
            return _answer(await run_search(service, mine, name, parsed, None))
    # Before a byte is taken in: is there such a collection, and does its model serve?
    await service.light.run(service.collection, name, for_model=True)
    async with read_form(request, service) as form:
        parsed = parse_search(service, parse_fields(SearchForm, form, as_json=("query", "filter")))
        async with turn(request, service) as mine:
            return _answer(await run_search(service, mine, name, parsed, form.upload))


def _answer(body: bytes) -> Response:
    """Written by the schema itself and not by the framework, which would go through it twice."""
    return Response(body, media_type="application/json")
