"""Visual entailment: whether a clip entails or contradicts sentences, or is neutral about them."""

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
from service.schemas.entailment import (
    ClassifiedHypothesis,
    EntailmentForm,
    EntailmentProbabilities,
    EntailmentRequest,
    EntailmentResponse,
)
from vitascope.entailment import LABELS
from vitascope.modalities import used_modalities

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post(
    "/entailment",
    tags=["entailment"],
    summary="Classify sentences",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(EntailmentForm, also_json=EntailmentRequest),
)
@requires("read")
async def classify_entailment(request: Request, service: ReadyAppStateDep) -> EntailmentResponse:
    """Classify sentences as entailed or contradicted by a clip, or neutral, with the probabilities of the three."""

    def check(fields: EntailmentRequest | EntailmentForm) -> None:
        check_max("hypotheses", len(fields.hypotheses), service.settings.max_captions)
        check_texts(service, "hypotheses", fields.hypotheses)

    return await compute_for_source(request, service, EntailmentRequest, EntailmentForm, check, _classify)


def _classify(
    context: RequestContext, open_source: OpenSource, fields: EntailmentRequest | EntailmentForm
) -> EntailmentResponse:
    """Classify sentences.

    Raises the errors of ``stored_file`` and ``embed_clip``, TextError, TaskMissing and EngineError.
    """
    model = context.model(context.service.models.get(fields.model))
    with open_source(context) as source:
        clip = embed_clip(context, model, source, ClipRange(fields.start, fields.end, sound=True))
    texts = fields.hypotheses
    with context.service.observer.stage("entailment"):
        visual_tokens = clip.embedding.visual_tokens.repeat(len(texts), axis=0)
        audio_tokens = None if clip.audio_tokens is None else np.repeat(clip.audio_tokens, len(texts), axis=0)
        result = model.classify_entailment(texts, visual_tokens, audio_tokens)
    rows = zip(texts, result.labels, result.probabilities.tolist(), strict=True)
    return EntailmentResponse(
        video=clip.video,
        start=clip.start,
        end=clip.end,
        modalities=list(used_modalities(clip.audio_tokens)),
        results=[
            ClassifiedHypothesis(
                hypothesis=text,
                label=label,
                probabilities=EntailmentProbabilities(**dict(zip(LABELS, probabilities, strict=True))),
            )
            for text, label, probabilities in rows
        ],
    )
