"""What `vitascope bundle` tells: as JSON, to people, and of mistakes."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vitascope.cli.bundle import show
from vitascope.cli.main import main

DEFAULT = Path(__file__).parents[3] / "bundles" / "hd-vila-tiny"


def run_bundle(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict[str, Any]:
    assert main(["bundle", *map(str, arguments), "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def rendered(result: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=240, highlight=False)
    show(result, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def run_with_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["bundle", *map(str, arguments)]) == 2
    return capsys.readouterr().err.strip().rpartition(": ")[2]
