"""What searches a collection's vectors, as its catalogue says."""

from __future__ import annotations

from pathlib import Path

from index.milvus.index import MilvusIndex
from index.nearest.interface import VectorIndex
from index.nearest.live import LiveIndex
from index.nearest.place import FAISS, place_of
from index.nearest.snapshot import SNAPSHOT_NAME
from index.storage.catalogue import Catalogue


def open_vector_index(catalogue: Catalogue, folder: Path, width: int) -> VectorIndex:
    """The index over vectors of ``width`` of the collection in ``folder``. Nothing is read or connected yet."""
    place = place_of(catalogue.meta)
    if place == FAISS:
        return LiveIndex(catalogue, folder / SNAPSHOT_NAME, width)
    return MilvusIndex(catalogue, folder, width, place)
