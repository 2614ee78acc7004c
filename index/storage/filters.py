"""Filters on videos and clips: parsed from JSON, compiled to SQL.

    {"color": "red"}                       equality
    {"year": {"gte": 2020, "lt": 2024}}    range; several fields or operators together mean "and"
    {"color": {"in": ["red", "blue"]}}     one of a set
    {"title": {"prefix": "beach"}}
    {"title": {"contains": "beach"}}       ignoring the case of ASCII letters
    {"color": {"ne": "red"}}
    {"added_at": {"gte": "2026-03-31"}}    a day or a time, ISO 8601, instead of Unix seconds
    {"video_id": "3"}                      an id as in responses, or its number
    {"clip": {"start": {"gte": 60}}}       the clip itself: start, end, length (s), text, screen_text, caption
    {"and": [...]}, {"or": [...]}, {"not": {...}}

Fields are the keys of a video's metadata and ``records.VIDEO_FIELDS``; inside ``clip`` they are
``records.CLIP_FIELDS``, and all conditions in one ``clip`` apply to the same clip. Values keep their type: "1", 1 and
true are three different values, 1 and 1.0 are one. A video without the field matches no condition on it except ``ne``,
the exact opposite of equality. Texts otherwise compare by Unicode code point.

Clip fields are inside ``clip`` because stored metadata may use any name, including ``start`` and ``clip``: a filter on
metadata must not change its meaning.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from index.records import CLIP_FIELDS, MAX_KEY_LENGTH, VIDEO_FIELDS, Scalar, check_scalar, check_text, value_kind
from vitascope.errors import FilterError, InvalidInput

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_SET = 1000
MAX_VALUES = 10_000  # in all sets together; SQLite takes 32,766 parameters
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "prefix", "contains")
RANGES = ("gt", "gte", "lt", "lte")
SUBSTRINGS = ("prefix", "contains")
SECONDS_OF_A_DAY = 86_400.0
CLIP = "clip"
TEXT_FIELDS = ("content_sha256", "path", "title", "text", "screen_text", "caption")
"""The text fields of every video and clip; the others are numbers."""
_ID = re.compile(r"[0-9]{1,18}")
_SQL_OPERATORS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# Starts and ends are rounded when they are computed: lengths compare to the microsecond.
_SQL_COLUMNS = {
    "video_id": "videos.id",
    "path": "coalesce(videos.source_uri, videos.path)",  # as results show it
    "length": "round(clips.end - clips.start, 6)",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A field compared with one value, or with the values of a set (``in``); ``of_clip``: a field of the clip."""

    field: str
    operator: str
    value: Scalar | tuple[Scalar, ...]
    of_clip: bool = False


@dataclass(frozen=True, slots=True)
class Combination:
    """All (``and``) or at least one (``or``) of the parts."""

    kind: Literal["and", "or"]
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The negation of a part."""

    part: Node


Node = Condition | Combination | Not


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter. ``clip_field``: a clip field that the filter names; None if it names fields of videos only."""

    root: Node
    clip_field: str | None = None


@dataclass
class _Budget:
    """Counts conditions and values against their limits, and remembers a clip field."""

    conditions: int = 0
    values: int = 0
    clip_field: str | None = None

    def add(self, condition: Condition) -> None:
        self.conditions += 1
        self.values += len(_values(condition))
        if condition.of_clip:
            self.clip_field = f"{CLIP}.{condition.field}"
        if self.conditions > MAX_CONDITIONS:
            raise FilterError(f"filter: more than {MAX_CONDITIONS} conditions")
        if self.values > MAX_VALUES:
            raise FilterError(f"filter: more than {MAX_VALUES} values")


# Parsing


def parse_filter(json: object) -> Filter:
    """Parse a filter from decoded JSON (mappings, lists, scalars); {} matches every video.

    Raises FilterError that names the field and what was expected.
    """
    budget = _Budget()
    root = _parse_node(json, 1, budget)
    return Filter(root, budget.clip_field)


def _parse_node(json: object, depth: int, budget: _Budget) -> Node:
    if depth > MAX_DEPTH:
        raise FilterError(f"filter: nested deeper than {MAX_DEPTH} levels")
    if not isinstance(json, Mapping):
        raise FilterError(f'filter: {_shorten(json)}; an object like {{"color": "red"}} was expected')
    parts: list[Node] = []
    for key, value in json.items():
        if key in ("and", "or"):
            if not isinstance(value, list | tuple) or not value:
                raise FilterError(f"{key}: {_shorten(value)}; a list of at least one filter was expected")
            nodes = tuple(_parse_node(part, depth + 1, budget) for part in value)
            parts.append(Combination("or" if key == "or" else "and", nodes))
        elif key == "not":
            parts.append(Not(_parse_node(value, depth + 1, budget)))
        else:
            parts += _parse_field(key, value, budget)
    return parts[0] if len(parts) == 1 else Combination("and", tuple(parts))


def _parse_field(field: object, value: object, budget: _Budget) -> list[Node]:
    try:
        name = check_text("filter: field", field, MAX_KEY_LENGTH)
    except InvalidInput as error:
        raise FilterError(str(error)) from error
    if not name:
        raise FilterError("filter: the name of a field is empty")
    if name != CLIP or not isinstance(value, Mapping) or not any(key in CLIP_FIELDS for key in value):
        return _parse_conditions(name, value, budget)
    nodes = []
    for clip_field, operand in value.items():
        if not isinstance(clip_field, str) or clip_field not in CLIP_FIELDS:
            raise FilterError(f"{CLIP}: field {_shorten(clip_field)}; one of {', '.join(CLIP_FIELDS)} was expected")
        nodes += _parse_conditions(clip_field, operand, budget, of_clip=True)
    return nodes


def _parse_conditions(field: str, value: object, budget: _Budget, *, of_clip: bool = False) -> list[Node]:
    by_operator = value if isinstance(value, Mapping) else {"eq": value}
    if not by_operator:
        raise FilterError(f"{field}: {{}}; a value or operators out of {', '.join(OPERATORS)} were expected")
    nodes: list[Node] = []
    for operator, operand in by_operator.items():
        condition = _parse_condition(field, operator, operand, of_clip)
        budget.add(condition)
        nodes.append(_resolve_dates(condition) if field == "added_at" else condition)
    return nodes


def _parse_condition(field: str, operator: object, operand: object, of_clip: bool) -> Condition:
    name = f"{CLIP}.{field}" if of_clip else field
    if not isinstance(operator, str) or operator not in OPERATORS:
        others = f", or fields of the clip: {', '.join(CLIP_FIELDS)}," if name == CLIP else ""
        raise FilterError(f"{name}: operator {_shorten(operator)}; one of {', '.join(OPERATORS)}{others} was expected")
    label = f"{name}.{operator}"
    if operator == "in":
        if not isinstance(operand, list | tuple) or len(operand) > MAX_SET:
            raise FilterError(f"{label}: {_shorten(operand)}; a list of at most {MAX_SET} values was expected")
        values = tuple(_parse_scalar(label, item) for item in operand)
    else:
        values = (_parse_scalar(label, operand),)
    if field == "video_id" and operator not in SUBSTRINGS:  # a text in responses
        values = tuple(int(value) if isinstance(value, str) and _ID.fullmatch(value) else value for value in values)
    if operator in SUBSTRINGS and not isinstance(values[0], str):
        raise FilterError(f"{label}: {_shorten(operand)}; a string was expected")
    if operator in RANGES and isinstance(values[0], bool):
        raise FilterError(f"{label}: {_shorten(operand)}; a number or a string was expected")
    if of_clip:  # whose fields, unlike metadata, have one type each
        kind, expected = ("text", "a string") if field in TEXT_FIELDS else ("number", "a number of seconds")
        for value in values:
            if value_kind(value) != kind:
                raise FilterError(f"{label}: {_shorten(value)}; {expected} was expected")
    return Condition(field, operator, values if operator == "in" else values[0], of_clip)


def _parse_scalar(label: str, value: object) -> Scalar:
    try:
        return check_scalar(label, value)
    except InvalidInput as error:
        raise FilterError(str(error)) from error


def _resolve_dates(condition: Condition) -> Node:
    """Replace days and times in a condition by Unix seconds."""
    field, operator, value = condition.field, condition.operator, condition.value
    if isinstance(value, tuple):
        return replace(condition, value=tuple(_resolve_time(f"{field}.in", item) for item in value))
    if operator == "ne":
        return Not(_resolve_dates(replace(condition, operator="eq")))
    if not isinstance(value, str):
        return condition
    label = f"{field}.{operator}"
    if operator in SUBSTRINGS:
        raise FilterError(f"{label}: {_shorten(value)}; a point in time is not text: gte and lt were expected")
    first, end = _time_range(label, value)
    if first == end:
        return Condition(field, operator, first)
    bounds = {"gte": ("gte", first), "lt": ("lt", first), "gt": ("gte", end), "lte": ("lt", end)}
    if operator in bounds:
        return Condition(field, *bounds[operator])
    return Combination("and", (Condition(field, "gte", first), Condition(field, "lt", end)))


def _resolve_time(label: str, value: Scalar) -> Scalar:
    if not isinstance(value, str):
        return value
    first, end = _time_range(label, value)
    if first != end:
        raise FilterError(f"{label}: {value!r} is a whole day; points in time were expected, or gte and lte")
    return first


def _time_range(label: str, text: str) -> tuple[float, float]:
    """Return (start, end) of an ISO 8601 day in Unix seconds; for a time, the time twice. UTC without an offset."""
    try:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            time = datetime.fromisoformat(text)
            seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
            return seconds, seconds
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return midnight.timestamp(), midnight.timestamp() + SECONDS_OF_A_DAY
    except (ValueError, OverflowError) as error:
        raise FilterError(
            f"{label}: {text[:80]!r}; Unix seconds, a day (2026-03-31) or a time (2026-03-31T18:30:00+02:00) "
            "was expected"
        ) from error


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# Compilation to SQL


def filter_sql(where: Filter | None) -> tuple[str, list[Scalar]]:
    """Return an SQL expression over ``videos`` (and ``clips`` if the filter names their fields), and its parameters.

    Values are parameters, never SQL text. No filter compiles to "1".
    """
    return ("1", []) if where is None else _node_sql(where.root)


def _node_sql(node: Node) -> tuple[str, list[Scalar]]:
    if isinstance(node, Condition):
        if node.of_clip:
            return _column_sql(_SQL_COLUMNS.get(node.field, f"clips.{node.field}"), node)
        if node.field in VIDEO_FIELDS:
            return _column_sql(_SQL_COLUMNS.get(node.field, f"videos.{node.field}"), node)
        return _metadata_sql(node)
    if isinstance(node, Not):
        expression, parameters = _node_sql(node.part)
        return f"NOT ({expression})", parameters
    if not node.parts:
        return "1", []
    compiled = [_node_sql(part) for part in node.parts]
    combined = f" {node.kind.upper()} ".join(f"({expression})" for expression, _ in compiled)
    return combined, [parameter for _, parameters in compiled for parameter in parameters]


def _column_sql(column: str, condition: Condition) -> tuple[str, list[Scalar]]:
    kind = "text" if condition.field in TEXT_FIELDS else "number"
    if condition.operator == "ne":
        expression, parameters = _column_sql(column, replace(condition, operator="eq"))
        return f"NOT ({expression})", parameters
    values = [value for value in _values(condition) if value_kind(value) == kind]
    if not values:  # a text never equals a number
        return "0", []
    return _comparison_sql(column, condition.operator, values)


def _metadata_sql(condition: Condition) -> tuple[str, list[Scalar]]:
    if condition.operator == "ne":
        expression, parameters = _metadata_sql(replace(condition, operator="eq"))
        return f"NOT ({expression})", parameters
    by_kind: dict[str, list[Scalar]] = {}
    for value in _values(condition):
        by_kind.setdefault(value_kind(value), []).append(value)
    if not by_kind:
        return "0", []
    tests, parameters = [], [condition.field]
    for kind, values in by_kind.items():
        test, operands = _comparison_sql("value", condition.operator, values)
        tests.append(f"(kind = '{kind}' AND {test})")
        parameters += operands
    matching = f"SELECT video_id FROM video_metadata WHERE key = ? AND ({' OR '.join(tests)})"
    return f"videos.id IN ({matching})", list(parameters)


def _comparison_sql(column: str, operator: str, values: list[Scalar]) -> tuple[str, list[Scalar]]:
    if operator == "in":
        return f"{column} IN ({', '.join('?' * len(values))})", values
    if operator == "prefix":
        return f"substr({column}, 1, ?) = ?", [len(str(values[0])), values[0]]
    if operator == "contains":
        return f"instr(lower({column}), lower(?)) > 0", [values[0]]
    return f"{column} {_SQL_OPERATORS[operator]} ?", [values[0]]


def _values(condition: Condition) -> tuple[Scalar, ...]:
    return condition.value if isinstance(condition.value, tuple) else (condition.value,)


# Evaluation


def allowed_clips(connection: sqlite3.Connection, where: Filter) -> npt.NDArray[np.bool_]:
    """Return an array that is True at the id of every clip that passes the filter."""
    clause, parameters = filter_sql(where)
    if where.clip_field is not None:
        return _allowed_by_clip(connection, clause, parameters)
    query = f"SELECT first_clip, first_clip + clip_count FROM videos WHERE {clause}"
    ranges = connection.execute(query, parameters).fetchall()
    allowed = np.zeros(max((end for _, end in ranges), default=0), dtype=bool)
    for first, end in ranges:
        allowed[first:end] = True
    return allowed


def _allowed_by_clip(connection: sqlite3.Connection, clause: str, parameters: list[Scalar]) -> npt.NDArray[np.bool_]:
    # CROSS JOIN fixes the order: clips of videos that do not pass are not read, and the other clips are read in the
    # order on disk. One text of all ids is twice as fast as a row per id.
    row = connection.execute(
        "SELECT group_concat(clips.id), max(clips.id) FROM videos CROSS JOIN clips"
        f" ON clips.id >= first_clip AND clips.id < first_clip + clip_count WHERE {clause}",
        parameters,
    ).fetchone()
    if row[0] is None:
        return np.zeros(0, dtype=bool)
    allowed = np.zeros(row[1] + 1, dtype=bool)
    allowed[np.fromstring(row[0], np.int64, sep=",")] = True
    return allowed
