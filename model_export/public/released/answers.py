"""The answers that a released classifier chooses from. The file of weights does not name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitascope.errors import InvalidInput

NAME = "answers.json"
_EXPECTED = "a JSON list of them in the order of the classifier, or an object {answer: number},"


def answers_of(folder: Path, count: int) -> list[str]:
    """``count`` answers in the order of the classifier's outputs, of the folder's ``answers.json``.

    Raises InvalidInput for a file that is missing, or that does not name each output once.
    """
    path = folder / NAME
    try:
        held: Any = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(
            f"model: {folder} has no {NAME} ({error.strerror}); {_EXPECTED} was expected beside the weights, which "
            f"classify into {count} answers without naming them"
        ) from error
    except ValueError as error:
        raise InvalidInput(f"model: {path} is not JSON ({error}); {_EXPECTED} was expected") from error
    answers = _in_order(held) if isinstance(held, Mapping) else held
    if not isinstance(answers, list) or not all(isinstance(one, str) and one for one in answers):
        raise InvalidInput(f"model: {path}: {_EXPECTED} was expected, each number from 0 on once")
    if len(answers) != count:
        raise InvalidInput(f"model: {path} has {len(answers)} answers; {count} were expected, as the classifier has")
    return answers


def _in_order(numbers: Mapping[str, Any]) -> list[str] | None:
    """The answers by their numbers; None where a number is missing or given twice."""
    if not all(type(number) is int for number in numbers.values()):
        return None
    if sorted(numbers.values()) != list(range(len(numbers))):
        return None
    return sorted(numbers, key=lambda answer: int(numbers[answer]))
