"""Valid vector backends, and credentials."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from index.collection_store import CollectionStore
from index.vectors.interface import check_backend
from tests.index.milvus_server import MilvusUnderTest
from tests.index.numbered import add, manifest, new_collection, numbers_in
from tests.tools import find_tool
from vitascope.errors import InvalidInput, StorageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mysql://milvus", "vectors: 'mysql://milvus'; faiss, a URL such as http://milvus:19530"),
        ("milvus:19530", "vectors: 'milvus:19530'"),
        ("http://milvus:port", "http://milvus:19530 was expected"),
        ("http://milvus/?token=1", "vectors: "),
        ("", "vectors: ''"),
        (None, "vectors: None"),
        ("http://root:secret@milvus:19530", "VITASCOPE_MILVUS_TOKEN"),
    ],
)
def test_an_invalid_backend_is_rejected(given: object, expected: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_backend(given)
    assert expected in str(raised.value)
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
    kept = [path for path in collection.folder.rglob("*") if path.is_file() and b"SecretMilvus" in path.read_bytes()]
    assert kept == []
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
