"""Validation of values in the responses of sandboxed processes, which a malicious file may have compromised."""

from __future__ import annotations

import math
from typing import Any

from vitascope.sandbox.protocol import ProtocolError


def check_items(value: Any, max_count: int) -> list[Any]:
    """Check that ``value`` is a list of at most ``max_count`` values, and return it. Raises ProtocolError."""
    if not isinstance(value, list) or len(value) > max_count:
        raise ProtocolError(f"a list of at most {max_count} was expected")
    return value


def check_row(value: Any, count: int) -> list[Any]:
    """Check that ``value`` is a list of ``count`` values, and return it. Raises ProtocolError."""
    if not isinstance(value, list) or len(value) != count:
        raise ProtocolError(f"a list of {count} was expected")
    return value


def check_boolean(value: Any) -> bool:
    """Check that ``value`` is a boolean, and return it. Raises ProtocolError."""
    if not isinstance(value, bool):
        raise ProtocolError("a boolean was expected")
    return value


def check_integer(value: Any, minimum: int, maximum: int) -> int:
    """Check that ``value`` is an integer from ``minimum`` to ``maximum``, and return it. Raises ProtocolError."""
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ProtocolError(f"an integer from {minimum} to {maximum} was expected")
    return value


def check_number(value: Any, maximum: float) -> float:
    """Check that ``value`` is a finite float from 0 to ``maximum``, and return it. Raises ProtocolError.

    ``maximum`` may be infinite.
    """
    if not isinstance(value, float) or not math.isfinite(value) or not 0 <= value <= maximum:
        raise ProtocolError(f"a number from 0 to {maximum} was expected")
    return value


def check_text(value: Any, max_length: int) -> str:
    """Check that ``value`` is a string of at most ``max_length`` characters, and return it. Raises ProtocolError."""
    if not isinstance(value, str) or len(value) > max_length:
        raise ProtocolError(f"text of at most {max_length} characters was expected")
    return value
