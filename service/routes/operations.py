"""Operations on whole collections: create, list, download files, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Response

from index.jobs.captioning import check_caption_task
from index.transfer.reembed import can_reembed
from service.app_state import AppState, AppStateDep
from service.http.auth import requires
from service.http.idempotency import accepts_idempotency_key
from service.http.openapi import errors, successes
from service.http.parsing import StrictRoute
from service.operations import RECOGNITIONS, Operation, check_dependencies
from service.routes.media import FileRangeResponse
from service.schemas import operations as schemas
from vitascope.errors import Conflict, NotFound
from vitascope.sandbox.recognizers import DEFAULT_MODEL

router = APIRouter(prefix="/v1/operations", tags=["operations"], route_class=StrictRoute)


@router.post(
    "",
    status_code=202,
    summary="Back up, export, embed again, recognise, caption",
    responses=errors(404, 409, 422, 503, 507),
)
@requires("admin", all_collections=True)
@accepts_idempotency_key
async def create_operation(
    body: Annotated[schemas.NewOperation, Body()], service: AppStateDep, response: Response
) -> schemas.Operation:
    """Create an operation on a whole collection, which runs in the background beside searches and jobs.

    Operations run one after the other, each on the collection as it is at that time. They survive a restart: a running
    one starts again. Their files are kept until the operation is deleted.
    """
    created = await service.write_pool.run(_create, service, body)
    response.headers["Location"] = f"/v1/operations/{created.id}"
    return created


@router.get("", summary="List operations", responses=errors())
@requires("admin", all_collections=True)
async def list_operations(service: AppStateDep) -> schemas.Operations:
    """All operations, newest first."""
    return await service.io_pool.run(
        lambda: schemas.Operations(operations=[_serialize(service, each) for each in service.operations.all()])
    )


@router.get("/{operation_id}", summary="Get an operation", responses=errors(404))
@requires("admin", all_collections=True)
async def get_operation(operation_id: str, service: AppStateDep) -> schemas.Operation:
    """An operation with its progress and files."""
    return await service.io_pool.run(lambda: _serialize(service, service.operations.get(operation_id)))


@router.delete("/{operation_id}", status_code=204, summary="Delete an operation", responses=errors(404, 507))
@requires("admin", all_collections=True)
async def delete_operation(operation_id: str, service: AppStateDep) -> None:
    """Stop an operation if it runs, and delete its files."""
    await service.write_pool.run(service.operations.delete, operation_id)


@router.head("/{operation_id}/files/{name}", include_in_schema=False)
@router.get(
    "/{operation_id}/files/{name}",
    summary="Download a file",
    response_class=Response,
    responses=successes(
        _200={"content": {"application/octet-stream": {}}, "description": "The file."},
        _206={"content": {"application/octet-stream": {}}, "description": "A part of the file."},
    )
    | errors(400, 404, 416),
)
@requires("admin", all_collections=True)
async def get_operation_file(operation_id: str, name: str, service: AppStateDep) -> Response:
    """A file of an operation; supports range requests (RFC 9110)."""
    path = await service.io_pool.run(_file, service, operation_id, name)
    return FileRangeResponse(
        path, filename=name, media_type="application/octet-stream", headers={"Cache-Control": "no-store"}
    )


def _create(service: AppState, body: schemas.NewOperation) -> schemas.Operation:
    collection = service.collection(body.collection)
    check_dependencies(body.kind)
    model = None
    if body.kind == "reembed":
        chosen = service.models.get(body.model)
        model = chosen.fingerprint
        if not can_reembed(collection, chosen.model):
            raise Conflict(
                f"collection {collection.name}: it was embedded by model {chosen.name}; another model was expected"
            )
    elif body.kind == "caption":
        captioner = service.models.get(body.model) if body.model else service.models.for_collection(collection)
        check_caption_task(captioner.bundle.manifest)
        model = captioner.fingerprint
    elif body.kind in RECOGNITIONS:
        named = body.model if body.kind == "transcribe" else None
        model = service.recognizers.get(RECOGNITIONS[body.kind], named or DEFAULT_MODEL).name
    options = body.model_dump(exclude={"kind", "collection", "model"})
    return _serialize(service, service.operations.create(body.kind, body.collection, options, model))


def _serialize(service: AppState, operation: Operation) -> schemas.Operation:
    missing_media = operation.media_not_included
    return schemas.Operation(
        id=operation.id,
        kind=operation.kind,
        collection=operation.collection,
        options=dict(operation.options),
        model=operation.model,
        state=operation.state,
        error=operation.error,
        progress=service.operations.progress(operation),
        media_not_included=schemas.MediaNotIncluded.model_validate(missing_media)
        if missing_media is not None
        else None,
        videos=None if operation.videos is None else schemas.RecognizedVideos(**operation.videos),
        files=[_file_serialize(operation, *file) for file in service.operations.files(operation)],
        created_at=operation.created_at,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
    )


def _file_serialize(operation: Operation, file: Path, size: int) -> schemas.OperationFile:
    url = f"/v1/operations/{operation.id}/files/{quote(file.name)}"
    return schemas.OperationFile(name=file.name, bytes=size, url=url)


def _file(service: AppState, operation_id: str, name: str) -> Path:
    for file, _ in service.operations.files(service.operations.get(operation_id)):
        if file.name == name:
            return file
    raise NotFound(f"operation {operation_id}: no file {name[:80]!r}")
