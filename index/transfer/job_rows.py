"""Read jobs from an untrusted catalogue, check every value, and write them into a new catalogue.

Every job becomes a confined one: its source, its files and its file list may name anything, so it runs only at a
service, within what that allows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from index.jobs.records import JobCounts, JobOptions, JobRate
from index.jobs.sources.source_types import SOURCE_TYPES, Source, UploadSource, is_upload_name, source_json
from index.records import check_metadata, check_text
from index.storage.catalogue import Catalogue
from index.storage.jobs import options_json
from index.storage.schema import SCHEMA_VERSION, create_tables, upgrade_tables
from index.transfer.catalogue_rows import Count, Finite, Id, Record, checked, first_problem
from index.transfer.foreign_catalogue import MAX_CELL, ForeignCatalogue
from vitascope.errors import InvalidInput
from vitascope.job_states import ItemState, JobState

_OPTIONS = TypeAdapter(JobOptions)
_SOURCES: dict[str, TypeAdapter[Source]] = {kind: TypeAdapter(source) for kind, source in SOURCE_TYPES.items()}
Flag = Literal[0, 1]
_ROWS_AT_ONCE = 10_000
_TABLES = ("jobs", "job_items", "job_states")


class _JobRecord(Record):
    id: Id
    source: str
    options: str
    state: JobState
    error: str | None
    listed: Flag
    requested: Literal["cancel", "pause"] | None
    created_at: Finite
    started_at: Finite | None
    finished_at: Finite | None
    run_started_at: Finite | None
    run_ended_at: Finite | None
    events: Count


class _ItemRecord(Record):
    job_id: Id
    position: Count
    path: str
    title: str | None
    metadata: str | None
    state: ItemState
    reason: str | None
    video_id: Id | None
    decided: Flag
    tries: Count
    crashes: Count
    seconds: Finite | None
    ended_at: Finite | None
    event: Count | None
    share: Finite | None


class _StateRecord(Record):
    job_id: Id
    event: Count
    at: Finite
    state: JobState
    job: str
    told: Flag


class _JobState(Record):
    """The JSON of a row of ``job_states``."""

    state: JobState
    error: str | None
    requested: Literal["cancel", "pause"] | None
    started_at: Finite | None
    finished_at: Finite | None
    progress: Finite | None = None
    counts: JobCounts
    rate: JobRate | None


def copy_jobs(foreign: ForeignCatalogue, catalogue: Catalogue) -> None:
    """Copy all jobs with their files and events into a new catalogue, every value checked.

    Raises InvalidInput naming the table, the row and the column, StorageError.
    """
    with _present_tables(foreign) as connection:
        for table, record, check in (
            ("jobs", _JobRecord, _check_job),
            ("job_items", _ItemRecord, _check_item),
            ("job_states", _StateRecord, _check_state),
        ):
            columns = ", ".join(record.model_fields)
            marks = ", ".join("?" * len(record.model_fields))
            rows = connection.execute(f"SELECT {columns} FROM {table}")
            while batch := rows.fetchmany(_ROWS_AT_ONCE):
                accepted = [_accepted(record, check, f"{foreign.file}: table {table}", row) for row in batch]
                with catalogue.write() as target:
                    target.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", accepted)


@contextmanager
def _present_tables(foreign: ForeignCatalogue) -> Iterator[sqlite3.Connection]:
    """Yield a database with job tables of the present version; those of earlier ones are copied and upgraded."""
    if foreign.version == SCHEMA_VERSION:
        yield foreign.connection
        return
    with closing(sqlite3.connect("", isolation_level=None)) as copy:  # a temporary file of SQLite
        copy.execute("BEGIN")
        create_tables(copy, foreign.version)
        for table in _TABLES:
            columns = [row[1] for row in copy.execute(f"PRAGMA table_info({table})")]
            if columns:  # the version has this table
                marks = ", ".join("?" * len(columns))
                rows = foreign.connection.execute(f"SELECT {', '.join(columns)} FROM {table}")
                copy.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        upgrade_tables(copy, foreign.version)
        yield copy


def _accepted(record: type[Record], check: Any, table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    number = row[0] if record is _JobRecord else f"{row[0]}, {row[1]}"
    values = checked(record, table, number, row).model_dump()
    try:
        for name, value in values.items():
            if isinstance(value, str):
                check_text(name, value, MAX_CELL)
        check(values)
    except ValidationError as error:
        raise InvalidInput(f"{table}: row {number}: {first_problem(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
        raise InvalidInput(f"{table}: row {number}: {error}") from error
    return tuple(values.values())


def _check_job(values: dict[str, Any]) -> None:
    values["source"] = source_json(_checked_source(values["source"]))
    options = _OPTIONS.validate_json(values["options"], strict=True)
    metadata = check_metadata(options.metadata)
    values["options"] = options_json(replace(options, metadata=metadata, confined=True))


def _checked_source(text: str) -> Source:
    stored = json.loads(text)
    if "held" in stored:
        stored["stored_name"] = stored.pop("held")
    source = _SOURCES[stored.pop("kind")].validate_json(json.dumps(stored), strict=True)
    for field in fields(source):
        value = getattr(source, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, str):
                check_text(f"source: {field.name}", part, MAX_CELL)
    if isinstance(source, UploadSource) and not is_upload_name(source.stored_name):
        raise InvalidInput(f"source: held: {source.stored_name!r}; the name of a file in the collection was expected")
    return source


def _check_item(values: dict[str, Any]) -> None:
    if values["metadata"] is not None:
        check_metadata(json.loads(values["metadata"]))


def _check_state(values: dict[str, Any]) -> None:
    _JobState.model_validate_json(values["job"])
