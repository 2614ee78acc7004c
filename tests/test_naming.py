"""Names in the packages are nouns, verbs and predicates: no bare participles or pronouns (docs: CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("vitascope", "index", "service", "training", "model_export", "benchmarks", "studies")
FORBIDDEN = frozenset(["asked", "beside", "found", "given", "mine", "one", "said", "stated", "told", "wanted"])
STORED = {("index/transfer/foreign_rows.py", "told"), ("model_export/parity/checks.py", "beside")}
"""Names of columns and keys on disk."""


def names_in(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_a_bare_participle_or_pronoun(package: str) -> None:
    violations = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / package).rglob("*.py")
        for name in names_in(ast.parse(path.read_text("utf-8"))) & FORBIDDEN
    }
    assert violations - STORED == set()
