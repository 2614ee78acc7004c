"""Filters on videos and on clips: JSON in, a small tree out.

    {"color": "red"}                       equality
    {"year": {"gte": 2020, "lt": 2024}}    range; several fields or operators together mean "and"
    {"color": {"in": ["red", "blue"]}}     one of a set
    {"title": {"prefix": "beach"}}
    {"color": {"ne": "red"}}
    {"added_at": {"gte": "2026-03-31"}}    a day or a time, ISO 8601, instead of Unix seconds
    {"clip": {"start": {"gte": 60}}}       the clip itself: start, end, length (seconds), text
    {"and": [...]}, {"or": [...]}, {"not": {...}}

Fields are the keys of a video's metadata and those of ``records.VIDEO_FIELDS``; inside of ``clip`` they are those of
``records.CLIP_FIELDS``, and all in one ``clip`` hold of one clip. Values keep their type: "1", 1 and true are three
different values, 1 and 1.0 are one. A video without the field matches no condition on it except ``ne``, which is the
exact opposite of equality. Texts compare by Unicode code point.

Clip fields are inside of ``clip`` because catalogues may hold metadata under any name, ``start`` and ``clip`` among
them: fields were never taken for operators, so no filter on metadata means anything else than before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from index.records import CLIP_FIELDS, MAX_KEY_LENGTH, Scalar, check_scalar, check_text, kind_of
from index.storage.dates import span_of
from vitascope.errors import FilterError, InvalidInput

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_SET = 1000
MAX_VALUES = 10_000  # in all sets together; SQLite takes 32,766 parameters
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "prefix")
RANGES = ("gt", "gte", "lt", "lte")
CLIP = "clip"
TEXT_FIELDS = ("content_sha256", "path", "title", "text")
"""Of those that every video or clip has; the others are numbers."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One field compared with one value, or with the values of a set (``in``); ``of_clip``: a field of the clip."""

    field: str
    operator: str
    value: Scalar | tuple[Scalar, ...]
    of_clip: bool = False


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
class _Seen:
    conditions: int = 0
    values: int = 0
    clip_field: str | None = None

    def add(self, found: Condition) -> None:
        self.conditions += 1
        self.values += len(found.value) if isinstance(found.value, tuple) else 1
        if found.of_clip:
            self.clip_field = f"{CLIP}.{found.field}"
        if self.conditions > MAX_CONDITIONS:
            raise FilterError(f"filter: more than {MAX_CONDITIONS} conditions")
        if self.values > MAX_VALUES:
            raise FilterError(f"filter: more than {MAX_VALUES} values")


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter. ``clip_field``: one that it names; None where it passes all clips of a video, or none."""

    root: Node
    clip_field: str | None = None


def parse_filter(json: object) -> Filter:
    """The filter that ``json`` (decoded: mappings, lists, scalars) describes; {} matches every video.

    Raises FilterError naming the field and what was expected.
    """
    seen = _Seen()
    root = _node(json, 1, seen)
    return Filter(root, seen.clip_field)


def _node(json: object, depth: int, seen: _Seen) -> Node:
    if depth > MAX_DEPTH:
        raise FilterError(f"filter: nested deeper than {MAX_DEPTH} levels")
    if not isinstance(json, Mapping):
        raise FilterError(f'filter: {_shown(json)}; an object like {{"color": "red"}} was expected')
    parts: list[Node] = []
    for key, value in json.items():
        if key in ("and", "or"):
            if not isinstance(value, list | tuple) or not value:
                raise FilterError(f"{key}: {_shown(value)}; a list of at least one filter was expected")
            group = tuple(_node(part, depth + 1, seen) for part in value)
            parts.append(Group("or" if key == "or" else "and", group))
        elif key == "not":
            parts.append(Not(_node(value, depth + 1, seen)))
        else:
            parts += _conditions(key, value, seen)
    return parts[0] if len(parts) == 1 else Group("and", tuple(parts))


def _conditions(field: object, value: object, seen: _Seen) -> list[Node]:
    try:
        name = check_text("filter: field", field, MAX_KEY_LENGTH)
    except InvalidInput as error:
        raise FilterError(str(error)) from error
    if not name:
        raise FilterError("filter: the name of a field is empty")
    if name == CLIP and isinstance(value, Mapping) and any(key in CLIP_FIELDS for key in value):
        return [part for key, wanted in value.items() for part in _of_clip(key, wanted, seen)]
    return _compared(name, value, seen)


def _of_clip(field: object, value: object, seen: _Seen) -> list[Node]:
    if not isinstance(field, str) or field not in CLIP_FIELDS:
        raise FilterError(f"{CLIP}: field {_shown(field)}; one of {', '.join(CLIP_FIELDS)} was expected")
    return _compared(field, value, seen, of_clip=True)


def _compared(field: str, value: object, seen: _Seen, *, of_clip: bool = False) -> list[Node]:
    wanted = value if isinstance(value, Mapping) else {"eq": value}
    if not wanted:
        raise FilterError(f"{field}: {{}}; a value or operators out of {', '.join(OPERATORS)} were expected")
    found: list[Node] = []
    for operator, operand in wanted.items():
        condition = _condition(field, operator, operand, of_clip)
        seen.add(condition)
        found.append(_at_moments(condition) if field == "added_at" else condition)
    return found


def _condition(field: str, operator: object, operand: object, of_clip: bool) -> Condition:
    name = f"{CLIP}.{field}" if of_clip else field
    if not isinstance(operator, str) or operator not in OPERATORS:
        others = f", or fields of the clip: {', '.join(CLIP_FIELDS)}," if name == CLIP else ""
        raise FilterError(f"{name}: operator {_shown(operator)}; one of {', '.join(OPERATORS)}{others} was expected")
    label = f"{name}.{operator}"
    if operator == "in":
        if not isinstance(operand, list | tuple) or len(operand) > MAX_SET:
            raise FilterError(f"{label}: {_shown(operand)}; a list of at most {MAX_SET} values was expected")
        values = tuple(_scalar(label, item) for item in operand)
    else:
        values = (_scalar(label, operand),)
    if operator == "prefix" and not isinstance(values[0], str):
        raise FilterError(f"{label}: {_shown(operand)}; a string was expected")
    if operator in RANGES and isinstance(values[0], bool):
        raise FilterError(f"{label}: {_shown(operand)}; a number or a string was expected")
    if of_clip:
        _check_kind(label, field, values)
    return Condition(field, operator, values if operator == "in" else values[0], of_clip)


def _check_kind(label: str, field: str, values: tuple[Scalar, ...]) -> None:
    """Raise FilterError where a clip's field can never have one of the values."""
    kind, meaning = ("text", "a string") if field in TEXT_FIELDS else ("number", "a number of seconds")
    for value in values:
        if kind_of(value) != kind:
            raise FilterError(f"{label}: {_shown(value)}; {meaning} was expected")


def _at_moments(condition: Condition) -> Node:
    """A condition on a point in time with its days and times of day as Unix seconds."""
    field, operator, value = condition.field, condition.operator, condition.value
    if isinstance(value, tuple):
        return Condition(field, operator, tuple(_moment(f"{field}.in", one) for one in value))
    if operator == "ne":
        return Not(_at_moments(Condition(field, "eq", value)))
    if not isinstance(value, str):
        return condition
    label = f"{field}.{operator}"
    if operator == "prefix":
        raise FilterError(f"{label}: {_shown(value)}; a point in time has no beginning: gte and lt were expected")
    first, end = span_of(label, value)
    if first == end:
        return Condition(field, operator, first)
    bounds = {"gte": ("gte", first), "lt": ("lt", first), "gt": ("gte", end), "lte": ("lt", end)}
    if operator in bounds:
        return Condition(field, *bounds[operator])
    return Group("and", (Condition(field, "gte", first), Condition(field, "lt", end)))


def _moment(label: str, value: Scalar) -> Scalar:
    if not isinstance(value, str):
        return value
    first, end = span_of(label, value)
    if first != end:
        raise FilterError(f"{label}: {value!r} is a whole day; points in time were expected, or gte and lte")
    return first


def _scalar(label: str, value: object) -> Scalar:
    try:
        return check_scalar(label, value)
    except InvalidInput as error:
        raise FilterError(str(error)) from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
