"""Filters on videos: JSON in, a small tree out.

    {"color": "red"}                       equality
    {"year": {"gte": 2020, "lt": 2024}}    range; several fields or operators together mean "and"
    {"color": {"in": ["red", "blue"]}}     one of a set
    {"title": {"prefix": "beach"}}
    {"color": {"ne": "red"}}
    {"and": [...]}, {"or": [...]}, {"not": {...}}

Fields are the keys of a video's metadata and those of ``records.VIDEO_FIELDS``. Values keep their type: "1",
1 and true are three different values, 1 and 1.0 are one. A video without the field matches no condition on it
except ``ne``, which is the exact opposite of equality. Texts compare by Unicode code point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from index.records import MAX_KEY_LENGTH, Scalar, check_scalar, check_text
from vitascope.errors import FilterError, InvalidInput

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_SET = 1000
MAX_VALUES = 10_000  # in all sets together; SQLite takes 32,766 parameters
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "prefix")
RANGES = ("gt", "gte", "lt", "lte")


@dataclass(frozen=True, slots=True)
class Condition:
    """One field compared with one value, or with the values of a set (``in``)."""

    field: str
    operator: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """All (``and``) or at least one (``or``) of the parts."""

    kind: Literal["and", "or"]
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of its part."""

    part: Node


Node = Condition | Group | Not


@dataclass
class _Size:
    conditions: int = 0
    values: int = 0

    def add(self, found: list[Condition]) -> None:
        self.conditions += len(found)
        self.values += sum(len(c.value) if isinstance(c.value, tuple) else 1 for c in found)
        if self.conditions > MAX_CONDITIONS:
            raise FilterError(f"filter: more than {MAX_CONDITIONS} conditions")
        if self.values > MAX_VALUES:
            raise FilterError(f"filter: more than {MAX_VALUES} values")


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter."""

    root: Node


def parse_filter(json: object) -> Filter:
    """The filter that ``json`` (decoded: mappings, lists, scalars) describes; {} matches every video.

    Raises FilterError naming the field and what was expected.
    """
    size = _Size()
    return Filter(_node(json, 1, size))


def _node(json: object, depth: int, size: _Size) -> Node:
    if depth > MAX_DEPTH:
        raise FilterError(f"filter: nested deeper than {MAX_DEPTH} levels")
    if not isinstance(json, Mapping):
        raise FilterError(f'filter: {_shown(json)}; an object like {{"color": "red"}} was expected')
    parts: list[Node] = []
    for key, value in json.items():
        if key in ("and", "or"):
            if not isinstance(value, list | tuple) or not value:
                raise FilterError(f"{key}: {_shown(value)}; a list of at least one filter was expected")
            group = tuple(_node(part, depth + 1, size) for part in value)
            parts.append(Group("or" if key == "or" else "and", group))
        elif key == "not":
            parts.append(Not(_node(value, depth + 1, size)))
        else:
            parts += _conditions(key, value, size)
    return parts[0] if len(parts) == 1 else Group("and", tuple(parts))


def _conditions(field: object, value: object, size: _Size) -> list[Condition]:
    try:
        name = check_text("filter: field", field, MAX_KEY_LENGTH)
    except InvalidInput as error:
        raise FilterError(str(error)) from error
    if not name:
        raise FilterError("filter: the name of a field is empty")
    wanted = value if isinstance(value, Mapping) else {"eq": value}
    if not wanted:
        raise FilterError(f"{name}: {{}}; a value or operators out of {', '.join(OPERATORS)} were expected")
    conditions = [_condition(name, operator, operand) for operator, operand in wanted.items()]
    size.add(conditions)
    return conditions


def _condition(field: str, operator: object, operand: object) -> Condition:
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise FilterError(f"{field}: operator {_shown(operator)}; one of {', '.join(OPERATORS)} was expected")
    label = f"{field}.{operator}"
    if operator == "in":
        if not isinstance(operand, list | tuple) or len(operand) > MAX_SET:
            raise FilterError(f"{label}: {_shown(operand)}; a list of at most {MAX_SET} values was expected")
        return Condition(field, operator, tuple(_scalar(label, item) for item in operand))
    value = _scalar(label, operand)
    if operator == "prefix" and not isinstance(value, str):
        raise FilterError(f"{label}: {_shown(value)}; a string was expected")
    if operator in RANGES and isinstance(value, bool):
        raise FilterError(f"{label}: {_shown(value)}; a number or a string was expected")
    return Condition(field, operator, value)


def _scalar(label: str, value: object) -> Scalar:
    try:
        return check_scalar(label, value)
    except InvalidInput as error:
        raise FilterError(str(error)) from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
