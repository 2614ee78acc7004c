"""The console, Python and SQL blocks of the pages, and checks of those that do not run.

A block runs in every test run, unless a comment above it says otherwise::

    <!-- run: docs-check -->            only `make docs-check` runs it, since it takes long
    <!-- run: tests/docs/test_deploy_page.py -->   that test runs it
    <!-- run: never, images -->         it cannot run here; the reason is one of ``SKIP_REASONS``

`<!-- run on this page: … -->` applies to every block of the page without a comment of its own.

Blocks that do not run are parsed: `vitascope` commands by its own parser; targets of make, services and profiles of
docker compose, extras of pip, modules, files and ``VITASCOPE_`` variables must exist.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings
from vitascope.cli.main import build_parser, subcommand_name

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
    "models": "needs the weights of a public model",
    "hours": "trains or measures for longer than ten minutes, or needs the result of such a command",
}
"""Reasons why a block never runs. ``find_errors`` parses it instead."""

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


_REDIRECTION = re.compile(r"\s\d?>>?\s*(&\d|[\w./~-]+)")
_SETTING = re.compile(r"\bVITASCOPE_[A-Z_]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def find_errors(block: Block) -> list[str]:
    """Return the errors in a block, each with its location."""
    if block.language == "python":
        compile(block.text, block.location, "exec")
    if block.language != "console":
        return []
    return [
        f"{block.page}:{command.line}: {error}"
        for command in parse_commands(block)
        for error in [
            *_setting_errors(command.text),
            *(error for words in split_programs(command.text) for error in _program_errors(words)),
        ]
    ]


def split_programs(text: str) -> Iterator[list[str]]:
    """Yield the words of each program in a line of bash, without variable assignments and `nohup nice -n N`."""
    reader = shlex.shlex(_REDIRECTION.sub("", text), posix=True, punctuation_chars=True)
    reader.whitespace_split, words = True, list[str]()
    for word in [*reader, ";"]:
        if set(word) <= set("();<>|&"):
            words = words[4:] if words[:2] == ["nohup", "nice"] else words
            while words and _ASSIGNMENT.match(words[0]):
                words = words[1:]
            if words:
                yield words
            words = []
        else:
            words.append(word)


def _program_errors(words: list[str]) -> list[str]:
    match words:
        case ["vitascope", *arguments]:
            return _vitascope_errors(arguments)
        case ["make", *arguments]:
            targets = {word for word in arguments if "=" not in word}
            return [f"make has no target {target!r}" for target in sorted(targets - _targets())]
        case ["docker", "compose", *arguments]:
            return _compose_errors(arguments)
        case [("pip" | "fresh/bin/pip"), "install", *arguments]:
            extras = {
                extra for word in arguments for names in re.findall(r"^\.\[(.*)\]", word) for extra in names.split(",")
            }
            from_index = any(word.startswith("vitascope") for word in arguments)
            errors = ["vitascope is not in a package index"] if from_index else []
            return errors + [f"there is no extra {extra!r}" for extra in sorted(extras - _extras())]
        case ["python", "-m", module, *_]:
            return [] if importlib.util.find_spec(module) else [f"there is no module {module!r}"]
        case ["python", script, *_]:
            return [] if (ROOT / script).is_file() else [f"there is no file {script!r}"]
        case ["curl", *arguments]:
            bodies = [arguments[at + 1] for at, word in enumerate(arguments) if word == "--json"]
            return [error for body in bodies for error in _json_errors(body)]
    return []


def _vitascope_errors(arguments: list[str]) -> list[str]:
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            build_parser(subcommand_name(arguments))[0].parse_args(arguments)
    except SystemExit as end:
        return [output.getvalue().strip().splitlines()[-1]] if end.code else []
    return []


def _compose_errors(arguments: list[str]) -> list[str]:
    services = _compose_file()["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    match arguments:
        case ["--profile", profile, *rest]:
            return [] if profile in profiles else [f"there is no profile {profile!r}"]
        case ["exec", service, *rest]:
            return _program_errors(rest) if service in services else [f"there is no service {service!r}"]
        case ["run", "--rm", "--entrypoint", _, service, *_]:
            return [] if service in services else [f"there is no service {service!r}"]
        case ["run", "--rm", service, *rest]:
            runs_vitascope = service in services and "entrypoint" not in services[service]
            return (
                _vitascope_errors(rest) if runs_vitascope else [f"there is no service {service!r} that runs vitascope"]
            )
        case [("up" | "build" | "down"), *rest]:
            names = {word.partition("=")[0] for word in rest if not word.startswith("-")}
            return [f"there is no service {service!r}" for service in sorted(names - set(services))]
    return [f"docker compose {shlex.join(arguments)}: a command that tests/docs/pages.py knows was expected"]


def _setting_errors(text: str) -> list[str]:
    return [f"there is no setting {name}" for name in sorted(set(_SETTING.findall(text)) - _variables())]


def _json_errors(text: str) -> list[str]:
    try:
        json.loads(text)
    except ValueError as error:
        return [f"{text}: {error}"]
    return []


@cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@cache
def _compose_file() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@cache
def _variables() -> set[str]:
    files = [ROOT / "docker-compose.yml", *(ROOT / "vitascope").rglob("*.py")]
    others = {name for file in files for name in _SETTING.findall(file.read_text("utf-8"))}
    return {f"VITASCOPE_{name.upper()}" for name in Settings.model_fields} | others
