"""Blocks that do not run with every change name nothing that is not there."""

from __future__ import annotations

import pytest

from tests.docs.pages import Block, blocks, pages
from tests.docs.unrun import mistakes, programs


def test_what_is_not_run_with_every_change_names_what_is_there() -> None:
    unrun = [block for page in pages() for block in blocks(page) if block.run]
    assert [wrong for block in unrun for wrong in mistakes(block)] == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("vitascope index /videos --ray auto --workers 3", "vitascope: error: unrecognized arguments: --workers 3"),
        ("cd /tmp && nohup nice -n 19 vitascope serch x &", "argument COMMAND: invalid choice: 'serch'"),
        ("A=1 make demo-all VENV=x > log 2>&1", "make has no target 'demo-all'"),
        ("docker compose exec service vitascope keys make x", "argument ACTION: invalid choice: 'make'"),
        ("docker compose exec services vitascope keys list", "there is no service 'services'"),
        ("docker compose run --rm backup backup --keeping 3", "unrecognized arguments: --keeping"),
        ("docker compose --profile all up", "there is no profile 'all'"),
        ("docker compose rub", "docker compose rub: a command that"),
        ('pip install --editable ".[cpu,metrics]"', "there is no extra 'metrics'"),
        ('pip install "vitascope[cpu]"', "vitascope is not in a package index"),
        ("python -m training.nowhere", "there is no module 'training.nowhere'"),
        ("python docs/examples/nothing.py", "there is no file 'docs/examples/nothing.py'"),
        ("export VITASCOPE_ALLOWED_ROTS='[]'", "there is no setting VITASCOPE_ALLOWED_ROTS"),
        ("curl -s $V/x --json '{\"a\": 1,}'", '{"a": 1,}: '),
    ],
)
def test_a_mistake_is_told(command: str, wrong: str) -> None:
    (found,) = mistakes(Block("docs/x.md", 7, "console", f"$ {command}\n", ""))
    assert found.startswith("docs/x.md:7: ")
    assert wrong in found


def test_programs_of_a_line_are_told_apart() -> None:
    line = 'X=1 a "b; c" | d >f 2>&1 && (cd /tmp && e)'
    assert list(programs(line)) == [["a", "b; c"], ["d"], ["cd", "/tmp"], ["e"]]
