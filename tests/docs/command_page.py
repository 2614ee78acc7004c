"""Generate the reference in docs/command.md from the argument parsers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from tests.docs.pages import ROOT
from vitascope.cli.main import COMMANDS, build_parser
from vitascope.cli.options import (
    add_bundle,
    add_collection,
    add_data,
    add_engine,
    add_model,
    add_server,
    default_bundle,
)

PAGE = ROOT / "docs" / "command.md"
MARKER = "<!-- Everything below is generated from the argument parsers by `make reference`. -->\n"


def command_page() -> str:
    """Return docs/command.md: the text above the marker as it is, and the reference."""
    guide = PAGE.read_text("utf-8").partition(MARKER)[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VITASCOPE_")}
    with mock.patch.dict(os.environ, environment, clear=True):
        return guide + MARKER + "\n" + "\n".join(_reference())


def _reference() -> Iterator[str]:
    common = _common_options()
    yield "## Common options\n"
    yield _table(list(common.items()))
    yield "## Commands\n"
    for name in COMMANDS:
        parser = _subparsers(build_parser(name)[0])[name]
        yield from _section(f"vitascope {name}", parser, common, level=3)


def _section(title: str, parser: argparse.ArgumentParser, common: dict[str, str], level: int) -> Iterator[str]:
    yield f"{'#' * level} {title}\n"
    yield f"{parser.description}\n"
    rows = _rows(parser)
    if own := [(name, text) for name, text in rows if common.get(name) != text]:
        yield _table(own)
    if shared := [f"`{name}`" for name, text in rows if common.get(name) == text and not name.startswith("--json")]:
        yield f"Common options: {', '.join(shared)}.\n"
    for action, subparser in _subparsers(parser).items():
        yield from _section(f"{title} {action}", subparser, common, level + 1)
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```\n"


def _common_options() -> dict[str, str]:
    parser = argparse.ArgumentParser(add_help=False)
    for add in (add_collection, add_data, add_server, add_model, add_bundle, add_engine):
        add(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return dict(_rows(parser))


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    choices: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            choices |= action.choices
    return choices


def _rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Return the arguments of a parser, as they are written, with their help."""
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [(_syntax(action), _help(action)) for action in parser._actions if not isinstance(action, hidden)]


def _syntax(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    value = "|".join(map(str, action.choices)) if action.choices and action.option_strings else metavar
    if action.nargs == 0:
        value = ""
    elif action.nargs in ("+", "*"):
        value = f"{value}..."
    return " ".join(filter(None, (", ".join(action.option_strings), value)))


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": "vitascope"}
    return " ".join(text.replace(str(default_bundle()), "bundles/hd-vila-tiny").split())


def _table(rows: list[tuple[str, str]]) -> str:
    cells = [(f"`{name}`".replace("|", "\\|"), text.replace("|", "\\|")) for name, text in rows]
    return "| argument | meaning |\n| --- | --- |\n" + "".join(f"| {name} | {text} |\n" for name, text in cells)
