"""The models that serve: listed, added, made the default, removed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from service.app_state import AppState, AppStateDep
from service.file_access import BUNDLE_ROOTS, allowed_folder
from service.http.auth import requires
from service.http.openapi import errors, successes
from service.http.parsing import StrictRoute
from service.inference.model_entry import ModelEntry
from service.schemas.models import GraphEngine, ModelInfo, Models, NewModel
from vitascope.bundle.bundle import Bundle
from vitascope.errors import CollectionNotFound, Conflict, StorageError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)

PLAIN = ("architecture", "vector_width", "text_length", "precision", "licence")
"""What is told of a manifest as it is, besides lists."""
NAMED = 5
"""Collections that a refusal names."""


@router.get("", summary="List models", responses=errors())
@requires("read")
async def list_models(service: AppStateDep) -> Models:
    """Every model, the default first: whether it serves, what it can do, what it was trained on, how well it does, and
    under which terms.
    """
    return Models(models=[_view(entry) for entry in service.models.entries()])


@router.post(
    "",
    status_code=202,
    summary="Add a model",
    responses=successes(_200={"model": ModelInfo, "description": "It is there already, and serves."})
    | errors(403, 404, 409, 422, 507),
)
@requires("admin", all_collections=True)
async def add_model(body: NewModel, service: AppStateDep, response: Response) -> ModelInfo:
    """Load a bundle that lies on the service's machine, beside the models that serve.

    When this answers, every file of it has been checked. Its graphs are loaded and run once in the background: `state`
    is `loading` until then, and `ready` or `failed` after it. From `ready` on it serves, also after a restart.
    """
    folder = await service.io_pool.run(allowed_folder, body.folder, service.settings.bundle_folders(), BUNDLE_ROOTS)
    added = await service.write_pool.run(service.models.add, folder)
    response.status_code = 200 if added.state == "ready" else 202
    response.headers["Location"] = f"/v1/models/{added.fingerprint}"
    return _view(added)


@router.get("/{fingerprint}", summary="Get a model", responses=errors(404))
@requires("read")
async def get_model(fingerprint: str, service: AppStateDep) -> ModelInfo:
    """Whether it serves, and what it is."""
    return _view(service.models.entry(fingerprint))


@router.post("/{fingerprint}/default", summary="Make a model the default", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def make_default_model(fingerprint: str, service: AppStateDep) -> ModelInfo:
    """Let this model serve every request that names none, from the next one on and after a restart; requests that are
    under way end as they began. Collections stay with the models that fill them.
    """
    return _view(await service.write_pool.run(service.models.make_default, fingerprint))


@router.delete("/{fingerprint}", status_code=204, summary="Remove a model", responses=errors(404, 409, 422, 507))
@requires("admin", all_collections=True)
async def remove_model(
    fingerprint: str,
    service: AppStateDep,
    force: Annotated[bool, Query(description="also where collections need it")] = False,
) -> None:
    """Let a model serve no further request. Those that are under way are finished, then its memory is free.

    The default is not removed, and one that fills collections only with `force`: these cannot be searched then until
    it is added again. A job of theirs that is running stops after the files at hand, and goes on then. A bundle that
    the settings name is loaded again at the next start.
    """
    await service.write_pool.run(_remove, service, fingerprint, force)


def _remove(service: AppState, fingerprint: str, force: bool) -> None:
    entry = service.models.entry(fingerprint)
    needing = [] if force or entry.is_default or entry.state == "failed" else _needing(service, fingerprint)
    if needing:
        more = f" and {len(needing) - NAMED} more" if len(needing) > NAMED else ""
        raise Conflict(
            f"model {entry.label}: {', '.join(needing[:NAMED])}{more} could not be searched without it; "
            "drop these collections, embed them again, or remove it with force=true"
        )
    service.models.remove(fingerprint)


def _needing(service: AppState, fingerprint: str) -> list[str]:
    """The collections that the model fills; those that are damaged cannot tell."""
    found = []
    for name in service.library.names():
        try:
            is_filled = service.collection(name).fingerprint == fingerprint
        except (StorageError, CollectionNotFound):
            continue
        if is_filled:
            found.append(name)
    return found


def _view(entry: ModelEntry) -> ModelInfo:
    return ModelInfo(
        name=entry.name,
        version=entry.version,
        fingerprint=entry.fingerprint,
        folder=entry.shown_folder,
        default=entry.is_default,
        state=entry.state,
        error=entry.error,
        engines=_engines(entry),
        model_card=entry.card,
        **_stated(entry.bundle),
    )


def _engines(entry: ModelEntry) -> dict[str, GraphEngine]:
    if entry.loaded is None or entry.state != "ready":
        return {}
    placements = entry.loaded.model.placements
    return {graph: GraphEngine(**placement._asdict()) for graph, placement in placements.items()}


def _stated(bundle: Bundle | None) -> dict[str, Any]:
    """What the manifest says; of a bundle that could not be opened, nothing."""
    lists: dict[str, Any] = {"tasks": [], "streams": [], "training_data": [], "metrics": {}}
    if bundle is None:
        return dict.fromkeys(("answers", "signed_by", *PLAIN)) | lists
    stated = bundle.manifest.model_dump(include={*PLAIN, *lists})
    signed_by = None if bundle.signature is None else bundle.signature.key_id
    return {**stated, "answers": len(bundle.answers), "signed_by": signed_by}
