"""Media files of collections that are backed up, exported, restored and imported, and the paths that they may have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.media import AllowedPaths, missing_media
from index.transfer.parquet import export_collection, import_collection
from tests.index.sample_data import add_owned, content, manifest, media_content
from vitascope.cli.main import main
from vitascope.errors import InvalidInput

Transfer = Callable[..., Collection]

_OUTSIDE = "outside the folders .*--root FOLDER, or VITASCOPE_ALLOWED_ROOTS"
_DATA = "in the data folder"
_NEITHER = "is neither an absolute path nor one below media/"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/passwd", f"leads to '/etc/passwd', {_OUTSIDE}"),
        ("{folder}/data/keys.sqlite3", _DATA),
        ("{folder}/data-link/keys.sqlite3", _DATA),
        ("{folder}/data/collections/videos/catalogue.sqlite3", _DATA),
        ("{folder}/data/collections/videos/media/a.mp4", _DATA),
        ("{folder}/roots/../data/keys.sqlite3", _DATA),
        ("{folder}/roots/passwd.mp4", f"leads to '/etc/passwd', {_OUTSIDE}"),
        ("{folder}/roots/etc/passwd", f"leads to '/etc/passwd', {_OUTSIDE}"),
        ("{folder}/roots/loop", "cannot be followed"),
        ("{folder}/roots-not/a.mp4", _OUTSIDE),
        ("media/../../../keys.sqlite3", _NEITHER),
        ("media", _NEITHER),
        ("catalogue.sqlite3", _NEITHER),
        ("media/./a.mp4", _NEITHER),
        ("media/linked/passwd", "leads to '/etc/passwd', out of media/"),
        ("", _NEITHER),
    ],
)
def test_a_path_that_is_not_allowed_is_refused(tmp_path: Path, path: str, message: str) -> None:
    collection = tmp_path / "data" / "collections" / "new"
    (collection / "media").mkdir(parents=True)
    (collection / "media" / "linked").symlink_to("/etc")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "etc").symlink_to("/etc")
    (tmp_path / "roots" / "passwd.mp4").symlink_to("/etc/passwd")
    (tmp_path / "roots" / "loop").symlink_to("loop")
    (tmp_path / "data-link").symlink_to(tmp_path / "data")
    allowed = AllowedPaths([tmp_path / "roots"], tmp_path / "data").for_collection(collection, is_legacy=True)
    path = path.format(folder=tmp_path)
    with pytest.raises(InvalidInput, match=f"^path: .* {message}") as raised:
        allowed.check("path", path, content(1))
    assert repr(path) in str(raised.value)


def test_paths_below_a_root_in_incoming_and_in_media_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    collection = tmp_path / "data" / "collections" / "new"
    allowed = AllowedPaths([tmp_path / "root"], tmp_path / "data").for_collection(collection, is_legacy=True)
    for path in (f"{tmp_path}/root/a.mp4", f"{tmp_path}/data/incoming/b.mp4", "media/a.mp4", "media/job-1/b.mp4"):
        assert allowed.check("path", path, content(1)) == path


def media_files(collection: Collection) -> list[bytes]:
    """Return the content of a collection's media files, which are all in its own folder."""
    videos = collection.videos()
    assert all(collection.media_path(video).is_relative_to(collection.folder.absolute()) for video in videos)
    return [collection.media_path(video).read_bytes() for video in videos]


FILES = [media_content(number) for number in (1, 2, 3)]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[CollectionStore]:
    """A data folder with collection `videos`, which owns three media files."""
    with CollectionStore(tmp_path / "data" / "collections") as library:
        add_owned(library.create("videos", manifest()), 1, 2, 3)
        yield library


def by_backup(library: CollectionStore, source: str, name: str, target: CollectionStore | None = None) -> Collection:
    file = library.root / f"{source}.backup"
    backup_collection(library.open(source), file)
    target = target or library
    return restore_collection(target, file, name, allowed=AllowedPaths([], target.root.parent))


def by_export(library: CollectionStore, source: str, name: str, target: CollectionStore | None = None) -> Collection:
    folder = library.root / f"{source}-export"
    export_collection(library.open(source), folder)
    target = target or library
    return import_collection(target, folder, name, manifest(), allowed=AllowedPaths([], target.root.parent))


@pytest.fixture(params=[by_backup, by_export])
def transfer(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_original_and_copy_own_separate_files(library: CollectionStore, transfer: Transfer) -> None:
    original, copy = library.open("videos"), transfer(library, "videos", "again")
    assert media_files(original) == media_files(copy) == FILES
    copy.delete_video(1)
    original.delete_video(2)
    assert (media_files(original), media_files(copy)) == ([FILES[0], FILES[2]], FILES[1:])
    assert len(list(copy.media.folder.iterdir())) == len(list(original.media.folder.iterdir())) == 2
    library.drop("videos")
    library.rename("again", "videos")
    assert media_files(library.open("videos")) == FILES[1:]


def test_media_files_are_linked_from_any_collection_with_the_content(
    library: CollectionStore, transfer: Transfer
) -> None:
    original = library.open("videos")
    add_owned(library.create("other", manifest()), 2)
    original.media_path(original.get_video(2)).unlink()
    assert media_files(transfer(library, "videos", "again")) == FILES


@pytest.mark.parametrize("links", [True, False])
def test_media_files_are_copied_where_hard_links_do_not_work(
    library: CollectionStore, transfer: Transfer, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    original, copy = library.open("videos"), transfer(library, "videos", "again")
    assert media_files(copy) == FILES
    first, second = (collection.media_path(collection.get_video(1)) for collection in (original, copy))
    assert first.samefile(second) == links


def test_a_missing_media_file_is_reported_until_it_is_put_back(
    library: CollectionStore, transfer: Transfer, tmp_path: Path
) -> None:
    with CollectionStore(tmp_path / "elsewhere" / "collections") as elsewhere:
        copy = transfer(library, "videos", "videos", elsewhere)
        missing = list(missing_media(copy))
        assert [video.title for video in missing] == ["video 1", "video 2", "video 3"]
        source = library.open("videos")
        for video in missing:
            shutil.copy(source.media_path(source.get_video(video.id)), copy.media_path(video))
        assert media_files(copy) == FILES
        assert list(missing_media(copy)) == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_reports_media_files_that_a_backup_lacks(
    library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library.close()
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(tmp_path / "data"))
    backup, export = str(tmp_path / "videos.backup"), str(tmp_path / "export")
    left_out = {"files": 3, "bytes": sum(map(len, FILES))}
    assert run(capsys, "collection", "backup", "videos", backup)["media_not_included"] == left_out
    assert run(capsys, "collection", "export", "videos", export)["media_not_included"] == left_out
    assert main(["collection", "backup", "videos", backup]) == 0
    assert "3 media files of the collection (18 bytes) are not included" in " ".join(capsys.readouterr().out.split())
    again = run(capsys, "collection", "restore", backup, "again")
    assert (again["missing"], again["missing_media"]) == (0, [])

    new = tmp_path / "new"
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(new))
    restored = run(capsys, "collection", "restore", backup, "videos")
    file = new / "collections" / "videos" / "media" / f"{content(1)}.mp4"
    assert restored["missing"] == 3
    expected = {"collection": "videos", "video": "1", "title": "video 1", "file": str(file)}
    assert restored["missing_media"][0] == expected
    assert main(["collection", "restore", backup, "more"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "The media files of 3 videos are missing" in output
    assert "video 1" in output

    copies = tmp_path / "copies"
    copies.mkdir()
    copy = run(capsys, "backup", str(copies), "--data", str(new))["copy"]
    assert run(capsys, "backup", "--restore", copy, "--data", str(tmp_path / "third"))["missing"] == 6
