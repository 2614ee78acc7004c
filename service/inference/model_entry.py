"""Entries of the model registry, and the file that keeps them across restarts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from service.inference.loaded_model import LoadedModel
from service.settings import Settings
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import StrictModel
from vitascope.bundle.signing import PublicKey
from vitascope.durable_files import atomic_path
from vitascope.errors import BundleCorrupt, BundleError, BundleUntrusted, InvalidInput, StorageError, VitascopeError
from vitascope.model import Model

_log = logging.getLogger("vitascope.service")

STATE_FILE = "models.json"

State = Literal["loading", "ready", "failed"]
Origin = Literal["bundle", "bundles", "added"]
"""The setting that names the bundle, or that a request added it."""


class AddedModel(StrictModel):
    """A bundle that a request added; ``folder`` is absolute."""

    folder: Path
    fingerprint: str
    name: str
    version: str


class RegistryState(StrictModel):
    """Changes to the registry at run time.

    Attributes:
        added: In the order of the requests.
        default: Fingerprint of the model that was made the default.
        instead_of: Fingerprint of the settings' default at that time. If the settings name another one, that counts.
    """

    record_version: Literal[1] = 1
    added: tuple[AddedModel, ...] = ()
    default: str | None = None
    instead_of: str | None = None


def read_state(data_dir: Path) -> RegistryState:
    """Return the state in the data folder, or an empty one. Raises StorageError."""
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
    """Write the state durably. Raises StorageError, with the earlier state in place."""
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
        fingerprint, name, version: May be None for a bundle that could not be opened.
        bundle, card: None if it could not be opened; the card is Markdown.
        loaded: None after a failure.
        error: Why it failed; begins with the code of the error.
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
        """Whether ``reference`` is the fingerprint, the name, or name@version."""
        return reference in (self.fingerprint, self.name, f"{self.name}@{self.version}")


def open_entry(folder: Path, origin: Origin, settings: Settings) -> ModelEntry:
    """Open and verify the bundle in ``folder``, including its signature where one is required; loads no graph.

    Raises BundleError and its kinds.
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
    """Read the keys for each bundle, so that changed files count for the next one. Raises BundleUntrusted."""
    try:
        return settings.read_trusted_keys()
    except InvalidInput as error:
        _log.error("trusted_keys: %s", error)
        raise BundleUntrusted(
            "trusted_keys: they cannot be read, so no bundle is trusted; see the log of the service"
        ) from error


def initial_entries(settings: Settings, state: RegistryState) -> tuple[ModelEntry, ...]:
    """Open the bundles of the settings and those that were added, in this order; one is the default. Loads no graph.

    Bundles that cannot be opened are included, with the reason. Raises the error of the first one if none can be,
    and InvalidInput for trusted keys that cannot be read.
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
    """Return the chosen default, unless the settings name another model than when it was chosen."""
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
    """Return why a model failed, as responses show it: of a fault of the machine only the code."""
    if isinstance(error, BundleError):
        return f"{error.code}: {str(error).replace(str(folder), shown_folder(folder, settings))}"
    code = error.code if isinstance(error, VitascopeError) else "internal_error"
    return f"{code}: the model cannot be used; see the log of the service"
