"""Segmentation of videos into clips."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from index.clips import segmentation
from service.schemas.base import Request, example

MIN_STEP = 0.5
"""Seconds from one clip to the next."""

WINDOWS: dict[str, Any] = {"rule": "windows", "length": 8.0, "overlap": 2.0}
SHOTS: dict[str, Any] = {"rule": "shots", "shortest": 1.0, "longest": 16.0}
SUBTITLES: dict[str, Any] = {"rule": "subtitles", "shortest": 4.0, "longest": 16.0, "language": "en"}

Shortest = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]
Longest = Annotated[float, Field(ge=2 * MIN_STEP, allow_inf_nan=False, description="seconds; longer ones are split")]
Language = Annotated[
    str | None,
    Field(
        max_length=35,
        json_schema_extra={"pattern": f"^({segmentation.LANGUAGE.pattern})$"},
        description="of the subtitles; null: those without a language, else the first",
    ),
]


class WindowSegmentation(Request):
    """Windows of one length."""

    model_config = example(**WINDOWS)

    rule: Literal["windows"]
    length: Annotated[float, Field(ge=MIN_STEP, allow_inf_nan=False, description="seconds")] = 8.0
    overlap: Annotated[float, Field(ge=0, allow_inf_nan=False, description="seconds that neighbours overlap")] = 0.0
    shortest: Annotated[
        Shortest,
        Field(description="seconds; a shorter last window is merged with the previous one; null: half of length"),
    ] = None
    language: Language = None

    @model_validator(mode="after")
    def _advances(self) -> Self:
        if self.length - self.overlap < MIN_STEP:
            raise ValueError(f"overlap: {self.overlap:g}; at least {MIN_STEP:g} s less than length was expected")
        return self


class ShotSegmentation(Request):
    """One clip per shot, which ends with a cut, a fade or a dissolve."""

    model_config = example(**SHOTS)

    rule: Literal["shots"]
    shortest: Annotated[Shortest, Field(description="seconds; shorter shots are merged; null: 1")] = None
    longest: Longest = 16.0
    language: Language = None


class SubtitleSegmentation(Request):
    """Sentences of the subtitles; pauses, and videos without subtitles, become windows."""

    model_config = example(**SUBTITLES)

    rule: Literal["subtitles"]
    shortest: Annotated[Shortest, Field(description="seconds; shorter sentences are merged; null: 4")] = None
    longest: Longest = 16.0
    length: Annotated[float, Field(ge=MIN_STEP, allow_inf_nan=False, description="seconds of a window")] = 8.0
    language: Language = None


Segmentation = Annotated[
    WindowSegmentation | ShotSegmentation | SubtitleSegmentation,
    Field(discriminator="rule", description="segmentation of videos into clips; null: windows of 8 seconds"),
]


def parse_segmentation(fields: Segmentation | None) -> segmentation.Segmentation:
    """Return the segmentation of a request. Raises InvalidInput for contradictory numbers."""
    return segmentation.Segmentation() if fields is None else segmentation.Segmentation(**fields.model_dump())
