"""Caption scores, answers, moments and generated captions.

similarity, match and fused are kept apart as in ``service.schemas.search``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.schemas.base import Id, Int, ModelName, Probability, Request, Response, Seconds, example
from service.schemas.jobs import WINDOWS, Segmentation
from service.schemas.library import MOMENT, Moment, Video
from service.schemas.search import FUSED, MATCH, SIMILARITY
from vitascope.captions import MAX_SEED, CaptionOptions
from vitascope.modalities import Modality

CLIPSCORE = (
    "2.5 * max(cosine, 0) (Hessel and others, 2021); the cosine is `similarity` or, if the model has a caption matrix, "
    "one that agrees better with people's grades of captions"
)
REFCLIPSCORE = (
    "harmonic mean of clipscore and max(reference_similarity, 0) (Hessel and others, 2021); null without references"
)


class TimeRange(Request):
    """A part of a file; by default all of it."""

    start: Annotated[Seconds | None, Field(description="seconds; default: 0")] = None
    end: Annotated[Seconds | None, Field(description="seconds; default: the end of the file")] = None

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        start = self.start or 0.0
        if self.end is not None and not (start < self.end or start == self.end == 0):
            raise ValueError(f"start {start:g}, end {self.end:g}: start before end was expected")
        return self


class StoredClip(TimeRange):
    """A stored video, or a part of it."""

    collection: str
    video_id: Id


class ScoreFields(Request):
    """Captions to score."""

    captions: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    references: Annotated[
        list[str],
        Field(
            default_factory=list,
            fail_fast=True,
            description="reference captions of the clip, for refclipscore",
        ),
    ]
    frames: Annotated[
        Int,
        Field(ge=0, description="frames of the clip to compare for emscore; 0: no emscore"),
    ] = 0
    model: ModelName = None


class ScoreRequest(ScoreFields, StoredClip):
    """Captions for a stored video or a part of it."""

    model_config = example(
        collection="holidays",
        video_id="3",
        captions=["a dog runs", "a cat sleeps"],
        references=["a brown dog runs along the sea"],
        frames=8,
    )


class ScoreForm(ScoreFields, TimeRange):
    """Captions for an uploaded file; repeat `captions` and `references` for each."""

    model_config = example(captions=["a dog runs", "a cat sleeps"])


WORD: dict[str, Any] = {"word": "dog", "weight": 1.0, "similarity": 0.39, "time": 6.5}
EM: dict[str, Any] = {
    "score": 0.395,
    "coarse": 0.41,
    "precision": 0.39,
    "recall": 0.37,
    "f1": 0.38,
    "words": [WORD],
}
SCORE: dict[str, Any] = {
    "caption": "a dog runs",
    "similarity": 0.41,
    "clipscore": 1.025,
    "reference_similarity": 0.82,
    "refclipscore": 0.911,
    "emscore": EM,
    "match": 0.93,
    "fused": 0.9,
}
Cosine = Annotated[float, Field(ge=-1, le=1)]
Modalities = Annotated[
    list[Modality],
    Field(
        description="what of the clip the model has used: its pictures and, if it has sound and the model matches and "
        "answers by sound, that; similarity and emscore are of the pictures alone"
    ),
]


class WordEvidence(Response):
    """A word of a caption, and the frame that shows it best."""

    model_config = example(**WORD)

    word: str
    weight: Annotated[float, Field(ge=0, description="0 for English function words such as `the` and `of`, else 1")]
    similarity: Annotated[Cosine, Field(description="cosine of the word and that frame")]
    time: Annotated[float, Field(description="seconds of that frame")]


class EmScore(Response):
    """EMScore without references (Shi and others, 2022), of as many frames as were requested.

    It differs from the paper: a word is embedded alone and not in its sentence, since a bundle gives one vector per
    text; `coarse` is the cosine with the vector of the clip, not with the mean of its frames; words count by the
    weights stated here, not by how rare they are in a corpus.
    """

    model_config = example(**EM)

    score: Annotated[Cosine, Field(description="mean of coarse and f1")]
    coarse: Annotated[Cosine, Field(description="the same as `similarity`")]
    precision: Annotated[
        Cosine, Field(description="weighted mean over words: cosine with the frame that shows it best")
    ]
    recall: Annotated[Cosine, Field(description="mean over frames: cosine with its best word")]
    f1: Annotated[float, Field(ge=0, le=1, description="harmonic mean of both; 0 where one is not above 0")]
    words: list[WordEvidence]


class CaptionScore(Response):
    """Scores of a caption of the clip."""

    model_config = example(**SCORE)

    caption: str
    similarity: Annotated[
        float | None, Field(ge=-1, le=1, description=f"{SIMILARITY}; null if the model does not embed texts")
    ]
    clipscore: Annotated[float | None, Field(ge=0, description=f"{CLIPSCORE}; null if similarity is")]
    reference_similarity: Annotated[
        float | None, Field(ge=-1, le=1, description="cosine of the caption and the most similar reference")
    ]
    refclipscore: Annotated[float | None, Field(ge=0, description=REFCLIPSCORE)]
    emscore: Annotated[EmScore | None, Field(description="null without `frames`")]
    match: Annotated[Probability | None, Field(description=f"{MATCH}; null if the model has no task matching")]
    fused: Annotated[Probability | None, Field(description=f"{FUSED}; null if either is")]


class ScoreResponse(Response):
    """Scores in the order of the captions."""

    model_config = example(video=None, start=0.0, end=17.4, modalities=["visual"], scores=[SCORE])

    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    modalities: Modalities
    scores: list[CaptionScore]


class AnswerFields(Request):
    """A question."""

    question: str
    top: Annotated[Int, Field(ge=1, description="maximum number of answers")] = 5
    candidates: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            fail_fast=True,
            description="possible answers; default: the vocabulary of the model. A model that scores free-form answers "
            "accepts any text",
        ),
    ] = None
    abstain_below: Annotated[Probability, Field(description="no answer if its probability is lower")] = 0.0
    model: ModelName = None


class AnswerRequest(AnswerFields, StoredClip):
    """A question about a stored video or a part of it."""

    model_config = example(
        collection="holidays",
        video_id="3",
        question="what animal is it?",
        candidates=["dog", "cat", "wombat"],
        abstain_below=0.5,
        top=3,
    )


class AnswerForm(AnswerFields, TimeRange):
    """A question about an uploaded file; repeat `candidates` for each."""

    model_config = example(question="what animal is it?", top=3)


ANSWER: dict[str, Any] = {"text": "dog", "probability": 0.81}


class Answer(Response):
    """One entry of the model's answer vocabulary, or a candidate that is one."""

    model_config = example(**ANSWER)

    text: str
    probability: Annotated[
        Probability,
        Field(description="calibrated; among the vocabulary, or among the candidates that are in it"),
    ]


class AnswerResponse(Response):
    """Answers, the most probable first. If the first probability is low, the model does not know."""

    model_config = example(
        question="what animal is it?",
        video=None,
        start=0.0,
        end=17.4,
        modalities=["visual"],
        answer="dog",
        abstained=False,
        answers=[ANSWER],
        out_of_vocabulary=["wombat"],
    )

    question: str
    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    modalities: Modalities
    answer: Annotated[str | None, Field(description="the most probable; null if the model abstained")]
    abstained: Annotated[
        bool, Field(description="whether the best is below `abstain_below`, or no candidate is in the vocabulary")
    ]
    answers: list[Answer]
    out_of_vocabulary: Annotated[
        list[str], Field(description="candidates that are not in the model's vocabulary, and not scored")
    ]


class MomentFields(Request):
    """Texts to find moments for."""

    texts: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    top: Annotated[Int, Field(ge=1, description="maximum number of moments of each text")] = 5
    model: ModelName = None


class MomentRequest(MomentFields, StoredClip):
    """Texts about a stored video or a part of it."""

    model_config = example(collection="holidays", video_id="3", texts=["a dog runs", "a wave breaks"], top=3)


class MomentForm(MomentFields, TimeRange):
    """Texts about an uploaded file; repeat `texts` for each."""

    model_config = example(texts=["a dog runs", "a wave breaks"])


TEXT_MOMENTS: dict[str, Any] = {"text": "a dog runs", "moments": [MOMENT], "saliency": [0.03, 0.91, 0.88]}


class TextMoments(Response):
    """Moments of one text."""

    model_config = example(**TEXT_MOMENTS)

    text: str
    moments: Annotated[
        list[Moment],
        Field(description="highest score first; there are some even if the text is true of nothing, with low scores"),
    ]
    saliency: Annotated[
        list[float], Field(description="probability that the text is true of each window, in the order of `times`")
    ]


class MomentResponse(Response):
    """Moments in the order of the texts."""

    model_config = example(video=None, start=0.0, end=17.4, times=[0.5, 1.5, 2.5], results=[TEXT_MOMENTS])

    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    times: Annotated[list[float], Field(description="middle of each window in seconds")]
    results: list[TextMoments]


class CaptionFields(Request):
    """Options of the generation of captions."""

    beams: Annotated[Int, Field(ge=1, description="sentences that the search keeps at each word; 1: greedy")] = 3
    temperature: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="0: the most probable sentences; above 0 words are sampled, with `beams` 1 or `rerank`: the "
            "higher, the more varied",
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        Field(gt=0, le=1, description="sample from the most probable words that together have this probability"),
    ] = 1.0
    seed: Annotated[
        Int, Field(ge=0, le=MAX_SEED, description="seed of sampling; the same seed gives the same captions")
    ] = 0
    max_tokens: Annotated[
        Int | None, Field(ge=1, description="tokens of a caption; null: as many as the model allows")
    ] = None
    count: Annotated[Int, Field(ge=1, description="captions of each clip, at most `beams` unless sampled")] = 1
    rerank: Annotated[
        bool,
        Field(
            description="order all `beams`, and with a `temperature` as many samples, by how well they match the clip, "
            "too: better, and slower by a match of each; the model needs the task `matching`"
        ),
    ] = False
    model: ModelName = None

    def options(self) -> CaptionOptions:
        """Return the options of the model. Raises InvalidInput for contradictory ones."""
        return CaptionOptions(
            self.beams,
            self.temperature,
            self.top_p,
            self.seed,
            max_tokens=self.max_tokens,
            count=self.count,
            rerank=self.rerank,
        )


PER_CLIP = "caption each clip of the part alone, which is cut in this way; null: caption the part as a whole"


class CaptionRequest(CaptionFields, StoredClip):
    """A stored video, or a part of it, to caption."""

    model_config = example(collection="holidays", video_id="3", segmentation="stored", end=60.0)

    segmentation: Annotated[
        Literal["stored"] | Segmentation | None, Field(description=f"{PER_CLIP}; `stored`: into its indexed clips")
    ] = None


class CaptionForm(CaptionFields, TimeRange):
    """An uploaded file to caption; `segmentation` is JSON."""

    model_config = example(segmentation=WINDOWS, beams=5, count=2)

    segmentation: Annotated[Segmentation | None, Field(description=PER_CLIP)] = None


GENERATED: dict[str, Any] = {"text": "a brown dog runs along the sea", "log_probability": -0.41, "match": None}
CAPTIONED: dict[str, Any] = {"start": 0.0, "end": 8.0, "modalities": ["visual"], "captions": [GENERATED]}


class GeneratedCaption(Response):
    """A sentence about a clip, generated by the model. It may be wrong: caption scores tell how well it fits."""

    model_config = example(**GENERATED)

    text: str
    log_probability: Annotated[
        float,
        Field(le=0, description="mean natural logarithm of the probabilities of its tokens; comparable within a model"),
    ]
    match: Annotated[Probability | None, Field(description=f"{MATCH}; null without `rerank`")]


class CaptionedClip(Response):
    """Captions of one clip."""

    model_config = example(**CAPTIONED)

    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    modalities: Annotated[
        list[Modality], Field(description="what of the clip the model has used: its pictures, and its sound if it can")
    ]
    captions: Annotated[
        list[GeneratedCaption],
        Field(description="most probable, or reranked, first; fewer than `count` if the search has no more"),
    ]


class CaptionResponse(Response):
    """Captions of clips in the order of time."""

    model_config = example(video=None, clips=[CAPTIONED])

    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    clips: list[CaptionedClip]
