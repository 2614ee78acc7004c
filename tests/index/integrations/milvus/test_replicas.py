"""Replicas in Milvus: one per catalogue, replaced for another kind of index; the backend setting and credentials."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.integrations.milvus import replica_manager
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.parquet import export_collection, import_collection
from index.vectors import faiss_kinds
from index.vectors.interface import check_backend
from tests.index.integrations.milvus.conftest import many_clips, replica_name
from tests.index.milvus_server import MilvusUnderTest
from tests.index.sample_data import WIDTH, add, allowed, manifest, new_collection, numbers_in
from tests.tools import find_tool
from vitascope.errors import InvalidInput, StorageError


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
    assert other.search(rows[5], 1)[0].clip_id == 6  # as another process
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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mysql://milvus", "vectors: 'mysql://milvus'; faiss, a URL such as http://milvus:19530"),
        ("milvus:19530", "vectors: 'milvus:19530'"),
        ("http://milvus:port", "http://milvus:19530 was expected"),
        ("http://milvus/?token=1", "vectors: "),
        ("", "vectors: ''"),
        (None, "vectors: None"),
        ("http://root:secret@milvus:19530", "VITASCOPE_MILVUS_TOKEN"),
        ("milvus:http://root:secret@milvus:19530", "VITASCOPE_MILVUS_TOKEN"),
    ],
)
def test_an_invalid_backend_is_rejected(value: object, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_backend(value)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


def test_without_pymilvus_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StorageError, match=r"pip install 'vitascope\[milvus\]'"):
        new_collection(tmp_path, vectors="http://127.0.0.1:1")


def test_the_token_is_read_from_the_environment_and_never_stored(
    milvus: MilvusUnderTest, library: CollectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITASCOPE_MILVUS_TOKEN", "root:SecretMilvus")
    collection = library.create("videos", manifest())
    add(collection, 1)
    assert numbers_in(collection) == [1]
    files = [path for path in collection.folder.rglob("*") if path.is_file() and b"SecretMilvus" in path.read_bytes()]
    assert files == []
    assert "SecretMilvus" not in json.dumps(collection.catalogue.read_meta())


def test_a_path_is_a_milvus_lite_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_tool("milvus-lite")
    monkeypatch.chdir(tmp_path)
    with CollectionStore(tmp_path / "library", vectors="vectors.db") as library:
        collection = library.create("videos", manifest())
        assert collection.vector_backend == str(tmp_path / "vectors.db")
        add(collection, 1, 2)
        assert numbers_in(collection) == [1, 2]
        assert library.drop("videos") == []
