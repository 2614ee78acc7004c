"""Programs that some tests use and that come neither with Python nor with this repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

RAY_SHARED_MEMORY = 400 * 1024**2


def find_tool(name: str) -> str:
    """The path of a program. Where it is absent the test is skipped by that name; with CI set it fails."""
    # An environment's own programs count also when the environment is not activated.
    places = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    return found or _absent(f"{name} is not installed")


def _absent(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{message}, and in CI nothing is skipped for that")
    pytest.skip(message)


def need_ray() -> None:
    """Skip by name where no Ray cluster can be started; with CI set, fail."""
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if importlib.util.find_spec("ray") is None:
        _absent("ray is not installed")
    elif shared < RAY_SHARED_MEMORY:
        _absent(f"/dev/shm has {shared} bytes free; ray needs {RAY_SHARED_MEMORY}")
