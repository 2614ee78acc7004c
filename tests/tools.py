"""Programs that some tests need; they belong neither to Python nor to this repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

RAY_SHARED_MEMORY = 400 * 1024**2


def find_tool(name: str, *alternatives: str) -> str:
    """Return the path of a program or an alternative; without any, skip the test by name, or fail it if CI is set."""
    # Also finds programs of an environment that is not activated.
    places = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")])
    programs = (shutil.which(each, path=places) for each in (name, *alternatives))
    return next(filter(None, programs), None) or _absent(f"{name} is not installed")


def _absent(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{message}, and in CI no test is skipped")
    pytest.skip(message)


def need_ray() -> None:
    """Skip the test if no Ray cluster can be started; fail it if CI is set."""
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if importlib.util.find_spec("ray") is None:
        _absent("ray is not installed")
    elif shared < RAY_SHARED_MEMORY:
        _absent(f"/dev/shm has {shared} bytes free; ray needs {RAY_SHARED_MEMORY}")
