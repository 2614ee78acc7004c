"""A data folder of version 0.2.0, opened by this version: every media file is there, wherever the folder is now."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import get_job, list_jobs
from index.jobs.records import Job
from index.jobs.sources.source_types import UploadSource
from index.orphans import find_orphans
from index.records import Video
from index.transfer.backup import restore_collection
from index.transfer.data_backup import backup_data, list_backups, restore_data
from index.transfer.media import AllowedPaths, missing_media
from tests.chaos import is_chaos
from tests.index.killed_processes import killed_processes
from tests.service.conftest import settings_for
from tests.service.running import serving
from tests.upgrade.data_0_2_0 import RED, paths, unpacked
from tests.waiting import wait_for
from vitascope.errors import StorageError

NAMES = ["again", "another", "videos"]
FILMS = 5
"""Videos of `videos` and `again`: two uploads, two members of a shard, one in a folder."""


def test_the_fixture_is_what_0_2_0_wrote(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "there")
    assert paths(data, "again") == paths(data, "videos")
    assert all(Path(path).is_file() for path in paths(data, "videos"))
    assert len(paths(data, "videos")) == FILMS
    assert not (data / "collections" / "again" / "media").exists()


def stayed(tmp_path: Path) -> Path:
    return unpacked(tmp_path / "former")


def moved(tmp_path: Path) -> Path:
    there = unpacked(tmp_path / "there", tmp_path / "former")
    shutil.move(tmp_path / "there" / "films", tmp_path / "former" / "films")  # not a part of the data folder
    return there


def copied(tmp_path: Path) -> Path:
    """The original is still there."""
    unpacked(tmp_path / "former")
    return unpacked(tmp_path / "there", tmp_path / "former")


def linked(tmp_path: Path) -> Path:
    unpacked(tmp_path / "former")
    (tmp_path / "link").symlink_to(tmp_path / "former")
    return tmp_path / "link" / "data"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of 0.2.0, which was moved since."""
    return moved(tmp_path)


def check_films(library: CollectionStore, name: str) -> list[Video]:
    """Every video has its own file, of the right content, in the folder of its collection, unless it is external."""
    collection = library.open(name)
    videos = collection.videos()
    for video in videos:
        file = collection.media_path(video)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == video.content_sha256
        assert collection.owns(video) == file.is_relative_to(collection.folder.absolute()) == (video.title != "yellow")
    assert list(missing_media(collection)) == []
    return videos


def check_collections(library: CollectionStore) -> None:
    assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]


@pytest.mark.parametrize("setup", [stayed, moved, copied, linked])
def test_every_collection_owns_its_films(tmp_path: Path, setup: Callable[[Path], Path]) -> None:
    data = setup(tmp_path)
    with CollectionStore(data / "collections") as library:
        assert library.names() == NAMES
        check_collections(library)
        for name in NAMES:
            assert str(data.parent) not in " ".join(path for path in paths(data, name) if "yellow" not in path)


def stored_upload(collection: Collection, job: Job) -> Path:
    """The file of the job of an upload."""
    assert isinstance(job.source, UploadSource)
    return collection.media.file(job.source.stored_path)


def test_a_film_that_one_collection_deletes_stays_in_the_others(data: Path) -> None:
    """0.2.0 let a restored collection use the files of its original."""
    with CollectionStore(data / "collections") as library:
        again = library.open("again")
        for video in again.videos():
            again.delete_video(video.id)
        (left,) = (file for file in (data / "collections" / "again" / "media").rglob("*") if file.is_file())
        assert left == stored_upload(again, list_jobs(again, state="paused")[0])  # which may be resumed
        assert len(check_films(library, "videos")) == FILMS
        library.drop("videos")
        assert len(check_films(library, "another")) == 1


def test_a_service_continues_the_job_of_an_upload(data: Path, small_bundle: Path) -> None:
    with CollectionStore(data / "collections") as library:
        fingerprint = library.open("videos").fingerprint
        unfinished = list_jobs(library.open("videos"), state="queued")
        assert len(unfinished) == 1
        upload = stored_upload(library.open("videos"), unfinished[0])
        assert upload.is_file()
        paused = list_jobs(library.open("again"), state="paused")
        assert len(paused) == 1
        own = stored_upload(library.open("again"), paused[0])
        assert own.is_relative_to(data.absolute() / "collections" / "again")
        assert own.read_bytes() == upload.read_bytes()
    with serving(settings_for(small_bundle, data)) as running:
        assert running.service.model.bundle.fingerprint == fingerprint
        wait_for(
            lambda: running.client.get(f"/v1/collections/videos/jobs/{unfinished[0].id}").json()["counts"]["succeeded"]
        )
        videos = running.client.get("/v1/collections/videos/videos", params={"limit": 100}).json()["videos"]
        assert len(videos) == FILMS + 1
        for video in videos:
            if video["title"] != "yellow":
                played = running.client.get(video["media_url"])
                assert hashlib.sha256(played.content).hexdigest() == video["content_sha256"]
        # Files left by two kills become no videos, and stay until they are removed on request.
        assert not (data / "intents").exists()
        assert len(list((data / "media").rglob(f"{'0' * 64}.mp4"))) == 1
        assert len(list((data / "collections" / "videos" / "media").glob(f"upload-{'2' * 32}.mp4"))) == 1
        # Uploads are only in the folders of their collections.
        assert list((data / "media").rglob(f"{RED}.mp4")) == []


def test_an_upload_that_was_unavailable_during_the_upgrade_is_adopted_later(tmp_path: Path) -> None:
    """For instance on a mount that was missing."""
    data = unpacked(tmp_path)
    (data / "media").rename(tmp_path / "missing")
    with CollectionStore(data / "collections") as library:
        assert [video.title for video in missing_media(library.open("another"))] == ["red"]
        assert [video.title for video in missing_media(library.open("again"))] == ["red"]
    shutil.rmtree(data / "media", ignore_errors=True)
    (tmp_path / "missing").rename(data / "media")
    with open_as_service(data) as library:
        check_collections(library)


def open_as_service(data: Path) -> CollectionStore:
    """Open the store as a service does at its start."""
    return CollectionStore(data / "collections", holds_lock=True)


def test_a_catalogue_that_cannot_be_opened_keeps_all_former_files(data: Path) -> None:
    catalogue = data / "collections" / "again" / "catalogue.sqlite3"
    sound = catalogue.read_bytes()
    catalogue.write_bytes(sound[:4096] + os.urandom(len(sound) - 4096))
    with CollectionStore(data / "collections") as library:
        assert len(check_films(library, "videos")) == FILMS
    assert len(list((data / "media").rglob(f"{RED}.mp4"))) == 2
    catalogue.write_bytes(sound)
    for left in catalogue.parent.glob("catalogue.sqlite3-*"):
        left.unlink()
    with CollectionStore(data / "collections") as library:
        check_collections(library)


def test_a_collection_that_was_restored_into_another_data_folder_finds_its_films_in_the_first(tmp_path: Path) -> None:
    """0.2.0 let it use them there; the first folder is upgraded first."""
    first = unpacked(tmp_path / "first")
    second = tmp_path / "second" / "data"
    (second / "collections" / "again").mkdir(parents=True)
    shutil.copy(first / "collections" / "again" / "catalogue.sqlite3", second / "collections" / "again")
    with CollectionStore(first / "collections") as library:
        assert len(check_films(library, "videos")) == FILMS
    with CollectionStore(second / "collections") as library:
        assert len(check_films(library, "again")) == FILMS


def test_nothing_is_upgraded_beside_a_service_of_0_2_0(tmp_path: Path) -> None:
    data = unpacked(tmp_path)
    with open(data / "service.lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="in use by a service of it; stop that service first"):
            CollectionStore(data / "collections")
    with closing(sqlite3.connect(data / "collections" / "videos" / "catalogue.sqlite3")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)


def test_a_file_of_another_store_with_such_a_name_stays_external(tmp_path: Path) -> None:
    """That store also names files by their content, but is no data folder."""
    data = unpacked(tmp_path)
    store = tmp_path / "store" / "media" / "films" / f"{RED}.mp4"
    store.parent.mkdir(parents=True)
    shutil.copy(data / "media" / "another" / f"{RED}.mp4", store)
    with closing(sqlite3.connect(data / "collections" / "another" / "catalogue.sqlite3")) as connection:
        connection.execute("UPDATE videos SET path = ?", (str(store),))
        connection.commit()
    with CollectionStore(data / "collections") as library:
        (video,) = library.open("another").videos()
        assert video.path == str(store)
        library.drop("another")
    assert store.is_file()


def test_a_copy_that_0_2_0_made_is_restored_with_its_films(data: Path, tmp_path: Path) -> None:
    """`vitascope backup` of 0.2.0 wrote the catalogues and both folders with media as they were."""
    copy = tmp_path / "copies" / "2026-01-01T00-00-00Z"
    for name in NAMES:
        (copy / "collections" / name).mkdir(parents=True)
        shutil.copy(data / "collections" / name / "catalogue.sqlite3", copy / "collections" / name)
    shutil.copytree(data / "collections" / "videos" / "media", copy / "collections" / "videos" / "media")
    shutil.copytree(data / "media", copy / "media")
    shutil.rmtree(data)
    restored = tmp_path / "restored"
    assert restore_data(copy, restored, AllowedPaths([tmp_path], restored)) == NAMES
    with CollectionStore(restored / "collections") as library:
        check_collections(library)
    assert list((restored / "media").rglob(f"{RED}.mp4")) == []
    # A backup by this version is restored as well.
    (tmp_path / "new").mkdir()
    backup_data(restored, tmp_path / "new", keep=1)
    (made,) = list_backups(tmp_path / "new")
    restore_data(made, tmp_path / "elsewhere", AllowedPaths([tmp_path], tmp_path / "elsewhere"))
    with CollectionStore(tmp_path / "elsewhere" / "collections") as library:
        check_collections(library)


def test_a_backup_that_0_2_0_made_is_restored_with_the_films_of_its_original(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "videos.sqlite3"
    shutil.copy(data / "collections" / "videos" / "catalogue.sqlite3", backup)
    with CollectionStore(data / "collections") as library:
        restored = restore_collection(library, backup, "third", allowed=AllowedPaths([tmp_path], data))
        assert get_job(restored, 4).state == "paused"
        library.drop("videos")
        library.rename("third", "videos")
        assert len(check_films(library, "videos")) == FILMS


def test_killed_at_any_step_of_the_upgrade_it_is_finished_by_the_next_opening(tmp_path: Path) -> None:
    unpacked(tmp_path / "former" / "place", tmp_path / "place")  # the data folder is moved for each step
    (tmp_path / "place").mkdir()
    shutil.move(tmp_path / "former" / "place" / "films", tmp_path / "place" / "films")
    with killed_processes() as processes:
        for step in itertools.count(0, 1 if is_chaos() else 5):
            data = Path(shutil.copytree(tmp_path / "former" / "place" / "data", tmp_path / str(step) / "data"))
            is_complete = processes.run("upgrade", data, step)
            with open_as_service(data) as library:
                check_collections(library)
                assert sorted(orphan.file.name[:8] for orphan in find_orphans(library)) == ["00000000", "upload-2"]
            if is_complete:
                break
    assert step > 10
