"""Caption scores and answers.

similarity, match and fused are kept apart as in ``service.schemas.search``.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from service.schemas.base import Id, Probability, Request, Response, Seconds, Whole, example
from service.schemas.library import Video
from service.schemas.search import FUSED, MATCH, Similarity

CLIPSCORE = "2.5 * max(similarity, 0) (Hessel and others, 2021)"


class Part(Request):
    """A part of a file; all of it when nothing is given."""

    start: Annotated[Seconds | None, Field(description="seconds; 0 when not given")] = None
    end: Annotated[Seconds | None, Field(description="seconds; the file's duration when not given")] = None

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        start = self.start or 0.0
        if self.end is not None and not (start < self.end or start == self.end == 0):
            raise ValueError(f"start {start:g}, end {self.end:g}: start before end was expected")
        return self


class ClipOf(Part):
    """A stored video, or a part of it."""

    collection: str
    video_id: Id


class ScoreFields(Request):
    """Captions to be compared."""

    captions: Annotated[list[str], Field(min_length=1)]


class ScoreRequest(ScoreFields, ClipOf):
    """Captions for a stored video or a part of it."""

    model_config = example(collection="holidays", video_id="3", captions=["a dog runs", "a cat sleeps"])


class ScoreForm(ScoreFields, Part):
    """Captions for a file that comes along; `captions` once for each."""

    model_config = example(captions=["a dog runs", "a cat sleeps"])


SCORE: dict[str, Any] = {
    "caption": "a dog runs",
    "similarity": 0.41,
    "clipscore": 1.025,
    "match": 0.93,
    "fused": 0.9,
}


class CaptionScore(Response):
    """How one caption describes the clip."""

    model_config = example(**SCORE)

    caption: str
    similarity: Similarity
    clipscore: Annotated[float, Field(ge=0, description=CLIPSCORE)]
    match: Annotated[Probability | None, Field(description=f"{MATCH}; null where the model cannot match")]
    fused: Annotated[Probability | None, Field(description=f"{FUSED}; null where the model cannot match")]


class ScoreResponse(Response):
    """Scores in the order of the captions."""

    model_config = example(video=None, start=0.0, end=17.4, scores=[SCORE])

    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    scores: list[CaptionScore]


class AnswerFields(Request):
    """A question."""

    question: str
    top: Annotated[Whole, Field(ge=1, description="how many answers")] = 5


class AnswerRequest(AnswerFields, ClipOf):
    """A question about a stored video or a part of it."""

    model_config = example(collection="holidays", video_id="3", question="what animal is it?", top=3)


class AnswerForm(AnswerFields, Part):
    """A question about a file that comes along."""

    model_config = example(question="what animal is it?", top=3)


class Answer(Response):
    """One entry of the model's answer vocabulary."""

    model_config = example(text="dog", probability=0.81)

    text: str
    probability: Annotated[Probability, Field(description="among all entries of the vocabulary")]


class AnswerResponse(Response):
    """Answers, likeliest first. A low first probability means that the model does not know."""

    model_config = example(
        question="what animal is it?",
        video=None,
        start=0.0,
        end=17.4,
        answers=[{"text": "dog", "probability": 0.81}],
    )

    question: str
    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    answers: list[Answer]
