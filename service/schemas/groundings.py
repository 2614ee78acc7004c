"""Places of the objects that phrases describe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.schemas.base import ModelName, Probability, Request, Response, example
from service.schemas.library import Video
from service.schemas.scores_answers import StoredClip, TimeRange

PHRASES = ["the brown dog", "a ball"]


class GroundingFields(Request):
    """Phrases to find."""

    phrases: Annotated[list[str], Field(min_length=1, fail_fast=True, description="such as `the brown dog`")]
    model: ModelName = None


class GroundingRequest(GroundingFields, StoredClip):
    """Phrases about a stored video or a part of it."""

    model_config = example(collection="holidays", video_id="3", start=1.0, end=3.0, phrases=PHRASES)


class GroundingForm(GroundingFields, TimeRange):
    """Phrases about an uploaded file; repeat `phrases` for each."""

    model_config = example(phrases=PHRASES)


POINT: dict[str, Any] = {"x": 0.41, "y": 0.66}
BOX: dict[str, Any] = {"left": 0.3, "top": 0.45, "right": 0.52, "bottom": 0.83}
PIXELS: dict[str, Any] = {"left": 576, "top": 486, "right": 998, "bottom": 896}
GROUNDING: dict[str, Any] = {
    "phrase": "the brown dog",
    "score": 0.92,
    "point": POINT,
    "box": BOX,
    "pixels": PIXELS,
    "heat_map": [[0.02, 0.05], [0.31, 0.92]],
}


class Point(Response):
    """A point of the frame, as fractions of its width and height."""

    model_config = example(**POINT)

    x: Probability
    y: Probability


class Box(Response):
    """Edges of a box, as fractions of the width and height of the frame."""

    model_config = example(**BOX)

    left: Probability
    top: Probability
    right: Probability
    bottom: Probability


class PixelBox(Response):
    """Edges of a box in pixels of the frame; `right` and `bottom` are the first pixels outside of it."""

    model_config = example(**PIXELS)

    left: int
    top: int
    right: int
    bottom: int


class Grounding(Response):
    """The place of the object that a phrase describes."""

    model_config = example(**GROUNDING)

    phrase: str
    score: Annotated[Probability, Field(description="largest value of the heat map; low if the object is not there")]
    point: Annotated[Point, Field(description="the centre of the heat map around its largest value")]
    box: Box
    pixels: Annotated[PixelBox, Field(description="the box in pixels")]
    heat_map: Annotated[
        list[list[float]],
        Field(
            description="rows of equal cells that cover the frame: probability that the centre of the object is in each"
        ),
    ]


class GroundingResponse(Response):
    """Places in the middle frame of the part of the video."""

    model_config = example(video=None, start=4.0, end=8.0, time=6.0, width=1920, height=1080, groundings=[GROUNDING])

    video: Annotated[Video | None, Field(description="null for an uploaded file")]
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]
    time: Annotated[float, Field(description="time of the frame in seconds")]
    width: Annotated[int, Field(description="width of the frame in pixels")]
    height: Annotated[int, Field(description="height of the frame in pixels")]
    groundings: Annotated[list[Grounding], Field(description="in the order of the phrases")]
