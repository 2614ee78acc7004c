"""What all schemas share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="seconds from the beginning of the file")
]
Id = Annotated[str, Field(min_length=1, max_length=32)]
Metadata = dict[str, str | bool | int | float]
Probability = Annotated[float, Field(ge=0, le=1)]


class Request(BaseModel):
    """A body. Unknown keys are errors: a typing mistake must not pass unnoticed."""

    model_config = ConfigDict(extra="forbid")


class Response(BaseModel):
    """An answer. Keys are always there; what does not apply is null."""

    model_config = ConfigDict(extra="forbid", json_schema_mode_override="serialization")


class FieldProblem(Response):
    """One part of the request that is wrong."""

    in_: Annotated[str, Field(alias="in", description="body, query, path or header")]
    field: str
    message: str


class Problem(Response):
    """An error (RFC 9457). `code` is stable and made for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: Annotated[str, Field(description="path of the request")]
    request_id: Annotated[str, Field(description="also in the header X-Request-ID and in the log")]
    errors: Annotated[list[FieldProblem], Field(description="only with code `validation_failed`")] = []


class Health(Response):
    """A sign of life."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str


def example(**values: Any) -> ConfigDict:
    """The configuration of a schema with this example."""
    return ConfigDict(json_schema_extra={"examples": [values]})
