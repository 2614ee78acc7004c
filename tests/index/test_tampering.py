"""Damaged files of a collection: an index is refused before it is parsed, and the old one or a new one serves; a
damaged catalogue is an error of storage, whatever is damaged in it.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index.clips.segmentation import Segmentation
from index.collection import Collection, NewClip
from index.collection_store import CollectionStore
from index.jobs.jobs import list_items, list_jobs
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.fulltext import search_fulltext
from index.vectors.snapshot import SNAPSHOT_NAME, build_snapshot
from tests.chaos import rounds
from tests.index.jobs.fixtures import create_folder_job
from tests.index.numbered import WIDTH, add, content, new_collection, new_video, numbers_in, tokens_of, vectors_of
from vitascope.errors import StorageError, VitascopeError

INDEXES = rounds(80, 1000)
CATALOGUES = rounds(40, 1000)


def harm(whole: bytes, moment: random.Random) -> bytes:
    """The file with a bit flipped, or cut off somewhere."""
    if moment.random() < 0.25:
        return whole[: moment.randrange(len(whole))]
    damaged = bytearray(whole)
    damaged[moment.randrange(len(whole))] ^= 1 << moment.randrange(8)
    return bytes(damaged)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Files that FAISS was given to parse."""
    seen: list[object] = []
    read = faiss.read_index

    def reading(*arguments: Any) -> Any:
        seen.append(arguments[0])
        return read(*arguments)

    monkeypatch.setattr(faiss, "read_index", reading)
    return seen


def test_a_damaged_index_is_not_parsed_and_the_old_one_serves(tmp_path: Path, parsed: list[object]) -> None:
    moment = random.Random(1)
    query = np.ones(WIDTH)
    with new_collection(tmp_path) as collection:
        add(collection, *range(20))
    file = tmp_path / "videos" / SNAPSHOT_NAME
    with CollectionStore(tmp_path) as library:
        collection = library.open("videos")
        collection.search(query, 1)
        assert len(parsed) == 1
        add(collection, 20)
        best = collection.search(query, 100)
        build_snapshot(collection.catalogue, file, WIDTH, "flat", lambda: False)
        newer = file.read_bytes()
        parsed.clear()
        for number in range(INDEXES):
            # As another process would put it there: the file that is mapped stays what it is.
            (tmp_path / "newer").write_bytes(harm(newer, moment))
            os.replace(tmp_path / "newer", file)
            collection._vector_index.request_rebuild()
            collection.wait_for_index()
            assert collection.search(query, 100) == best
            if number % 10 == 0:  # one that starts now has no old one: it reads the vectors from the catalogue
                with CollectionStore(tmp_path) as starting:
                    assert starting.open("videos").search(query, 100) == best
                    starting.open("videos").catalogue.close()  # without a new snapshot
        assert parsed == []
        assert numbers_in(collection) == list(range(21))
        (tmp_path / "newer").write_bytes(newer)
        os.replace(tmp_path / "newer", file)
        collection._vector_index.request_rebuild()
        collection.wait_for_index()
        assert len(parsed) == 1
        assert collection.search(query, 100) == best


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed collection that holds something in every table."""
    root = tmp_path_factory.mktemp("full")
    with new_collection(root) as collection:
        add(collection, *range(4))
        clip = NewClip(0, 2, vectors_of(4)[0], tokens_of(4)[0], "what is said", b"\xff\xd8\xff\xe0 a picture")
        collection.add_video(new_video(4)[0], [clip])
        made = create_folder_job(collection, root, segmentation=Segmentation(length=2.0), metadata={"year": 2020})
        with collection.catalogue.write() as connection:
            row = (made.id, 0, "/videos/0.mp4", "title", '{"a": 1}', "queued")
            connection.execute(
                "INSERT INTO job_items (job_id, position, path, title, metadata, state) VALUES (?, ?, ?, ?, ?, ?)", row
            )
    return root / "videos"


def read_everything(root: Path) -> None:
    """All that a user can ask a collection for."""
    with CollectionStore(root) as library:
        collection = library.open("videos")
        for video in collection.videos():
            ids = [clip.id for clip in collection.clips(video.id)]
            collection.visual_tokens(ids)
            for clip_id in ids:
                collection.thumbnail(clip_id)
        collection.find_by_hash(content(2))
        collection.search(np.ones(WIDTH), 100)
        with collection.catalogue.read() as connection:
            search_fulltext(connection, ["video", "said"], 100, lambda _: True)
        for job in list_jobs(collection):
            list_items(collection, job.id)
        collection.index_state()
        add(collection, 5)
        collection.delete_video(1)


def test_a_damaged_catalogue_is_an_error_of_storage_and_nothing_else(full: Path, tmp_path: Path) -> None:
    moment = random.Random(2)
    whole = (full / CATALOGUE_NAME).read_bytes()
    refused = 0
    for number in range(CATALOGUES):
        folder = Path(shutil.copytree(full, tmp_path / str(number) / "videos"))
        damaged = whole
        for _ in range(moment.choice((1, 1, 5, 50))):
            damaged = harm(damaged, moment) or damaged
        (folder / CATALOGUE_NAME).write_bytes(damaged)
        try:
            read_everything(folder.parent)
        except VitascopeError:
            refused += 1
        shutil.rmtree(folder.parent)
    assert refused > CATALOGUES / 4


def overwrite(page: int, size: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: page * size] + b"\x55" * size + whole[(page + 1) * size :]


def test_every_page_of_a_catalogue_is_looked_at_by_the_check(full: Path, tmp_path: Path) -> None:
    whole = (full / CATALOGUE_NAME).read_bytes()
    with closing(sqlite3.connect(full / CATALOGUE_NAME)) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    folder = Path(shutil.copytree(full, tmp_path / "videos"))
    assert problems(folder) == []
    for page in range(len(whole) // size):
        (folder / CATALOGUE_NAME).write_bytes(overwrite(page, size)(whole))
        assert problems(folder), f"page {page + 1} of {len(whole) // size}"


def problems(folder: Path) -> list[str]:
    """What is wrong with a catalogue; that it cannot be opened or read, for one."""
    try:
        collection = Collection(folder)
    except StorageError as error:
        return [str(error)]
    try:
        return collection.catalogue.integrity_errors()
    except StorageError as error:
        return [str(error)]
    finally:
        collection.catalogue.close()
