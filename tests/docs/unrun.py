"""Checks of blocks that do not run: their commands, options, files and settings exist.

`vitascope` commands are parsed by its own parser; for make the target is checked, for docker compose services and
profiles, for pip extras, for Python the module. Every ``VITASCOPE_`` variable must be read by the service, the client,
the command or ``docker-compose.yml``.
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
from functools import cache
from typing import Any

import yaml

from service.settings import Settings
from tests.docs.pages import ROOT, Block, parse_commands
from vitascope.cli.main import build_parser, subcommand_name

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
    return [f"docker compose {shlex.join(arguments)}: a command that tests/docs/unrun.py knows was expected"]


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
