"""Files that nothing needs are listed, and removed on request."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import create_upload_job
from index.jobs.records import JobOptions
from index.orphans import find_orphans, remove_orphans
from tests.index.sample_data import add_owned, manifest, media_content
from tests.upgrade.data_0_2_0 import unpacked
from vitascope.cli.main import main


@pytest.fixture
def collection(tmp_path: Path) -> Any:
    """A collection that owns the files of two videos, and of a job."""
    with CollectionStore(tmp_path / "data" / "collections") as library:
        collection = library.create("videos", manifest())
        add_owned(collection, 1, 2)
        (tmp_path / "upload").write_bytes(b"upload")
        create_upload_job(collection, tmp_path / "upload", "mp4", name="a", title="a", options=JobOptions())
        yield collection


def test_needed_files_are_no_orphans(tmp_path: Path, collection: Collection) -> None:
    copy = collection.media.folder / "job-1" / "00000001.mp4"  # of an unfinished job
    copy.parent.mkdir()
    copy.write_bytes(b"a copy")
    library = CollectionStore(tmp_path / "data" / "collections")
    assert find_orphans(library) == remove_orphans(library) == []
    with collection.media.writing("media/coming.mp4"):  # being created by another process
        pass
    assert find_orphans(library) == []


def test_unneeded_files_are_listed_and_removed_only_on_request(
    tmp_path: Path, collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = tmp_path / "data", collection.media.folder
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.mp4").write_bytes(b"precious")
    (folder / "by-hand.mp4").write_bytes(b"by hand")
    (folder / "job-7").mkdir()
    (folder / "job-7" / "00000000.mp4").write_bytes(b"left over")
    (folder / "link").symlink_to(outside)
    others = [data / "media" / "films" / "holiday.mp4", data / "notes.txt"]  # not of Vitascope's
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"other")
    orphans = [folder / name for name in ("by-hand.mp4", "link", "job-7/00000000.mp4")]

    def run(*arguments: str) -> Any:
        assert main(["orphans", "--data", str(data), *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    for _ in range(2):  # listing removes nothing
        listed = {entry["file"]: entry for entry in run()["orphans"]}
        assert sorted(listed) == sorted(map(str, orphans))
        assert {entry["reason"] for entry in listed.values()} == {"no video and no job of collection videos needs it"}
        assert listed[str(orphans[0])]["bytes"] == 7
    assert run("--remove")["removed"] == 3
    assert not any(os.path.lexists(orphan) for orphan in orphans)
    assert run()["orphans"] == []
    assert main(["orphans", "--data", str(data)]) == 0
    assert "no orphans" in capsys.readouterr().out
    assert [collection.media_path(video).read_bytes() for video in collection.videos()] == [
        media_content(1),
        media_content(2),
    ]
    assert (outside / "precious.mp4").exists()
    assert all(other.exists() for other in others)


def test_files_of_a_collection_that_cannot_be_opened_are_never_removed(tmp_path: Path, collection: Collection) -> None:
    root = tmp_path / "data" / "collections"
    (collection.media.folder / "by-hand.mp4").write_bytes(b"by hand")
    with CollectionStore(root) as library:
        other = library.create("damaged", manifest())
        add_owned(other, 3)
    (root / "damaged" / "catalogue.sqlite3").write_bytes(b"noise" * 1000)
    shutil.copytree(root / "videos" / "media", root / "lost" / "media")
    with CollectionStore(root) as library:
        orphans = {orphan.file.parts[-3]: orphan for orphan in find_orphans(library)}
        assert set(orphans) == {"videos", "damaged", "lost"}
        assert "cannot be opened" in orphans["damaged"].reason
        assert "no catalogue" in orphans["lost"].reason
        assert [orphan.file.name for orphan in remove_orphans(library)] == ["by-hand.mp4"]
    assert len(list((root / "damaged" / "media").iterdir())) == 1
    assert len(list((root / "lost" / "media").iterdir())) == 4


def test_files_left_by_kills_of_version_0_2_0_are_listed_and_removed(tmp_path: Path) -> None:
    data = unpacked(tmp_path)
    with CollectionStore(data / "collections", holds_lock=True) as library:
        orphans = find_orphans(library)
        assert sorted(orphan.file.name for orphan in orphans) == [f"{'0' * 64}.mp4", f"upload-{'2' * 32}.mp4"]
        assert {orphan.reason for orphan in orphans} == {
            "version 0.2.0 kept it here, and no video needs it here",
            "no video and no job of collection videos needs it",
        }
        assert len(remove_orphans(library)) == 2
        assert find_orphans(library) == []
        assert not (data / "media" / "videos").exists()
        for name in library.names():
            collection = library.open(name)
            assert all(collection.media_path(video).is_file() for video in collection.videos())
