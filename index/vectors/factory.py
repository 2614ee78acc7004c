"""What searches a collection's vectors, as its catalogue says."""

from __future__ import annotations

from pathlib import Path

from index.integrations.milvus.index import MilvusIndex
from index.storage.catalogue import Catalogue
from index.vectors.backend import FAISS, place_of
from index.vectors.faiss_index import LiveIndex
from index.vectors.interface import VectorIndex
from index.vectors.snapshot import SNAPSHOT_NAME


def open_vector_index(catalogue: Catalogue, folder: Path, width: int) -> VectorIndex:
    """The index over vectors of ``width`` of the collection in ``folder``. Nothing is read or connected yet."""
    place = place_of(catalogue.meta)
    if place == FAISS:
        return LiveIndex(catalogue, folder / SNAPSHOT_NAME, width)
    return MilvusIndex(catalogue, folder, width, place)
