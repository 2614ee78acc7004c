"""Who may write to the copies of a catalogue: locks on files in its folder, which the system releases of the dead."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.vectors.background_task import Stop
from index.vectors.faiss_kinds import Stopped
from vitascope.errors import StorageError

BUILDING = "milvus"
"""In the folder, for ``index.vectors.snapshot_builder.building_alone``: held while a copy of another kind is made."""
LOOK_SECONDS = 0.02


@contextmanager
def turn_among_processes(folder: Path, stop: Stop) -> Iterator[None]:
    """One process at a time brings the copy of the catalogue in ``folder`` level. Raises Stopped, StorageError."""
    path = folder / ".milvus.turn"
    try:
        file = open(path, "ab")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop():
                    raise Stopped from None
                time.sleep(LOOK_SECONDS)
        yield


def after(seconds: float) -> Stop:
    """Says whether so many seconds are over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
