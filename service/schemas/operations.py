"""Operations on whole collections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.base import Id, ModelName, Request, Response, example
from vitascope.screen_text.interface import DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL

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
    "videos": None,
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
    tokens: Annotated[bool, Field(description="include tokens for reranking; many times as large")] = False
    thumbnails: Annotated[bool, Field(description="include thumbnails")] = False


class Reembed(Request):
    """Embed a collection again with another model, and replace it."""

    model_config = example(kind="reembed", collection="holidays")

    kind: Literal["reembed"]
    collection: CollectionName
    skip_missing: Annotated[bool, Field(description="omit videos whose files are missing or changed")] = False
    model: ModelName = None


class Transcribe(Request):
    """Recognise the speech of the videos that the service's model has not recognised yet.

    Each video is stored by itself; one that fails is tried again by the next operation.
    """

    model_config = example(kind="transcribe", collection="holidays")

    kind: Literal["transcribe"]
    collection: CollectionName
    model: Annotated[
        str | None, Field(max_length=1000, description="name of the service's speech model (/v1/models); null: any")
    ] = None
    subtitled: Annotated[
        bool, Field(description="include videos with subtitles; clips keep the words of the subtitles")
    ] = False


class ReadText(Request):
    """Read the text on screen of the videos that the service's reader has not read yet, as `transcribe`."""

    model_config = example(kind="read_text", collection="holidays", interval=1.0)

    kind: Literal["read_text"]
    collection: CollectionName
    interval: Annotated[
        float, Field(ge=MIN_INTERVAL, le=MAX_INTERVAL, description="seconds between the frames that are examined")
    ] = DEFAULT_INTERVAL


class Caption(Request):
    """Generate a caption of each clip of the videos that the model has not captioned yet, as `transcribe`.

    Earlier captions of a video are replaced.
    """

    model_config = example(kind="caption", collection="holidays")

    kind: Literal["caption"]
    collection: CollectionName
    model: Annotated[
        str | None,
        Field(
            max_length=200,
            description="fingerprint, name or name@version of a model with the task captioning; null: the model of "
            "the collection",
        ),
    ] = None


NewOperation = Annotated[Backup | Export | Reembed | Transcribe | ReadText | Caption, Field(discriminator="kind")]


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


class RecognizedVideos(Response):
    """Numbers of videos of an operation that recognises or captions."""

    model_config = example(recognized=34, failed=1)

    recognized: Annotated[
        int, Field(description="in the last attempt, if restarts of the service interrupted earlier ones")
    ]
    failed: Annotated[int, Field(description="why is stored with each; the next operation tries them again")]


class Operation(Response):
    """An operation on a collection."""

    model_config = example(**OPERATION)

    id: Id
    kind: Literal["backup", "export", "reembed", "transcribe", "read_text", "caption"]
    collection: str
    options: Annotated[dict[str, bool | float], Field(description="options of the request")]
    model: Annotated[
        str | None, Field(description="fingerprint of the model to embed or caption with, or name of the recogniser")
    ]
    state: Literal["queued", "running", "succeeded", "failed"]
    error: Annotated[str | None, Field(description="why it failed")]
    progress: Annotated[float, Field(ge=0, le=1, description="fraction done")]
    files: Annotated[list[OperationFile], Field(description="after success; kept until the operation is deleted")]
    media_not_included: Annotated[
        MediaNotIncluded | None,
        Field(description="of a backup or export that has succeeded; `vitascope backup` copies everything"),
    ]
    videos: Annotated[
        RecognizedVideos | None,
        Field(description="of a succeeded recognition or captioning"),
    ]
    created_at: Annotated[float, Field(description="Unix seconds")]
    started_at: Annotated[float | None, Field(description="Unix seconds")]
    finished_at: Annotated[float | None, Field(description="Unix seconds")]


class Operations(Response):
    """All operations, newest first."""

    model_config = example(operations=[OPERATION])

    operations: list[Operation]
