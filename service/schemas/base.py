"""Types and base classes of all schemas."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from index.records import MAX_KEYS
from vitascope.errors import InvalidInput

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, description="seconds from the beginning of the file")]


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]
"""An integer; 5.0 is accepted, ``true`` is not."""
Id = Annotated[str, Field(min_length=1, max_length=32)]


def _check_keys(metadata: object) -> object:
    if isinstance(metadata, dict) and len(metadata) > MAX_KEYS:
        raise InvalidInput(f"metadata: {len(metadata)} keys; at most {MAX_KEYS} were expected")
    return metadata


# The number of keys is checked before the values: each invalid one of those makes four errors, one for each type.
Metadata = Annotated[dict[str, str | bool | int | float], BeforeValidator(_check_keys)]
FINGERPRINT = "9f0c…64 hexadecimal digits"
ModelName = Annotated[
    str | None,
    Field(description="name, name@version or fingerprint of a model (/v1/models lists them); null: the default"),
]
Probability = Annotated[float, Field(ge=0, le=1)]


def example(**values: Any) -> ConfigDict:
    """Return the configuration of a schema with this example."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class Request(BaseModel):
    """A request body. Unknown keys and values of another type are errors, such as ``"5"`` or ``true`` for a number.
    Fields of forms, which are text, are converted.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Response(BaseModel):
    """A response. All keys are present; values that do not apply are null."""

    model_config = ConfigDict(extra="forbid", json_schema_mode_override="serialization")


FIELD_PROBLEM = {"in": "body", "field": "limit", "message": "0; Input should be greater than or equal to 1"}
PROBLEM = {
    "type": "urn:vitascope:problem:validation_failed",
    "title": "Validation failed",
    "status": 422,
    "detail": "limit: 0; Input should be greater than or equal to 1",
    "message": "limit: 0; Input should be greater than or equal to 1",
    "code": "validation_failed",
    "instance": "/v1/collections/holidays/search",
    "request_id": "63a3777712174aa7be6a6b4c38536e23",
    "errors": [FIELD_PROBLEM],
}


class FieldProblem(Response):
    """One invalid part of a request."""

    model_config = example(**FIELD_PROBLEM)

    in_: Annotated[str, Field(alias="in", description="body, query, path or header")]
    field: str
    message: str


class Problem(Response):
    """An error (RFC 9457). `code` is stable and made for programs, `detail` for people."""

    model_config = example(**PROBLEM)

    type: str
    title: str
    status: int
    detail: str
    message: Annotated[str, Field(description="the same as detail, for clients of OpenAI")]
    code: str
    instance: Annotated[str, Field(description="path of the request")]
    request_id: Annotated[str, Field(description="also in the header X-Request-ID and in the log")]
    errors: Annotated[list[FieldProblem], Field(description="only with code `validation_failed`")] = []


class Health(Response):
    """Liveness."""

    model_config = example(status="ok")

    status: str


class Readiness(Health):
    """Readiness."""

    model_config = example(status="ok", failed_models=0, recognizers={"speech": "ready"})

    failed_models: Annotated[int, Field(description="number of models that could not be loaded; /v1/models says why")]
    recognizers: Annotated[
        dict[Literal["speech", "screen_text"], Literal["starting", "ready", "failed"]],
        Field(description="those that the settings name; /v1/models says why one failed"),
    ]
