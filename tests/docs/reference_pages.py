"""Generate docs/settings.md, docs/metrics.md and the reference in docs/command.md: ``make reference``."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from service.observability import METRICS, MetricSpec
from service.settings import Settings
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

UPDATE = "make reference"
UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))

SETTINGS_HEAD = f"""\
<!-- Generated from service/settings_sections.py by `{UPDATE}`. -->

# Settings

Settings of `vitascope serve` are environment variables. Lists are JSON: `VITASCOPE_ALLOWED_ROOTS='["/videos"]'`. An
invalid value, and a variable of an earlier version that has a new name, ends the start with an error that names it.
[Operating](operating.md) explains how the most important ones go together.

"""
OTHER_VARIABLES = (
    ("VITASCOPE_ENGINE_TOKEN", "Bearer token for the server of `VITASCOPE_ENGINE`."),
    ("VITASCOPE_MILVUS_TOKEN", "`user:password` or API key for the server of `VITASCOPE_VECTOR_STORE`."),
    ("VITASCOPE_ENGINE_CACHE", "Folder for engines that TensorRT has built. Unset: the user's cache folder."),
    ("VITASCOPE_SERVER", "URL of a service for the command (`--server`)."),
    ("VITASCOPE_API_KEY", "API key of the command and the Python client."),
)
"""Variables that are no settings of the service, or must not appear in its settings."""

METRICS_HEAD = f"""\
<!-- Generated from service/observability.py by `{UPDATE}`. -->

# Metrics

`GET /metrics` returns these in Prometheus's text format. It needs an API key with the scope `admin`, unless
`VITASCOPE_PUBLIC_METRICS` is set. Histograms have the suffixes `_bucket`, `_sum` and `_count`. `model` is a model's
name, version and the start of its fingerprint: `hd-vila-tiny@1.3.0:9f0c12ab34cd`.

"""


def settings_page() -> str:
    """Return docs/settings.md."""
    parts = [SETTINGS_HEAD]
    for section in Settings.__bases__:
        fields = [(name, Settings.model_fields[name]) for name in section.__annotations__]
        rows = [(f"`VITASCOPE_{name.upper()}`", _default(name, field), _meaning(field)) for name, field in fields]
        parts += [f"## {inspect.getdoc(section)}\n\n", _table(("variable", "default", "meaning"), rows), "\n"]
    rows = [(f"`{name}`", meaning) for name, meaning in OTHER_VARIABLES]
    parts += ["## Other variables\n\n", _table(("variable", "meaning"), rows)]
    return "".join(parts)


def metrics_page() -> str:
    """Return docs/metrics.md."""
    rows = [(f"`{_exposed_name(spec)}`", spec.type, ", ".join(spec.labels), spec.description) for spec in METRICS]
    return METRICS_HEAD + _table(("metric", "type", "labels", "meaning"), rows)


def _exposed_name(spec: MetricSpec) -> str:
    return f"{spec.name}_total" if spec.type == "counter" else spec.name


def _default(name: str, field: FieldInfo) -> str:
    match name:
        case "data_dir":
            return "`vitascope-data`"
        case "bundle":
            return "`bundles/hd-vila-tiny`"
    value = field.default
    if value is None:
        return ""
    if isinstance(value, list | set):
        return f"`[{', '.join(map(_json, sorted(value)))}]`"
    if isinstance(value, str | bool):
        return f"`{_json(value)}`" if isinstance(value, bool) else f"`{value}`"
    if name.endswith("_bytes") and value:
        return next(f"{value // size} {unit}" for size, unit in UNITS if value % size == 0)
    return f"{value:,.15g}" if value >= 10_000 else f"{value:g}"


def _json(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _meaning(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        text += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    limits = " ".join(_limits(field.metadata))
    return f"{text} {limits}".strip()


def _limits(metadata: Iterable[Any]) -> Iterable[str]:
    low = next((each.ge for each in metadata if isinstance(each, Ge)), None)
    above = next((each.gt for each in metadata if isinstance(each, Gt)), None)
    high = next((each.le for each in metadata if isinstance(each, Le)), None)
    if high is not None:
        yield f"{low} to {high}." if low is not None else f"More than {above}, at most {high}."


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


COMMAND_PAGE = ROOT / "docs" / "command.md"
MARKER = "<!-- Everything below is generated from the argument parsers by `make reference`. -->\n"


def command_page() -> str:
    """Return docs/command.md: the text above the marker as it is, and the reference."""
    guide = COMMAND_PAGE.read_text("utf-8").partition(MARKER)[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VITASCOPE_")}
    with mock.patch.dict(os.environ, environment, clear=True):
        return guide + MARKER + "\n" + "\n".join(_reference())


def _reference() -> Iterator[str]:
    common = _common_options()
    yield "## Common options\n"
    yield _arguments(list(common.items()))
    yield "## Commands\n"
    for name in COMMANDS:
        parser = _subparsers(build_parser(name)[0])[name]
        yield from _section(f"vitascope {name}", parser, common, level=3)


def _section(title: str, parser: argparse.ArgumentParser, common: dict[str, str], level: int) -> Iterator[str]:
    assert parser.description, f"{title}: no description"
    yield f"{'#' * level} {title}\n"
    yield f"{parser.description}\n"
    rows = _rows(parser)
    if own := [(name, text) for name, text in rows if common.get(name) != text]:
        yield _arguments(own)
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
    assert action.help, f"{action.dest}: no help"
    text = action.help % {**vars(action), "prog": "vitascope"}
    return " ".join(text.replace(str(default_bundle()), "bundles/hd-vila-tiny").split())


def _arguments(rows: list[tuple[str, str]]) -> str:
    return _table(("argument", "meaning"), [(f"`{name}`", text) for name, text in rows])


PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "settings.md": settings_page,
    ROOT / "docs" / "metrics.md": metrics_page,
    COMMAND_PAGE: command_page,
}


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), "utf-8")
        print(f"written: {path}")
