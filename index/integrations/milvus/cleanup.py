"""What a catalogue that was dropped leaves in Milvus goes, too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from index.integrations.milvus.file_locks import BUILDING, after, turn_among_processes
from index.integrations.milvus.replica_registry import copies_in
from index.integrations.milvus.server import MilvusServer
from index.vectors.backend import place_of
from index.vectors.faiss_kinds import Stopped
from index.vectors.snapshot_builder import building_alone
from vitascope.errors import StorageError

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0  # for whoever is making a copy, who finds out soon that the catalogue was dropped


def drop_copies(folder: Path, meta: Mapping[str, str]) -> list[str]:
    """Drop the copies of the catalogue in ``folder``, which was dropped and has this table meta.

    Returns the names of those that are left, as Milvus did not answer. Raises StorageError.
    """
    names = copies_in(meta).names()
    if not names:
        return []
    server = MilvusServer(place_of(meta))
    stop = after(_WAIT_SECONDS)
    try:
        with suppress(Stopped), building_alone(folder / BUILDING, stop), turn_among_processes(folder, stop):
            pass
        while names:
            server.drop(names[-1])
            names.pop()
    except (OSError, StorageError) as error:
        _log.warning("%s; left there, to be dropped by hand: %s", error, ", ".join(names))
    finally:
        server.close()
    return names
