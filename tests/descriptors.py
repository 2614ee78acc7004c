"""What a process has open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def open_below(folder: Path, pid: int | str = "self") -> list[str]:
    """The paths of what a process has open in ``folder``, once for each descriptor."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            if path.startswith(str(folder)):
                found.append(path)
    return found
