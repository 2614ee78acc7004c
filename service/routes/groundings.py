"""Grounding: locate the objects that phrases describe in the middle frame of a clip."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request

from service.app_state import ReadyAppStateDep
from service.http.auth import requires
from service.http.openapi import form_body
from service.http.parsing import StrictRoute, check_max
from service.inference.embedding import ClipRange, check_texts, embed_clip
from service.inference.request_context import RequestContext
from service.routes.sources import SOURCE_ERRORS, OpenSource, compute_for_source
from service.schemas.groundings import (
    Box,
    Grounding,
    GroundingForm,
    GroundingRequest,
    GroundingResponse,
    PixelBox,
    Point,
)
from vitascope import grounding

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post(
    "/groundings",
    tags=["groundings"],
    summary="Ground phrases",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(GroundingForm, also_json=GroundingRequest),
)
@requires("read")
async def ground_phrases(request: Request, service: ReadyAppStateDep) -> GroundingResponse:
    """Locate what each phrase names in the middle frame of a part of a video, or in a picture: a box, a score and a
    heat map. There is always a box; the score is low if nothing fits.
    """

    def check(fields: GroundingRequest | GroundingForm) -> None:
        check_max("phrases", len(fields.phrases), service.settings.max_captions)
        check_texts(service, "phrases", fields.phrases)

    return await compute_for_source(request, service, GroundingRequest, GroundingForm, check, _ground)


def _ground(
    context: RequestContext, open_source: OpenSource, fields: GroundingRequest | GroundingForm
) -> GroundingResponse:
    """Locate phrases. Raises the errors of ``stored_file`` and ``embed_clip``, TaskMissing, TextError, EngineError."""
    model = context.model(context.service.models.get(fields.model))
    _ = model.grounding_grid  # before anything is decoded
    with open_source(context) as source:
        clip = embed_clip(context, model, source, ClipRange(fields.start, fields.end))
        info = model.decoder.probe(source.file, context.service.settings.media_limits())
    with context.service.observer.stage("ground"):
        tokens = np.repeat(clip.embedding.visual_tokens, len(fields.phrases), axis=0)
        places = model.ground(fields.phrases, tokens)
    return GroundingResponse(
        video=clip.video,
        start=clip.start,
        end=clip.end,
        time=(clip.start + clip.end) / 2,
        width=info.width,
        height=info.height,
        groundings=[
            _serialize(phrase, place, info.width, info.height)
            for phrase, place in zip(fields.phrases, places, strict=True)
        ],
    )


def _serialize(phrase: str, place: grounding.Grounding, width: int, height: int) -> Grounding:
    x, y = place.point
    return Grounding(
        phrase=phrase,
        score=place.score,
        point=Point(x=x, y=y),
        box=Box(**place.box._asdict()),
        pixels=PixelBox(**place.box.in_pixels(width, height)),
        heat_map=place.heat_map.astype(float).round(3).tolist(),
    )
