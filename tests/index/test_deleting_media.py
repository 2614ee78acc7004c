"""Deleting a video removes its own file below the collection's media folder, and no other, whatever its row says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.storage.removals import list_removal
from tests.index.numbered import add, manifest


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """A collection in whose folder of media there is a link to another folder with a film."""
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "film.mp4").write_bytes(b"a film")
    with CollectionStore(tmp_path / "data" / "collections") as library:
        collection = library.create("videos", manifest())
        add(collection, 0)
        (collection.media.folder / "job-1").symlink_to(tmp_path / "others")
        (collection.media.folder / "own.mp4").write_bytes(b"own")
        yield collection


def name_file(collection: Collection, path: str) -> None:
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE videos SET path = ? WHERE id = 1", (path,))


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/others/film.mp4",
        "media/job-1/film.mp4",
        "media/../../../../others/film.mp4",
        "{folder}/data/collections/videos/media/own.mp4",
    ],
)
def test_a_file_elsewhere_stays(tmp_path: Path, collection: Collection, path: str) -> None:
    name_file(collection, path.format(folder=tmp_path))
    collection.delete_video(1)
    assert (tmp_path / "others" / "film.mp4").read_bytes() == b"a film"
    assert (collection.media.folder / "own.mp4").exists()
    with collection.catalogue.read() as connection:
        assert connection.execute("SELECT path FROM removals").fetchall() == []


def test_the_files_of_a_folder_that_is_a_link_stay(tmp_path: Path, collection: Collection) -> None:
    with collection.catalogue.write() as connection:
        list_removal(connection, "media/job-1/")
    collection.media.remove_listed()
    assert (tmp_path / "others" / "film.mp4").read_bytes() == b"a film"


def test_its_own_file_goes_also_where_the_media_folder_is_a_link(tmp_path: Path, collection: Collection) -> None:
    """As on another disk."""
    shutil.move(collection.media.folder, tmp_path / "disk")
    collection.media.folder.symlink_to(tmp_path / "disk")
    name_file(collection, "media/own.mp4")
    collection.delete_video(1)
    assert not (tmp_path / "disk" / "own.mp4").exists()
