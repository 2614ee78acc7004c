"""Open file descriptors of a process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def open_below(folder: Path, pid: int | str = "self") -> list[str]:
    """Return the paths of a process's open files in ``folder``, once for each descriptor."""
    paths = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            if path.startswith(str(folder)):
                paths.append(path)
    return paths
