"""One bundle in the list of models, whatever became of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from service.inference.loaded_model import Loaded
from service.inference.registry_state import Added, Record
from service.settings import Settings
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.signing.keys import PublicKey
from vitascope.errors import BundleCorrupt, BundleError, BundleUntrusted, InvalidInput, VitascopeError
from vitascope.model import Model

_log = logging.getLogger("vitascope.service")

State = Literal["loading", "ready", "failed"]
Origin = Literal["bundle", "bundles", "added"]
"""The setting that names it, or that it was added while the service ran."""


@dataclass(frozen=True)
class Entry:
    """Never changed: what becomes of a model is told by another entry in its place.

    ``shown``: the folder as clients are told it. ``bundle`` and ``card`` (Markdown) are None where it could not be
    opened; ``fingerprint``, ``name`` and ``version`` may be known all the same, of a bundle that was added. ``loaded``
    is None once it has failed, and ``error`` says why, beginning with the code of the error.
    """

    folder: Path
    shown: str
    origin: Origin
    state: State
    fingerprint: str | None = None
    name: str | None = None
    version: str | None = None
    bundle: Bundle | None = None
    card: str | None = None
    loaded: Loaded | None = None
    error: str | None = None
    is_default: bool = False

    @property
    def described(self) -> str:
        """Name and version, else the folder."""
        return self.shown if self.name is None else f"{self.name}@{self.version}"

    def is_called(self, reference: str) -> bool:
        """Whether ``reference`` is its fingerprint, its name, or its name and version with an @ between."""
        return reference in (self.fingerprint, self.name, f"{self.name}@{self.version}")


def open_entry(folder: Path, origin: Origin, settings: Settings) -> Entry:
    """The bundle in ``folder``, its signature checked where one is required, and every file of it; no graph is loaded
    yet. Raises BundleError and its kinds.
    """
    bundle = Bundle.open(folder, _trusted(settings))
    stated = bundle.manifest
    if bundle.signature is not None:
        _log.info("model %s@%s: signed by %s", stated.name, stated.version, bundle.signature.key_id)
    try:
        card = (folder / stated.model_card).read_text("utf-8", "replace")
    except OSError as error:
        raise BundleCorrupt(f"{stated.model_card}: cannot be read: {error.strerror}") from error
    model = Model(
        bundle,
        settings.threads,
        settings.device,
        engine=settings.engine,
        max_characters=settings.max_text_characters,
    )
    return Entry(
        folder=folder,
        shown=shown_folder(folder, settings),
        origin=origin,
        state="loading",
        fingerprint=bundle.fingerprint,
        name=stated.name,
        version=stated.version,
        bundle=bundle,
        card=card,
        loaded=Loaded(model),
    )


def _trusted(settings: Settings) -> tuple[PublicKey, ...] | None:
    """Read anew each time, so that a key that comes or goes counts for the next bundle. Raises BundleUntrusted."""
    try:
        return settings.read_trusted_keys()
    except InvalidInput as error:
        _log.error("trusted_keys: %s", error)
        raise BundleUntrusted("trusted_keys: they cannot be read, so no bundle is trusted; the log says why") from error


def entries_at_start(settings: Settings, record: Record) -> tuple[Entry, ...]:
    """What the settings name and what was added, in this order, one of them the default; no graph is loaded yet.

    What cannot be opened is among them, with the reason. Raises the error of the first where none can be, and
    InvalidInput for trusted keys that cannot be read.
    """
    settings.read_trusted_keys()
    entries: list[Entry] = []
    faults: list[tuple[Path, BundleError]] = []
    named: list[tuple[Path, Origin, Added | None]] = [
        (settings.bundle.resolve(), "bundle", None),
        *((folder.resolve(), "bundles", None) for folder in settings.bundles),
        *((added.folder, "added", added) for added in record.added),
    ]
    for folder, origin, added in named:
        try:
            entry = open_entry(folder, origin, settings)
            if added is not None and entry.fingerprint != added.fingerprint:
                raise BundleCorrupt(
                    f"the folder holds {entry.described} now, of another fingerprint; {added.name}@{added.version} was "
                    "added, so add what is there now"
                )
        except BundleError as error:
            faults.append((folder, error))
            entries.append(_unopened(folder, origin, added, error, settings))
            continue
        if all(entry.fingerprint != other.fingerprint or other.bundle is None for other in entries):
            entries.append(entry)
    opened = {entry.fingerprint for entry in entries if entry.bundle is not None}
    for folder, fault in faults if opened else faults[1:]:
        _log.error("model in %s: cannot be opened and does not serve: %s: %s", folder, fault.code, fault)
    if not opened:
        raise faults[0][1]
    entries = [entry for entry in entries if entry.bundle is not None or entry.fingerprint not in opened]
    default = _default_of(entries, record)
    return tuple(replace(entry, is_default=entry is default) for entry in entries)


def _default_of(entries: list[Entry], record: Record) -> Entry:
    """What was made the default, unless the settings have come to name another one since; else what these name."""
    by_settings = entries[0]
    known = {by_settings.fingerprint, record.instead_of} - {None}
    if record.default is None or len(known) == 2:
        return by_settings
    chosen = next((entry for entry in entries if entry.fingerprint == record.default), None)
    if chosen is None:
        _log.warning("model %s: was made the default, and nothing names it any more", record.default)
    return chosen or by_settings


def _unopened(folder: Path, origin: Origin, added: Added | None, error: BundleError, settings: Settings) -> Entry:
    return Entry(
        folder=folder,
        shown=shown_folder(folder, settings),
        origin=origin,
        state="failed",
        fingerprint=None if added is None else added.fingerprint,
        name=None if added is None else added.name,
        version=None if added is None else added.version,
        error=reason_of(error, folder, settings),
    )


def shown_folder(folder: Path, settings: Settings) -> str:
    """A folder as clients are told it: below the root for bundles, else its own name alone."""
    root = settings.bundles_root
    if root is not None and folder.is_relative_to(root.resolve()):
        return str(folder.relative_to(root.resolve()))
    return folder.name


def reason_of(error: Exception, folder: Path, settings: Settings) -> str:
    """Why a model does not serve, as clients are told it: of a fault of the machine only the code."""
    if isinstance(error, BundleError):
        return f"{error.code}: {str(error).replace(str(folder), shown_folder(folder, settings))}"
    code = error.code if isinstance(error, VitascopeError) else "internal_error"
    return f"{code}: the model cannot be used; the log of the service says why"
