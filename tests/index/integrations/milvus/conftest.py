"""Collections with Milvus as vector backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.integrations.milvus.replication import read_replicas
from tests.index.milvus_server import MilvusUnderTest
from tests.index.sample_data import TOKENS, WIDTH, content, manifest


@pytest.fixture
def library(tmp_path: Path, milvus: MilvusUnderTest) -> Iterator[CollectionStore]:
    """A store whose collections in Milvus are dropped at the end."""
    root = tmp_path / "library"
    with CollectionStore(root, vectors=milvus.url) as library:
        yield library
    with CollectionStore(root) as library:
        for name in library.names():
            library.drop(name)


@pytest.fixture
def collection(library: CollectionStore) -> Collection:
    return library.create("videos", manifest())


def replica_name(collection: Collection) -> str:
    """The name of the current replica."""
    with collection.catalogue.read() as connection:
        current = read_replicas(connection).current
    assert current is not None
    return current.name


def reopened(collection: Collection) -> Collection:
    """The collection as another process opens it after this one was killed."""
    collection.catalogue.close()
    return Collection(collection.folder)


def many_clips(count: int, seed: int = 0) -> tuple[NewVideo, list[NewClip], np.ndarray]:
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    tokens = np.zeros(TOKENS, np.float16)
    video = NewVideo(content(10**6 + seed), f"/videos/many{seed}.mp4", f"video {seed}", 4.0 * count, 32, 18)
    return video, [NewClip(4.0 * n, 4.0 * n + 4, row, tokens) for n, row in enumerate(rows)], rows
