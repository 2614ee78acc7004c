"""Operations on whole collections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.base import Id, ModelName, Request, Response, example

FILE: dict[str, Any] = {
    "name": "holidays.sqlite3",
    "bytes": 1_572_864,
    "url": "/v1/operations/9f86d081884c7d65/files/holidays.sqlite3",
}
MEDIA: dict[str, Any] = {"files": 12, "bytes": 804_915_200}
OPERATION: dict[str, Any] = {
    "id": "9f86d081884c7d65",
    "kind": "backup",
    "collection": "holidays",
    "options": {},
    "model": None,
    "state": "succeeded",
    "error": None,
    "progress": 1.0,
    "files": [FILE],
    "media_not_included": MEDIA,
    "created_at": 1764000000.0,
    "started_at": 1764000000.1,
    "finished_at": 1764000002.5,
}

CollectionName = Annotated[str, Field(description="name of the collection")]


class Backup(Request):
    """A collection as one verified file for `vitascope collection restore`.

    Media files are not in it, uploads included: the operation says how many. `vitascope backup` copies everything.
    """

    model_config = example(kind="backup", collection="holidays")

    kind: Literal["backup"]
    collection: CollectionName


class Export(Request):
    """A collection as two Parquet files for `vitascope collection import`.

    Media files are not in them, uploads included: the operation says how many.
    """

    model_config = example(kind="export", collection="holidays", tokens=True)

    kind: Literal["export"]
    collection: CollectionName
    tokens: Annotated[bool, Field(description="include visual tokens for reranking; many times as large")] = False
    thumbnails: Annotated[bool, Field(description="include thumbnails")] = False


class Reembed(Request):
    """Embed a collection again with another model, and replace it."""

    model_config = example(kind="reembed", collection="holidays")

    kind: Literal["reembed"]
    collection: CollectionName
    skip_missing: Annotated[bool, Field(description="omit videos whose files are missing or changed")] = False
    model: ModelName = None


NewOperation = Annotated[Backup | Export | Reembed, Field(discriminator="kind")]


class OperationFile(Response):
    """A file of an operation."""

    model_config = example(**FILE)

    name: str
    bytes: int
    url: Annotated[str, Field(description="supports range requests")]


class MediaNotIncluded(Response):
    """Media files that the collection owns and that its backup or export lacks."""

    model_config = example(**MEDIA)

    files: int
    bytes: int


class Operation(Response):
    """An operation on a collection."""

    model_config = example(**OPERATION)

    id: Id
    kind: Literal["backup", "export", "reembed"]
    collection: str
    options: Annotated[dict[str, bool], Field(description="as requested")]
    model: Annotated[str | None, Field(description="fingerprint of the model to embed with, only for reembed")]
    state: Literal["queued", "running", "succeeded", "failed"]
    error: Annotated[str | None, Field(description="why it failed")]
    progress: Annotated[float, Field(ge=0, le=1, description="fraction done")]
    files: Annotated[list[OperationFile], Field(description="after success; kept until the operation is deleted")]
    media_not_included: Annotated[
        MediaNotIncluded | None,
        Field(description="of a backup or export that has succeeded; `vitascope backup` copies everything"),
    ]
    created_at: Annotated[float, Field(description="Unix seconds")]
    started_at: Annotated[float | None, Field(description="Unix seconds")]
    finished_at: Annotated[float | None, Field(description="Unix seconds")]


class Operations(Response):
    """All operations, newest first."""

    model_config = example(operations=[OPERATION])

    operations: list[Operation]
