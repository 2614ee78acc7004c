"""How well captions describe a clip that was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from service.app_state import Service
from service.inference.clip_embedding import Look
from service.schemas.tasks import CaptionScore, EmScore, ScoreResponse, WordEvidence
from vitascope.captions import CaptionScores, score_captions
from vitascope.model import Model


def score(
    service: Service, model: Model, look: Look, captions: Sequence[str], references: Sequence[str]
) -> ScoreResponse:
    """The scores of each caption. Raises TextError, TaskMissing and EngineError."""
    with service.observer.stage("score"):
        found = score_captions(model, look.embedding, captions, references, look.frames)
    return ScoreResponse(
        video=look.video_view(), start=look.start, end=look.end, scores=[_view(scores) for scores in found]
    )


def _view(scores: CaptionScores) -> CaptionScore:
    em = scores.emscore
    stated = {**vars(scores), "emscore": None}
    if em is not None:
        words = [WordEvidence(**asdict(word)) for word in em.words]
        stated["emscore"] = EmScore(**{**vars(em), "words": words})
    return CaptionScore(**stated)
