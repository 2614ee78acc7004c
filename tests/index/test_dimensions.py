"""Collections of truncated embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.parquet import export_collection, import_collection
from tests.index.sample_data import WIDTH, add, allowed, manifest, numbers_in, vectors_of
from vitascope.bundle.manifest import Manifest
from vitascope.errors import InvalidInput
from vitascope.scoring import truncate

DIMENSIONS = 5
NUMBERS = range(12)


def matryoshka() -> Manifest:
    return manifest().model_copy(update={"matryoshka_dimensions": [DIMENSIONS, 3]})


@pytest.fixture
def library(tmp_path: Path) -> Iterator[CollectionStore]:
    with CollectionStore(tmp_path / "data" / "collections") as library:
        add(library.create("small", matryoshka(), dimensions=DIMENSIONS), *NUMBERS)
        yield library


def stored_embeddings(collection: Collection) -> np.ndarray:
    with collection.catalogue.read() as connection:
        rows = connection.execute("SELECT vector FROM vectors ORDER BY clip_id").fetchall()
    return np.stack([np.frombuffer(blob, "<f4") for (blob,) in rows])


def check_small(collection: Collection) -> None:
    """Check the embeddings of a collection with the videos ``NUMBERS``, and that whole embeddings find them."""
    assert collection.embed_dim == DIMENSIONS
    expected = truncate(np.concatenate([vectors_of(number) for number in NUMBERS]), DIMENSIONS)
    np.testing.assert_allclose(stored_embeddings(collection), expected, atol=1e-6)
    assert numbers_in(collection) == list(NUMBERS)
    query = vectors_of(3)[0]
    similarities = [hit.similarity for hit in collection.search(query, 100)]
    np.testing.assert_allclose(similarities, np.sort(expected @ truncate(query[None], DIMENSIONS)[0])[::-1], atol=1e-6)


def test_embeddings_are_truncated_in_the_index_and_in_queries(library: CollectionStore) -> None:
    check_small(library.open("small"))
    with CollectionStore(library.root) as again:
        collection = again.open("small")
        check_small(collection)
        with pytest.raises(InvalidInput, match=rf"shape \({DIMENSIONS},\); \({WIDTH},\) was expected"):
            collection.search(np.ones(DIMENSIONS), 1)


def test_copies_keep_their_dimensions(library: CollectionStore, tmp_path: Path) -> None:
    small, paths = library.open("small"), allowed(library)
    backup_collection(small, tmp_path / "small.sqlite3")
    check_small(restore_collection(library, tmp_path / "small.sqlite3", "restored", allowed=paths))
    export_collection(small, tmp_path / "export", tokens=True)
    check_small(import_collection(library, tmp_path / "export", "imported", matryoshka(), allowed=paths))
    with pytest.raises(InvalidInput, match=f"vector_width: dimensions: {DIMENSIONS}; {WIDTH} was expected"):
        import_collection(library, tmp_path / "export", "another", manifest(), allowed=paths)


def test_only_dimensions_of_the_model_are_accepted(library: CollectionStore) -> None:
    with pytest.raises(InvalidInput, match=f"dimensions: 4; {WIDTH}, {DIMENSIONS} or 3 was expected"):
        library.create("other", matryoshka(), dimensions=4)
    with pytest.raises(InvalidInput, match=f"dimensions: {DIMENSIONS}; {WIDTH} was expected for embeddings of numbers"):
        library.create("other", manifest(), dimensions=DIMENSIONS)
    assert library.create("whole", matryoshka(), dimensions=WIDTH).embed_dim == WIDTH
