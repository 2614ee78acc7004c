"""Programs that some tests use and that come neither with Python nor with this repository."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def find_tool(name: str) -> str:
    """The path of a program. Where it is absent the test is skipped by that name; with CI set it fails."""
    # An environment's own programs count also when the environment is not activated.
    places = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found:
        return found
    message = f"{name} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{message}, and in CI nothing is skipped for that")
    pytest.skip(message)
