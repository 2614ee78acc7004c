"""The ``--filter`` of commands that search or list."""

from __future__ import annotations

import json
from typing import Any

from vitascope.errors import InvalidInput


def read_filter(text: str) -> Any:
    """What ``text`` says as JSON. Raises InvalidInput where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"filter: {text!r} is not JSON ({error}); an object was expected") from error
