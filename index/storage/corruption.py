"""Damaged rows of a catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitascope.errors import InvalidInput, StorageError


@contextmanager
def corruption_as_storage_error(record: str) -> Iterator[None]:
    """Raise StorageError that names the record if its stored form cannot be decoded inside the block."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, InvalidInput) as error:
        raise StorageError(f"{record}: damaged: {type(error).__name__}: {error}") from error
