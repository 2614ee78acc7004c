"""What was decided about models while the service ran, for its next start: one file, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from vitascope.bundle.manifest import Strict
from vitascope.durable_files import atomic_path
from vitascope.errors import StorageError

FILE_NAME = "models.json"


class Added(Strict):
    """A bundle that was added: where it lies (an absolute path), and what it was."""

    folder: Path
    fingerprint: str
    name: str
    version: str


class Record(Strict):
    """``added``: in the order in which they were. ``default``: the fingerprint of the model that was made the default;
    ``instead_of``: of the one that the settings named then. Settings that name another one have the last word.
    """

    record_version: Literal[1] = 1
    added: tuple[Added, ...] = ()
    default: str | None = None
    instead_of: str | None = None


def read_record(data_dir: Path) -> Record:
    """The record in the data folder; an empty one where there is none, and nothing is made. Raises StorageError."""
    path = data_dir / FILE_NAME
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise StorageError(
            f"{path}: no record that this version reads ({error.error_count()} errors); mend it or remove it "
            "to start with the models that the settings name"
        ) from error


def write_record(data_dir: Path, record: Record) -> None:
    """Durable when this returns. Raises StorageError; the earlier record is there then."""
    path = data_dir / FILE_NAME
    try:
        with atomic_path(path) as beside:
            beside.write_text(record.model_dump_json(indent=1))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
