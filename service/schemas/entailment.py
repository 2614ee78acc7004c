"""Classes of sentences about a clip: entailed, neutral or contradicted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.schemas.base import ModelName, Probability, Request, Response, example
from service.schemas.library import Video
from service.schemas.scores_answers import Modalities, StoredClip, TimeRange
from vitascope.entailment import EntailmentLabel


class EntailmentFields(Request):
    """Sentences to classify."""

    hypotheses: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    model: ModelName = None


class EntailmentRequest(EntailmentFields, StoredClip):
    """Sentences about a stored video or a part of it."""

    model_config = example(collection="holidays", video_id="3", hypotheses=["a dog runs", "the dog is asleep"])


class EntailmentForm(EntailmentFields, TimeRange):
    """Sentences about an uploaded file; repeat `hypotheses` for each."""

    model_config = example(hypotheses=["a dog runs", "the dog is asleep"])


PROBABILITIES: dict[str, Any] = {"entailed": 0.91, "neutral": 0.05, "contradicted": 0.04}
CLASSIFIED: dict[str, Any] = {"hypothesis": "a dog runs", "label": "entailed", "probabilities": PROBABILITIES}


class EntailmentProbabilities(Response):
    """Probabilities of the classes, whose sum is 1."""

    model_config = example(**PROBABILITIES)

    entailed: Annotated[Probability, Field(description="the clip shows that the sentence is true")]
    neutral: Annotated[Probability, Field(description="neither; the clip does not show enough to decide")]
    contradicted: Annotated[Probability, Field(description="the clip shows that the sentence is false")]


class ClassifiedHypothesis(Response):
    """The class of a sentence."""

    model_config = example(**CLASSIFIED)

    hypothesis: str
    label: Annotated[EntailmentLabel, Field(description="the most probable class")]
    probabilities: EntailmentProbabilities


class EntailmentResponse(Response):
    """Classes in the order of the sentences."""

    model_config = example(video=None, start=0.0, end=17.4, modalities=["visual"], results=[CLASSIFIED])

    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    modalities: Modalities
    results: list[ClassifiedHypothesis]
