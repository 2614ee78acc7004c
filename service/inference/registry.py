"""Which models serve, and which of them is the default. Others are loaded and removed beside them."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from index.collection import Collection
from service.errors import ModelNotFound, NotReady
from service.inference.call import Asker, Inputs, Outputs
from service.inference.loaded_model import Engines, Loaded
from service.inference.model_caches import Caches
from service.inference.model_entry import Entry, open_entry, reason_of
from service.inference.registry_state import Added, Record, write_record
from service.inference.scheduled_model import for_asker, lanes_for
from service.inference.scheduler import Scheduler
from service.memory import give_back
from service.settings import Settings
from vitascope.engines.onnx_runtime import Placement
from vitascope.errors import Conflict, EngineUnavailable, FingerprintMismatch, StorageError, VitascopeError
from vitascope.model import Model
from vitascope.sandbox.pool import DecodingPool

_log = logging.getLogger("vitascope.service")

AGAIN_SECONDS = 3.0
"""Until a model whose engine is a server that did not answer is tried again."""
FREEING_SECONDS = 0.2
"""From the moment at which nobody knows a model any more to that at which its engines are gone."""

OnReady = Callable[[str], None]
"""Called with the fingerprint of a model that can be used from now on."""


class Models:
    """The models of one service. Safe to use from many threads.

    The list is replaced as a whole, so a request that has looked at it once sees one state, whatever happens beside it.
    """

    def __init__(
        self,
        entries: tuple[Entry, ...],
        record: Record,
        engines: Engines,
        scheduler: Scheduler,
        decoding: DecodingPool,
        caches: Caches,
        settings: Settings,
    ) -> None:
        """``entries`` and ``record`` as they are at the start; ``scheduler`` runs calls by ``engines``."""
        self._entries = entries
        self._record = record
        self._engines = engines
        self._scheduler = scheduler
        self._decoding = decoding
        self._caches = caches
        self._settings = settings
        self._changing = threading.RLock()
        self._stopping = False
        self._signals: SimpleQueue[str | None] = SimpleQueue()
        """Wakes the thread that loads; with words, a model of this description has just become free."""
        self._unreached: list[Loaded] = []
        """Whose engine did not answer when they were to be loaded. Only the thread that loads uses this."""
        self._last_told = ""
        """What was logged of it last, so that waiting for hours is not a line every few seconds."""
        self._on_ready: OnReady = lambda fingerprint: None
        self._thread = threading.Thread(target=self._load_all, name="models", daemon=True)

    def start(self, on_ready: OnReady) -> None:
        """Load what is not loaded, the default first, each graph run once; then whatever is added."""
        self._on_ready = on_ready
        with self._changing:
            if not self._stopping:
                self._thread.start()

    def begin_to_stop(self) -> None:
        """Load nothing further."""
        with self._changing:
            self._stopping = True
        self._signals.put(None)

    def stop(self, timeout: float) -> None:
        """The same, and wait for what is being loaded, at most ``timeout`` seconds."""
        self.begin_to_stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    # Who serves

    def entries(self) -> list[Entry]:
        """Every model, the default first, then in the order in which they came."""
        return sorted(self._entries, key=lambda entry: not entry.is_default)

    def entry(self, fingerprint: str) -> Entry:
        """The model of this fingerprint, whatever its state. Raises ModelNotFound."""
        for entry in self._entries:
            if entry.fingerprint == fingerprint:
                return entry
        known = ", ".join(entry.fingerprint for entry in self._entries if entry.fingerprint is not None)
        raise ModelNotFound(f"model: {fingerprint[:80]!r}; one of these fingerprints was expected: {known}")

    def named(self, reference: str | None) -> Loaded:
        """The model that a request names by fingerprint, name, or name@version; None: the default.

        Of several, the default, else the one that came last. Raises ModelNotFound, and NotReady where the only one of
        this name does not serve.
        """
        return _ready(self._chosen(reference, ("ready",)))

    def stated(self, reference: str | None) -> Loaded:
        """As ``named``, also while it is being loaded: for what its manifest is enough for."""
        chosen = self._chosen(reference, ("ready", "loading"))
        return chosen.loaded or _ready(chosen)

    def of(self, collection: Collection) -> Loaded:
        """The model that fills a collection. Raises NotReady, and FingerprintMismatch where it is not there."""
        found = next((entry for entry in self._entries if entry.fingerprint == collection.fingerprint), None)
        if found is None:
            raise FingerprintMismatch(
                f"collection {collection.name}: filled by bundle {collection.bundle_name}, fingerprint "
                f"{collection.fingerprint}, which is not loaded: add it (POST /v1/models, `vitascope models add`), or "
                "embed the collection again"
            )
        return _ready(found)

    def has(self, fingerprint: str) -> bool:
        """Whether collections of this model can be used, or will be in a moment."""
        return any(entry.fingerprint == fingerprint and entry.loaded is not None for entry in self._entries)

    def is_loading(self, reference: str | None) -> bool:
        """Whether ``named`` will give a model in a moment, and not yet. Raises ModelNotFound."""
        return self._chosen(reference, ("ready",)).state == "loading"

    def failed(self) -> int:
        """How many should serve and do not."""
        return sum(entry.state == "failed" for entry in self._entries)

    def model_for(self, loaded: Loaded, asker: Asker) -> Model:
        """A model as one asker uses it: graphs run when their turn comes, as long as the answer is wanted."""
        # The bound method keeps the model findable for as long as this asker works with it.
        return for_asker(loaded.model, loaded.call_name, self._scheduler, self._decoding, asker, self._caches.texts)

    def submit(self, loaded: Loaded, graph: str, inputs: Inputs, asker: Asker) -> Future[Outputs]:
        """One run of a graph, as ``Scheduler.submit``."""
        return self._scheduler.submit(loaded.call_name(graph), inputs, asker)

    # What changes that

    def add(self, folder: Path) -> Entry:
        """Check the bundle in ``folder`` (a real path) and have it loaded; the others serve on meanwhile.

        One that is there already, from this folder, is returned as it is; one that failed is tried again. It is part of
        the record once it is ready. Raises BundleError and its kinds, and Conflict.
        """
        opened = open_entry(folder, "added", self._settings)
        with self._changing:
            known = next((entry for entry in self._entries if _takes_place_of(opened, entry)), None)
            if known is not None and known.state != "failed":
                if known.folder != folder:
                    raise Conflict(f"folder: {opened.shown!r}; its model is there already, from {known.shown!r}")
                return known
            if known is None and len(self._entries) >= self._settings.max_models:
                raise Conflict(
                    f"models: {len(self._entries)} are there; at most {self._settings.max_models} can be "
                    "(VITASCOPE_MAX_MODELS): remove one"
                )
            if known is not None:
                opened = replace(opened, origin=known.origin, is_default=known.is_default)
            self._replace(known, opened)
        self._signals.put(None)
        _log.info("model %s: is being loaded from %s", opened.described, folder)
        return opened

    def make_default(self, fingerprint: str) -> Entry:
        """Serve by this model whoever names none, from now on and after a restart.

        Raises ModelNotFound, Conflict for one that does not serve, and StorageError.
        """
        with self._changing:
            chosen = self.entry(fingerprint)
            if chosen.state != "ready":
                raise Conflict(f"model {chosen.described}: its state is {chosen.state}; one that is ready was expected")
            stated = next((entry for entry in self._entries if entry.origin == "bundle"), None)
            known = self._record.instead_of if stated is None or stated.fingerprint is None else stated.fingerprint
            by_settings = chosen is stated
            self._write(
                self._record.model_copy(
                    update={
                        "default": None if by_settings else fingerprint,
                        "instead_of": None if by_settings else known,
                    }
                )
            )
            self._entries = tuple(replace(entry, is_default=entry is chosen) for entry in self._entries)
            chosen = self.entry(fingerprint)
        _log.info("model %s: is the default now, fingerprint %s", chosen.described, fingerprint)
        return chosen

    def remove(self, fingerprint: str) -> None:
        """Serve nobody further by this model, and forget it; who works with it now is served to the end.

        Raises ModelNotFound, Conflict for the default, and StorageError.
        """
        with self._changing:
            gone = self.entry(fingerprint)
            if gone.is_default:
                raise Conflict(f"model {gone.described}: it is the default; make another one the default first")
            kept = tuple(added for added in self._record.added if added.fingerprint != fingerprint)
            if kept != self._record.added:
                self._write(self._record.model_copy(update={"added": kept}))
            self._entries = tuple(entry for entry in self._entries if entry is not gone)
        self._caches.forget(fingerprint)
        _log.info("model %s: removed, fingerprint %s", gone.described, fingerprint)
        if gone.loaded is not None:
            # A simple queue, since whoever comes to be the last may hold any lock.
            weakref.finalize(gone.loaded, self._signals.put, gone.described).atexit = False

    def _chosen(self, reference: str | None, states: tuple[str, ...]) -> Entry:
        """What ``reference`` names: one in these states where there is one."""
        if reference is None:
            return next(entry for entry in self._entries if entry.is_default)
        named = [entry for entry in self._entries if entry.is_called(reference)]
        if not named:
            known = ", ".join(sorted({entry.described for entry in self._entries}))
            raise ModelNotFound(f"model: {reference[:80]!r}; one of {known}, or a fingerprint, was expected")
        usable = [entry for entry in named if entry.state in states] or named
        return next((entry for entry in usable if entry.is_default), usable[-1])

    def _replace(self, old: Entry | None, new: Entry) -> None:
        """``new`` in the place of ``old``, else at the end."""
        if old is None:
            self._entries = (*self._entries, new)
        else:
            self._entries = tuple(new if entry is old else entry for entry in self._entries)

    def _write(self, record: Record) -> None:
        write_record(self._settings.data_dir, record)
        self._record = record

    # The thread that loads

    def _load_all(self) -> None:
        while not self._stopping:
            if self._load_next():
                continue
            try:
                gone = self._signals.get(timeout=AGAIN_SECONDS if self._unreached else None)
            except Empty:
                gone = None
            self._unreached.clear()
            if gone is not None:
                time.sleep(FREEING_SECONDS)
                give_back()
                _log.info("model %s: nobody works with it any more, and its memory is free", gone)

    def _load_next(self) -> bool:
        """Load one if there is one to be loaded now; nothing of it stays in this thread."""
        due = (entry for entry in self.entries() if entry.state == "loading" and entry.loaded not in self._unreached)
        entry = next(due, None)
        if entry is not None:
            self._load(entry)
        return entry is not None

    def _load(self, entry: Entry) -> None:
        assert entry.loaded is not None
        try:
            entry.loaded.model.warm()
        except EngineUnavailable as error:
            if str(error) != self._last_told:
                _log.warning("model %s: waits for the server that runs it: %s", entry.described, error)
                self._last_told = str(error)
            self._unreached.append(entry.loaded)
            return
        except Exception as error:  # an engine may raise anything; the models that serve do so on
            self._fail(entry, error)
            return
        with self._changing:
            present = self._present(entry)
            if present is None:  # removed meanwhile
                return
            try:
                self._remember(present)
            except StorageError as error:
                self._fail(present, error)
                return
            self._engines.add(entry.loaded)
            if not self._settings.inference_workers:
                self._scheduler.widen(lanes_for(entry.loaded.model.placements.values(), self._settings.threads))
            self._replace(present, replace(present, state="ready"))
        _log.info("model %s: is ready, fingerprint %s", entry.described, entry.fingerprint)
        _tell_placements(entry.described, entry.loaded.model.placements)
        try:
            self._on_ready(entry.loaded.fingerprint)
        except VitascopeError as error:
            _log.error("model %s: its jobs cannot be looked for: %s", entry.described, error)

    def _fail(self, entry: Entry, error: Exception) -> None:
        _log.error("model %s in %s: cannot be loaded: %s", entry.described, entry.folder, error, exc_info=error)
        reason = reason_of(error, entry.folder, self._settings)
        with self._changing:
            present = self._present(entry)
            if present is not None:
                self._replace(present, replace(present, state="failed", loaded=None, error=reason))

    def _present(self, entry: Entry) -> Entry | None:
        """What is in the list for it now: another default may have been chosen meanwhile."""
        return next((other for other in self._entries if other.loaded is entry.loaded), None)

    def _remember(self, entry: Entry) -> None:
        """Note one that was added, so that the next start loads it, too. Raises StorageError."""
        if entry.origin != "added" or entry.bundle is None:
            return
        stated = entry.bundle.manifest
        added = Added(
            folder=entry.folder, fingerprint=entry.bundle.fingerprint, name=stated.name, version=stated.version
        )
        if added not in self._record.added:
            others = tuple(one for one in self._record.added if one.fingerprint != added.fingerprint)
            self._write(self._record.model_copy(update={"added": (*others, added)}))


def _tell_placements(described: str, placements: Mapping[str, Placement]) -> None:
    """Where the graphs of a model run, graphs of one place in one line; a warning where it is not what was tried."""
    for placement in dict.fromkeys(placements.values()):
        graphs = ", ".join(graph for graph, other in placements.items() if other == placement)
        device = placement.device if placement.card is None else f"{placement.device} ({placement.card})"
        where = f"model {described}: {graphs}: on {device}, by {placement.engine}"
        if placement.fallback is None:
            _log.info("%s", where)
        else:
            _log.warning("%s: %s", where, placement.fallback)


def _takes_place_of(opened: Entry, entry: Entry) -> bool:
    """Whether both are the same model, or the one could not be opened where the other one is now."""
    is_same = entry.fingerprint == opened.fingerprint
    return is_same or (entry.state == "failed" and entry.folder == opened.folder)


def _ready(entry: Entry) -> Loaded:
    if entry.state == "loading":
        raise NotReady(f"model {entry.described}: it is being loaded; try again in a moment")
    if entry.loaded is None:
        code = (entry.error or "").partition(":")[0]
        raise NotReady(f"model {entry.described}: it could not be loaded ({code}); /v1/models and the log say why")
    return entry.loaded
