"""Every command in the documentation is run as it is printed, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import only_by_chaos
from tests.docs.neighbours import neighbours, publish_models
from tests.docs.pages import DOCS_CHECK, NEVER, ROOT, Block, blocks, commands, pages, why_not_run
from tests.docs.reader import CURL, draw_scenes, reading
from tests.docs.terminal import PORT, Terminal, difference, is_free
from tests.service.webhook_receiver import receiving
from tests.tools import find_tool
from tests.waiting import wait_for

BLOCKS = [block for page in pages() for block in blocks(page)]
LONG = list(dict.fromkeys(block.page for block in BLOCKS if block.run == DOCS_CHECK))


def test_every_block_says_how_it_is_run_or_is_run_with_every_change() -> None:
    assert [wrong for block in BLOCKS if (wrong := why_not_run(block))] == []
    said = {block.run.removeprefix("never, ") for block in BLOCKS if block.run.startswith("never, ")}
    assert said == set(NEVER), "reasons that no block gives any more"


def test_every_console_block_is_made_of_commands() -> None:
    for block in BLOCKS:
        if block.language == "console":
            assert list(commands(block)), block.place


def test_tests_that_run_blocks_in_place_of_this_one_name_the_page() -> None:
    for block in BLOCKS:
        if block.run.startswith("tests/"):
            assert Path(block.page).name in (ROOT / block.run).read_text("utf-8"), f"{block.place}: {block.run}"


def test_what_the_pages_print_runs(tmp_path: Path) -> None:
    """All blocks that take no time, page after page: one reader, one service, one terminal a page."""
    for tool in ("bash", "curl", "jq"):
        find_tool(tool)
    with reading(tmp_path) as terminal:
        problems = []
        for page in dict.fromkeys(block.page for block in BLOCKS):
            mine = [block for block in BLOCKS if block.page == page and block.run == ""]
            problems += [problem for block in mine for problem in terminal.run(block)]
            terminal.close()
            terminal.begin()
    assert problems == [], "\n\n".join(problems)


@only_by_chaos
@pytest.mark.parametrize("page", LONG)
def test_everything_that_a_page_prints_runs(page: str, tmp_path: Path) -> None:
    """`make docs-check`: a page from its beginning to its end, each with a reader of its own, on the port it prints."""
    wait_for(lambda: is_free(PORT))
    mine = [block for block in BLOCKS if block.page == page and block.run in ("", DOCS_CHECK)]
    text = "".join(block.text for block in mine)
    with neighbours(tmp_path, text) as servers, reading(tmp_path, PORT, servers) as terminal:
        if "data/scenes" in text:
            draw_scenes(tmp_path)
        if "openai/clip" in text:
            publish_models(tmp_path / "checkout", tmp_path / "home")
        problems = [problem for block in mine for problem in terminal.run(block)]
    assert problems == [], "\n\n".join(problems)


@pytest.mark.parametrize(
    ("printed", "said", "same"),
    [
        (["fused  clip", "0.919  0:00"], ["fused clip", "0.925 0:00"], True),
        (["0.919"], ["0.719"], False),
        (["12 added"], ["11 added"], False),
        (["key vsk_…"], ["key vsk_12ab"], True),
        (["a", "…", "c"], ["a", "b", "b", "c"], True),
        (["a", "…"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["a"], False),
    ],
)
def test_what_a_page_prints_is_compared_with_what_is_said(printed: list[str], said: list[str], same: bool) -> None:
    assert (difference(tuple(printed), said) is None) == same


def test_a_page_that_is_wrong_fails(tmp_path: Path) -> None:
    """A command that fails, one that says something else, an answer that is an error, and Python that raises."""
    for name in ("checkout", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / ".curlrc").write_text(CURL)
    console = Block("docs/x.md", 3, "console", '$ false\n$ echo one \\\n    two\none three\n$ [ -n "$HOME" ]\n', "")
    with receiving() as refusing:
        terminal = Terminal(tmp_path, refusing.port, {})
        try:
            wrong = terminal.run(console)
            error = terminal.run(Block("docs/x.md", 9, "console", "$ curl -s http://127.0.0.1:8000/none\n", ""))
            python = terminal.run(Block("docs/x.md", 12, "python", 'open("/srv/none")\n', ""))
        finally:
            terminal.close()
    assert [each.splitlines()[0] for each in wrong] == ["docs/x.md:3: $ false", "docs/x.md:4: $ echo one \\"]
    assert "exit status 22" in error[0]
    assert python[0].startswith("docs/x.md:12: FileNotFoundError")
    assert f"{tmp_path}/srv/none" in python[0]
