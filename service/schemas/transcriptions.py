"""Transcriptions in the format of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.schemas.base import Probability, Request, Response, example
from vitascope.speech.transcript_formats import Granularity, TranscriptFormat

SEGMENT: dict[str, Any] = {
    "id": 0,
    "start": 0.4,
    "end": 2.1,
    "text": "A dog runs.",
    "language": "en",
    "confidence": 0.87,
    "avg_logprob": -0.139,
    "seek": 0,
    "tokens": [],
    "temperature": 0.0,
    "compression_ratio": None,
    "no_speech_prob": None,
}
WORD: dict[str, Any] = {"word": "dog", "start": 0.6, "end": 1.0}


class TranscriptionForm(Request):
    """Form fields of a request that transcribes a file."""

    model_config = example(language="en", response_format="verbose_json")

    model: Annotated[
        str | None,
        Field(description="must be the name of the service's speech model, as in responses; default: that model"),
    ] = None
    language: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z]{2,3}$",
            description="ISO 639-1 code of the spoken language; default: detected, if the model can",
        ),
    ] = None
    response_format: TranscriptFormat = "json"
    timestamp_granularities: Annotated[
        list[Granularity],
        Field(
            default_factory=lambda: ["segment"],
            alias="timestamp_granularities[]",
            min_length=1,
            description="contents of `verbose_json`; may be repeated. Some models have no word times",
        ),
    ]
    prompt: Annotated[str | None, Field(description="accepted for compatibility, and ignored")] = None
    temperature: Annotated[float | None, Field(description="accepted for compatibility, and ignored")] = None


class TranscribedSegment(Response):
    """Transcript of a span of the file."""

    model_config = example(**SEGMENT)

    id: int
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    text: str
    language: Annotated[str | None, Field(description="ISO 639-1 code, if it is known")]
    confidence: Annotated[Probability | None, Field(description="null if the model returns none")]
    avg_logprob: Annotated[float | None, Field(description="logarithm of confidence")]
    seek: Annotated[int, Field(description="0; this and the fields below exist for compatibility")]
    tokens: list[int]
    temperature: float
    compression_ratio: float | None
    no_speech_prob: float | None


class TranscribedWord(Response):
    """A word with the times when it is spoken."""

    model_config = example(**WORD)

    word: str
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]


class Transcription(Response):
    """Transcript of a file, in the format `verbose_json` of OpenAI's API."""

    model_config = example(
        task="transcribe",
        model="sherpa-onnx/whisper-base",
        language="en",
        duration=12.4,
        text="A dog runs.",
        segments=[SEGMENT],
        words=None,
    )

    task: str
    model: str
    language: Annotated[str | None, Field(description="ISO 639-1 code; null if unknown, or if there are several")]
    duration: Annotated[float, Field(description="seconds")]
    text: str
    segments: Annotated[list[TranscribedSegment] | None, Field(description="null unless requested")]
    words: Annotated[list[TranscribedWord] | None, Field(description="null unless requested")]
