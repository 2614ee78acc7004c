"""Commands that nothing here can run are read all the same: what they name is there.

Of `vitascope` its own parser reads the words; of make the target, of docker compose the services and profiles, of pip
the extras, of Python the module. Every setting must be one that the service, the client, the command or
``docker-compose.yml`` reads.
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
from tests.docs.pages import ROOT, Block, commands
from vitascope.cli.main import build_parser, subcommand_name

_REDIRECTION = re.compile(r"\s\d?>>?\s*(&\d|[\w./~-]+)")
_SETTING = re.compile(r"\bVITASCOPE_[A-Z_]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def mistakes(block: Block) -> list[str]:
    """What the commands of ``block`` name that is not there, each with its place on the page."""
    if block.language == "python":
        compile(block.text, block.place, "exec")
    if block.language != "console":
        return []
    return [
        f"{block.page}:{command.line}: {wrong}"
        for command in commands(block)
        for wrong in [*_settings(command.text), *(w for words in programs(command.text) for w in _program(words))]
    ]


def programs(text: str) -> Iterator[list[str]]:
    """The words of each program in a line of bash, without variables before it and what only starts it."""
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


def _program(words: list[str]) -> list[str]:
    match words:
        case ["vitascope", *given]:
            return _vitascope(given)
        case ["make", *given]:
            targets = {word for word in given if "=" not in word}
            return [f"make has no target {target!r}" for target in sorted(targets - _targets())]
        case ["docker", "compose", *given]:
            return _compose(given)
        case [("pip" | "fresh/bin/pip"), "install", *given]:
            asked = {
                extra for word in given for found in re.findall(r"^\.\[(.*)\]", word) for extra in found.split(",")
            }
            published = ["vitascope is not in a package index"] if any(w.startswith("vitascope") for w in given) else []
            return published + [f"there is no extra {extra!r}" for extra in sorted(asked - _extras())]
        case ["python", "-m", module, *_]:
            return [] if importlib.util.find_spec(module) else [f"there is no module {module!r}"]
        case ["python", script, *_]:
            return [] if (ROOT / script).is_file() else [f"there is no file {script!r}"]
        case ["curl", *given]:
            return [wrong for at, word in enumerate(given) if word == "--json" for wrong in _json(given[at + 1])]
    return []


def _vitascope(given: list[str]) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            build_parser(subcommand_name(given))[0].parse_args(given)
    except SystemExit as end:
        return [said.getvalue().strip().splitlines()[-1]] if end.code else []
    return []


def _compose(given: list[str]) -> list[str]:
    services = _composed()["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    match given:
        case ["--profile", profile, *rest]:
            return [] if profile in profiles else [f"there is no profile {profile!r}"]
        case ["exec", service, *rest]:
            return _program(rest) if service in services else [f"there is no service {service!r}"]
        case ["run", "--rm", "--entrypoint", _, service, *_]:
            return [] if service in services else [f"there is no service {service!r}"]
        case ["run", "--rm", service, *rest]:
            known = service in services and "entrypoint" not in services[service]
            return _vitascope(rest) if known else [f"there is no service {service!r} that runs vitascope"]
        case [("up" | "build" | "down"), *rest]:
            named = {word.partition("=")[0] for word in rest if not word.startswith("-")}
            return [f"there is no service {service!r}" for service in sorted(named - set(services))]
    return [f"docker compose {shlex.join(given)}: a command that tests/docs/unrun.py knows was expected"]


def _settings(text: str) -> list[str]:
    return [f"there is no setting {name}" for name in sorted(set(_SETTING.findall(text)) - _names())]


def _json(text: str) -> list[str]:
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
def _composed() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@cache
def _names() -> set[str]:
    readers = [ROOT / "docker-compose.yml", *(ROOT / "vitascope").rglob("*.py")]  # the client and the command have some
    read = {name for file in readers for name in _SETTING.findall(file.read_text("utf-8"))}
    return {f"VITASCOPE_{name.upper()}" for name in Settings.model_fields} | read
