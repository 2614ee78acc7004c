"""Caption scores and answers: about a stored video (JSON), or about a file that comes along (a form) and is
not kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import APIRouter, Request

from service.answering import answer
from service.app_state import ReadyService, Service
from service.http.auth import caller_key, requires
from service.http.multipart import body_kind, parse_fields, read_form, validated
from service.http.openapi import errors, form_body
from service.http.parameters import at_most
from service.http.parsing import StrictRoute
from service.inference.clip_embedding import Look, check_text, check_texts, look_at_upload, look_at_video
from service.inference.clip_embedding import Part as FilePart
from service.inference.request_context import Turn, turn
from service.schemas.tasks import (
    AnswerFields,
    AnswerForm,
    AnswerRequest,
    AnswerResponse,
    ClipOf,
    Part,
    ScoreFields,
    ScoreForm,
    ScoreRequest,
    ScoreResponse,
)
from service.scoring import score
from vitascope.model import Model

router = APIRouter(prefix="/v1", route_class=StrictRoute)

Body = TypeVar("Body", bound=Part)
Form = TypeVar("Form", bound=Part)
ERRORS = errors(400, 403, 404, 409, 413, 415, 422, 503, 507)


@router.post(
    "/caption-scores",
    tags=["scores"],
    summary="Score captions",
    responses=ERRORS,
    openapi_extra=form_body(ScoreForm, also_json=ScoreRequest),
)
@requires("read")
async def score_captions(request: Request, service: ReadyService) -> ScoreResponse:
    """How well each caption describes a clip: similarity, CLIPScore, match and fused score, with references
    RefCLIPScore, with frames EMScore and its words; each for itself, null where it cannot be told.
    """

    def check(fields: ScoreFields) -> None:
        at_most("captions", len(fields.captions), service.settings.max_captions)
        at_most("references", len(fields.references), service.settings.max_captions)
        at_most("frames", fields.frames, service.settings.max_frames)
        check_texts(service, "captions", fields.captions)
        check_texts(service, "references", fields.references)

    async with (
        _asked(request, service, ScoreRequest, ScoreForm, check) as (fields, look),
        turn(request, service) as mine,
    ):
        model = mine.model(service.models.named(fields.model))
        return await mine.run(lambda: score(service, model, look(mine, model), fields.captions, fields.references))


@router.post(
    "/answers",
    tags=["answers"],
    summary="Answer a question",
    responses=ERRORS,
    openapi_extra=form_body(AnswerForm, also_json=AnswerRequest),
)
@requires("read")
async def answer_question(request: Request, service: ReadyService) -> AnswerResponse:
    """The likeliest answers to a question about a clip, out of the model's vocabulary or among candidates, with their
    probabilities; none where the model is not sure enough.
    """

    def check(fields: AnswerFields) -> None:
        at_most("top", fields.top, service.settings.max_answers)
        check_text(service, "question", fields.question)
        at_most("candidates", len(fields.candidates or ()), service.settings.max_candidate_answers)
        check_texts(service, "candidates", fields.candidates or ())

    async with (
        _asked(request, service, AnswerRequest, AnswerForm, check) as (fields, look),
        turn(request, service) as mine,
    ):
        model = mine.model(service.models.named(fields.model))
        return await mine.run(lambda: answer(service, model, look(mine, model), fields))


@asynccontextmanager
async def _asked(
    request: Request,
    service: Service,
    as_json: type[Body],
    as_form: type[Form],
    check: Callable[[Body | Form], None],
) -> AsyncIterator[tuple[Body | Form, Callable[[Turn, Model], Look]]]:
    """(what was asked, a function that looks at the clip it was asked about; it runs in a thread)."""
    kind = body_kind(request, "a stored video", "a file")
    if kind == "application/json":
        body = validated(as_json, await request.json())
        assert isinstance(body, ClipOf)
        caller_key(request).require_collection(body.collection)
        check(body)
        yield body, lambda mine, model: look_at_video(service, mine, model, body.collection, body.video_id, _part(body))
        return
    async with read_form(request, service) as form:
        fields = parse_fields(as_form, form, lists=("captions", "references", "candidates"))
        check(fields)
        yield fields, lambda mine, model: look_at_upload(service, mine, model, form.upload, _part(fields))


def _part(asked: Part) -> FilePart:
    return FilePart(asked.start, asked.end, asked.frames if isinstance(asked, ScoreFields) else 0)
