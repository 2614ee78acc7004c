"""Work on whole collections in the background."""

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
    """A collection as one file, checked; `vitascope collection restore` makes a collection of it.

    Media files are not in it, uploads included: the operation says how many. `vitascope backup` copies everything.
    """

    model_config = example(kind="backup", collection="holidays")

    kind: Literal["backup"]
    collection: CollectionName


class Export(Request):
    """A collection as two Parquet files; `vitascope collection import` makes a collection of them.

    Media files are not in them, uploads included: the operation says how many.
    """

    model_config = example(kind="export", collection="holidays", tokens=True)

    kind: Literal["export"]
    collection: CollectionName
    tokens: Annotated[bool, Field(description="with what reranking needs; many times as large")] = False
    thumbnails: Annotated[bool, Field(description="with the clips' pictures")] = False


class Reembed(Request):
    """A collection that one model filled, embedded again by another, and switched to."""

    model_config = example(kind="reembed", collection="holidays")

    kind: Literal["reembed"]
    collection: CollectionName
    skip_missing: Annotated[bool, Field(description="leave out videos whose files are gone or changed")] = False
    model: ModelName = None


NewOperation = Annotated[Backup | Export | Reembed, Field(discriminator="kind")]


class OperationFile(Response):
    """A file that an operation made."""

    model_config = example(**FILE)

    name: str
    bytes: int
    url: Annotated[str, Field(description="with ranges, so that a download can go on where it broke off")]


class MediaNotIncluded(Response):
    """Uploads and copies that a collection owns, and that its backup or export has not."""

    model_config = example(**MEDIA)

    files: int
    bytes: int


class Operation(Response):
    """Work on a collection, waiting, under way or done."""

    model_config = example(**OPERATION)

    id: Id
    kind: Literal["backup", "export", "reembed"]
    collection: str
    options: Annotated[dict[str, bool], Field(description="as they were asked for")]
    model: Annotated[str | None, Field(description="fingerprint of the model to embed with, only for reembed")]
    state: Literal["queued", "running", "succeeded", "failed"]
    error: Annotated[str | None, Field(description="why it failed")]
    progress: Annotated[float, Field(ge=0, le=1, description="share that is done")]
    files: Annotated[list[OperationFile], Field(description="once it has succeeded; they stay until it is deleted")]
    media_not_included: Annotated[
        MediaNotIncluded | None,
        Field(description="of a backup or export that has succeeded; `vitascope backup` copies everything"),
    ]
    created_at: Annotated[float, Field(description="Unix seconds")]
    started_at: Annotated[float | None, Field(description="Unix seconds")]
    finished_at: Annotated[float | None, Field(description="Unix seconds")]


class Operations(Response):
    """All operations that are kept, newest first."""

    model_config = example(operations=[OPERATION])

    operations: list[Operation]
