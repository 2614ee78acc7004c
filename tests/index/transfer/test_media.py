"""Media files of collections that are backed up, exported, restored and imported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.records import Video
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.media import AllowedPaths, missing_media
from index.transfer.parquet_export import export_collection
from index.transfer.parquet_import import import_collection
from tests.index.numbered import content, manifest, new_video
from vitascope.cli.main import main

Transfer = Callable[[CollectionStore, str, str], Collection]


def film(number: int) -> bytes:
    return f"film {number}".encode()


def add_own(collection: Collection, *numbers: int) -> None:
    """Add videos whose files the collection owns."""
    for number in numbers:
        file = collection.folder / "given"
        file.write_bytes(film(number))
        video, clips = new_video(number)
        collection.add_if_new(replace(video, path=f"media/{content(number)}.mp4"), clips, file)


def films(collection: Collection) -> list[bytes]:
    """Return the media files of a collection, which are all in its own folder."""
    videos = collection.videos()
    assert all(collection.media_path(video).is_relative_to(collection.folder.absolute()) for video in videos)
    return [collection.media_path(video).read_bytes() for video in videos]


@pytest.fixture
def library(tmp_path: Path) -> Any:
    """A data folder with collection `videos`, which owns the films 1 to 3."""
    with CollectionStore(tmp_path / "data" / "collections") as library:
        add_own(library.create("videos", manifest()), 1, 2, 3)
        yield library


def by_backup(library: CollectionStore, source: str, target: str, to: CollectionStore | None = None) -> Collection:
    file = library.root / f"{source}.backup"
    backup_collection(library.open(source), file)
    there = to or library
    return restore_collection(there, file, target, allowed=AllowedPaths([], there.root.parent))


def by_export(library: CollectionStore, source: str, target: str, to: CollectionStore | None = None) -> Collection:
    folder = library.root / f"{source}-export"
    shutil.rmtree(folder, ignore_errors=True)
    export_collection(library.open(source), folder)
    there = to or library
    return import_collection(there, folder, target, manifest(), allowed=AllowedPaths([], there.root.parent))


@pytest.fixture(params=[by_backup, by_export])
def transfer(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_deleting_in_one_collection_leaves_the_files_of_the_other(library: CollectionStore, transfer: Transfer) -> None:
    original, copy = library.open("videos"), transfer(library, "videos", "again")
    assert films(original) == films(copy) == [film(1), film(2), film(3)]
    copy.delete_video(1)
    original.delete_video(2)
    assert (films(original), films(copy)) == ([film(1), film(3)], [film(2), film(3)])
    assert len(list(copy.media.folder.iterdir())) == len(list(original.media.folder.iterdir())) == 2


def test_restoring_in_place_of_the_original_keeps_every_file(library: CollectionStore, transfer: Transfer) -> None:
    """Restore under a new name, drop the old collection, and rename."""
    transfer(library, "videos", "again")
    library.drop("videos")
    assert films(library.open("again")) == [film(1), film(2), film(3)]
    library.rename("again", "videos")
    assert films(library.open("videos")) == [film(1), film(2), film(3)]


def test_media_files_are_linked_from_any_collection_with_the_content(
    library: CollectionStore, transfer: Transfer
) -> None:
    original = library.open("videos")
    other = library.create("other", manifest())
    add_own(other, 2)
    original.media_path(original.get_video(2)).unlink()
    assert films(transfer(library, "videos", "again")) == [film(1), film(2), film(3)]


@pytest.mark.parametrize("links", [True, False])
def test_media_files_are_copied_where_hard_links_do_not_work(
    library: CollectionStore, transfer: Transfer, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    original, copy = library.open("videos"), transfer(library, "videos", "again")
    assert films(copy) == [film(1), film(2), film(3)]
    first, second = (each.media_path(each.get_video(1)) for each in (original, copy))
    assert first.samefile(second) == links


def test_a_missing_media_file_is_reported_until_it_is_put_back(
    library: CollectionStore, transfer: Transfer, tmp_path: Path
) -> None:
    with CollectionStore(tmp_path / "elsewhere" / "collections") as elsewhere:
        copy = transfer(library, "videos", "videos", elsewhere)  # type: ignore[call-arg]
        missing = list(missing_media(copy))
        assert [video.title for video in missing] == ["video 1", "video 2", "video 3"]
        source = library.open("videos")
        for video in missing:
            shutil.copy(source.media_path(source.get_video(video.id)), copy.media_path(video))
        assert films(copy) == [film(1), film(2), film(3)]
        assert list(missing_media(copy)) == []


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_reports_media_files_that_a_backup_lacks(
    library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library.close()
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(tmp_path / "data"))
    backup, export = str(tmp_path / "videos.backup"), str(tmp_path / "export")
    left_out = {"files": 3, "bytes": 3 * len(film(1))}
    assert run(capsys, "collection", "backup", "videos", backup)["media_not_included"] == left_out
    assert run(capsys, "collection", "export", "videos", export)["media_not_included"] == left_out
    assert main(["collection", "backup", "videos", backup]) == 0
    assert "3 media files of the collection (18 bytes) are not included" in " ".join(capsys.readouterr().out.split())
    again = run(capsys, "collection", "restore", backup, "again")
    assert (again["missing"], again["missing_media"]) == (0, [])

    new = tmp_path / "new"
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(new))
    restored = run(capsys, "collection", "restore", backup, "videos")
    expected = new / "collections" / "videos" / "media" / f"{content(1)}.mp4"
    assert restored["missing"] == 3
    assert restored["missing_media"][0] == {
        "collection": "videos",
        "video": "1",
        "title": "video 1",
        "file": str(expected),
    }
    assert main(["collection", "restore", backup, "more"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "The media files of 3 videos are missing" in output
    assert "video 1" in output

    copies = tmp_path / "copies"
    copies.mkdir()
    (made,) = [Path(run(capsys, "backup", str(copies), "--data", str(new))["copy"])]
    whole = run(capsys, "backup", "--restore", str(made), "--data", str(tmp_path / "third"))
    assert whole["missing"] == 6


def test_owned_media_files_are_counted(library: CollectionStore) -> None:
    video = library.open("videos").get_video(1)
    assert isinstance(video, Video)
    assert library.open("videos").owns(video)
    assert not library.open("videos").owns(replace(video, path="/films/media/a.mp4"))
