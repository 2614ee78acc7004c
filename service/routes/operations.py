"""Work on whole collections: begun, watched, fetched, deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Response

from service.app_state import Service, ServiceState
from service.http.auth import requires
from service.http.idempotency import accepts_idempotency_key
from service.http.openapi import errors, successes
from service.http.parsing import StrictRoute
from service.operation_work import check_possible
from service.operations import Operation
from service.routes.media import FileRangeResponse
from service.schemas import operations as schemas
from vitascope.errors import Conflict, NotFound

router = APIRouter(prefix="/v1/operations", tags=["operations"], route_class=StrictRoute)


@router.post("", status_code=202, summary="Back up, export or embed again", responses=errors(404, 409, 422, 503, 507))
@requires("admin", all_collections=True)
@accepts_idempotency_key
async def create_operation(
    body: Annotated[schemas.NewOperation, Body()], service: ServiceState, response: Response
) -> schemas.Operation:
    """Begin work on a whole collection in the background; searches and jobs go on.

    Operations run one after the other, each on the collection as it is when its turn comes. They survive a restart:
    what was under way is begun again. Their files stay until the operation is deleted.
    """
    made = await service.writes.run(_begin, service, body)
    response.headers["Location"] = f"/v1/operations/{made.id}"
    return made


@router.get("", summary="List operations", responses=errors())
@requires("admin", all_collections=True)
async def list_operations(service: ServiceState) -> schemas.Operations:
    """All that are kept, newest first."""
    return await service.light.run(
        lambda: schemas.Operations(operations=[_view(service, one) for one in service.operations.all()])
    )


@router.get("/{operation_id}", summary="Look at an operation", responses=errors(404))
@requires("admin", all_collections=True)
async def get_operation(operation_id: str, service: ServiceState) -> schemas.Operation:
    """How far it is, and where its files are."""
    return await service.light.run(lambda: _view(service, service.operations.get(operation_id)))


@router.delete("/{operation_id}", status_code=204, summary="Delete an operation", responses=errors(404, 507))
@requires("admin", all_collections=True)
async def delete_operation(operation_id: str, service: ServiceState) -> None:
    """Break it off if it is under way, and remove its files."""
    await service.writes.run(service.operations.delete, operation_id)


@router.head("/{operation_id}/files/{name}", include_in_schema=False)
@router.get(
    "/{operation_id}/files/{name}",
    summary="Fetch a file",
    response_class=Response,
    responses=successes(
        _200={"content": {"application/octet-stream": {}}, "description": "The file."},
        _206={"content": {"application/octet-stream": {}}, "description": "A part of the file."},
    )
    | errors(400, 404, 416),
)
@requires("admin", all_collections=True)
async def get_operation_file(operation_id: str, name: str, service: ServiceState) -> Response:
    """A file that an operation made, with range requests (RFC 9110)."""
    path = await service.light.run(_file, service, operation_id, name)
    return FileRangeResponse(
        path, filename=name, media_type="application/octet-stream", headers={"Cache-Control": "no-store"}
    )


def _begin(service: Service, body: schemas.NewOperation) -> schemas.Operation:
    collection = service.collection(body.collection)
    check_possible(body.kind)
    model = None
    if body.kind == "reembed":
        chosen = service.models.named(body.model)
        model = chosen.fingerprint
        if collection.fingerprint == model:
            raise Conflict(f"collection {collection.name}: model {chosen.name} filled it; another model was expected")
    options = body.model_dump(exclude={"kind", "collection", "model"})
    return _view(service, service.operations.begin(body.kind, body.collection, options, model))


def _view(service: Service, operation: Operation) -> schemas.Operation:
    left_out = operation.media_not_included
    return schemas.Operation(
        id=operation.id,
        kind=operation.kind,
        collection=operation.collection,
        options=dict(operation.options),
        model=operation.model,
        state=operation.state,
        error=operation.error,
        progress=service.operations.share_done(operation),
        media_not_included=schemas.MediaNotIncluded.model_validate(left_out) if left_out is not None else None,
        files=[_file_view(operation, *found) for found in service.operations.files(operation)],
        created_at=operation.created_at,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
    )


def _file_view(operation: Operation, file: Path, size: int) -> schemas.OperationFile:
    url = f"/v1/operations/{operation.id}/files/{quote(file.name)}"
    return schemas.OperationFile(name=file.name, bytes=size, url=url)


def _file(service: Service, operation_id: str, name: str) -> Path:
    for file, _ in service.operations.files(service.operations.get(operation_id)):
        if file.name == name:
            return file
    raise NotFound(f"operation {operation_id}: no file {name[:80]!r}")
