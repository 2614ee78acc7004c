"""Untrusted catalogue files, such as backups.

The file is opened read-only with SQLite's defensive settings. Before any row is read, its schema is compared, token for
token, with the schema of its catalogue version. Its full-text indexes are never opened: they are derived data.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from index.storage.catalogue import FAULTS
from index.storage.fulltext import CLIP_TABLES, TOKENIZERS
from index.storage.schema import (
    APPLICATION_ID,
    AUDIO_TOKENS,
    AUDIO_VECTORS,
    SCHEMA_VERSION,
    create_tables,
    upgrade_tables,
)
from index.storage.transfer import JOB_TABLES, count_clips, insert_rows
from vitascope.errors import InvalidInput, StorageError

MAX_CELL = 64 * 1024 * 1024
"""Maximum bytes of one text or blob; the largest of a catalogue is the source of a job with 10,000 named files."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_CELL,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 3,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 10,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_PRAGMAS = (
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "query_only = ON",
    "mmap_size = 0",
    "ignore_check_constraints = ON",  # no expressions of the file are evaluated; rows are checked when read
)
_FULL_TEXT = (*CLIP_TABLES, "names")
_SHADOWS = tuple(f"{name}_{part}" for name in _FULL_TEXT for part in ("config", "content", "data", "docsize", "idx"))
"""Tables of the full-text indexes. They are not compared or read, as their definitions depend on SQLite's version."""
_TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\w+|\s+|.", re.DOTALL)

Schema = dict[tuple[str, str], tuple[str, list[str]]]
"""Schema entries by (type, name): the table of the entry, and the tokens of its definition."""


@dataclass(frozen=True, slots=True)
class ForeignCatalogue:
    """An open catalogue file with checked structure and the schema of ``version``; its rows are not checked."""

    file: Path
    connection: sqlite3.Connection
    version: int

    def rows(self, table: str, columns: Iterable[str], order: str | None = None) -> sqlite3.Cursor:
        """Return a cursor over the rows of a table."""
        suffix = "" if order is None else f" ORDER BY {order}"
        return self.connection.execute(f"SELECT {', '.join(columns)} FROM {table}{suffix}")

    def rows_of_video(self, table: str, columns: Iterable[str], video_id: int, limit: int) -> list[tuple[Any, ...]]:
        """Return the rows of a table that belong to a video. Raises ValueError for more than ``limit``."""
        query = f"SELECT {', '.join(columns)} FROM {table} WHERE video_id = ? LIMIT ?"
        rows = self.connection.execute(query, (video_id, limit + 1)).fetchall()
        if len(rows) > limit:
            raise ValueError(f"{table}: more than {limit} rows of a video")
        return rows

    def clip_rows(self, first: int, count: int) -> sqlite3.Cursor:
        """Return a cursor over clips with their blobs.

        The columns are id, video_id, start, end, text, vector, tokens, thumbnail, audio_vector and audio_tokens.
        """
        text, jpeg, join = "text", "jpeg", "LEFT JOIN thumbnails ON thumbnails.clip_id = id"
        if self.version == 1:
            text, jpeg, join = "''", "NULL", ""
        audio = audio_tokens = "NULL"
        if self.version >= AUDIO_VECTORS:
            audio, join = "audio_vectors.vector", f"{join} LEFT JOIN audio_vectors ON audio_vectors.clip_id = id"
        if self.version >= AUDIO_TOKENS:
            audio_tokens, join = "audio_tokens.tokens", f"{join} LEFT JOIN audio_tokens ON audio_tokens.clip_id = id"
        return self.connection.execute(
            f"SELECT id, video_id, start, end, {text}, vectors.vector, tokens.tokens, {jpeg}, {audio}, {audio_tokens}"
            " FROM clips LEFT JOIN vectors ON vectors.clip_id = id LEFT JOIN tokens ON tokens.clip_id = id"
            f" {join} WHERE id >= ? AND id < ? ORDER BY id",
            (first, first + count),
        )

    def count_clips(self) -> int:
        """Return the number of clips."""
        return count_clips(self.connection)

    @contextmanager
    def current_job_tables(self) -> Iterator[ForeignCatalogue]:
        """Yield a catalogue with current job tables; tables of an earlier version are copied and upgraded."""
        if self.version == SCHEMA_VERSION:
            yield self
            return
        with closing(sqlite3.connect("", isolation_level=None)) as copy:  # a temporary file of SQLite
            copy.execute("BEGIN")
            create_tables(copy, self.version)
            for table in JOB_TABLES:
                columns = [row[1] for row in copy.execute(f"PRAGMA table_info({table})")]
                if columns:  # the version has this table
                    insert_rows(copy, table, columns, self.rows(table, columns))
            upgrade_tables(copy, self.version)
            yield ForeignCatalogue(self.file, copy, SCHEMA_VERSION)


@contextmanager
def open_foreign(file: Path) -> Iterator[ForeignCatalogue]:
    """Open a file and check its structure and schema; SQLite errors in the block are translated.

    Raises InvalidInput if the file is not a catalogue or has another schema, StorageError if it is damaged.
    """
    try:
        # immutable: SQLite creates no lock, journal or shared memory next to the file, even in WAL mode.
        uri = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            _defend(connection)
            version = _checked_version(connection, file)
            _check_schema(connection, file, version)
            _check_structure(connection, file, version)
            yield ForeignCatalogue(file, connection, version)
    except FAULTS as error:
        raise StorageError(f"{file}: cannot be restored: {error}") from error


def tokenize_sql(sql: str) -> list[str]:
    """Return the tokens of an SQL text, without comments and without double quotes around lower-case names.

    SQLite adds these quotes where a table is renamed.
    """
    tokens = []
    for token in _TOKEN.findall(sql):
        if not token.isspace() and not token.startswith(("--", "/*")):
            tokens.append(token[1:-1] if re.fullmatch(r'"[a-z_]+"', token) else token)
    return tokens


def _defend(connection: sqlite3.Connection) -> None:
    """Apply the settings that https://sqlite.org/security.html recommends for untrusted files."""
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    if hasattr(connection, "enable_load_extension"):
        connection.enable_load_extension(False)
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _checked_version(connection: sqlite3.Connection, file: Path) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID or not 1 <= version <= SCHEMA_VERSION:
        raise InvalidInput(
            f"file: {str(file)!r}: application id {application:#x}, catalogue schema {version}; a catalogue of "
            f"schema 1 to {SCHEMA_VERSION} was expected"
        )
    return int(version)


def _check_schema(connection: sqlite3.Connection, file: Path, version: int) -> None:
    expected, actual = _known_schema(version), _read_schema(connection, file)
    for kind, name in actual:
        if (kind, name) not in expected:
            raise _differs(file, version, f"{kind} {name!r} is not one of its")
    for (kind, name), (table, tokens) in expected.items():
        if (kind, name) not in actual:
            raise _differs(file, version, f"{kind} {name!r} is missing")
        actual_table, actual_tokens = actual[kind, name]
        if actual_table != table or (name not in _SHADOWS and actual_tokens != tokens):
            difference = _first_difference(actual_tokens, tokens)
            raise _differs(file, version, f"{kind} {name!r} is defined otherwise{difference}")


@cache
def _known_schema(version: int) -> Schema:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection, version)
        return _read_schema(connection, Path(":memory:"))


def _read_schema(connection: sqlite3.Connection, file: Path) -> Schema:
    schema: Schema = {}
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"):
        if not all(isinstance(value, str) for value in (kind, name, table, sql or "")) or (kind, name) in schema:
            raise InvalidInput(f"file: {str(file)!r}: schema entry {kind!r} {name!r} is malformed or there twice")
        sql = sql or ""
        if name in _FULL_TEXT:
            sql = sql.replace(TOKENIZERS["none"], TOKENIZERS["english"])  # a setting of the collection
        schema[kind, name] = table, tokenize_sql(sql)
    return schema


def _differs(file: Path, version: int, problem: str) -> InvalidInput:
    return InvalidInput(
        f"file: {str(file)!r}: {problem}; exactly the tables and indexes of catalogue schema {version} were expected"
    )


def _first_difference(actual: list[str], expected: list[str]) -> str:
    for number, (token, known) in enumerate(zip([*actual, ""], [*expected, ""], strict=False)):
        if token != known:
            before = " ".join(expected[max(0, number - 3) : number])
            return f": {token[:80]!r} in place of {known!r} after {before!r}"
    return ""


def _check_structure(connection: sqlite3.Connection, file: Path, version: int) -> None:
    """Have SQLite verify the pages of every table that is read, with its indexes and references."""
    for kind, name in _known_schema(version):
        if kind != "table" or name in (*_FULL_TEXT, *_SHADOWS):
            continue
        try:
            checked = connection.execute(f"PRAGMA integrity_check({name})").fetchmany(3)
            problems = [str(row[0]) for row in checked if row[0] != "ok"]
            orphans = connection.execute(f"PRAGMA foreign_key_check({name})").fetchmany(3)
            problems += [f"row {row} refers to no row of {parent}" for _, row, parent, _ in orphans]
        except FAULTS as error:
            problems = [str(error)]
        if problems:
            raise StorageError(f"{file}: cannot be restored: table {name} is damaged: {'; '.join(problems)}")
