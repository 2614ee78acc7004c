"""A filter as an SQL expression over ``videos``, and ``clips`` where it names their fields, with its parameters."""

from __future__ import annotations

from dataclasses import replace

from index.records import VIDEO_FIELDS, Scalar, kind_of
from index.storage.filters import TEXT_FIELDS, Condition, Filter, Group, Node, Not

_COMPARE = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_COLUMN = {"video_id": "videos.id", "length": "round(clips.end - clips.start, 6)"}
"""Ends and starts are rounded when they are computed: lengths compare to the microsecond."""


def where_clause(where: Filter | None) -> tuple[str, list[Scalar]]:
    """(expression, parameters); "1" for no filter. Values travel as parameters only, never as SQL text."""
    return ("1", []) if where is None else _sql(where.root)


def _sql(node: Node) -> tuple[str, list[Scalar]]:
    if isinstance(node, Condition):
        if node.of_clip:
            return _of_column(_COLUMN.get(node.field, f"clips.{node.field}"), node)
        if node.field in VIDEO_FIELDS:
            return _of_column(_COLUMN.get(node.field, f"videos.{node.field}"), node)
        return _of_metadata(node)
    if isinstance(node, Not):
        expression, parameters = _sql(node.part)
        return f"NOT ({expression})", parameters
    return _group(node)


def _group(group: Group) -> tuple[str, list[Scalar]]:
    if not group.parts:
        return "1", []
    compiled = [_sql(part) for part in group.parts]
    joined = f" {group.kind.upper()} ".join(f"({expression})" for expression, _ in compiled)
    return joined, [parameter for _, parameters in compiled for parameter in parameters]


def _of_column(column: str, condition: Condition) -> tuple[str, list[Scalar]]:
    kind = "text" if condition.field in TEXT_FIELDS else "number"
    if condition.operator == "ne":
        expression, parameters = _of_column(column, replace(condition, operator="eq"))
        return f"NOT ({expression})", parameters
    if condition.operator == "in":
        values = [value for value in _values(condition) if kind_of(value) == kind]
        return (f"{column} IN ({_marks(values)})", values) if values else ("0", [])
    value = _values(condition)[0]
    if kind_of(value) != kind:  # A text is never a number: no video matches.
        return "0", []
    return _comparison(column, condition.operator, value)


def _of_metadata(condition: Condition) -> tuple[str, list[Scalar]]:
    if condition.operator == "ne":
        expression, parameters = _of_metadata(Condition(condition.field, "eq", condition.value))
        return f"NOT ({expression})", parameters
    by_kind: dict[str, list[Scalar]] = {}
    for value in _values(condition):
        by_kind.setdefault(kind_of(value), []).append(value)
    tests, parameters = [], [condition.field]
    for kind, values in by_kind.items():
        if condition.operator == "in":
            test, operands = f"value IN ({_marks(values)})", values
        else:
            test, operands = _comparison("value", condition.operator, values[0])
        tests.append(f"(kind = '{kind}' AND {test})")
        parameters += operands
    if not tests:
        return "0", []
    matching = f"SELECT video_id FROM video_metadata WHERE key = ? AND ({' OR '.join(tests)})"
    return f"videos.id IN ({matching})", list(parameters)


def _comparison(column: str, operator: str, value: Scalar) -> tuple[str, list[Scalar]]:
    if operator == "prefix":
        return f"substr({column}, 1, ?) = ?", [len(str(value)), value]
    return f"{column} {_COMPARE[operator]} ?", [value]


def _values(condition: Condition) -> tuple[Scalar, ...]:
    return condition.value if isinstance(condition.value, tuple) else (condition.value,)


def _marks(values: list[Scalar]) -> str:
    return ", ".join("?" * len(values))
