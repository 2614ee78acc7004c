"""The blocks of commands, Python and SQL in the pages, and how each of them is run.

A block runs with every change, unless a comment above it, which no page shows, says otherwise::

    <!-- run: docs-check -->            `make docs-check` alone runs it: it takes long
    <!-- run: tests/service/test_x.py -->   that test runs it, or what it says
    <!-- run: never, images -->         it cannot be run here; the word is one of ``NEVER``

`<!-- run on this page: … -->` says the same of every block of the page that has no comment of its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS_CHECK = "docs-check"
NEVER = {
    "installs": "changes the environment that the tests run in, or the machine",
    "images": "needs images of Milvus, its stores, Prometheus or Grafana",
    "gpu": "needs an NVIDIA GPU, or the packages for one",
    "storage": "needs an object store of somebody",
    "servers": "needs a server that this repository does not bring: Milvus, Triton, MLServer",
    "programs": "needs programs of others that are not installed here",
    "machines": "needs several machines, or a whole cluster",
    "corpora": "needs corpora that other people give out",
    "hours": "trains or measures for longer than ten minutes, or needs what such a command leaves",
}
"""Why a block is run nowhere. It is read (``tests.docs.unrun``); what can be tested of it by parts is tested where the
code is.
"""

_FENCE = re.compile(r"^( *)```(console|python|sql)\b[^\n]*\n(.*?)^ *```\s*$", re.MULTILINE | re.DOTALL)
_ABOVE = re.compile(r"<!-- run: ([^>]*?) -->\s*\Z")
_PAGE = re.compile(r"^<!-- run on this page: ([^>]*?) -->", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: str
    """Below the repository, such as ``docs/usage.md``."""
    line: int
    """Of the page, counted from 1: the first one within the block."""
    language: str
    """console, python or sql."""
    text: str
    run: str
    """What the comment says; empty: with every change."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command as it is printed, and what the page prints below it."""

    line: int
    text: str
    output: tuple[str, ...]


def pages() -> list[Path]:
    """Every page that people read: those at the top, and all in docs/."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of ``page`` in their order."""
    text = page.read_text("utf-8")
    named = _PAGE.search(text)
    found = []
    for fence in _FENCE.finditer(text):
        above = _ABOVE.search(text, 0, fence.start())
        run = above[1] if above else named[1] if named else ""
        line = text.count("\n", 0, fence.start(3)) + 1
        indent = len(fence[1])
        inner = "".join(each[indent:] if each.strip() else each for each in fence[3].splitlines(keepends=True))
        found.append(Block(page.relative_to(ROOT).as_posix(), line, fence[2], inner, run))
    return found


def why_not_run(block: Block) -> str | None:
    """What is wrong with the comment above ``block``, or None."""
    if block.run in ("", DOCS_CHECK):
        return None
    if block.run.startswith("never, "):
        word = block.run.removeprefix("never, ")
        return None if word in NEVER else f"{block.place}: {word!r}; one of {', '.join(NEVER)} was expected"
    if (ROOT / block.run).is_file() and block.run.startswith("tests/"):
        return None
    return f"{block.place}: run: {block.run!r}; docs-check, a test's file or `never, WORD` was expected"


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block, each with the lines of output below it.

    A line that begins with ``$ `` begins a command, which goes on while a quote is open or a line ends in a backslash.
    Raises ValueError for other lines that are neither output nor a comment.
    """
    lines = block.text.splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            if lines[at] and not lines[at].startswith("#"):
                raise ValueError(f"{block.page}:{block.line + at}: {lines[at]!r}; `$ ` and a command was expected")
            at += 1
            continue
        begins, text = at, lines[at][2:]
        at += 1
        while not _is_whole(text) and at < len(lines):
            text += "\n" + lines[at]
            at += 1
        output = []
        while at < len(lines) and lines[at] and not lines[at].startswith(("$ ", "# ")):
            output.append(lines[at])
            at += 1
        yield Command(block.line + begins, text, tuple(output))


def _is_whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
