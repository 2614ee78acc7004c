"""What a filter means, once more and in Python, for tests that compare it with what the catalogue finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def holds(filter_json: dict[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the filter lets a video of these facts by its metadata's names, or a clip of ``facts["clip"]``, pass."""
    ((key, value),) = filter_json.items()
    if key == "and":
        return all(holds(part, facts) for part in value)
    if key == "or":
        return any(holds(part, facts) for part in value)
    if key == "not":
        return not holds(value, facts)
    if key == "clip":
        return holds(value, facts["clip"])
    if not isinstance(value, dict):
        return bool(facts[key] == value)
    ((operator, operand),) = value.items()
    actual = facts[key]
    return bool(
        {
            "eq": actual == operand,
            "ne": actual != operand,
            "gt": actual > operand,
            "gte": actual >= operand,
            "lt": actual < operand,
            "lte": actual <= operand,
        }[operator]
    )
