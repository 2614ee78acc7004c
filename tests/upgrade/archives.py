"""Archives of version 0.2.0, and the command line to open them."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from vitascope.cli.main import main

JSON = dict[str, Any]


def unpack(name: str, folder: Path) -> JSON:
    """Unpack an archive of this folder into ``folder`` and return what version 0.2.0 recorded."""
    with tarfile.open(Path(__file__).with_name(f"{name}_0_2_0.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    recorded: JSON = json.loads((folder / "recorded.json").read_text())
    return recorded


def vitascope(*arguments: str | Path) -> JSON:
    """Run a command that must succeed and return its JSON output."""
    output = io.StringIO()
    with redirect_stdout(output):
        status = main([*map(str, arguments), "--json"])
    assert status == 0, output.getvalue()
    result: JSON = json.loads(output.getvalue())
    return result
