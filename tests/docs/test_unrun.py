"""Blocks that do not run in every test run are parsed: what they name exists."""

from __future__ import annotations

import pytest

from tests.docs.pages import Block, list_pages, parse_blocks
from tests.docs.unrun import find_errors, split_programs


def test_commands_options_and_files_of_blocks_that_do_not_run_exist() -> None:
    blocks = [block for page in list_pages() for block in parse_blocks(page) if block.run]
    assert [error for block in blocks for error in find_errors(block)] == []


@pytest.mark.parametrize(
    ("command", "message"),
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
def test_an_error_is_reported_with_its_line(command: str, message: str) -> None:
    (error,) = find_errors(Block("docs/x.md", 7, "console", f"$ {command}\n", ""))
    assert error.startswith("docs/x.md:7: ")
    assert message in error


def test_a_line_is_split_into_programs() -> None:
    line = 'X=1 a "b; c" | d >f 2>&1 && (cd /tmp && e)'
    assert list(split_programs(line)) == [["a", "b; c"], ["d"], ["cd", "/tmp"], ["e"]]
