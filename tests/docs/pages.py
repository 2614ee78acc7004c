"""Parser for the console, Python and SQL blocks of the pages, and for the comments that say how they run.

A block runs in every test run, unless a comment above it says otherwise::

    <!-- run: docs-check -->            only `make docs-check` runs it, since it takes long
    <!-- run: tests/docs/test_deploy_page.py -->   that test runs it
    <!-- run: never, images -->         it cannot run here; the reason is one of ``SKIP_REASONS``

`<!-- run on this page: … -->` applies to every block of the page without a comment of its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS_CHECK = "docs-check"
SKIP_REASONS = {
    "installs": "changes the environment that the tests run in, or the machine",
    "images": "needs images of Milvus, its stores, Prometheus or Grafana",
    "gpu": "needs an NVIDIA GPU, or the packages for one",
    "storage": "needs an object store",
    "servers": "needs a server that is not included: Milvus, Triton, MLServer",
    "programs": "needs programs that are not installed",
    "machines": "needs several machines, or a whole cluster",
    "corpora": "needs public corpora",
    "hours": "trains or measures for longer than ten minutes, or needs the result of such a command",
}
"""Reasons why a block never runs. ``tests.docs.unrun`` parses it instead."""

_FENCE = re.compile(r"^( *)```(console|python|sql)\b[^\n]*\n(.*?)^ *```\s*$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"<!-- run: ([^>]*?) -->\s*\Z")
_PAGE_MARKER = re.compile(r"^<!-- run on this page: ([^>]*?) -->", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page: Path in the repository, such as ``docs/usage.md``.
        line: Line of the page, from 1, of the first line in the block.
        language: console, python or sql.
        text: Content.
        run: Value of the comment; empty: the block runs in every test run.
    """

    page: str
    line: int
    language: str
    text: str
    run: str

    @property
    def location(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command and the output that the page prints below it."""

    line: int
    text: str
    output: tuple[str, ...]


def list_pages() -> list[Path]:
    """Return all pages: README, CONTRIBUTING, SECURITY and docs/."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def parse_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    text = page.read_text("utf-8")
    page_marker = _PAGE_MARKER.search(text)
    blocks = []
    for fence in _FENCE.finditer(text):
        marker = _MARKER.search(text, 0, fence.start()) or page_marker
        run = marker[1] if marker else ""
        line = text.count("\n", 0, fence.start(3)) + 1
        indent = len(fence[1])
        content = "".join(row[indent:] if row.strip() else row for row in fence[3].splitlines(keepends=True))
        blocks.append(Block(page.relative_to(ROOT).as_posix(), line, fence[2], content, run))
    return blocks


def marker_error(block: Block) -> str | None:
    """Return what is wrong with the comment above a block, or None."""
    if block.run in ("", DOCS_CHECK):
        return None
    if block.run.startswith("never, "):
        reason = block.run.removeprefix("never, ")
        if reason in SKIP_REASONS:
            return None
        return f"{block.location}: {reason!r}; one of {', '.join(SKIP_REASONS)} was expected"
    if (ROOT / block.run).is_file() and block.run.startswith("tests/"):
        return None
    return f"{block.location}: run: {block.run!r}; docs-check, the path of a test or `never, REASON` was expected"


def parse_commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block with their output.

    A command starts with ``$ `` and continues while a quote is open or a line ends in a backslash.

    Raises:
        ValueError: A line before the first command is not a comment.
    """
    lines = block.text.splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            if lines[at] and not lines[at].startswith("#"):
                raise ValueError(f"{block.page}:{block.line + at}: {lines[at]!r}; `$ ` and a command was expected")
            at += 1
            continue
        start, text = at, lines[at][2:]
        at += 1
        while not _is_complete(text) and at < len(lines):
            text += "\n" + lines[at]
            at += 1
        output = []
        while at < len(lines) and lines[at] and not lines[at].startswith(("$ ", "# ")):
            output.append(lines[at])
            at += 1
        yield Command(block.line + start, text, tuple(output))


def _is_complete(text: str) -> bool:
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
