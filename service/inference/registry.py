"""Registry of models: their states, and the default model."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from index.collection import Collection
from index.search.rerank import rerank_count, stores_audio_tokens
from service.errors import ModelNotFound, NotReady
from service.inference.cache import Caches
from service.inference.models import (
    AddedModel,
    GraphRouter,
    LoadedModel,
    ModelEntry,
    RegistryState,
    default_workers,
    failure_reason,
    open_entry,
    with_context,
    write_state,
)
from service.inference.scheduler import CallContext, Scheduler
from service.settings import Settings
from vitascope.engines.onnx_runtime import Placement
from vitascope.errors import Conflict, EngineUnavailable, FingerprintMismatch, StorageError, VitascopeError
from vitascope.model import Model
from vitascope.sandbox.pool import DecodingPool

_log = logging.getLogger("vitascope.service")

RETRY_SECONDS = 3.0
"""Seconds until loading is tried again for a model whose remote engine did not respond."""
FREEING_SECONDS = 0.2
"""Seconds between the last reference to a removed model and the end of its engines."""

OnReady = Callable[[str], None]
"""Receives the fingerprint of a model that has become ready."""


class ModelRegistry:
    """The models of a service. Thread-safe.

    The tuple of entries is replaced as a whole, so that readers always see a consistent state.
    """

    def __init__(
        self,
        entries: tuple[ModelEntry, ...],
        state: RegistryState,
        router: GraphRouter,
        scheduler: Scheduler,
        decoding: DecodingPool,
        caches: Caches,
        settings: Settings,
    ) -> None:
        """``entries`` and ``state``: initial values. ``scheduler`` runs calls through ``router``."""
        self._entries = entries
        self._state = state
        self._router = router
        self._scheduler = scheduler
        self._decoding = decoding
        self._caches = caches
        self._settings = settings
        self._lock = threading.RLock()
        self._stopping = False
        self._signals: SimpleQueue[str | None] = SimpleQueue()
        """Wakes the loader thread. A text is the label of a removed model that was just freed."""
        self._unreached: list[LoadedModel] = []
        """Models whose remote engine did not respond. Used by the loader thread only."""
        self._last_warning = ""
        """Models whose wait for an engine has been logged, so that it is not logged every few seconds."""
        self._on_ready: OnReady = lambda fingerprint: None
        self._thread = threading.Thread(target=self._run_loader, name="models", daemon=True)

    def start(self, on_ready: OnReady) -> None:
        """Load the models in a thread, the default first, and run each graph once; later, load added models."""
        self._on_ready = on_ready
        with self._lock:
            if not self._stopping:
                self._thread.start()

    def request_shutdown(self) -> None:
        """Do not start to load further models."""
        with self._lock:
            self._stopping = True
        self._signals.put(None)

    def stop(self, timeout: float) -> None:
        """Do not load further models, and wait up to ``timeout`` seconds for the one that is being loaded."""
        self.request_shutdown()
        if self._thread.is_alive():
            self._thread.join(timeout)

    # Lookup

    def entries(self) -> list[ModelEntry]:
        """Return all models, the default first, then in the order in which they were added."""
        return sorted(self._entries, key=lambda entry: not entry.is_default)

    def entry(self, fingerprint: str) -> ModelEntry:
        """Return the model with this fingerprint, in any state. Raises ModelNotFound."""
        for entry in self._entries:
            if entry.fingerprint == fingerprint:
                return entry
        known = ", ".join(entry.fingerprint for entry in self._entries if entry.fingerprint is not None)
        raise ModelNotFound(f"model: {fingerprint[:80]!r}; one of these fingerprints was expected: {known}")

    def get(self, reference: str | None) -> LoadedModel:
        """Return the ready model with this fingerprint, name, or name@version; None: the default.

        Of several matches, the default takes precedence, else the model added last. Raises ModelNotFound, and NotReady
        if no match is ready.
        """
        return _loaded(self._find(reference, ("ready",)))

    def get_open(self, reference: str | None) -> LoadedModel:
        """Like ``get``, but also return a model that is still loading: its manifest can be used."""
        model_entry = self._find(reference, ("ready", "loading"))
        return model_entry.loaded or _loaded(model_entry)

    def for_collection(self, collection: Collection) -> LoadedModel:
        """Return the model of a collection. Raises NotReady, and FingerprintMismatch if it is not in the registry."""
        entry = next((entry for entry in self._entries if entry.fingerprint == collection.fingerprint), None)
        if entry is None:
            raise FingerprintMismatch(
                f"collection {collection.name}: its model {collection.bundle_name}, fingerprint "
                f"{collection.fingerprint}, is not loaded; add it (POST /v1/models, `vitascope models add`), or embed "
                "the collection again"
            )
        return _loaded(entry)

    def is_available(self, fingerprint: str) -> bool:
        """Return whether a model is ready or loading."""
        return any(entry.fingerprint == fingerprint and entry.loaded is not None for entry in self._entries)

    def default_rerank(self, collection: Collection) -> int:
        """Return the number of clips that a search by a text reranks by default; 0 if the bundle does not define it.

        Raises StorageError.
        """
        bundles = (entry.bundle for entry in self._entries if entry.fingerprint == collection.fingerprint)
        manifest = next((bundle.manifest for bundle in bundles if bundle is not None), None)
        return 0 if manifest is None else rerank_count(manifest, stores_audio_tokens(collection))

    def is_loading(self, reference: str | None) -> bool:
        """Return whether ``get`` raises NotReady only until a model is loaded. Raises ModelNotFound."""
        return self._find(reference, ("ready",)).state == "loading"

    def failed_count(self) -> int:
        """Return the number of models that could not be loaded."""
        return sum(entry.state == "failed" for entry in self._entries)

    def with_context(self, loaded: LoadedModel, context: CallContext) -> Model:
        """Return a model for one request or job: its graphs are calls in the scheduler."""
        return with_context(loaded, self._scheduler, self._decoding, context, self._caches.texts)

    # Changes

    def add(self, folder: Path) -> ModelEntry:
        """Verify the bundle in ``folder`` (a real path) and load it in the background.

        If the same model was already added from this folder, its entry is returned; a failed model is loaded again. The
        model is stored for the next start once it is ready. Raises BundleError and its subclasses, and Conflict.
        """
        opened = open_entry(folder, "added", self._settings)
        with self._lock:
            known = next((entry for entry in self._entries if _replaces(opened, entry)), None)
            if known is not None and known.state != "failed":
                if known.folder != folder:
                    raise Conflict(
                        f"folder: {opened.shown_folder!r}; its model is there already, from {known.shown_folder!r}"
                    )
                return known
            if known is None and len(self._entries) >= self._settings.max_models:
                raise Conflict(
                    f"models: there are {len(self._entries)}; at most {self._settings.max_models} were expected "
                    "(VITASCOPE_MAX_MODELS): remove one"
                )
            if known is not None:
                opened = replace(opened, origin=known.origin, is_default=known.is_default)
            self._replace(known, opened)
        self._signals.put(None)
        _log.info("model %s: loading from %s", opened.label, folder)
        return opened

    def make_default(self, fingerprint: str) -> ModelEntry:
        """Make a model the default; the choice survives restarts.

        Raises ModelNotFound, Conflict if it is not ready, and StorageError.
        """
        with self._lock:
            chosen = self.entry(fingerprint)
            if chosen.state != "ready":
                raise Conflict(f"model {chosen.label}: its state is {chosen.state}; one that is ready was expected")
            of_settings = next((entry for entry in self._entries if entry.origin == "bundle"), None)
            if of_settings is None or of_settings.fingerprint is None:
                instead_of = self._state.instead_of
            else:
                instead_of = of_settings.fingerprint
            changes = {"default": fingerprint, "instead_of": instead_of}
            if chosen is of_settings:
                changes = {"default": None, "instead_of": None}
            self._write(self._state.model_copy(update=changes))
            self._entries = tuple(replace(entry, is_default=entry is chosen) for entry in self._entries)
            chosen = self.entry(fingerprint)
        _log.info("model %s: is the default, fingerprint %s", chosen.label, fingerprint)
        return chosen

    def remove(self, fingerprint: str) -> None:
        """Remove a model. Requests and jobs that use it are finished first.

        Raises ModelNotFound, Conflict for the default, and StorageError.
        """
        with self._lock:
            removed = self.entry(fingerprint)
            if removed.is_default:
                raise Conflict(f"model {removed.label}: it is the default; make another one the default first")
            kept = tuple(added for added in self._state.added if added.fingerprint != fingerprint)
            if kept != self._state.added:
                self._write(self._state.model_copy(update={"added": kept}))
            self._entries = tuple(entry for entry in self._entries if entry is not removed)
        self._caches.invalidate(fingerprint)
        _log.info("model %s: removed, fingerprint %s", removed.label, fingerprint)
        if removed.loaded is not None:
            # A SimpleQueue, as the finalizer may run in any thread, with any lock held.
            weakref.finalize(removed.loaded, self._signals.put, removed.label).atexit = False

    def _find(self, reference: str | None, states: tuple[str, ...]) -> ModelEntry:
        """Return the matching entry, preferably one in one of ``states``."""
        if reference is None:
            return next(entry for entry in self._entries if entry.is_default)
        matches = [entry for entry in self._entries if entry.matches(reference)]
        if not matches:
            known = ", ".join(sorted({entry.label for entry in self._entries}))
            raise ModelNotFound(f"model: {reference[:80]!r}; one of {known}, or a fingerprint, was expected")
        usable = [entry for entry in matches if entry.state in states] or matches
        return next((entry for entry in usable if entry.is_default), usable[-1])

    def _replace(self, old: ModelEntry | None, new: ModelEntry) -> None:
        """Replace ``old`` by ``new``, or append ``new`` if ``old`` is None."""
        if old is None:
            self._entries = (*self._entries, new)
        else:
            self._entries = tuple(new if entry is old else entry for entry in self._entries)

    def _write(self, state: RegistryState) -> None:
        write_state(self._settings.data_dir, state)
        self._state = state

    # The loader thread

    def _run_loader(self) -> None:
        while not self._stopping:
            if self._load_next():
                continue
            try:
                freed = self._signals.get(timeout=RETRY_SECONDS if self._unreached else None)
            except Empty:
                freed = None
            self._unreached.clear()
            if freed is not None:
                time.sleep(FREEING_SECONDS)
                trim_heap()
                _log.info("model %s: not used any more, memory freed", freed)

    def _load_next(self) -> bool:
        """Load one model if one is waiting; return whether one was. Keeps no reference to the model."""
        loading = (entry for entry in self.entries() if entry.state == "loading")
        entry = next((entry for entry in loading if entry.loaded not in self._unreached), None)
        if entry is not None:
            self._load(entry)
        return entry is not None

    def _load(self, entry: ModelEntry) -> None:
        assert entry.loaded is not None
        try:
            entry.loaded.model.warm_up()
        except EngineUnavailable as error:
            if str(error) != self._last_warning:
                _log.warning("model %s: waits for the server that runs it: %s", entry.label, error)
                self._last_warning = str(error)
            self._unreached.append(entry.loaded)
            return
        except Exception as error:  # an engine may raise anything; the other models are not affected
            self._fail(entry, error)
            return
        with self._lock:
            current = self._current(entry)
            if current is None:  # removed meanwhile
                return
            try:
                self._store(current)
            except StorageError as error:
                self._fail(current, error)
                return
            self._router.add(entry.loaded)
            if not self._settings.inference_workers:
                placements = entry.loaded.model.placements.values()
                self._scheduler.add_workers(default_workers(placements, self._settings.threads))
            self._replace(current, replace(current, state="ready"))
        _log.info("model %s: ready, fingerprint %s", entry.label, entry.fingerprint)
        _log_placements(entry.label, entry.loaded.model.placements)
        try:
            self._on_ready(entry.loaded.fingerprint)
        except VitascopeError as error:
            _log.error("model %s: its unfinished jobs cannot be read: %s", entry.label, error)

    def _fail(self, entry: ModelEntry, error: Exception) -> None:
        _log.error("model %s in %s: cannot be loaded: %s", entry.label, entry.folder, error, exc_info=error)
        reason = failure_reason(error, entry.folder, self._settings)
        with self._lock:
            current = self._current(entry)
            if current is not None:
                self._replace(current, replace(current, state="failed", loaded=None, error=reason))

    def _current(self, entry: ModelEntry) -> ModelEntry | None:
        """Return the current entry of a model, which may have changed meanwhile (another default)."""
        return next((other for other in self._entries if other.loaded is entry.loaded), None)

    def _store(self, entry: ModelEntry) -> None:
        """Store an added model for the next start. Raises StorageError."""
        if entry.origin != "added" or entry.bundle is None:
            return
        manifest = entry.bundle.manifest
        added = AddedModel(
            folder=entry.folder, fingerprint=entry.bundle.fingerprint, name=manifest.name, version=manifest.version
        )
        if added not in self._state.added:
            others = tuple(other for other in self._state.added if other.fingerprint != added.fingerprint)
            self._write(self._state.model_copy(update={"added": (*others, added)}))


def _log_placements(label: str, placements: Mapping[str, Placement]) -> None:
    """Log on which device the graphs of a model run, one line per placement; a warning for a fallback."""
    for placement in dict.fromkeys(placements.values()):
        graphs = ", ".join(graph for graph, other in placements.items() if other == placement)
        device = placement.device if placement.gpu_name is None else f"{placement.device} ({placement.gpu_name})"
        text = f"model {label}: {graphs}: on {device}, by {placement.engine}"
        if placement.fallback is None:
            _log.info("%s", text)
        else:
            _log.warning("%s: %s", text, placement.fallback)


def _replaces(opened: ModelEntry, entry: ModelEntry) -> bool:
    """Return whether both are the same model, or ``entry`` failed in the same folder."""
    is_same = entry.fingerprint == opened.fingerprint
    return is_same or (entry.state == "failed" and entry.folder == opened.folder)


def _loaded(entry: ModelEntry) -> LoadedModel:
    if entry.state == "loading":
        raise NotReady(f"model {entry.label}: it is being loaded; try again in a moment")
    if entry.loaded is None:
        code = (entry.error or "").partition(":")[0]
        raise NotReady(f"model {entry.label}: it could not be loaded ({code}); see /v1/models and the log")
    return entry.loaded


def trim_heap() -> None:
    """Return free memory to the system.

    glibc keeps 200 of the 250 MB of the default bundle after the model was freed. Other C libraries lack this function.
    """
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
