"""A data folder of version 0.2.0, opened by this version: every film is there, wherever the folder is by now."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
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
from tests.index.transfer.switching import DIED
from tests.service.conftest import settings_for
from tests.service.running import serving
from tests.upgrade.data_0_2_0 import RED, paths, unpacked
from tests.waiting import wait_for
from vitascope.errors import StorageError

ROOT = Path(__file__).parents[2]
NAMES = ["again", "another", "videos"]
FILMS = 5
"""Of `videos` and `again`: two uploads, two members of a shard, a film in a folder."""


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
    found = collection.videos()
    for video in found:
        file = collection.media_path(video)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == video.content_sha256
        assert collection.owns(video) == file.is_relative_to(collection.folder.absolute()) == (video.title != "yellow")
    assert list(missing_media(collection)) == []
    return found


@pytest.mark.parametrize("happened", [stayed, moved, copied, linked])
def test_every_collection_owns_its_films(tmp_path: Path, happened: Callable[[Path], Path]) -> None:
    data = happened(tmp_path)
    with CollectionStore(data / "collections") as library:
        assert library.names() == NAMES
        assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]
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


def test_a_service_goes_on_with_the_job_of_an_upload(data: Path, small_bundle: Path) -> None:
    with CollectionStore(data / "collections") as library:
        fingerprint = library.open("videos").fingerprint
        unfinished = list_jobs(library.open("videos"), state="queued")
        assert len(unfinished) == 1
        held = stored_upload(library.open("videos"), unfinished[0])
        assert held.is_file()
        resting = list_jobs(library.open("again"), state="paused")
        assert len(resting) == 1
        own = stored_upload(library.open("again"), resting[0])
        assert own.is_relative_to(data.absolute() / "collections" / "again")
        assert own.read_bytes() == held.read_bytes()
    with serving(settings_for(small_bundle, data)) as running:
        assert running.service.model.bundle.fingerprint == fingerprint
        wait_for(
            lambda: running.client.get(f"/v1/collections/videos/jobs/{unfinished[0].id}").json()["counts"]["succeeded"]
        )
        found = running.client.get("/v1/collections/videos/videos", params={"limit": 100}).json()["videos"]
        assert len(found) == FILMS + 1
        for video in found:
            if video["title"] != "yellow":
                played = running.client.get(video["media_url"])
                assert hashlib.sha256(played.content).hexdigest() == video["content_sha256"]
        # What two kills had left half done is no film; it stays until it is removed on request.
        assert not (data / "intents").exists()
        assert len(list((data / "media").rglob(f"{'0' * 64}.mp4"))) == 1
        assert len(list((data / "collections" / "videos" / "media").glob(f"upload-{'2' * 32}.mp4"))) == 1
        # Uploads lie in the folders of their collections alone.
        assert list((data / "media").rglob(f"{RED}.mp4")) == []


def test_an_upload_whose_file_came_back_only_after_the_upgrade_is_a_film_again(tmp_path: Path) -> None:
    """As on a mount that was away."""
    data = unpacked(tmp_path)
    (data / "media").rename(tmp_path / "away")
    with CollectionStore(data / "collections") as library:
        assert [video.title for video in missing_media(library.open("another"))] == ["red"]
        assert [video.title for video in missing_media(library.open("again"))] == ["red"]
    shutil.rmtree(data / "media", ignore_errors=True)
    (tmp_path / "away").rename(data / "media")
    with serving_library(data) as library:
        assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]


def serving_library(data: Path) -> CollectionStore:
    """The library as a service that starts opens it."""
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
        assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]


def test_a_collection_that_was_restored_into_another_data_folder_finds_its_films_in_the_first(tmp_path: Path) -> None:
    """By 0.2.0, which let it use them there; and the first was upgraded first."""
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
    """One that names its files by their content, too, but is no data folder."""
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
        assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]
    assert list((restored / "media").rglob(f"{RED}.mp4")) == []
    # And what this version copies, it restores as well.
    (tmp_path / "new").mkdir()
    backup_data(restored, tmp_path / "new", keep=1)
    (made,) = list_backups(tmp_path / "new")
    restore_data(made, tmp_path / "elsewhere", AllowedPaths([tmp_path], tmp_path / "elsewhere"))
    with CollectionStore(tmp_path / "elsewhere" / "collections") as library:
        assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]


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
    command = [sys.executable, "-m", "tests.upgrade.upgrading"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        for step in itertools.count(0, 1 if is_chaos() else 5):
            data = Path(shutil.copytree(tmp_path / "former" / "place" / "data", tmp_path / str(step) / "data"))
            starter.stdin.write(f"{data} {step}\n")
            starter.stdin.flush()
            status = int(starter.stdout.readline())
            assert status in (0, DIED)
            with serving_library(data) as library:
                assert [len(check_films(library, name)) for name in NAMES] == [FILMS, 1, FILMS]
                assert sorted(one.file.name[:8] for one in find_orphans(library)) == ["00000000", "upload-2"]
            if status == 0:
                break
        starter.stdin.close()
    assert step > 10
