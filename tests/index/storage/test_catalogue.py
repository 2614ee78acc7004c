"""The catalogue: durable settings, transactions, rejected and damaged files, a full disk."""

from __future__ import annotations

import random
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.clips.rules import Segmentation
from index.collection import Collection, NewClip
from index.collection_store import CollectionStore
from index.jobs.jobs import list_items, list_jobs
from index.storage import catalogue as catalogue_module
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.fulltext import match_words, parse_words
from index.storage.schema import SCHEMA_VERSION
from tests.chaos import rounds
from tests.index.jobs.fixtures import create_folder_job
from tests.index.sample_data import WIDTH, add, content, new_collection, new_video, numbers_in, tokens_of, vectors_of
from vitascope.errors import CollectionNotFound, StorageError, VitascopeError

DAMAGED_CATALOGUES = rounds(40, 1000)


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_commits_are_synced_and_references_enforced(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        with collection.catalogue.write() as connection:
            assert pragma(connection, "journal_mode") == "wal"
            assert pragma(connection, "synchronous") == 2  # FULL
            assert pragma(connection, "foreign_keys") == 1
        with pytest.raises(StorageError, match="FOREIGN KEY"), collection.catalogue.write() as connection:
            connection.execute("INSERT INTO clips (video_id, start, end) VALUES (99, 0, 1)")


def write_half(collection: Collection) -> None:
    with collection.catalogue.write() as connection:
        connection.execute("INSERT INTO meta VALUES ('half', 'done')")
        raise ZeroDivisionError


def test_a_failed_write_is_rolled_back(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        with pytest.raises(ZeroDivisionError):
            write_half(collection)
        with collection.catalogue.read() as connection:
            assert connection.execute("SELECT * FROM meta WHERE key = 'half'").fetchall() == []
        add(collection, 1)


class Interrupted:
    """A connection that raises KeyboardInterrupt just after its first transaction has begun."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_pressed = False

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        cursor = self._connection.execute(statement, *values)
        if statement.startswith("BEGIN") and not self._is_pressed:
            self._is_pressed = True
            raise KeyboardInterrupt
        return cursor

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def test_ctrl_c_at_the_start_of_a_transaction_releases_it(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        collection.catalogue._writer = Interrupted(collection.catalogue._writer)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            add(collection, 1)
        add(collection, 2)
        assert numbers_in(collection) == [2]


def test_a_reader_keeps_its_state_during_writes(tmp_path: Path) -> None:
    count = "SELECT count(*) FROM videos"
    with new_collection(tmp_path) as collection, collection.catalogue.read() as connection:
        assert connection.execute(count).fetchone()[0] == 0
        writer = threading.Thread(target=add, args=(collection, 1, 2))
        writer.start()
        writer.join()
        assert connection.execute(count).fetchone()[0] == 0
        assert collection.stats().videos == 2


def change_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def write_another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_version, f"catalogue schema {SCHEMA_VERSION + 1}; this version reads 1"),
        (write_another_database, "application id 0x0; a catalogue was expected"),
        (lambda path: path.write_bytes(b"no database at all" * 100), "not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "malformed"),
        (lambda path: path.write_bytes(b""), "application id 0x0"),
    ],
)
def test_a_file_that_is_not_a_catalogue_of_this_version_is_rejected(
    tmp_path: Path, spoil: object, message: str
) -> None:
    new_collection(tmp_path).close()
    assert callable(spoil)
    spoil(tmp_path / "videos" / CATALOGUE_NAME)
    with pytest.raises(StorageError, match=message):
        CollectionStore(tmp_path).open("videos")


def test_opening_never_creates_a_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFound, match="nothing"):
        Collection(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_collection_that_is_dropped_while_it_is_opened_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_collection(tmp_path).close()
    connect = sqlite3.connect

    def dropped(*arguments: Any, **options: Any) -> sqlite3.Connection:
        shutil.rmtree(tmp_path / "videos")
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", dropped)
    with pytest.raises(CollectionNotFound, match="videos: no collection of this name"):
        Collection(tmp_path / "videos")


def test_a_writer_in_another_process_that_never_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_collection(tmp_path).close()
    monkeypatch.setattr(catalogue_module, "BUSY_SECONDS", 0.05)
    with (
        CollectionStore(tmp_path).open("videos") as collection,
        closing(sqlite3.connect(tmp_path / "videos" / CATALOGUE_NAME, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            collection.add_video(*new_video(1))
        assert collection.search(np.ones(WIDTH), 3) == []
        other.execute("ROLLBACK")
        add(collection, 1)
        assert numbers_in(collection) == [1]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Simulate a full disk: no file can grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def add_until_it_fails(collection: Collection, acknowledged: list[int]) -> None:
    for number in range(acknowledged[-1] + 1, 1000):
        collection.add_video(*new_video(number))
        acknowledged.append(number)


def test_on_a_full_disk_writes_fail_reads_work_and_it_recovers(tmp_path: Path) -> None:
    collection = new_collection(tmp_path)
    acknowledged = [0, 1, 2]
    first_ids = add(collection, *acknowledged)
    log = tmp_path / "videos" / f"{CATALOGUE_NAME}-wal"
    with files_no_larger_than(log.stat().st_size + 100_000):
        with pytest.raises(StorageError, match=CATALOGUE_NAME):
            add_until_it_fails(collection, acknowledged)
        assert len(acknowledged) > 3
        assert numbers_in(collection) == acknowledged
        assert collection.search(np.ones(WIDTH), 5)
    collection.delete_video(first_ids[1])
    acknowledged.remove(1)
    add(collection, 5000)
    assert numbers_in(collection) == [*acknowledged, 5000]
    assert collection.catalogue.integrity_errors() == []
    collection.close()


def test_a_full_disk_prevents_the_snapshot_but_loses_no_data(tmp_path: Path) -> None:
    collection = new_collection(tmp_path)
    add(collection, *range(30))
    with files_no_larger_than(100):
        collection.close()
    with CollectionStore(tmp_path).open("videos") as again:
        assert numbers_in(again) == list(range(30))


def harm(whole: bytes, draw: random.Random) -> bytes:
    """Return the bytes with a bit flipped, or truncated."""
    if draw.random() < 0.25:
        return whole[: draw.randrange(len(whole))]
    damaged = bytearray(whole)
    damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a closed collection with rows in every table."""
    root = tmp_path_factory.mktemp("full")
    with new_collection(root) as collection:
        add(collection, *range(4))
        clip = NewClip(0, 2, vectors_of(4)[0], tokens_of(4)[0], "spoken words", b"\xff\xd8\xff\xe0 a picture")
        collection.add_video(new_video(4)[0], [clip])
        made = create_folder_job(collection, root, segmentation=Segmentation(length=2.0), metadata={"year": 2020})
        with collection.catalogue.write() as connection:
            row = (made.id, 0, "/videos/0.mp4", "title", '{"a": 1}', "queued")
            connection.execute(
                "INSERT INTO job_items (job_id, position, path, title, metadata, state) VALUES (?, ?, ?, ?, ?, ?)", row
            )
    return root / "videos"


def read_everything(root: Path) -> None:
    """Use every read of a collection, and two writes."""
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
            match_words(connection, parse_words(["video spoken"]))
        for job in list_jobs(collection):
            list_items(collection, job.id)
        collection.index_state()
        add(collection, 5)
        collection.delete_video(1)


def test_a_damaged_catalogue_is_a_storage_error_or_reads_well(full: Path, tmp_path: Path) -> None:
    draw = random.Random(2)
    whole = (full / CATALOGUE_NAME).read_bytes()
    rejected = 0
    for number in range(DAMAGED_CATALOGUES):
        folder = Path(shutil.copytree(full, tmp_path / str(number) / "videos"))
        damaged = whole
        for _ in range(draw.choice((1, 1, 5, 50))):
            damaged = harm(damaged, draw) or damaged
        (folder / CATALOGUE_NAME).write_bytes(damaged)
        try:
            read_everything(folder.parent)
        except VitascopeError:
            rejected += 1
        shutil.rmtree(folder.parent)
    assert rejected > DAMAGED_CATALOGUES / 4


def integrity_problems(folder: Path) -> list[str]:
    """Return the integrity errors of a catalogue, or why it cannot be opened."""
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


def test_the_integrity_check_reads_every_page(full: Path, tmp_path: Path) -> None:
    whole = (full / CATALOGUE_NAME).read_bytes()
    with closing(sqlite3.connect(full / CATALOGUE_NAME)) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    folder = Path(shutil.copytree(full, tmp_path / "videos"))
    assert integrity_problems(folder) == []
    for page in range(len(whole) // size):
        (folder / CATALOGUE_NAME).write_bytes(whole[: page * size] + b"\x55" * size + whole[(page + 1) * size :])
        assert integrity_problems(folder), f"page {page + 1} of {len(whole) // size}"


def test_the_integrity_check_accepts_what_another_process_has_written(tmp_path: Path) -> None:
    collection = new_collection(tmp_path)
    add(collection, 1)
    assert collection.catalogue.integrity_errors() == []
    other = Collection(collection.folder)
    add(other, 2)
    other.delete_video(1)
    assert collection.catalogue.integrity_errors() == []
