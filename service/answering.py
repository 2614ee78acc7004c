"""What the model answers about a clip that was looked at."""

from __future__ import annotations

from service.app_state import Service
from service.inference.clip_embedding import Look
from service.schemas.tasks import Answer, AnswerFields, AnswerResponse
from vitascope.answering import answer_question
from vitascope.model import Model


def answer(service: Service, model: Model, look: Look, asked: AnswerFields) -> AnswerResponse:
    """The answers, best first. Raises InvalidInput, TextError, TaskMissing and EngineError."""
    with service.observer.stage("answer"):
        found = answer_question(
            model,
            asked.question,
            look.embedding.visual_tokens,
            top=asked.top,
            candidates=asked.candidates,
            abstain_below=asked.abstain_below,
        )
    return AnswerResponse(
        question=asked.question,
        video=look.video_view(),
        start=look.start,
        end=look.end,
        answer=found.answer,
        abstained=found.abstained,
        answers=[Answer(text=one.text, probability=one.probability) for one in found.answers],
        unknown=found.unknown,
    )
