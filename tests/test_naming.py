"""Names are nouns, verbs and predicates, and one concept has one name (docs: CONTRIBUTING.md, "Words")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("vitascope", "index", "service", "training", "model_export", "benchmarks", "studies")
VAGUE = frozenset(["asked", "beside", "found", "given", "mine", "one", "said", "stated", "told", "wanted"])
"""Participles and pronouns that do not say what a value is."""
TESTS = (
    "tests/*.py",
    "tests/docs",
    "tests/gpu",
    "tests/image",
    "tests/index",
    "tests/service",
    "tests/studies",
    "tests/training",
    "tests/vitascope",
)
ON_DISK = {("index/transfer/foreign_rows.py", "told"), ("model_export/parity/checks.py", "beside")}
"""Names of columns and keys of stored files."""


def names_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines: functions, classes, parameters and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@pytest.mark.parametrize("place", [*PACKAGES, *TESTS])
def test_names_say_what_they_name(place: str) -> None:
    violations = set()
    for path in ROOT.glob(place if place.endswith(".py") else f"{place}/**/*.py"):
        file = path.relative_to(ROOT).as_posix()
        names = {name.lstrip("_") for name in names_in(ast.parse(path.read_text("utf-8")))}
        violations |= {(file, name) for name in names & VAGUE}
    assert sorted(violations - ON_DISK) == []
