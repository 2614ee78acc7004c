"""The steps of a Dockerfile, as far as ours uses the format; what is not known here is refused, never passed over."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

_STEPS = ("RUN", "COPY")
_IDLE = ("LABEL", "EXPOSE", "VOLUME")
"""What changes nothing of the files, or only what a container is given later."""
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""That the base image begins with."""


@dataclass(frozen=True, slots=True)
class Step:
    """RUN with the words of its command, or COPY with its sources and its destination as the last word."""

    kind: str
    words: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    user: str
    from_stage: str | None = None


@dataclass(slots=True)
class Stage:
    """What one FROM begins, and how its containers are started."""

    base: str
    name: str | None
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    directory: str = "/"
    user: str = "0:0"
    steps: list[Step] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_options: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    """Made by WORKDIR."""


def stages(text: str, arguments: dict[str, str]) -> list[Stage]:
    """The stages of a Dockerfile in order; ``arguments`` are those of ``--build-arg``. Raises ValueError."""
    found: list[Stage] = []
    declared: dict[str, str] = {}
    for keyword, rest in _instructions(text):
        if keyword == "FROM":
            base, *named = rest.split()
            found.append(Stage(base, named[1] if named else None))
            declared = {}
        elif not found:
            raise ValueError(f"{keyword} {rest}: before the first FROM, which was expected")
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            declared[name] = arguments.get(name, default)
        else:
            _apply(found[-1], keyword, rest, declared)
    unused = set(arguments) - {name for line in text.splitlines() for name in re.findall(r"^ARG (\w+)", line)}
    if unused:
        raise ValueError(f"build arguments: {sorted(unused)} are declared nowhere")
    return found


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (keyword, rest.strip()) for keyword, _, rest in (line.strip().partition(" ") for line in whole.splitlines())
    ]


def _apply(stage: Stage, keyword: str, rest: str, declared: dict[str, str]) -> None:
    known = {**declared, **stage.environment}
    if keyword == "ENV":
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            stage.environment[name] = re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), value)
    elif keyword == "WORKDIR":
        stage.directory = rest
        stage.folders.append(rest)
    elif keyword == "USER":
        stage.user = rest
    elif keyword in _STEPS:
        stage.steps.append(_step(stage, keyword, rest, known))
    elif keyword == "ENTRYPOINT":
        stage.entrypoint = _exec_form(keyword, rest)
    elif keyword == "CMD":
        stage.command = _exec_form(keyword, rest)
    elif keyword == "HEALTHCHECK":
        options, _, command = rest.partition("CMD ")
        stage.health = _exec_form(keyword, command)
        stage.health_options = dict(re.findall(r"--([\w-]+)=(\S+)", options))
    elif keyword not in _IDLE:
        raise ValueError(f"{keyword} {rest}: not one of the instructions that are known here")


def _step(stage: Stage, keyword: str, rest: str, known: dict[str, str]) -> Step:
    if keyword == "RUN":
        if rest.startswith(("[", "--")):
            raise ValueError(f"RUN {rest}: a command for the shell was expected")
        # A shell sees arguments of the build as variables of its environment.
        return Step(keyword, ("/bin/sh", "-c", rest), dict(known), stage.directory, stage.user)
    words = rest.split()
    options = [word for word in words if word.startswith("--")]
    source = next((word.removeprefix("--from=") for word in options if word.startswith("--from=")), None)
    if len(options) != (source is not None):
        raise ValueError(f"COPY {rest}: no option but --from was expected")
    return Step(keyword, tuple(words[len(options) :]), {}, stage.directory, stage.user, source)


def _exec_form(keyword: str, text: str) -> list[str]:
    try:
        words: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{keyword} {text}: a JSON list of words was expected") from error
    return [str(word) for word in words]
