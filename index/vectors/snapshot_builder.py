"""A new built index, made from the catalogue and put on disk, beside whatever serves meanwhile.

The catalogue's vectors are read in one transaction, which ends before the building begins: other writers and SQLite's
own log do not wait for it. Killed or failed at any point, a build leaves the old snapshot and at most a file that a
later one clears away.
"""

from __future__ import annotations

import fcntl
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from index.storage.catalogue import Catalogue
from index.storage.queries import iter_embeddings, last_change
from index.vectors.faiss_kinds import Float32, Int64, Stopped, build
from index.vectors.snapshot import Label, remove_leftovers, write_snapshot

_LOOK_SECONDS = 0.2


@contextmanager
def building_alone(path: Path, stop: Callable[[], bool]) -> Iterator[bool]:
    """Whether this is the only process that builds a snapshot for ``path``, until the end of the block.

    Waits for another that builds until ``stop`` says so; False then. The system releases the lock of a process that
    is killed. Raises OSError.
    """
    with open(path.with_name(f".{path.name}.lock"), "ab") as file:
        alone = _try_to_lock(file)
        while not (alone or stop()):
            time.sleep(_LOOK_SECONDS)
            alone = _try_to_lock(file)
        yield alone


def _try_to_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def build_snapshot(catalogue: Catalogue, path: Path, width: int, kind: str, stop: Callable[[], bool]) -> Label:
    """Build an index of ``kind`` over all the catalogue holds and replace the snapshot at ``path`` by it.

    Raises Stopped soon after ``stop`` says so, OSError, StorageError, CollectionNotFound; nothing has changed then.
    """
    blocks: deque[Float32] = deque()
    all_ids: list[Int64] = [np.empty(0, np.int64)]
    with catalogue.read() as connection:
        change, stamp = last_change(connection)
        for ids, vectors in iter_embeddings(connection, width):
            if stop():
                raise Stopped
            all_ids.append(ids)
            blocks.append(vectors)
    index = build(kind, width, _taken_from(blocks), stop)
    ids = np.concatenate(all_ids)
    label = Label(catalogue.meta["collection_id"], change, stamp, width, len(ids), kind)
    write_snapshot(path, index, ids, label)
    remove_leftovers(path)
    return label


def _taken_from(blocks: deque[Float32]) -> Iterator[Float32]:
    """Each block once: its memory is free as soon as the index has it."""
    while blocks:
        yield blocks.popleft()
