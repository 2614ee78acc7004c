"""Limits on the size of a file list or shard, and on what it may store in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from index.jobs.sources.source_types import SourceItem
from index.records import MAX_TEXT_LENGTH, metadata_json
from vitascope.errors import InvalidInput
from vitascope.media.file import MediaFile

MIN_STORED_BYTES = 16 * 1024**2
"""Bytes that every list or shard may store, however small its file is."""
SETTINGS = {
    "rows": "VITASCOPE_MAX_LIST_ROWS",
    "columns": "VITASCOPE_MAX_LIST_COLUMNS",
    "cell_characters": "VITASCOPE_MAX_LIST_CELL_CHARACTERS",
    "stored_bytes": "VITASCOPE_MAX_LIST_BYTES",
    "expansion": "VITASCOPE_MAX_LIST_EXPANSION",
}
"""The environment variable of each field of ``ListLimits``."""


@dataclass(frozen=True, slots=True)
class ListLimits:
    """Limits on one file list or shard.

    Attributes:
        rows: rows of a list, or items of a shard.
        columns: columns of a list, or keys of one JSON object.
        cell_characters: characters of one text, at most ``MAX_TEXT_LENGTH``.
        stored_bytes: bytes that all rows together store in the catalogue.
        expansion: maximum stored bytes as a multiple of the file's size; ``MIN_STORED_BYTES`` are always allowed.
    """

    rows: int = 1_000_000
    columns: int = 1000
    cell_characters: int = MAX_TEXT_LENGTH
    stored_bytes: int = 256 * 1024**2
    expansion: int = 100

    def check_rows(self, position: str, count: int) -> None:
        """Raise InvalidInput for too many rows."""
        if count > self.rows:
            raise InvalidInput(
                f"{position}: more than {self.rows} rows; at most that many were expected ({SETTINGS['rows']})"
            )

    def check_columns(self, position: str, count: int, unit: str = "columns") -> None:
        """Raise InvalidInput for too many columns of a list, or keys of an object, at ``position``."""
        if count > self.columns:
            raise InvalidInput(
                f"{position}: {count} {unit}; at most {self.columns} were expected ({SETTINGS['columns']})"
            )

    def check_text(self, cell: str, value: object) -> None:
        """Raise InvalidInput for a text that is too long. ``cell``: its file, line and column, for the message."""
        if isinstance(value, str) and len(value) > self.cell_characters:
            raise self.text_too_long(cell, f"{len(value)} characters")

    def text_too_long(self, cell: str, size: str) -> InvalidInput:
        """Return the error for a text of this ``size``."""
        return InvalidInput(
            f"{cell}: {size}; at most {self.cell_characters} characters were expected ({SETTINGS['cell_characters']})"
        )


DEFAULT_LIST_LIMITS = ListLimits()


def read_list_limits(environment: Mapping[str, str]) -> ListLimits:
    """Read the limits from environment variables. Raises InvalidInput that names the variable."""
    values: dict[str, int] = {}
    for field, name in SETTINGS.items():
        maximum = MAX_TEXT_LENGTH if field == "cell_characters" else 2**63 - 1
        if text := environment.get(name):
            if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= maximum):
                raise InvalidInput(f"{name}: {text[:80]!r}; a whole number from 1 to {maximum} was expected")
            values[field] = int(text)
    return ListLimits(**values)


class ListUsage:
    """Counts the rows and bytes of one list or shard against its limits."""

    def __init__(self, file: MediaFile, limits: ListLimits) -> None:
        self._limits = limits
        self._max_expanded = max(MIN_STORED_BYTES, limits.expansion * file.status().st_size)
        self._rows = self._stored_bytes = self._read_bytes = 0

    def add_item(self, position: str, item: SourceItem) -> None:
        """Count an item. Raises InvalidInput with its ``position`` for an item beyond the limits."""
        self._rows += 1
        self._limits.check_rows(position, self._rows)
        texts = (item.uri, item.title or "", item.reason or "", metadata_json(item.metadata) if item.metadata else "")
        self._stored_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        self.check_bytes(position, self._stored_bytes)

    def add_read_bytes(self, position: str, size: int) -> None:
        """Count bytes of cells before they are read. Raises InvalidInput beyond the limits."""
        self._read_bytes += size
        self.check_bytes(position, self._read_bytes)

    def check_bytes(self, position: str, size: int) -> None:
        """Raise InvalidInput if ``size`` bytes exceed the limits of the file."""
        maximum, setting = min(
            (self._limits.stored_bytes, SETTINGS["stored_bytes"]),
            (self._max_expanded, SETTINGS["expansion"]),
        )
        if size > maximum:
            raise InvalidInput(
                f"{position}: more than {maximum} bytes to read and store; at most that many were expected ({setting})"
            )
