"""Vectors in Milvus: nothing acknowledged is lost when it goes away, loses its data, or a process dies half-way."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.library import Library
from index.milvus import following, keeper, server, vectors
from index.milvus.copies import read_copies
from index.milvus.id_filter import MOST_RANGES, expressions
from index.nearest import kinds
from index.nearest.place import check_place
from index.storage.filters import parse_filter
from index.transfer.backup import back_up, restore
from index.transfer.parquet_export import export_collection
from index.transfer.parquet_import import import_collection
from tests.index.milvus_server import MilvusUnderTest
from tests.index.numbered import TOKENS, WIDTH, add, content, manifest, new_collection, numbers_in, vectors_of
from tests.tools import find_tool
from vitascope.errors import InvalidInput, StorageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def library(tmp_path: Path, milvus: MilvusUnderTest) -> Iterator[Library]:
    """A library of which nothing stays in Milvus."""
    root = tmp_path / "library"
    with Library(root, vectors=milvus.url) as library:
        yield library
    with Library(root) as library:
        for name in library.names():
            library.drop(name)


@pytest.fixture
def collection(library: Library) -> Collection:
    return library.create("videos", manifest())


def copy_of(collection: Collection) -> str:
    """The name of its collection in Milvus."""
    with collection.catalogue.read() as connection:
        current = read_copies(connection).current
    assert current is not None
    return current.name


def reopened(collection: Collection) -> Collection:
    """As another process would open it, after this one was killed."""
    collection.catalogue.close()
    return Collection(collection.folder)


def many_clips(count: int, seed: int = 0) -> tuple[NewVideo, list[NewClip], np.ndarray]:
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    tokens = np.zeros(TOKENS, np.float16)
    video = NewVideo(content(10**6 + seed), f"/videos/many{seed}.mp4", f"video {seed}", 4.0 * count, 32, 18)
    return video, [NewClip(4.0 * n, 4.0 * n + 4, row, tokens) for n, row in enumerate(rows)], rows


# Going away


def test_without_milvus_writes_stand_and_searches_say_why(
    tmp_path: Path, milvus: MilvusUnderTest, collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    add(collection, 1, 2)
    milvus.stop()
    try:
        with caplog.at_level(logging.WARNING):
            (added,) = add(collection, 3)
            collection.delete_video(1)
        assert "written, and not yet in Milvus" in caplog.text
        assert [video.id for video in collection.videos()] == [2, added]
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(StorageError, match=milvus.url):
                collection.search(vectors_of(3)[0], 5)
        assert time.monotonic() - began < 10  # it does not take the time of a call that nobody answers
        with pytest.raises(StorageError, match=milvus.url):
            Library(tmp_path / "others").create("new", manifest(), vectors=milvus.url)
        assert Library(tmp_path / "others").names() == []
    finally:
        milvus.start()
    assert numbers_in(collection) == [2, 3]


def test_a_drop_without_milvus_is_a_drop_and_says_what_is_left(
    milvus: MilvusUnderTest, library: Library, collection: Collection
) -> None:
    add(collection, 1)
    name = copy_of(collection)
    milvus.stop()
    try:
        assert library.drop("videos") == [name]
        assert library.names() == []
    finally:
        milvus.start()
    milvus.client().drop_collection(name)


# Losing data


def test_a_collection_that_milvus_lost_is_filled_again(milvus: MilvusUnderTest, collection: Collection) -> None:
    add(collection, 1, 2, 3)
    collection.delete_video(1)
    milvus.client().drop_collection(copy_of(collection))
    assert numbers_in(collection) == [2, 3]
    milvus.client().drop_collection(copy_of(collection))
    add(collection, 4)
    assert numbers_in(collection) == [2, 3, 4]
    milvus.client().drop_collection(copy_of(collection))
    assert numbers_in(reopened(collection)) == [2, 3, 4]


@pytest.mark.parametrize("lost", [[2, 3], [0], [0, 1, 2, 3, 4, 5, 6]])
def test_rows_that_milvus_lost_are_there_again_after_opening(
    milvus: MilvusUnderTest, collection: Collection, lost: list[int]
) -> None:
    add(collection, 1, 2, 3)
    milvus.client().delete(copy_of(collection), ids=lost)
    assert numbers_in(reopened(collection)) == [1, 2, 3]


def test_a_restarted_milvus_goes_on(milvus: MilvusUnderTest, collection: Collection) -> None:
    add(collection, 1, 2)
    milvus.stop()
    milvus.start()
    assert numbers_in(collection) == [1, 2]
    add(collection, 3)
    assert numbers_in(collection) == [1, 2, 3]


def test_an_older_catalogue_put_back_is_not_searched_with_what_came_later(collection: Collection) -> None:
    add(collection, 1, 2)
    old = collection.folder.parent / "old"
    collection.close()
    shutil.copytree(collection.folder, old)
    with Collection(collection.folder) as grown:
        add(grown, 3, 4)
        grown.delete_video(1)
    shutil.rmtree(collection.folder)
    old.rename(collection.folder)
    with Collection(collection.folder) as put_back:
        add(put_back, 5)  # has the number of the change that added 3
        assert numbers_in(put_back) == [1, 2, 5]
    with Collection(collection.folder) as put_back:
        assert numbers_in(put_back) == [1, 2, 5]


# Dying


CHILD = """
import os, signal, sys
from pathlib import Path
from index.collection import Collection
from index.milvus.server import MilvusServer
from tests.index.numbered import add, content

collection = Collection(Path(sys.argv[1]))
add(collection, 1, 2)
print("acknowledged", flush=True)
whole = getattr(MilvusServer, sys.argv[2])

def die(*args):
    if sys.argv[3] == "after":
        whole(*args)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(MilvusServer, sys.argv[2], die)
if sys.argv[2] == "delete":
    collection.delete_video(collection.find_by_hash(content(1)).id)
else:
    add(collection, 3)
"""


@pytest.mark.parametrize(
    ("when", "call", "expected"),
    [
        ("before", "upsert", [1, 2, 3]),
        ("before", "write_mark", [1, 2, 3]),
        ("after", "write_mark", [1, 2, 3]),
        ("before", "delete", [2]),
        ("after", "delete", [2]),
    ],
)
def test_killed_between_the_commit_and_milvus(
    collection: Collection, when: str, call: str, expected: list[int]
) -> None:
    """What was committed is found, and nothing else, when the collection is opened again, or is open elsewhere."""
    assert collection.search(vectors_of(1)[0], 5) == []  # it knows the copy that the other process writes to
    command = [sys.executable, "-c", CHILD, str(collection.folder), call, when]
    child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert (child.stdout, child.returncode) == (b"acknowledged\n", -signal.SIGKILL)
    assert numbers_in(collection) == expected
    with Collection(collection.folder) as again:
        assert numbers_in(again) == expected


def test_filling_goes_on_where_it_was_stopped(
    milvus: MilvusUnderTest, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_CLIPS_AT_ONCE", 100)
    add(collection, *range(3))
    collection.add_video(*many_clips(1000)[:2])
    milvus.client().drop_collection(copy_of(collection))
    filled: list[int] = []
    upsert = server.MilvusServer.upsert

    def upsert_until(self: server.MilvusServer, name: str, ids: np.ndarray, rows: np.ndarray) -> None:
        if len(filled) == 4:
            raise StorageError("the process is killed here")
        filled.append(int(ids[-1]))
        upsert(self, name, ids, rows)

    monkeypatch.setattr(server.MilvusServer, "upsert", upsert_until)
    with pytest.raises(StorageError, match="killed here"):
        collection.search(vectors_of(1)[0], 1)
    name = copy_of(collection)
    collection = reopened(collection)
    began_at: list[int] = []

    def noted(self: server.MilvusServer, name: str, ids: np.ndarray, rows: np.ndarray) -> None:
        began_at.append(int(ids[0]))
        upsert(self, name, ids, rows)

    monkeypatch.setattr(server.MilvusServer, "upsert", noted)
    collection.delete_video(1)
    assert began_at[0] == filled[3] + 1
    assert copy_of(collection) == name
    hits = collection.search(vectors_of(1)[0], 10_000)
    assert len(hits) == 1000 + len(vectors_of(1)) + len(vectors_of(2))


# One state


def test_a_search_sees_one_state_whatever_milvus_has_by_then(collection: Collection) -> None:
    add(collection, *range(20))
    everything = [hit.clip_id for hit in collection.search(vectors_of(3)[0], 100)]
    allowed = np.arange(200) % 3 == 1
    with collection.level() as (_, view):
        for video in collection.videos()[::2]:
            collection.delete_video(video.id)
        add(collection, *range(20, 60))
        query = vectors_of(3)[:1]
        assert view.search(query, 100)[1][0].tolist() == everything
        assert view.search(query, 5)[1][0].tolist() == everything[:5]
        assert view.search(query, 100, allowed)[1][0].tolist() == [i for i in everything if i % 3 == 1]
    assert numbers_in(collection) == [*range(1, 20, 2), *range(20, 60)]


def test_a_search_under_which_its_copy_is_replaced_goes_on_in_the_new_one(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is asked when the old one is dropped fails in words of its own."""
    collection.add_video(*many_clips(1200)[:2])
    old, search = copy_of(collection), server.MilvusServer.search
    failed: list[str] = []

    def dropped_meanwhile(self: server.MilvusServer, name: str, *args: object, **given: object) -> list[int]:
        if name == old and not failed:
            collection.set_index_kind("hnsw")
            collection.wait_for_index()
            failed.append(name)
            raise StorageError("delegator closed during wait tsafe: channel not available")
        return search(self, name, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(server.MilvusServer, "search", dropped_meanwhile)
    assert len(collection.search(vectors_of(1)[0], 10)) == 10
    assert failed == [old] != [copy_of(collection)]


def test_more_than_milvus_returns_is_found_all_the_same(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MOST_HITS", 30)
    video, clips, rows = many_clips(100)
    collection.add_video(video, clips)
    for k in (10, 60, 1000):
        found = collection.search(rows[7], k)
        expected = np.argsort(-(rows.astype(np.float64) @ rows[7]), kind="stable")[:k] + 1
        assert [hit.clip_id for hit in found] == expected.tolist()
    red = collection.search(vectors_of(1)[0], 60, parse_filter({"title": {"prefix": "video"}}))
    assert len(red) == 60


def test_threads_find_what_they_wrote_while_the_index_is_replaced(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "LEAST", dict.fromkeys(kinds.LEAST, 0))

    def write_and_look(first: int) -> None:
        for number in range(first, first + 12):
            (video_id,) = add(collection, number)
            own = [hit for hit in collection.search(vectors_of(number)[0], 3) if hit.video.id == video_id]
            assert own
            assert own[0].similarity > 0.99999
            if number % 2:
                collection.delete_video(video_id)
                hits = collection.search(vectors_of(number)[0], 100)
                assert video_id not in {hit.video.id for hit in hits}

    with ThreadPoolExecutor() as threads:
        writers = [threads.submit(write_and_look, 100 * n) for n in range(3)]
        for kind in ("hnsw", "flat", "hnsw"):
            collection.set_index_kind(kind)
            collection.wait_for_index()
        for writer in writers:
            writer.result()
    collection.wait_for_index()
    assert collection.index_state().kind == "hnsw"
    assert numbers_in(collection) == [100 * n + m for n in range(3) for m in range(0, 12, 2)]


# What others share, and do not


def test_every_catalogue_has_a_copy_of_its_own(
    tmp_path: Path, milvus: MilvusUnderTest, library: Library, collection: Collection
) -> None:
    add(collection, 1, 2)
    name = copy_of(collection)
    back_up(collection, tmp_path / "backup")
    again = restore(library, tmp_path / "backup", "again")
    here = restore(library, tmp_path / "backup", "here", vectors="faiss")
    assert (again.vectors_at, here.vectors_at) == (milvus.url, "faiss")
    export_collection(collection, tmp_path / "exported", tokens=True)
    imported = import_collection(library, tmp_path / "exported", "imported", manifest())
    add(again, 3)
    add(here, 4)
    collection.delete_video(1)
    add(imported, 5)
    found = [numbers_in(one) for one in (collection, again, here, imported)]
    assert found == [[2], [1, 2, 3], [1, 2, 4], [1, 2, 5]]
    names = [copy_of(collection), copy_of(again), copy_of(imported)]
    assert names[0] == name
    assert len(set(names)) == 3
    library.rename("videos", "renamed")
    assert numbers_in(library.open("renamed")) == [2]
    assert library.drop("renamed") == []
    assert numbers_in(again) == [1, 2, 3]
    assert set(milvus.client().list_collections()) & set(names) == set(names[1:])


def test_whoever_takes_the_place_of_a_collection_keeps_its_copy(
    milvus: MilvusUnderTest, library: Library, collection: Collection
) -> None:
    add(collection, 1)
    following = library.create("videos-next", manifest())
    add(following, 2)
    names = [copy_of(collection), copy_of(following)]
    assert library.replace("videos", "videos-next", lambda _: True)
    assert numbers_in(library.open("videos")) == [2]
    assert set(milvus.client().list_collections()) & set(names) == {names[1]}


# Kinds of index


def test_another_kind_is_filled_beside_and_the_old_copy_goes(
    milvus: MilvusUnderTest, library: Library, collection: Collection
) -> None:
    video, clips, rows = many_clips(1500)
    collection.add_video(video, clips)
    old = copy_of(collection)
    other = Collection(collection.folder)
    assert other.search(rows[0], 1)[0].clip_id == 1
    collection.set_index_kind("hnsw")
    collection.wait_for_index()
    assert collection.index_state().kind == "hnsw"
    milvus.client().flush(copy_of(collection))  # Milvus Lite builds the graph then
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
    monkeypatch.setattr(kinds, "HNSW_FROM", 1500)
    collection.add_video(*many_clips(1400, seed=1)[:2])
    collection.wait_for_index()
    assert collection.index_state().kind == "flat"
    video, clips, rows = many_clips(600, seed=2)
    collection.add_video(video, clips)
    collection.wait_for_index()
    collection.add_video(*many_clips(600, seed=3)[:2])
    collection.wait_for_index()
    assert collection.index_state().kind == "hnsw"
    assert collection.search(rows[9], 1)[0].clip_id == 1410
    assert keeper.kind_for_milvus("auto", 10**7, "hnsw") == "hnsw"


# Filters


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("most", [7, 50_000])
def test_expressions_say_which_ids_are_allowed(share: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.milvus.id_filter.MOST_IDS", most)
    random = np.random.default_rng(5)
    for mask in (random.random(1000) < share, np.repeat(random.random(20) < share, 50)):
        stated = expressions(mask)
        for i in [*range(0, 1000, 7), 49, 50, 51, 999, 1000, 1001]:
            true = sum(eval(expression, {"id": i}) for expression in stated)  # Python reads them as Milvus does
            assert true == (1 if i < len(mask) and mask[i] else 0)
    assert expressions(None) == [""]


def test_few_ids_are_named_where_few_pass_or_few_do_not() -> None:
    few = np.arange(100_000) % 1000 == 1  # 100 ids, too far apart for ranges
    assert [len(expressions(mask)[0]) < 1000 for mask in (few, ~few)] == [True, True]


def test_milvus_reads_the_longest_expressions(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    video, clips, rows = many_clips(3000)
    collection.add_video(video, clips)
    passing = {
        "ranges": np.arange(3001) // 40 % 2 == 1,
        "in": np.arange(3001) % 3 == 1,
        "not in": np.arange(3001) % 3 != 1,
    }
    assert len(expressions(passing["ranges"][: 80 * MOST_RANGES])[0].split(" or ")) == MOST_RANGES
    passing["ranges"][80 * MOST_RANGES :] = False
    for parts in (1, 4):
        monkeypatch.setattr("index.milvus.id_filter.MOST_IDS", 3000 // parts)
        for mask in passing.values():
            mask[0] = False
            with collection.level() as (_, view):
                found = view.search(rows[:3], 50, mask)[1]
            for query, ids in zip(rows[:3], found, strict=True):
                order = np.argsort(-(rows.astype(np.float64) @ query), kind="stable") + 1
                assert ids.tolist() == [i for i in order.tolist() if mask[i]][:50]


# What is typed


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
def test_places_that_cannot_be(given: object, expected: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_place(given)
    assert expected in str(raised.value)
    assert "secret" not in str(raised.value)


def test_without_pymilvus_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StorageError, match=r"install vitascope\[milvus\]"):
        new_collection(tmp_path, vectors="http://127.0.0.1:1")


def test_the_token_is_read_from_the_environment_and_kept_nowhere(
    milvus: MilvusUnderTest, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITASCOPE_MILVUS_TOKEN", "root:SecretMilvus")
    collection = library.create("videos", manifest())
    add(collection, 1)
    assert numbers_in(collection) == [1]
    kept = [path for path in collection.folder.rglob("*") if path.is_file() and b"SecretMilvus" in path.read_bytes()]
    assert kept == []
    assert "SecretMilvus" not in json.dumps(collection.catalogue.stated())


def test_a_path_is_a_milvus_lite_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_tool("milvus-lite")
    monkeypatch.chdir(tmp_path)
    with Library(tmp_path / "library", vectors="vectors.db") as library:
        collection = library.create("videos", manifest())
        assert collection.vectors_at == str(tmp_path / "vectors.db")
        add(collection, 1, 2)
        assert numbers_in(collection) == [1, 2]
        assert library.drop("videos") == []
