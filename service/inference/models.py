"""Loaded models, entries of the registry, and the file that stores the registry for restarts."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from pydantic import ValidationError

from service.errors import DeadlineExceeded, RequestAbandoned
from service.inference.cache import TextCache, embed_texts
from service.inference.scheduler import CallContext, Inputs, Outputs, Scheduler, split_call_name
from service.settings import Settings
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.parts import StrictModel
from vitascope.bundle.signing import PublicKey
from vitascope.durable_files import atomic_path
from vitascope.engines.graphs import GraphRunner
from vitascope.engines.onnx_runtime import Array, Placement
from vitascope.errors import (
    BundleCorrupt,
    BundleError,
    BundleUntrusted,
    EngineError,
    InvalidInput,
    StorageError,
    VitascopeError,
)
from vitascope.model import Model
from vitascope.sandbox.pool import DecodingPool, PooledDecoder

BULK_BATCH_SIZE = 4
"""Clips per run for an upload or job: few, since an interactive request may wait for one such run."""
MAX_CPU_WORKERS = 4
"""Default maximum of inference workers on a CPU: the weights of more concurrent runs would not fit its caches."""
REMOTE_WORKERS = 4
"""Inference workers if another server runs the graphs, which gets the next batches while it computes one. More workers
would result in smaller batches.
"""


@dataclass(eq=False)
class LoadedModel:
    """A model that runs graphs immediately; requests and jobs use the scheduled ``ModelRegistry.with_context``."""

    model: Model

    @property
    def bundle(self) -> Bundle:
        return self.model.bundle

    @property
    def fingerprint(self) -> str:
        return self.bundle.fingerprint

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.bundle.manifest.name

    def call_name(self, graph: str) -> str:
        """Return the name of a graph of this model in the scheduler."""
        manifest = self.bundle.manifest
        return f"{manifest.name}@{manifest.version}:{self.fingerprint[:12]}/{graph}"


class GraphRouter:
    """Runs calls on the models that they name. Thread-safe.

    References are weak: a removed model stays reachable while a request or job uses it, and is freed afterwards.
    """

    def __init__(self) -> None:
        self._models: WeakValueDictionary[str, LoadedModel] = WeakValueDictionary()

    def add(self, loaded: LoadedModel) -> None:
        """Route the calls of this model to it; it replaces a model with the same fingerprint."""
        self._models[loaded.call_name("")] = loaded

    def run(self, call_name: str, inputs: Inputs) -> Outputs:
        """Run a graph like ``Model.run_graph``. Raises EngineError, also if the model was removed."""
        model, graph = split_call_name(call_name)
        loaded = self._models.get(f"{model}/")
        if loaded is None:
            raise EngineError(f"{call_name}: the model was removed")
        return loaded.model.run_graph(graph, inputs)


class ScheduledGraphs:
    """Graphs of a model for one request or job, run through the scheduler."""

    def __init__(
        self, graphs: GraphRunner, scheduler: Scheduler, context: CallContext, call_name: Callable[[str], str]
    ) -> None:
        """``call_name`` returns the name of a graph in the scheduler, unique among all models."""
        self._graphs = graphs
        self._scheduler = scheduler
        self._context = context
        self._call_name = call_name

    @property
    def names(self) -> list[str]:
        return self._graphs.names

    @property
    def placements(self) -> dict[str, Placement]:
        return self._graphs.placements

    def ensure_loaded(self, graph: str) -> None:
        self._graphs.ensure_loaded(graph)

    def output_shapes(self, graph: str) -> dict[str, tuple[int, ...]]:
        return self._graphs.output_shapes(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph; blocks. Raises as ``GraphRunner.run``, Overloaded, DeadlineExceeded and RequestAbandoned."""
        future = self._scheduler.submit(self._call_name(graph), inputs, self._context)
        deadline = self._context.deadline
        try:
            return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            future.cancel()
            raise DeadlineExceeded("deadline: it passed while the request waited for the model") from None
        except CancelledError:
            raise RequestAbandoned("the client disconnected") from None


def with_context(
    loaded: LoadedModel, scheduler: Scheduler, decoding: DecodingPool, context: CallContext, cache: TextCache
) -> Model:
    """Return the model with scheduled graphs, decoding processes and cached text embeddings.

    Bulk callers do not use the cache, since their many texts would evict all others.
    """
    return loaded.model.with_overrides(
        # The bound method keeps a reference to the model, so that the router can reach it.
        lambda graphs: ScheduledGraphs(graphs, scheduler, context, loaded.call_name),
        batch_size=BULK_BATCH_SIZE if context.bulk else None,
        decoder=PooledDecoder(decoding, context),
        text_embedder=None if context.bulk else partial(embed_texts, cache, context),
    )


def default_workers(placements: Iterable[Placement], threads: int) -> int:
    """Return the suitable number of inference workers for a model. ``threads``: threads per run; 0: one per core."""
    devices = {placement.device for placement in placements}
    if "cpu" in devices:
        return min(threads or os.cpu_count() or 1, MAX_CPU_WORKERS)
    return REMOTE_WORKERS if "remote" in devices else 1


_log = logging.getLogger("vitascope.service")
STATE_FILE = "models.json"
State = Literal["loading", "ready", "failed"]
Origin = Literal["bundle", "bundles", "added"]
"""Where a bundle is from: a setting, or a request that added it."""


class AddedModel(StrictModel):
    """A bundle that a request added; ``folder`` is absolute."""

    folder: Path
    fingerprint: str
    name: str
    version: str


class RegistryState(StrictModel):
    """Changes to the registry at run time.

    Attributes:
        added: Added bundles, in the order of the requests.
        default: Fingerprint of the model that a request made the default.
        instead_of: Fingerprint of the settings' default at that time. If the settings name another model now, that
            model is the default.
    """

    record_version: Literal[1] = 1
    added: tuple[AddedModel, ...] = ()
    default: str | None = None
    instead_of: str | None = None


def read_state(data_dir: Path) -> RegistryState:
    """Read the state in the data folder; an empty state if there is none. Raises StorageError."""
    path = data_dir / STATE_FILE
    try:
        return RegistryState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return RegistryState()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise StorageError(
            f"{path}: cannot be parsed ({error.error_count()} errors); repair it, or remove it to start with the "
            "models of the settings"
        ) from error


def write_state(data_dir: Path, state: RegistryState) -> None:
    """Write the state durably. Raises StorageError; the earlier state then stays."""
    path = data_dir / STATE_FILE
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(state.model_dump_json(indent=1))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


@dataclass(frozen=True)
class ModelEntry:
    """A bundle in the registry. Immutable: a change of state replaces the entry.

    Attributes:
        shown_folder: The folder as responses show it.
        fingerprint, name, version: None if the bundle could not be opened and they are unknown.
        bundle: None if the bundle could not be opened.
        card: Model card in Markdown; None if the bundle could not be opened.
        loaded: The loaded model; None after a failure.
        error: Why the model failed, beginning with the code of the error.
    """

    folder: Path
    shown_folder: str
    origin: Origin
    state: State
    fingerprint: str | None = None
    name: str | None = None
    version: str | None = None
    bundle: Bundle | None = None
    card: str | None = None
    loaded: LoadedModel | None = None
    error: str | None = None
    is_default: bool = False

    @property
    def label(self) -> str:
        """Name and version, else the folder."""
        return self.shown_folder if self.name is None else f"{self.name}@{self.version}"

    def matches(self, reference: str) -> bool:
        """Return whether ``reference`` is the fingerprint, the name, or name@version."""
        return reference in (self.fingerprint, self.name, f"{self.name}@{self.version}")


def open_entry(folder: Path, origin: Origin, settings: Settings) -> ModelEntry:
    """Open and verify the bundle in ``folder``, including its signature if one is required. Loads no graph.

    Raises BundleError and its subclasses.
    """
    bundle = Bundle.open(folder, _trusted_keys(settings))
    manifest = bundle.manifest
    if bundle.signature is not None:
        _log.info("model %s@%s: signed by %s", manifest.name, manifest.version, bundle.signature.key_id_hex)
    try:
        card = (folder / manifest.model_card).read_text("utf-8", "replace")
    except OSError as error:
        raise BundleCorrupt(f"{manifest.model_card}: cannot be read: {error.strerror}") from error
    model = Model(
        bundle,
        settings.threads,
        settings.device,
        engine=settings.engine,
        max_characters=settings.max_text_characters,
    )
    return ModelEntry(
        folder=folder,
        shown_folder=shown_folder(folder, settings),
        origin=origin,
        state="loading",
        fingerprint=bundle.fingerprint,
        name=manifest.name,
        version=manifest.version,
        bundle=bundle,
        card=card,
        loaded=LoadedModel(model),
    )


def _trusted_keys(settings: Settings) -> tuple[PublicKey, ...] | None:
    """Read the trusted keys, anew for each bundle, so that changes of the files take effect. Raises BundleUntrusted."""
    try:
        return settings.read_trusted_keys()
    except InvalidInput as error:
        _log.error("trusted_keys: %s", error)
        raise BundleUntrusted(
            "trusted_keys: they cannot be read, so no bundle is trusted; see the log of the service"
        ) from error


def initial_entries(settings: Settings, state: RegistryState) -> tuple[ModelEntry, ...]:
    """Open the bundles of the settings, then the added ones; one of them is the default. Loads no graph.

    Bundles that cannot be opened are included with the reason. If none can be opened, raises the error of the first.
    Raises InvalidInput if the trusted keys cannot be read.
    """
    settings.read_trusted_keys()
    entries: list[ModelEntry] = []
    failures: list[tuple[Path, BundleError]] = []
    sources: list[tuple[Path, Origin, AddedModel | None]] = [
        (settings.bundle.resolve(), "bundle", None),
        *((folder.resolve(), "bundles", None) for folder in settings.bundles),
        *((added.folder, "added", added) for added in state.added),
    ]
    for folder, origin, added in sources:
        try:
            entry = open_entry(folder, origin, settings)
            if added is not None and entry.fingerprint != added.fingerprint:
                raise BundleCorrupt(
                    f"the folder now has {entry.label} with another fingerprint; {added.name}@{added.version} was "
                    "added: add the new one"
                )
        except BundleError as error:
            failures.append((folder, error))
            entries.append(_failed_entry(folder, origin, added, error, settings))
            continue
        if all(entry.fingerprint != other.fingerprint or other.bundle is None for other in entries):
            entries.append(entry)
    opened = {entry.fingerprint for entry in entries if entry.bundle is not None}
    for folder, failure in failures if opened else failures[1:]:
        _log.error("model in %s: cannot be opened: %s: %s", folder, failure.code, failure)
    if not opened:
        raise failures[0][1]
    entries = [entry for entry in entries if entry.bundle is not None or entry.fingerprint not in opened]
    default = _default_entry(entries, state)
    return tuple(replace(entry, is_default=entry is default) for entry in entries)


def _default_entry(entries: list[ModelEntry], state: RegistryState) -> ModelEntry:
    """Return the chosen default, unless the settings have changed their default since it was chosen."""
    of_settings = entries[0]
    known = {of_settings.fingerprint, state.instead_of} - {None}
    if state.default is None or len(known) == 2:
        return of_settings
    chosen = next((entry for entry in entries if entry.fingerprint == state.default), None)
    if chosen is None:
        _log.warning("model %s: was the default, and is not configured any more", state.default)
    return chosen or of_settings


def _failed_entry(
    folder: Path, origin: Origin, added: AddedModel | None, error: BundleError, settings: Settings
) -> ModelEntry:
    return ModelEntry(
        folder=folder,
        shown_folder=shown_folder(folder, settings),
        origin=origin,
        state="failed",
        fingerprint=None if added is None else added.fingerprint,
        name=None if added is None else added.name,
        version=None if added is None else added.version,
        error=failure_reason(error, folder, settings),
    )


def shown_folder(folder: Path, settings: Settings) -> str:
    """Return a folder as responses show it: relative to ``bundles_root``, else its own name."""
    root = settings.bundles_root
    if root is not None and folder.is_relative_to(root.resolve()):
        return str(folder.relative_to(root.resolve()))
    return folder.name


def failure_reason(error: Exception, folder: Path, settings: Settings) -> str:
    """Return why a model failed, for responses; for faults of the machine, only the code."""
    if isinstance(error, BundleError):
        return f"{error.code}: {str(error).replace(str(folder), shown_folder(folder, settings))}"
    code = error.code if isinstance(error, VitascopeError) else "internal_error"
    return f"{code}: the model cannot be used; see the log of the service"
