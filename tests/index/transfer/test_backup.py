"""Backup and restore of a collection in use."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, list_items, list_jobs, pause, resume
from index.jobs.lease import new_owner
from index.recognitions import load_video_text, store_captions, store_screen_text, store_speech
from index.storage import job_transitions
from index.storage import transfer as storage
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.fulltext import match_words, parse_words
from index.transfer.backup import backup_collection, restore_collection
from index.video_text import ClipCaption
from tests.index.jobs.fixtures import create_folder_job
from tests.index.killed_processes import ROOT
from tests.index.sample_data import WIDTH, WITH_TEXT, add, allowed, numbers_in
from tests.index.sample_data import manifest as numbers_manifest
from vitascope.cli.main import main
from vitascope.errors import CollectionExists, InvalidInput, StorageError, VitascopeError
from vitascope.speech.interface import SpeechSegment


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy a small collection in many steps."""
    monkeypatch.setattr(storage, "COPY_PAGES", 2)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose collection has videos 0 to 39; to be copied."""
    root = tmp_path_factory.mktemp("template") / "library"
    with CollectionStore(root) as library:
        add(library.create("videos", numbers_manifest()), *range(40))
    return root


@pytest.fixture
def library(tmp_path: Path, template: Path) -> Iterator[CollectionStore]:
    shutil.copytree(template, tmp_path / "library")
    with CollectionStore(tmp_path / "library") as library:
        yield library


@pytest.fixture
def collection(library: CollectionStore) -> Collection:
    return library.open("videos")


def test_a_restored_collection_equals_the_original(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    for victim in (3, 17, 40):
        collection.delete_video(victim)
    size = backup_collection(collection, tmp_path / "videos.backup")
    assert size == (tmp_path / "videos.backup").stat().st_size
    copy = restore_collection(library, tmp_path / "videos.backup", "copy", allowed=allowed(library))
    assert copy.catalogue.integrity_errors() == []
    assert numbers_in(copy) == numbers_in(collection)
    assert copy.videos(100) == collection.videos(100)
    query = np.arange(1.0, WIDTH + 1)
    assert copy.search(query, 100) == collection.search(query, 100)
    # They are independent, and ids are not assigned again.
    assert add(copy, 100) == [41]
    assert numbers_in(collection) == [n for n in range(40) if n not in (2, 16, 39)]
    assert copy.catalogue.meta["collection_id"] != collection.catalogue.meta["collection_id"]


def test_a_restored_collection_has_the_stemming_of_the_original(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    store_speech(collection, 1, [SpeechSegment(0, 1, "a university")], model="a model")
    collection.set_stemming("none")
    backup_collection(collection, tmp_path / "videos.backup")
    copy = restore_collection(library, tmp_path / "videos.backup", "copy", allowed=allowed(library))
    assert copy.stemming() == "none"
    with copy.catalogue.read() as connection:
        spoken = [match_words(connection, parse_words([text])).clips for text in ("universe", "university")]
    assert [len(clips) for clips in spoken] == [0, 1]


def test_edits_are_restored_with_what_they_replaced(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    collection.edit_video(1, title="edited", metadata={"color": None}, texts=["one word"])
    store_speech(collection, 2, WITH_TEXT.transcript, model="recognizer")
    store_screen_text(collection, 2, WITH_TEXT.screen_text, "reader")
    clip = collection.clips(2)[0]
    captions = [ClipCaption(clip.start, clip.end, "a dog"), ClipCaption(1000, 1001, "of a clip that is not there")]
    store_captions(collection, 2, captions, "captioner")
    backup_collection(collection, tmp_path / "b")
    copy = restore_collection(library, tmp_path / "b", "copy", allowed=allowed(library))
    assert copy.get_video(1) == collection.get_video(1)
    assert copy.get_video(1).source_values.title == "video 0"
    for video_id in (1, 2):
        assert copy.clips(video_id) == collection.clips(video_id)
        assert load_video_text(copy, video_id) == load_video_text(collection, video_id)
    assert load_video_text(copy, 2).transcript == WITH_TEXT.transcript
    assert load_video_text(copy, 2).captions == tuple(captions[:1])


def test_jobs_of_a_restored_collection_are_paused(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    queued, running, leaving, paused, done = (create_folder_job(collection, tmp_path).id for _ in range(5))
    with collection.catalogue.write() as connection:
        for number, job_id in enumerate((running, leaving)):
            job_transitions.claim(connection, job_id, new_owner())
            row = (job_id, 0, str(number), "running")
            connection.execute("INSERT INTO job_items (job_id, position, path, state) VALUES (?, ?, ?, ?)", row)
    pause(collection, paused)
    cancel(collection, leaving)
    with collection.catalogue.write() as connection:
        job_transitions.finish(connection, done, "succeeded")
    before = {job.id: (job.state, job.requested, job.counts) for job in list_jobs(collection)}
    backup_collection(collection, tmp_path / "b")
    copy = restore_collection(library, tmp_path / "b", "copy", allowed=allowed(library))
    reason = "the collection was restored from a backup: resume the job to go on with it"
    assert {job.id: (job.state, job.error) for job in list_jobs(copy)} == {
        queued: ("paused", reason),
        running: ("paused", reason),
        leaving: ("cancelled", None),
        paused: ("paused", None),
        done: ("succeeded", None),
    }
    (item,) = list_items(copy, running)
    assert (item.state, item.crashes) == ("queued", 0)
    resumed = resume(copy, running)
    assert (resumed.state, resumed.error) == ("queued", None)
    assert {job.id: (job.state, job.requested, job.counts) for job in list_jobs(collection)} == before


def test_writes_after_the_start_are_not_included_and_do_not_restart_it(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    steps: list[int] = []

    def write(done: int, total: int) -> None:
        add(collection, 100 + len(steps))
        if len(steps) == 2:
            collection.delete_video(5)
        steps.append(done)

    backup_collection(collection, tmp_path / "b", write)
    assert len(steps) > 5
    assert steps == sorted(steps)
    assert numbers_in(restore_collection(library, tmp_path / "b", "copy", allowed=allowed(library))) == list(range(40))
    assert len(numbers_in(collection)) == 39 + len(steps)


KILLED = """
import sys, time
from pathlib import Path
from index.storage import transfer
from index.transfer import backup
from index.collection_store import CollectionStore

transfer.COPY_PAGES = 2
def wait(done, total):
    if done > total / 2:
        print("half", flush=True)
        time.sleep(600)
backup.backup_collection(CollectionStore(Path(sys.argv[1])).open("videos"), Path(sys.argv[2]), wait)
"""


def test_a_backup_killed_half_way_leaves_no_file(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    file = tmp_path / "backups" / "videos"
    file.parent.mkdir()
    backup_collection(collection, file)
    before = file.read_bytes()
    add(collection, 50, 51)
    command = [sys.executable, "-c", KILLED, str(library.root), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        os.kill(process.pid, signal.SIGKILL)
    assert file.read_bytes() == before
    leftovers = [entry for entry in file.parent.iterdir() if entry != file]
    assert leftovers
    # The next backup removes files of an hour ago, and no newer ones.
    fresh = file.parent / f".videos-{'0' * 32}"
    fresh.touch()
    for entry in leftovers:
        os.utime(entry, (1, 1))
    backup_collection(collection, file)
    assert sorted(file.parent.iterdir()) == sorted([file, fresh])
    assert numbers_in(restore_collection(library, file, "copy", allowed=allowed(library))) == [*range(40), 50, 51]


def damage(path: Path) -> None:
    """Overwrite the first page of table vectors."""
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'vectors'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x55" * size)


def test_a_damaged_collection_does_not_replace_a_good_backup(tmp_path: Path, library: CollectionStore) -> None:
    collection = library.create("broken", numbers_manifest())
    add(collection, *range(10))
    backup_collection(collection, tmp_path / "b")
    collection.close()
    damage(library.root / "broken" / CATALOGUE_NAME)
    with pytest.raises(StorageError, match=r"no backup of collection broken was written: .*(damaged|malformed)"):
        backup_collection(library.open("broken"), tmp_path / "b")
    assert numbers_in(restore_collection(library, tmp_path / "b", "copy", allowed=allowed(library))) == list(range(10))


def test_a_damaged_backup_becomes_no_collection(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    backup_collection(collection, tmp_path / "b")
    damage(tmp_path / "b")
    with pytest.raises(StorageError, match="b: cannot be restored: table vectors is damaged: "):
        restore_collection(library, tmp_path / "b", "copy", allowed=allowed(library))
    assert library.names() == ["videos"]
    assert [entry.name for entry in library.root.iterdir()] == ["videos"]


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, library: CollectionStore, collection: Collection) -> None:
    note, other = tmp_path / "note", tmp_path / "other"
    note.write_text("not a database")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    add(collection, 90)
    for file, problem in (
        (tmp_path / "none", "does not exist"),
        (note, "is not an SQLite file"),
        (other, "is not a catalogue of Vitascope"),
        (library.root / "videos" / CATALOGUE_NAME, "is in use"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            restore_collection(library, file, "copy", allowed=allowed(library))
    backup_collection(collection, tmp_path / "b")
    with pytest.raises(CollectionExists, match="videos"):
        restore_collection(library, tmp_path / "b", "videos", allowed=allowed(library))
    with closing(sqlite3.connect(tmp_path / "b")) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(InvalidInput, match="has catalogue schema 999"):
        restore_collection(library, tmp_path / "b", "copy", allowed=allowed(library))
    assert library.names() == ["videos"]


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_backup_overwrites_only_backups(
    tmp_path: Path,
    library: CollectionStore,
    collection: Collection,
    capsys: pytest.CaptureFixture[str],
    is_remote: bool,
) -> None:
    note = tmp_path / "note"
    note.write_text("notes")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file, problem in (
        (note, "exists and is not an SQLite file"),
        (pipe, "exists and is not a regular file"),
        (library.root / "videos" / CATALOGUE_NAME, "is in the folder of a collection"),
        (library.root / "videos" / "copy", "is in the folder of a collection"),
        (tmp_path / "missing" / "b", "is not a folder"),
    ):
        if is_remote:  # no service answers there
            words = ["collection", "backup", "videos", str(file), "--server", "http://127.0.0.1:9"]
            assert main(words) == 2
            assert problem in capsys.readouterr().err
            continue
        with pytest.raises(VitascopeError, match=problem):
            backup_collection(collection, file)
    assert note.read_text() == "notes"
    assert numbers_in(collection) == list(range(40))
