"""Untrusted backups of data folders: all collections are restored, or none."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from index.collection_store import CollectionStore
from index.transfer.data_backup import backup_data, restore_data
from index.transfer.media import AllowedPaths
from tests.index.numbered import add, manifest
from tests.index.transfer.hostile_paths import HOSTILE_PATHS, hostile_path, make_links
from vitascope.errors import InvalidInput, VitascopeError


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with two collections, one of which owns a film."""
    folder = tmp_path_factory.mktemp("made")
    with CollectionStore(folder / "data" / "collections") as library:
        add(library.create("films", manifest()), 0, 1)
        add(library.create("talks", manifest()), 2)
    (folder / "data" / "collections" / "films" / "media" / "own.mp4").write_bytes(b"own")
    (folder / "copies").mkdir()
    return backup_data(folder / "data", folder / "copies", keep=1).folder


@pytest.fixture
def copy(tmp_path: Path, made_once: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "copy"))


def name_file(copy: Path, collection: str, path: str) -> None:
    with closing(sqlite3.connect(copy / "collections" / collection / "catalogue.sqlite3")) as connection:
        connection.execute("UPDATE videos SET path = ? WHERE id = 1", (path,))
        connection.commit()


def check_refused(tmp_path: Path, copy: Path, message: str) -> None:
    data = tmp_path / "data"
    allowed = AllowedPaths([Path("/videos"), tmp_path / "roots"], data)
    with pytest.raises(VitascopeError, match=message):
        restore_data(copy, data, allowed)
    assert {str(path.relative_to(data)) for path in data.rglob("*")} <= {"collections"}


@pytest.mark.parametrize("attack", HOSTILE_PATHS)
def test_a_media_path_that_is_not_allowed_is_refused(tmp_path: Path, copy: Path, attack: str) -> None:
    make_links(tmp_path)
    path, message = hostile_path(attack, tmp_path)
    name_file(copy, "talks", path)
    check_refused(tmp_path, copy, rf"talks/catalogue\.sqlite3: table videos: row 1: path: .* {message}")


def link_file(copy: Path) -> None:
    (copy / "collections/films/media/evil.mp4").symlink_to("/etc/passwd")
    name_file(copy, "films", "media/evil.mp4")


def link_folder(copy: Path) -> None:
    (copy / "collections/films/media/job-1").symlink_to("/etc")
    name_file(copy, "films", "media/job-1/passwd")


def link_media(copy: Path) -> None:
    shutil.rmtree(copy / "collections/films/media")
    (copy / "collections/films/media").symlink_to("/etc")


def link_collection(copy: Path) -> None:
    shutil.move(copy / "collections/talks", copy / "elsewhere")
    (copy / "collections/talks").symlink_to(copy / "elsewhere")


def link_keys(copy: Path) -> None:
    (copy / "keys.sqlite3").symlink_to("/etc/passwd")


def link_former_upload(copy: Path) -> None:
    (copy / "media/films").mkdir(parents=True)
    (copy / "media/films/evil.mp4").symlink_to("/etc/passwd")


@pytest.mark.parametrize("attack", [link_file, link_folder, link_media, link_collection, link_keys, link_former_upload])
def test_a_link_in_a_backup_is_refused(tmp_path: Path, copy: Path, attack: Callable[[Path], None]) -> None:
    attack(copy)
    check_refused(tmp_path, copy, "is a link or a special file; a regular file or a folder was expected")


def test_another_schema_is_refused(tmp_path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(copy / "collections/talks/catalogue.sqlite3")) as connection:
        connection.execute("CREATE VIEW evil AS SELECT 1")
    check_refused(tmp_path, copy, "view 'evil' is not one of its")


def test_a_backup_is_restored_with_the_media_files_it_has(tmp_path: Path, copy: Path) -> None:
    name_file(copy, "films", "media/own.mp4")
    data = tmp_path / "data"
    assert restore_data(copy, data, AllowedPaths([Path("/videos")], data)) == ["films", "talks"]
    with CollectionStore(data / "collections") as library:
        collection = library.open("films")
        assert collection.media_path(collection.get_video(1)).read_bytes() == b"own"
    with pytest.raises(InvalidInput, match="films, talks already"):
        restore_data(copy, data, AllowedPaths([Path("/videos")], data))
