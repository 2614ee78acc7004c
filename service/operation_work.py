"""What operations do."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from index.collection_store import CollectionStore
from index.transfer.backup import backup_collection
from index.transfer.media import owned_media
from index.transfer.reembed import reembed
from service.inference.call import Asker
from service.inference.loaded_model import Loaded
from service.inference.registry import Models
from service.operations import Kind, OnStep, Operation
from service.settings import Settings
from service.worker import JobWorker
from vitascope.errors import Conflict
from vitascope.media.limits import MediaLimits
from vitascope.model import Model

LOOK_SECONDS = 0.1
"""Between two looks at a model that is being loaded."""
NAMED = 5
"""Videos that an error names."""


def check_possible(kind: Kind) -> None:
    """Raise Conflict for what this installation cannot do."""
    if kind == "export" and find_spec("pyarrow") is None:
        raise Conflict("kind: 'export'; pyarrow is not installed where the service runs: the extra parquet brings it")


def load_what_exports_need() -> None:
    """Import pyarrow where it is installed. Every thread waits for that, half a second where the machine is busy; at
    the start nobody asks for anything yet.
    """
    if find_spec("pyarrow") is not None:
        import_module("index.transfer.parquet_export")


def do(
    library: CollectionStore,
    models: Models,
    worker: JobWorker,
    settings: Settings,
    operation: Operation,
    folder: Path,
    on_step: OnStep,
) -> dict[str, int] | None:
    """Do one operation; files go to the empty ``folder``. Raises domain errors, and whatever ``on_step`` raises.

    Returns how much media of the collection's own a backup or export lacks, None of other operations.
    """
    name, options = operation.collection, operation.options
    if operation.kind == "reembed":
        loaded = _model_of(operation, models, on_step)
        model = models.model_for(loaded, Asker(bulk=True))
        _reembed(library, model, settings.media_limits(), operation, on_step)
        worker.submit_unfinished(name, loaded.fingerprint)  # jobs that waited for a model that fits
        return None
    collection = library.open(name)
    if operation.kind == "backup":
        backup_collection(collection, folder / f"{name}.sqlite3", on_step)
        return asdict(owned_media(collection))
    # Here, so that only those who export need pyarrow.
    from index.transfer.parquet_export import export_collection

    whole = folder / "whole"
    export_collection(
        collection, whole, tokens=options["tokens"], thumbnails=options["thumbnails"], on_progress=on_step
    )
    for file in list(whole.iterdir()):
        file.rename(folder / file.name)
    whole.rmdir()
    return asdict(owned_media(collection))


def _model_of(operation: Operation, models: Models, on_step: OnStep) -> Loaded:
    """The model to embed with, waited for if it is being loaded. Raises ModelNotFound and NotReady."""
    while models.is_loading(operation.model):
        on_step(0, 0)
        time.sleep(LOOK_SECONDS)
    return models.named(operation.model)


def _reembed(
    library: CollectionStore, model: Model, limits: MediaLimits, operation: Operation, on_step: OnStep
) -> None:
    if library.open(operation.collection).fingerprint == model.bundle.fingerprint:
        return  # what asks for that is refused: the switch was made, and the service was killed before it said so
    done = reembed(
        library,
        operation.collection,
        model,
        skip_missing=operation.options["skip_missing"],
        limits=limits,
        on_video=lambda there, wanted, title: on_step(there, wanted),
    )
    if not done.replaced:
        named = "; ".join(f"{one.video.title}: {one.reason}" for one in done.failed[:NAMED])
        raise Conflict(
            f"{len(done.failed)} videos cannot be embedded again, so the collection stays as it was: bring their "
            f"files back, or repeat it with skip_missing. {named}"
        )
