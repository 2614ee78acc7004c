"""Replicas in Milvus: one per catalogue, and replaced for another kind of index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.integrations.milvus import replica_manager
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.parquet_export import export_collection
from index.transfer.parquet_import import import_collection
from index.vectors import faiss_kinds
from tests.index.integrations.milvus.conftest import many_clips, replica_name
from tests.index.milvus_server import MilvusUnderTest
from tests.index.numbered import WIDTH, add, allowed, manifest, numbers_in
from vitascope.errors import InvalidInput


def test_every_catalogue_has_its_own_replica(
    tmp_path: Path, milvus: MilvusUnderTest, library: CollectionStore, collection: Collection
) -> None:
    add(collection, 1, 2)
    name = replica_name(collection)
    backup_collection(collection, tmp_path / "backup")
    again = restore_collection(library, tmp_path / "backup", "again", allowed=allowed(library))
    here = restore_collection(library, tmp_path / "backup", "here", vectors="faiss", allowed=allowed(library))
    assert (again.vector_backend, here.vector_backend) == (milvus.url, "faiss")
    export_collection(collection, tmp_path / "exported", tokens=True)
    imported = import_collection(library, tmp_path / "exported", "imported", manifest(), allowed=allowed(library))
    add(again, 3)
    add(here, 4)
    collection.delete_video(1)
    add(imported, 5)
    numbers = [numbers_in(other) for other in (collection, again, here, imported)]
    assert numbers == [[2], [1, 2, 3], [1, 2, 4], [1, 2, 5]]
    names = [replica_name(collection), replica_name(again), replica_name(imported)]
    assert names[0] == name
    assert len(set(names)) == 3
    library.rename("videos", "renamed")
    assert numbers_in(library.open("renamed")) == [2]
    assert library.drop("renamed") == []
    assert numbers_in(again) == [1, 2, 3]
    assert set(milvus.client().list_collections()) & set(names) == set(names[1:])


def test_a_collection_that_replaces_another_keeps_its_replica(
    milvus: MilvusUnderTest, library: CollectionStore, collection: Collection
) -> None:
    add(collection, 1)
    following = library.create("videos-next", manifest())
    add(following, 2)
    names = [replica_name(collection), replica_name(following)]
    assert library.replace("videos", "videos-next", lambda _: True)
    assert numbers_in(library.open("videos")) == [2]
    assert set(milvus.client().list_collections()) & set(names) == {names[1]}


def test_a_replica_of_another_kind_replaces_the_old_one(
    milvus: MilvusUnderTest, library: CollectionStore, collection: Collection
) -> None:
    video, clips, rows = many_clips(1500)
    collection.add_video(video, clips)
    old = replica_name(collection)
    other = Collection(collection.folder)
    assert other.search(rows[0], 1)[0].clip_id == 1
    collection.set_index_kind("hnsw")
    collection.wait_for_index()
    assert collection.index_state().serving == "hnsw"
    milvus.client().flush(replica_name(collection))  # Milvus Lite builds the graph then
    queries = np.random.default_rng(1).standard_normal((20, WIDTH))
    shares = []
    for query in queries:
        expected = set((np.argsort(-(rows @ query))[:10] + 1).tolist())
        shares.append(len(expected & {hit.clip_id for hit in collection.search(query, 10)}) / 10)
    assert np.mean(shares) >= 0.99
    assert old not in milvus.client().list_collections()
    assert other.search(rows[5], 1)[0].clip_id == 6  # another process finds out by itself
    other.close()
    with pytest.raises(InvalidInput, match="index_kind: 'ivfpq'; one of auto, flat, hnsw was expected"):
        collection.set_index_kind("ivfpq")
    with pytest.raises(InvalidInput, match="index_kind: 'ivfpq'"):
        library.create("lists", manifest(), index_kind="ivfpq")


def test_a_growing_collection_gets_a_graph(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_kinds, "HNSW_FROM", 1500)
    collection.add_video(*many_clips(1400, seed=1)[:2])
    collection.wait_for_index()
    assert collection.index_state().serving == "flat"
    video, clips, rows = many_clips(600, seed=2)
    collection.add_video(video, clips)
    collection.wait_for_index()
    collection.add_video(*many_clips(600, seed=3)[:2])
    collection.wait_for_index()
    assert collection.index_state().serving == "hnsw"
    assert collection.search(rows[9], 1)[0].clip_id == 1410
    assert replica_manager.milvus_kind("auto", 10**7, "hnsw") == "hnsw"
