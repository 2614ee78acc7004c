"""Answers of public models, from JSON files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_export.assemble import ANSWERS_NAME, read_json
from model_export.public.model import ReferenceModel
from vitascope.errors import InvalidInput

_ANSWER_LIST = "a JSON list of strings, none of them blank, was expected"
_VOCABULARY = "a JSON list in the order of the classifier, or an object {answer: index}, was expected"


def read_answers(path: Path) -> list[str]:
    """Read the default answers of a model that scores any answer. Raises InvalidInput."""
    answers = read_json("answers", path, _ANSWER_LIST)
    if not (isinstance(answers, list) and answers and all(isinstance(a, str) and a.strip() for a in answers)):
        raise InvalidInput(f"answers: {path}: {_ANSWER_LIST}")
    return answers


def check_answers(answers: Sequence[str], reference: ReferenceModel, max_tokens: int) -> None:
    """Raise InvalidInput for a duplicate answer, and for one of more than `max_tokens`."""
    seen = set[str]()
    for answer in answers:
        if answer in seen:
            raise InvalidInput(f"answers: {answer!r} occurs twice; unique answers were expected")
        seen.add(answer)
        tokens = len(reference.token_ids(answer))
        if tokens > max_tokens:
            raise InvalidInput(f"answers: {answer[:40]!r} is {tokens} tokens long; at most {max_tokens} were expected")


def read_vocabulary(folder: Path, count: int) -> list[str]:
    """Read the `count` answers of a released classifier, in the order of its outputs, from the folder's answers.json.

    Raises InvalidInput if the file is missing or does not name each output once.
    """
    path = folder / ANSWERS_NAME
    if not path.is_file():
        raise InvalidInput(
            f"model: {folder} has no {ANSWERS_NAME}; {_VOCABULARY} beside the weights, which classify into {count} "
            "answers without naming them"
        )
    content = read_json("model", path, _VOCABULARY)
    answers = _order_by_index(content) if isinstance(content, Mapping) else content
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer for answer in answers):
        raise InvalidInput(f"model: {path}: {_VOCABULARY}, each index from 0 once")
    if len(answers) != count:
        raise InvalidInput(f"model: {path} has {len(answers)} answers; {count} were expected, as the classifier has")
    return answers


def _order_by_index(indices: Mapping[str, Any]) -> list[str] | None:
    """Return the answers by index; None if an index is missing or repeated."""
    if not all(type(index) is int for index in indices.values()):
        return None
    if sorted(indices.values()) != list(range(len(indices))):
        return None
    return sorted(indices, key=lambda answer: int(indices[answer]))
