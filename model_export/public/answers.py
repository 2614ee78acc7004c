"""The answers that a model chooses out of where none are given to it, from a file of the user's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from model_export.public.model import Original
from vitascope.errors import InvalidInput


def read_answers(path: Path) -> list[str]:
    """The list of strings that a JSON file holds. Raises InvalidInput."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"answers: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidInput(f"answers: {path} is not JSON ({error})") from error
    if not (isinstance(found, list) and found and all(isinstance(one, str) and one.strip() for one in found)):
        raise InvalidInput(f"answers: {path}: a JSON list of strings, none of them blank, was expected")
    return found


def check_answers(answers: Sequence[str], original: Original, length: int) -> None:
    """Raises InvalidInput for an answer that comes twice, and for one of more than ``length`` tokens."""
    seen = set[str]()
    for answer in answers:
        if answer in seen:
            raise InvalidInput(f"answers: {answer!r} comes twice; different answers were expected")
        seen.add(answer)
        tokens = len(original.token_ids(answer))
        if tokens > length:
            raise InvalidInput(f"answers: {answer[:40]!r} is {tokens} tokens long; at most {length} were expected")
