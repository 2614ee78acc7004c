"""JSON that people hand to the exporter: a public model's configuration, an evaluation's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitascope.errors import InvalidInput


def read_object(key: str, path: Path, expected: str = "a JSON object was expected") -> dict[str, Any]:
    """Raises InvalidInput, naming ``key`` and ``expected``, when the file is missing or holds no JSON object."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"{key}: {path} cannot be read ({error.strerror}); {expected}") from error
    except ValueError as error:
        raise InvalidInput(f"{key}: {path} is not JSON ({error}); {expected}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{key}: {path} holds a {type(found).__name__}; {expected}")
    return found
