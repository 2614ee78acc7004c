"""Models: list, add, make the default, remove."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from service.app_state import AppState, AppStateDep
from service.files import BUNDLE_ROOTS, allowed_folder
from service.http.auth import requires
from service.http.openapi import errors, successes
from service.http.parsing import StrictRoute
from service.inference.models import ModelEntry
from service.schemas.models import GraphEngine, ModelInfo, Models, NewModel, RecognizerInfo
from vitascope.bundle.bundle import Bundle
from vitascope.errors import CollectionNotFound, Conflict, StorageError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)

MANIFEST_FIELDS = ("architecture", "vector_width", "text_length", "precision", "licence")
"""Fields without lists that responses copy from the manifest."""
MAX_NAMED = 5
"""Maximum number of collections that an error names."""


@router.get("", summary="List models", responses=errors())
@requires("read")
async def list_models(service: AppStateDep) -> Models:
    """All models, the default first, with state, tasks, training data, metrics and licence; the recognisers of speech
    and screen text; and how many clips one request captions.
    """
    recognizers = [
        RecognizerInfo(kind=each.kind, name=each.name, state=each.state, error=each.error)
        for each in service.recognizers.all()
    ]
    return Models(
        models=[_serialize(entry) for entry in service.models.entries()],
        recognizers=recognizers,
        max_caption_clips=service.settings.max_caption_clips,
    )


@router.post(
    "",
    status_code=202,
    summary="Add a model",
    responses=successes(_200={"model": ModelInfo, "description": "It is loaded already."})
    | errors(403, 404, 409, 422, 507),
)
@requires("admin", all_collections=True)
async def add_model(body: NewModel, service: AppStateDep, response: Response) -> ModelInfo:
    """Load a bundle from the machine of the service.

    All its files are verified before the response. Its graphs are then loaded and run once in the background: `state`
    is `loading`, then `ready` or `failed`. A ready model is loaded again after a restart.
    """
    folder = await service.io_pool.run(allowed_folder, body.folder, service.settings.bundle_folders(), BUNDLE_ROOTS)
    added = await service.write_pool.run(service.models.add, folder)
    response.status_code = 200 if added.state == "ready" else 202
    response.headers["Location"] = f"/v1/models/{added.fingerprint}"
    return _serialize(added)


@router.get("/{fingerprint}", summary="Get a model", responses=errors(404))
@requires("read")
async def get_model(fingerprint: str, service: AppStateDep) -> ModelInfo:
    """A model and its state."""
    return _serialize(service.models.entry(fingerprint))


@router.post("/{fingerprint}/default", summary="Make a model the default", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def make_default_model(fingerprint: str, service: AppStateDep) -> ModelInfo:
    """Use this model for requests that name none, also after a restart. Requests in progress and collections keep their
    models.
    """
    return _serialize(await service.write_pool.run(service.models.make_default, fingerprint))


@router.delete("/{fingerprint}", status_code=204, summary="Remove a model", responses=errors(404, 409, 422, 507))
@requires("admin", all_collections=True)
async def remove_model(
    fingerprint: str,
    service: AppStateDep,
    force: Annotated[bool, Query(description="even if collections need it")] = False,
) -> None:
    """Remove a model. Requests in progress are finished, then its memory is freed.

    The default cannot be removed. A model of collections is removed only with `force`: they cannot be searched until it
    is added again, and their jobs stop after the files in progress until then. A bundle of the settings is loaded again
    at the next start.
    """
    await service.write_pool.run(_remove, service, fingerprint, force)


def _remove(service: AppState, fingerprint: str, force: bool) -> None:
    entry = service.models.entry(fingerprint)
    names = [] if force or entry.is_default or entry.state == "failed" else _collections_of(service, fingerprint)
    if names:
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        raise Conflict(
            f"model {entry.label}: {', '.join(names[:MAX_NAMED])}{more} could not be searched without it; "
            "drop these collections, embed them again, or remove it with force=true"
        )
    service.models.remove(fingerprint)


def _collections_of(service: AppState, fingerprint: str) -> list[str]:
    """Return the names of the collections of a model, without damaged ones."""
    names = []
    for name in service.library.names():
        try:
            collection = service.collection(name)
        except (StorageError, CollectionNotFound):
            continue
        if collection.fingerprint == fingerprint:
            names.append(name)
    return names


def _serialize(entry: ModelEntry) -> ModelInfo:
    return ModelInfo(
        name=entry.name,
        version=entry.version,
        fingerprint=entry.fingerprint,
        folder=entry.shown_folder,
        default=entry.is_default,
        state=entry.state,
        error=entry.error,
        engines=_serialize_engines(entry),
        model_card=entry.card,
        **_manifest_fields(entry.bundle),
    )


def _serialize_engines(entry: ModelEntry) -> dict[str, GraphEngine]:
    if entry.loaded is None or entry.state != "ready":
        return {}
    return {
        graph: GraphEngine(
            engine=placement.engine,
            device=placement.device,
            gpu_name=placement.gpu_name,
            fallback=placement.fallback,
        )
        for graph, placement in entry.loaded.model.placements.items()
    }


def _manifest_fields(bundle: Bundle | None) -> dict[str, Any]:
    lists: dict[str, Any] = {
        "tasks": [],
        "streams": [],
        "matryoshka_dimensions": [],
        "training_data": [],
        "metrics": {},
    }
    if bundle is None:
        return dict.fromkeys(("answers", "default_rerank", "signed_by", *MANIFEST_FIELDS)) | lists
    fields = bundle.manifest.model_dump(include={"audio", *MANIFEST_FIELDS, *lists})
    signed_by = None if bundle.signature is None else bundle.signature.key_id_hex
    own = {"answers": len(bundle.answers), "default_rerank": bundle.manifest.default_rerank, "signed_by": signed_by}
    return {**lists, **fields, **own}
