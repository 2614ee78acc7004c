"""Commands in the pages run as printed, or a comment gives the reason why not; then what they name exists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import only_by_chaos
from tests.docs.pages import (
    DOCS_CHECK,
    ROOT,
    SKIP_REASONS,
    Block,
    find_errors,
    list_pages,
    marker_error,
    parse_blocks,
    parse_commands,
)
from tests.docs.reader import CURL, generate_scenes, open_terminal, publish_models, substitute_servers
from tests.docs.terminal import PORT, Terminal, compare_output, is_free
from tests.service.webhooks import receiving
from tests.tools import find_tool
from tests.waiting import wait_for

BLOCKS = [block for page in list_pages() for block in parse_blocks(page)]
SHORT = list(dict.fromkeys(block.page for block in BLOCKS if block.run == ""))
LONG = list(dict.fromkeys(block.page for block in BLOCKS if block.run == DOCS_CHECK))


def test_comments_above_blocks_are_valid_and_every_skip_reason_is_used() -> None:
    assert [error for block in BLOCKS if (error := marker_error(block))] == []
    reasons = {block.run.removeprefix("never, ") for block in BLOCKS if block.run.startswith("never, ")}
    assert reasons == set(SKIP_REASONS)


def test_every_console_block_has_commands() -> None:
    for block in BLOCKS:
        if block.language == "console":
            assert list(parse_commands(block)), block.location


def test_a_test_that_runs_a_block_names_the_page() -> None:
    for block in BLOCKS:
        if block.run.startswith("tests/"):
            assert Path(block.page).name in (ROOT / block.run).read_text("utf-8"), f"{block.location}: {block.run}"


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One service and one folder of files for all pages that a worker runs, since they take seconds to prepare."""
    for tool in ("bash", "curl", "jq"):
        find_tool(tool)
    with open_terminal(tmp_path_factory.mktemp("pages")) as opened:
        yield opened


@pytest.mark.parametrize("page", SHORT)
def test_blocks_run_as_printed(page: str, terminal: Terminal) -> None:
    """All fast blocks of a page, in order. No page needs what another one has made."""
    on_page = [block for block in BLOCKS if block.page == page and block.run == ""]
    errors = [error for block in on_page for error in terminal.run(block)]
    terminal.close()
    terminal.restart()
    assert errors == [], "\n\n".join(errors)


@only_by_chaos
@pytest.mark.parametrize("page", LONG)
def test_slow_blocks_run_as_printed(page: str, tmp_path: Path) -> None:
    """`make docs-check`: each page from start to end in an environment of its own, on the port that it prints."""
    wait_for(lambda: is_free(PORT))
    on_page = [block for block in BLOCKS if block.page == page and block.run in ("", DOCS_CHECK)]
    text = "".join(block.text for block in on_page)
    with substitute_servers(tmp_path, text) as servers, open_terminal(tmp_path, PORT, servers) as terminal:
        if "data/scenes" in text:
            generate_scenes(tmp_path)
        if "openai/clip" in text:
            publish_models(tmp_path / "checkout", tmp_path / "home")
        errors = [error for block in on_page for error in terminal.run(block)]
    assert errors == [], "\n\n".join(errors)


@pytest.mark.parametrize(
    ("expected", "actual", "is_equal"),
    [
        (["fused  clip", "0.919  0:00"], ["fused clip", "0.925 0:00"], True),
        (["12 added"], ["11 added"], False),
        (["key vsk_…", "…", "c"], ["key vsk_12ab", "b", "c"], True),
        (["a"], ["a", "b"], False),
    ],
)
def test_output_is_compared_with_the_page(expected: list[str], actual: list[str], is_equal: bool) -> None:
    assert (compare_output(tuple(expected), actual) is None) == is_equal


def test_failing_blocks_are_reported(tmp_path: Path) -> None:
    """Exit statuses, other output, HTTP errors and Python exceptions."""
    for name in ("checkout", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / ".curlrc").write_text(CURL)
    console = Block("docs/x.md", 3, "console", '$ false\n$ echo one \\\n    two\none three\n$ [ -n "$HOME" ]\n', "")
    with receiving() as refusing:
        terminal = Terminal(tmp_path, refusing.port, {})
        try:
            console_errors = terminal.run(console)
            http_errors = terminal.run(Block("docs/x.md", 9, "console", "$ curl -s http://127.0.0.1:8000/none\n", ""))
            python_errors = terminal.run(Block("docs/x.md", 12, "python", 'open("/srv/none")\n', ""))
        finally:
            terminal.close()
    assert [error.splitlines()[0] for error in console_errors] == ["docs/x.md:3: $ false", "docs/x.md:4: $ echo one \\"]
    assert "exit status 22" in http_errors[0]
    assert python_errors[0].startswith("docs/x.md:12: FileNotFoundError")
    assert f"{tmp_path}/srv/none" in python_errors[0]


def test_commands_options_and_files_of_blocks_that_do_not_run_exist() -> None:
    assert [error for block in BLOCKS if block.run for error in find_errors(block)] == []


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
