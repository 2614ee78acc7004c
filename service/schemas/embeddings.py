"""Embeddings in OpenAI's shape. Beyond it: pictures, videos and sounds as inputs, and a form for a file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag

from service.schemas.base import FINGERPRINT, Int, ModelName, Request, Response, Seconds, example
from service.schemas.scores_answers import TimeRange
from vitascope.bundle.manifest import InputType

DATA = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAADUlEQVR42mP4z8SADAEPcQEOdvOI0AAAAABJRU5ErkJggg=="
)


class TextInput(Request):
    """A text; equivalent to a string."""

    model_config = example(type="text", text="a dog runs on the beach")

    type: Literal["text"]
    text: str


MediaType = Literal["image", "video", "audio"]


class MediaInput(Request):
    """A picture, video or sound as a base64 data URL. Other URLs are not fetched.

    Of "image" and "video", the content decides; "audio" is the sound of a file, also of a video.
    """

    model_config = example(type="image", data=DATA, start=0.0)

    type: MediaType
    data: Annotated[str, Field(description="data:…;base64,…")]
    start: Annotated[Seconds | None, Field(description="seconds; default: 0")] = None
    end: Annotated[Seconds | None, Field(description="seconds; default: the end of the video")] = None


def _kind(value: object) -> str | None:
    if isinstance(value, str):
        return "string"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    kinds = {"text": "text", **dict.fromkeys(get_args(MediaType), "media")}
    return kinds.get(kind) if isinstance(kind, str) else None


def _listed(value: object) -> object:
    """Wrap a single input in a list; token ids, which OpenAI accepts, are those of another tokenizer."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, int | float | list) for item in items):
        raise ValueError("token ids; texts were expected, since the model has its own tokenizer")
    return items


Input = Annotated[
    Annotated[str, Tag("string")] | Annotated[TextInput, Tag("text")] | Annotated[MediaInput, Tag("media")],
    Discriminator(
        _kind,
        custom_error_type="input",
        custom_error_message='a string, {"type": "text", "text": …}, or {"type": "image" (or "video", "audio"), '
        '"data": …} was expected',
    ),
]


class EmbeddingOptions(Request):
    """Model and encoding of embeddings."""

    model: ModelName = None
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64: of little-endian 32-bit floats")
    ] = "float"
    dimensions: Annotated[
        Int | None,
        Field(ge=1, description="dimensions of embeddings: all of the model (default), or its `matryoshka_dimensions`"),
    ] = None
    user: Annotated[str | None, Field(description="accepted for compatibility, and ignored")] = None


class EmbeddingRequest(EmbeddingOptions):
    """Inputs to embed."""

    model_config = example(
        input=["a dog runs on the beach", {"type": "image", "data": DATA}],
        model="hd-vila-tiny",
        encoding_format="float",
    )

    input: Annotated[
        list[Input],
        Field(fail_fast=True),
        BeforeValidator(_listed, json_schema_input_type=str | list[Input]),
        Field(min_length=1, description="one text, or a list of texts, pictures, videos and sounds"),
    ]
    input_type: Annotated[
        InputType,
        Field(
            description="chooses the prompt that precedes each text, for models that expect one: that of a query or "
            "of a document to be searched for"
        ),
    ] = "query"


class EmbeddingForm(EmbeddingOptions, TimeRange):
    """A picture, video or sound as a file: one embedding."""

    model_config = example(model="hd-vila-tiny", encoding_format="float")

    type: Annotated[
        MediaType, Field(description="audio: the sound of the file, also of a video; otherwise its pictures")
    ] = "video"


EMBEDDING: dict[str, Any] = {"object": "embedding", "index": 0, "embedding": [0.031, -0.117, 0.052]}
USAGE: dict[str, Any] = {"prompt_tokens": 8, "total_tokens": 8}


class Embedding(Response):
    """One embedding of length 1: the cosine of two is their inner product."""

    model_config = example(**EMBEDDING)

    object: Literal["embedding"]
    index: Annotated[int, Field(description="index of the input")]
    embedding: Annotated[list[float] | str, Field(description="numbers, or base64")]


class Usage(Response):
    """Text tokens, special ones included; pictures, videos and sounds have none."""

    model_config = example(**USAGE)

    prompt_tokens: int
    total_tokens: int


class Embeddings(Response):
    """Embeddings in the order of the inputs."""

    model_config = example(object="list", data=[EMBEDDING], model="hd-vila-tiny", fingerprint=FINGERPRINT, usage=USAGE)

    object: Literal["list"]
    data: list[Embedding]
    model: Annotated[str, Field(description="name of the model")]
    fingerprint: Annotated[
        str, Field(description="of the model; embeddings of different fingerprints are not comparable")
    ]
    usage: Usage
