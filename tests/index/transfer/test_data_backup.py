"""Backup of a data folder in use, and restore of backups, also of untrusted ones."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from index.collection_store import CollectionStore
from index.transfer import data_backup
from index.transfer.data_backup import backup_data, list_backups, restore_data
from index.transfer.media import AllowedPaths
from index.vectors.interface import BACKEND_KEY
from service.http.api_keys import KeyStore
from service.http.idempotency import IdempotencyStore
from tests.index.sample_data import WIDTH, add, manifest, numbers_in
from vitascope.cli.main import main
from vitascope.errors import InvalidInput, StorageError, VitascopeError

MOVIE = b"\x00\x01" * 5000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a service with two collections, media files and unfinished work."""
    data = tmp_path / "data"
    with CollectionStore(data / "collections") as library:
        add(library.create("films", manifest()), *range(10))
        add(library.create("talks", manifest()), 20, 21)
    for file in (
        "media/films/aa.mp4",
        "collections/talks/media/job-1/bb.mp4",
        "uploads/half",
        "operations/1/films.sqlite3",
    ):
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        (data / file).write_bytes(MOVIE)
    (data / "models.json").write_text("{}")
    return data


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


def videos_allowed(data: Path) -> AllowedPaths:
    return AllowedPaths([Path("/videos")], data)


def set_year(copy: Path, year: int) -> Path:
    """Rename a backup to an earlier time."""
    return copy.rename(copy.with_name(f"{year}-01-01T00-00-00Z"))


def test_a_data_folder_in_use_is_backed_up_and_restored(tmp_path: Path, data: Path, backups: Path) -> None:
    store = KeyStore(data)
    _, text = store.create("portal", ["read"])
    IdempotencyStore(data, 10).close()
    with CollectionStore(data / "collections") as library:
        films = library.open("films")  # in use: what was written last is in the write-ahead log alone
        add(films, 50)
        made = backup_data(data, backups, keep=3)
        hits = films.search(np.arange(1.0, WIDTH + 1), 100)
        add(films, 51)
    assert made.collections == ["films", "talks"]
    assert made.media_files == 2
    # Without the responses of idempotency keys, whose requests the copies of the catalogues may lack.
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "collections",
        "keys.sqlite3",
        "media",
        "models.json",
    ]

    store.close()
    shutil.rmtree(data)
    restored = tmp_path / "restored"
    assert restore_data(made.folder, restored, videos_allowed(restored)) == ["films", "talks"]
    with CollectionStore(restored / "collections") as library:
        assert numbers_in(library.open("films")) == [*range(10), 50]
        assert numbers_in(library.open("talks")) == [20, 21]
        assert library.open("films").search(np.arange(1.0, WIDTH + 1), 100) == hits
    assert (restored / "media/films/aa.mp4").read_bytes() == MOVIE
    assert (restored / "collections/talks/media/job-1/bb.mp4").read_bytes() == MOVIE
    store = KeyStore(restored)
    assert [key.name for key in store.all()] == ["portal"]
    assert text.encode() not in (restored / "keys.sqlite3").read_bytes()
    store.close()
    assert stat.S_IMODE((restored / "keys.sqlite3").stat().st_mode) == 0o600
    with pytest.raises(InvalidInput, match=r"has keys.sqlite3, models.json, films, talks already"):
        restore_data(made.folder, restored, videos_allowed(restored))
    answered = tmp_path / "answered"
    answered.mkdir()
    (answered / "answers.sqlite3").touch()
    with pytest.raises(InvalidInput, match=r"has answers.sqlite3 already"):
        restore_data(made.folder, answered, videos_allowed(answered))


def test_an_unchanged_media_file_is_stored_once(data: Path, backups: Path) -> None:
    first = set_year(backup_data(data, backups, keep=3).folder, 2025)
    (data / "media/films/cc.mp4").write_bytes(b"new")
    second = set_year(backup_data(data, backups, keep=3).folder, 2026)
    assert (second / "media/films/aa.mp4").samefile(first / "media/films/aa.mp4")
    (data / "media/films/aa.mp4").write_bytes(b"another")
    third = backup_data(data, backups, keep=1)
    assert (third.folder / "media/films/aa.mp4").read_bytes() == b"another"
    assert third.removed == [first, second]
    assert (third.folder / "media/films/cc.mp4").read_bytes() == b"new"


def test_a_second_backup_within_a_second_waits_for_the_next(
    data: Path, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = (datetime(2026, 1, 1, second=second) for second in (0, 0, 1))
    monkeypatch.setattr(data_backup, "datetime", SimpleNamespace(now=lambda zone: next(times)))
    names = [backup_data(data, backups, keep=2).folder.name for _ in range(2)]
    assert names == ["2026-01-01T00-00-00Z", "2026-01-01T00-00-01Z"]


def test_only_the_oldest_backups_are_removed(data: Path, backups: Path) -> None:
    (backups / "2020-holidays").mkdir()
    old = [set_year(backup_data(data, backups, keep=9).folder, year) for year in (2022, 2023, 2024)]
    killed = backups / f".2024-02-02T00-00-00Z-{'0' * 32}"
    killed.mkdir()
    newest = backup_data(data, backups, keep=2)
    assert list_backups(backups) == [old[2], newest.folder]
    assert sorted(path.name for path in backups.iterdir()) == [
        ".lock",
        "2020-holidays",
        old[2].name,
        newest.folder.name,
    ]


def test_a_damaged_collection_is_named_and_no_earlier_backup_is_removed(
    data: Path, backups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = set_year(backup_data(data, backups, keep=1).folder, 2025)
    catalogue = data / "collections/films/catalogue.sqlite3"
    catalogue.write_bytes(catalogue.read_bytes()[:4096] + os.urandom(catalogue.stat().st_size - 4096))
    status = main(["backup", str(backups), "--keep", "1", "--data", str(data), "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert status == 3
    assert (summary["collections"], summary["failed"], summary["removed"]) == (["talks"], 1, [])
    assert summary["failures"][0]["collection"] == "films"
    assert len(list_backups(backups)) == 2
    assert (good / "collections/films/catalogue.sqlite3").is_file()


def test_a_collection_in_milvus_is_backed_up_and_restored_without_milvus(
    tmp_path: Path, data: Path, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is in SQLite: not even the package of Milvus is needed."""
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    at = "http://milvus.invalid:19530"
    with closing(sqlite3.connect(data / "collections/films/catalogue.sqlite3")) as connection:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (BACKEND_KEY, at))
        connection.commit()
    made = backup_data(data, backups, keep=1)
    assert (made.collections, made.failures) == (["films", "talks"], [])
    restore_data(made.folder, tmp_path / "restored", videos_allowed(tmp_path / "restored"))
    with CollectionStore(tmp_path / "restored" / "collections") as library:
        assert library.open("films").vector_backend == at
        assert library.open("films").stats().videos == 10


def test_invalid_folders_are_refused(tmp_path: Path, data: Path, backups: Path) -> None:
    with pytest.raises(InvalidInput, match="keep: 0"):
        backup_data(data, backups, keep=0)
    with pytest.raises(InvalidInput, match="outside of the data folder"):
        backup_data(data, data / "media", keep=1)
    with pytest.raises(InvalidInput, match="not a folder"):
        backup_data(tmp_path / "nowhere", backups, keep=1)
    with pytest.raises(InvalidInput, match="has no folder collections"):
        restore_data(backups, tmp_path / "new", videos_allowed(tmp_path / "new"))
    with open(backups / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidInput, match="another process makes a copy"):
            backup_data(data, backups, keep=1)


def test_a_damaged_service_database_leaves_no_backup(data: Path, backups: Path) -> None:
    (data / "keys.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(StorageError, match=r"keys.sqlite3: cannot be copied"):
        backup_data(data, backups, keep=1)
    assert list_backups(backups) == []
    assert sorted(path.name for path in backups.iterdir()) == [".lock"]


def test_the_command_reports_the_backup(
    data: Path, backups: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backup", str(backups), "--data", str(data)]) == 0
    copy = list_backups(backups)[0]
    assert f"{copy}: films, talks, 2 media files" in capsys.readouterr().out
    assert main(["backup", "--restore", str(copy), "--data", str(tmp_path / "new")]) == 2
    assert "catalogue.sqlite3: table videos: row 1: path: '/videos/0.mp4' leads to" in capsys.readouterr().err
    assert main(["backup", "--restore", str(copy), "--data", str(tmp_path / "new"), "--root", "/videos"]) == 0
    assert "films, talks restored from" in capsys.readouterr().out
    assert main(["backup", str(backups), "--keep", "0", "--data", str(data)]) == 2
    assert main(["backup", str(backups), "--root", "/videos", "--data", str(data)]) == 2
    assert "--root: only valid with --restore" in capsys.readouterr().err


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A backup with two collections, one of which owns a file."""
    with CollectionStore(tmp_path / "data" / "collections") as library:
        add(library.create("films", manifest()), 0, 1)
        add(library.create("talks", manifest()), 2)
    (tmp_path / "data" / "collections" / "films" / "media" / "own.mp4").write_bytes(b"own")
    (tmp_path / "copies").mkdir()
    copy = backup_data(tmp_path / "data", tmp_path / "copies", keep=1).folder
    shutil.rmtree(tmp_path / "data")
    return copy


def execute(copy: Path, collection: str, statement: str) -> None:
    with closing(sqlite3.connect(copy / "collections" / collection / "catalogue.sqlite3")) as connection:
        connection.execute(statement)
        connection.commit()


def set_path(copy: Path, collection: str, path: str) -> None:
    execute(copy, collection, f"UPDATE videos SET path = '{path}' WHERE id = 1")


def move_and_link(copy: Path, path: str) -> None:
    shutil.move(copy / path, copy.parent / "moved")
    (copy / path).symlink_to(copy.parent / "moved")


_LINK = "is a link or a special file; a regular file or a folder was expected"


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (
            lambda copy: set_path(copy, "talks", "/etc/passwd"),
            r"talks/catalogue\.sqlite3: table videos: row 1: path: '/etc/passwd' leads to .*outside",
        ),
        (lambda copy: execute(copy, "talks", "CREATE VIEW evil AS SELECT 1"), "view 'evil' is not one of its"),
        (lambda copy: (copy / "collections/films/media/evil.mp4").symlink_to("/etc/passwd"), _LINK),
        (lambda copy: (copy / "collections/films/media/job-1").symlink_to("/etc"), _LINK),
        (lambda copy: move_and_link(copy, "collections/films/media"), _LINK),
        (lambda copy: move_and_link(copy, "collections/talks"), _LINK),
        (lambda copy: (copy / "keys.sqlite3").symlink_to("/etc/passwd"), _LINK),
        (
            lambda copy: [
                (copy / "media/films").mkdir(parents=True),
                (copy / "media/films/a").symlink_to("/etc/passwd"),
            ],
            _LINK,
        ),
    ],
    ids=["path", "schema", "linked file", "linked folder", "media", "collection", "keys", "upload of 0.2.0"],
)
def test_an_untrusted_backup_restores_all_collections_or_none(
    tmp_path: Path, copy: Path, attack: Callable[[Path], object], message: str
) -> None:
    attack(copy)
    data = tmp_path / "data"
    with pytest.raises(VitascopeError, match=message):
        restore_data(copy, data, videos_allowed(data))
    assert {str(path.relative_to(data)) for path in data.rglob("*")} <= {"collections"}


def test_a_restore_onto_a_full_disk_leaves_nothing_and_may_be_repeated(
    tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, copy_file = tmp_path / "data", shutil.copy2
    (copy / "models.json").write_text("{}")

    def fill_disk(source: Path, target: Path, **options: bool) -> object:
        if target != data / "models.json":
            return copy_file(source, target, **options)
        target.write_bytes(b"{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", fill_disk)
        with pytest.raises(StorageError, match="No space left"):
            restore_data(copy, data, videos_allowed(data))
    assert {str(path.relative_to(data)) for path in data.rglob("*")} <= {"collections"}
    assert restore_data(copy, data, videos_allowed(data)) == ["films", "talks"]


def test_a_failed_restore_keeps_what_another_process_adds_meanwhile(
    tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"

    def fail(*_: object, **__: object) -> None:
        with CollectionStore(data / "collections") as library:
            library.create("other", manifest())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data_backup, "restore_collection", fail)
    with pytest.raises(StorageError, match="No space left"):
        restore_data(copy, data, videos_allowed(data))
    with CollectionStore(data / "collections") as library:
        assert library.names() == ["other"]


def test_a_backup_is_restored_with_its_media_files(tmp_path: Path, copy: Path) -> None:
    set_path(copy, "films", "media/own.mp4")
    data = tmp_path / "data"
    assert restore_data(copy, data, videos_allowed(data)) == ["films", "talks"]
    with CollectionStore(data / "collections") as library:
        collection = library.open("films")
        assert collection.media_path(collection.get_video(1)).read_bytes() == b"own"
    with pytest.raises(InvalidInput, match="films, talks already"):
        restore_data(copy, data, videos_allowed(data))
