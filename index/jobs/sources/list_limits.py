"""Limits of what one file list, or one shard, may hold and store in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index.jobs.sources.item import SourceItem
from index.records import MAX_KEY_LENGTH, MAX_TEXT_LENGTH, metadata_json
from vitascope.errors import InvalidInput
from vitascope.media.file import MediaFile

MAX_LINE = 4 * 1024**2
"""Characters of one row of CSV, TSV or JSON Lines."""
ALWAYS_STORED = 16 * 1024**2
"""Bytes that a file of any size may store."""
_SHOWN = 1000
"""Characters kept of a reason."""
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
    """What one file list or shard may hold.

    Args:
        rows: rows of a list, or items of a shard.
        columns: columns of a list, or keys of one JSON object.
        cell_characters: characters of one text, at most ``MAX_TEXT_LENGTH``.
        stored_bytes: bytes that all rows together store in the catalogue.
        expansion: the same, as a multiple of the file's size; ``ALWAYS_STORED`` bytes are allowed in any case.
    """

    rows: int = 1_000_000
    columns: int = 1000
    cell_characters: int = MAX_TEXT_LENGTH
    stored_bytes: int = 256 * 1024**2
    expansion: int = 100

    def check_rows(self, place: str, count: int) -> None:
        """Raise InvalidInput for more rows than a list may have."""
        if count > self.rows:
            raise InvalidInput(
                f"{place}: more than {self.rows} rows; at most that many were expected ({SETTINGS['rows']})"
            )

    def check_columns(self, place: str, count: int, what: str = "columns") -> None:
        """Raise InvalidInput for too many columns of the list, or keys of the object, at ``place``."""
        if count > self.columns:
            raise InvalidInput(f"{place}: {count} {what}; at most {self.columns} were expected ({SETTINGS['columns']})")

    def check_text(self, cell: str, value: object) -> None:
        """Raise InvalidInput for a text that is too long. ``cell``: its file, line and column."""
        if isinstance(value, str) and len(value) > self.cell_characters:
            raise self.text_too_long(cell, f"{len(value)} characters")

    def text_too_long(self, cell: str, size: str) -> InvalidInput:
        """The error of a text of this ``size``."""
        return InvalidInput(
            f"{cell}: {size}; at most {self.cell_characters} characters were expected ({SETTINGS['cell_characters']})"
        )


DEFAULT_LIST_LIMITS = ListLimits()


def read_list_limits(environment: Mapping[str, str]) -> ListLimits:
    """The limits that environment variables set. Raises InvalidInput naming the variable."""
    given: dict[str, int] = {}
    for field, name in SETTINGS.items():
        most = MAX_TEXT_LENGTH if field == "cell_characters" else 2**63 - 1
        if text := environment.get(name):
            if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
                raise InvalidInput(f"{name}: {text[:80]!r}; a whole number from 1 to {most} was expected")
            given[field] = int(text)
    return ListLimits(**given)


class Tally:
    """What one list or shard has brought so far."""

    def __init__(self, file: MediaFile, limits: ListLimits) -> None:
        self._limits = limits
        self._by_size = max(ALWAYS_STORED, limits.expansion * file.status().st_size)
        self._rows = self._stored = self._read = 0

    def add(self, place: str, item: SourceItem) -> None:
        """Count an item. Raises InvalidInput, with its file and line as ``place``, where it is one too many."""
        self._rows += 1
        self._limits.check_rows(place, self._rows)
        texts = (item.uri, item.title or "", item.reason or "", metadata_json(item.metadata) if item.metadata else "")
        self._stored += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        self.check(place, self._stored)

    def add_read(self, place: str, size: int) -> None:
        """Count bytes of cells before they are read. Raises as ``add``."""
        self._read += size
        self.check(place, self._read)

    def check(self, place: str, size: int) -> None:
        """Raise InvalidInput where so many bytes are more than the file may bring."""
        most, setting = min(
            (self._limits.stored_bytes, SETTINGS["stored_bytes"]),
            (self._by_size, SETTINGS["expansion"]),
        )
        if size > most:
            raise InvalidInput(
                f"{place}: more than {most} bytes to read and store; at most that many were expected ({setting})"
            )


def check_names(file: Path, names: list[str], path_column: str, limits: ListLimits) -> None:
    """Raise InvalidInput unless these can be the columns of a list, one of them ``path_column``."""
    limits.check_columns(str(file), len(names))
    if path_column not in names:
        raise InvalidInput(
            f"{file}: no column {path_column!r} among {', '.join(map(_shown, names[:20])) or 'none'}; "
            "one with the paths was expected"
        )
    known: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name or name in known:
            raise InvalidInput(
                f"{file}: column {_shown(name)} is empty or there twice (column {number}); different names were "
                "expected"
            )
        if len(name) > MAX_KEY_LENGTH:
            raise InvalidInput(
                f"{file}: column {_shown(name)}: {len(name)} characters; at most {MAX_KEY_LENGTH} were expected"
            )
        known.add(name)


def failed(place: str, error: InvalidInput) -> SourceItem:
    """The item of a row that cannot be used."""
    return SourceItem(place, "failed", str(error)[:_SHOWN])


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_KEY_LENGTH else f"{name[:MAX_KEY_LENGTH]}…")
