"""Models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.base import FINGERPRINT, Request, Response, example

STREAM: dict[str, Any] = {
    "name": "high",
    "frames": 1,
    "height": 224,
    "width": 224,
    "placement": "middle",
    "fit": "stretch",
    "resample": "decoder",
    "shortest_edge": None,
    "longest_edge": None,
    "multiple": 1,
    "shows": "picture",
    "margin": "down",
    "track": 0,
}
AUDIO_STREAM: dict[str, Any] = {
    "name": "audio",
    "sample_rate": 16000,
    "seconds": 10.0,
    "fill": "silence",
    "tokens": 62,
    "width": 192,
    "fused": False,
}
GRAPH_ENGINE: dict[str, Any] = {"engine": "onnxruntime 1.32.0", "device": "cpu", "gpu_name": None, "fallback": None}
MODEL: dict[str, Any] = {
    "name": "hd-vila-tiny",
    "version": "1.0.0",
    "fingerprint": FINGERPRINT,
    "folder": "hd-vila-tiny",
    "default": True,
    "state": "ready",
    "error": None,
    "engines": {"text": GRAPH_ENGINE},
    "architecture": "hd-vila",
    "tasks": ["retrieval", "matching", "answering"],
    "streams": [STREAM],
    "audio": AUDIO_STREAM,
    "vector_width": 256,
    "matryoshka_dimensions": [],
    "text_length": 64,
    "default_rerank": 0,
    "answers": 1200,
    "precision": "float32",
    "licence": "Apache-2.0",
    "training_data": ["scenes", "pictograms"],
    "metrics": {"scenes.text_to_video.recall@1": 0.62},
    "signed_by": None,
    "model_card": "# hd-vila-tiny\n…",
}


RECOGNIZER: dict[str, Any] = {
    "kind": "speech",
    "name": "sherpa-onnx/whisper-small",
    "state": "ready",
    "error": None,
}


class FrameStream(Response):
    """A frame stream of the model."""

    model_config = example(**STREAM)

    name: str
    frames: int
    height: Annotated[int, Field(description="pixels")]
    width: Annotated[int, Field(description="pixels")]
    placement: Annotated[str, Field(description="where in the clip: middle or uniform")]
    fit: str
    resample: Annotated[str, Field(description="decoder, or the filter that makes frames smaller")] = "decoder"
    shortest_edge: Annotated[int | None, Field(description="pixels, before the centre is cut")] = None
    margin: Annotated[str, Field(description="how half pixels of a margin are rounded: down or even")] = "down"
    longest_edge: Annotated[int | None, Field(description="pixels, in a corner")] = None
    multiple: Annotated[int, Field(description="pixels that edges in a corner are whole multiples of")] = 1
    shows: Annotated[str, Field(description="picture, or its cover: white where it lies")] = "picture"
    track: Annotated[int, Field(description="video track of a file; 0 is the main one")] = 0


class AudioStream(Response):
    """The windows of sound that the model takes."""

    model_config = example(**AUDIO_STREAM)

    name: str
    sample_rate: Annotated[int, Field(description="Hz")]
    seconds: Annotated[float, Field(description="length of a window; a longer sound is the mean of several")]
    fill: Annotated[str, Field(description="content of a window after a shorter sound: silence, or repeat")]
    tokens: Annotated[int, Field(description="audio tokens of a window")]
    width: Annotated[int, Field(description="numbers of an audio token")]
    fused: Annotated[bool, Field(description="whether matching and answers take audio tokens")] = False


class GraphEngine(Response):
    """Engine and device that a graph runs on."""

    model_config = example(**GRAPH_ENGINE)

    engine: Annotated[str, Field(description="library and version, or the server")]
    device: Annotated[str, Field(description="cpu, cuda, tensorrt, or remote")]
    gpu_name: Annotated[str | None, Field(description="null on a CPU")]
    fallback: Annotated[str | None, Field(description="why the preferred device is not used; null if it is")]


class NewModel(Request):
    """A bundle to load."""

    model_config = example(folder="hd-vila-tiny-2")

    folder: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="bundle folder on the service's machine, below the folder that VITASCOPE_BUNDLES_ROOT names, "
            "or absolute and inside it",
        ),
    ]


class ModelInfo(Response):
    """A model: state, tasks, training data, metrics and licence.

    Of a bundle that could not be opened, only `folder`, `state`, `error` and what was known before are given.
    """

    model_config = example(**MODEL)

    name: str | None
    version: str | None
    fingerprint: Annotated[str | None, Field(description="identifies embeddings of this model")]
    folder: Annotated[str, Field(description="it was loaded from")]
    default: Annotated[bool, Field(description="whether requests without a model use it")]
    state: Literal["loading", "ready", "failed"]
    error: Annotated[str | None, Field(description="why it failed, beginning with a code")]
    engines: Annotated[dict[str, GraphEngine], Field(description="engines by graph; empty until ready")]
    architecture: str | None
    tasks: list[str]
    streams: list[FrameStream]
    audio: Annotated[AudioStream | None, Field(description="null without sound")] = None
    vector_width: int | None
    matryoshka_dimensions: Annotated[list[int], Field(description="smaller dimensions that embeddings can have")]
    text_length: Annotated[int | None, Field(description="tokens; longer texts are truncated")]
    default_rerank: Annotated[
        int | None,
        Field(description="number of clips that a search by a text reranks by default, as the bundle states"),
    ]
    answers: Annotated[int | None, Field(description="size of the answer vocabulary")]
    precision: str | None
    licence: str | None
    training_data: list[str]
    metrics: dict[str, float]
    signed_by: Annotated[
        str | None,
        Field(description="id of the trusted key that signed it; null if signatures are not required"),
    ] = None
    model_card: Annotated[str | None, Field(description="Markdown")]


class RecognizerInfo(Response):
    """A recogniser of speech or screen text."""

    model_config = example(**RECOGNIZER)

    kind: Literal["speech", "screen_text"]
    name: Annotated[str, Field(description="engine and model; until it is ready, the model as the settings name it")]
    state: Literal["starting", "ready", "failed"]
    error: Annotated[str | None, Field(description="why it failed")]


class Models(Response):
    """All models, the default first."""

    model_config = example(models=[MODEL], recognizers=[RECOGNIZER], max_caption_clips=64)

    models: list[ModelInfo]
    recognizers: Annotated[list[RecognizerInfo], Field(description="recognisers that the settings name")]
    max_caption_clips: Annotated[int, Field(description="clips that one request for captions may be about")]
