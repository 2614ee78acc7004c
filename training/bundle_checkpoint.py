"""The checkpoint of a bundle, from which training can continue, in the folder BUNDLE-checkpoint beside the bundle.

The checkpoint is not part of the bundle, since a server does not need it. The manifest's `extra` lists its files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training import checkpoint
from training.checkpoint import STARTS_NAME, Checkpoint
from training.public_starts import StartPackage
from vitascope.bundle.bundle import Bundle, check_file, file_sha256, manifest_bytes, parse_manifest
from vitascope.bundle.manifest import FileEntry
from vitascope.bundle.parts import StrictModel
from vitascope.errors import BundleCorrupt, BundleError, InvalidInput
from vitascope.file_lock import file_lock

CHECKPOINT_KEY = "checkpoint"
"""Key of a manifest's `extra`."""


class BundleCheckpoint(StrictModel):
    """`extra.checkpoint` of a manifest."""

    files: dict[str, FileEntry]
    """Files of the checkpoint by name."""
    starts: list[StartPackage]
    """Packages with the pretrained weights that the checkpoint does not contain."""


def checkpoint_folder(bundle: Path) -> Path:
    """Return the folder of the checkpoint of a bundle folder."""
    resolved = bundle.resolve()
    return resolved.with_name(f"{resolved.name}-checkpoint")


@contextmanager
def replace_checkpoint(bundle: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the checkpoint beside a bundle at the end of the context.

    The caller must replace the bundle within the context. At the end, the new checkpoint takes its place if it belongs
    to the bundle; after an error it is removed. If the process is killed in between, `load_checkpoint` moves it later.

    Raises:
        InvalidInput: Another export writes to the bundle, or the folder is not the checkpoint of a bundle.
    """
    bundle = bundle.resolve()
    folder, pending = checkpoint_folder(bundle), _pending_folder(bundle)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with file_lock(lock) as is_held:
        if not is_held or not lock.exists():  # missing: another export has just ended and removed it
            raise InvalidInput(f"out: another export writes to {bundle}; wait until it ends")
        try:
            _settle_checkpoint(bundle)
            if folder.exists() and not (folder / STARTS_NAME).is_file():
                raise InvalidInput(
                    f"out: {folder} exists and is not the checkpoint of a bundle; no such folder was expected"
                )
            shutil.rmtree(pending, ignore_errors=True)
            pending.mkdir()
            yield pending
        finally:
            _settle_checkpoint(bundle)
            shutil.rmtree(pending, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _pending_folder(bundle: Path) -> Path:
    """Return the temporary folder of a bundle's new checkpoint, which is moved after the bundle has been replaced."""
    folder = checkpoint_folder(bundle)
    return folder.with_name(f".{folder.name}.new")


def _settle_checkpoint(bundle: Path) -> None:
    """Move the pending checkpoint of a bundle to its place if it belongs to the bundle.

    A pending checkpoint remains if an export is killed after it has replaced the bundle.
    """
    pending, folder = _pending_folder(bundle), checkpoint_folder(bundle)
    if pending.is_dir() and _is_checkpoint_of(pending, bundle):
        if folder.exists():
            shutil.rmtree(folder)
        pending.rename(folder)


def _is_checkpoint_of(folder: Path, bundle: Path) -> bool:
    try:
        content = parse_manifest(manifest_bytes(bundle)).extra.get(CHECKPOINT_KEY)
        for name, entry in BundleCheckpoint.model_validate(content).files.items():
            check_file(folder, name, entry)
    except (BundleError, ValidationError):
        return False
    return True


def write_checkpoint(folder: Path, stored: Checkpoint) -> BundleCheckpoint:
    """Write a compact checkpoint into an empty folder, and return its entry of the manifest."""
    starts = checkpoint.write_compact(folder, stored)
    fields = set(StartPackage.model_fields)
    return BundleCheckpoint(
        files=_entries(folder),
        starts=[StartPackage.model_validate(start.model_dump(include=fields)) for start in starts],
    )


def extend_checkpoint(folder: Path, bundle: Bundle, extended: Checkpoint, fields: Iterable[str]) -> BundleCheckpoint:
    """Write the checkpoint of a bundle with further parts into an empty folder, and return its entry of the manifest.

    Arguments as in `checkpoint.extend_compact`.
    """
    known = BundleCheckpoint.model_validate(bundle.manifest.extra[CHECKPOINT_KEY])
    checkpoint.extend_compact(folder, checkpoint_folder(bundle.folder), extended, fields)
    return known.model_copy(update={"files": _entries(folder)})


def _entries(folder: Path) -> dict[str, FileEntry]:
    """Sync the files of a folder to disk, and return their entries of the manifest."""
    for path in folder.iterdir():
        shutil.copymode(folder / STARTS_NAME, path)  # files of safetensors are readable by their owner only
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {p.name: FileEntry(sha256=file_sha256(p), bytes=p.stat().st_size) for p in sorted(folder.iterdir())}


def load_checkpoint(bundle: Bundle) -> Checkpoint:
    """Load the checkpoint of a bundle.

    Raises InvalidInput if the bundle has no checkpoint, or the checkpoint is missing or differs from the manifest.
    """
    content: Any = bundle.manifest.extra.get(CHECKPOINT_KEY)
    if content is None:
        raise _no_checkpoint(bundle)
    _settle_checkpoint(bundle.folder)
    folder = checkpoint_folder(bundle.folder)
    try:
        expected = BundleCheckpoint.model_validate(content)
        if not folder.is_dir():
            raise InvalidInput(
                f"{bundle.folder}: training continues from its checkpoint, which is distributed separately; the folder "
                f"{folder} was expected"
            )
        for name, entry in expected.files.items():
            check_file(folder, name, entry)
    except ValidationError as error:
        raise InvalidInput(f"{bundle.folder}: extra.{CHECKPOINT_KEY} of its manifest is invalid: {error}") from error
    except BundleCorrupt as error:
        raise InvalidInput(f"{folder}: is not the checkpoint of {bundle.folder}: {error}") from error
    return checkpoint.load(folder)


def _no_checkpoint(bundle: Bundle) -> InvalidInput:
    """Return the error for a bundle without a checkpoint, which explains why it has none."""
    folder, extra = bundle.folder, bundle.manifest.extra
    if "public_model" in extra:
        return InvalidInput(
            f"{folder}: is a public model ({bundle.manifest.architecture}), whose graphs are its authors' program and "
            "not a model of this one; a checkpoint, or the bundle of one, was expected. `vitascope distil` teaches a "
            "student by it"
        )
    for key in ("variant_of", "distilled_from"):
        if isinstance(origin := extra.get(key), dict):
            return InvalidInput(
                f"{folder}: was made of {origin.get('name')} {origin.get('version')} ({key.replace('_', ' ')}), and "
                "has graphs of another kind; a checkpoint, or the bundle of one, was expected"
            )
    return InvalidInput(
        f"{folder}: has no checkpoint, from which training continues; the one that it was exported from was expected: "
        f"`vitascope export {folder} --checkpoint CHECKPOINT` adds it"
    )
