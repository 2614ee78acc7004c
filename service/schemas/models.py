"""Models in use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.schemas.base import Response, example

STREAM: dict[str, Any] = {
    "name": "high",
    "frames": 1,
    "height": 224,
    "width": 224,
    "placement": "middle",
    "fit": "stretch",
}
MODEL: dict[str, Any] = {
    "name": "hd-vila-tiny",
    "version": "1.0.0",
    "fingerprint": "9f0c…64 hexadecimal digits",
    "architecture": "hd-vila",
    "tasks": ["retrieval", "matching", "answering"],
    "streams": [STREAM],
    "vector_width": 256,
    "text_length": 64,
    "answers": 1200,
    "precision": "float32",
    "licence": "Apache-2.0",
    "training_data": ["scenes", "pictograms"],
    "metrics": {"scenes.text_to_video.recall@1": 0.62},
    "model_card": "# hd-vila-tiny\n…",
}


class FrameStream(Response):
    """Frames that the model looks at."""

    model_config = example(**STREAM)

    name: str
    frames: int
    height: Annotated[int, Field(description="pixels")]
    width: Annotated[int, Field(description="pixels")]
    placement: Annotated[str, Field(description="where in the clip: middle or uniform")]
    fit: str


class ModelInfo(Response):
    """A model: what it can do, what it was trained on, how well it does, and under which terms."""

    model_config = example(**MODEL)

    name: str
    version: str
    fingerprint: Annotated[str, Field(description="of all that decides a vector; collections remember it")]
    architecture: str
    tasks: list[str]
    streams: list[FrameStream]
    vector_width: int
    text_length: Annotated[int, Field(description="tokens; longer texts are cut")]
    answers: Annotated[int, Field(description="size of the answer vocabulary")]
    precision: str
    licence: str
    training_data: list[str]
    metrics: dict[str, float]
    model_card: Annotated[str, Field(description="Markdown")]


class Models(Response):
    """The models in use."""

    model_config = example(models=[MODEL])

    models: list[ModelInfo]
