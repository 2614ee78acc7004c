"""`vitascope orphans`: files that nothing needs are listed, and removed on request, beside what goes on."""

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
from tests.index.numbered import manifest
from tests.index.transfer.test_media import add_own, films
from tests.upgrade.data_0_2_0 import unpacked
from vitascope.cli.main import main


@pytest.fixture
def collection(tmp_path: Path) -> Any:
    """One that owns two films, and holds the file of a job."""
    with CollectionStore(tmp_path / "data" / "collections") as library:
        collection = library.create("videos", manifest())
        add_own(collection, 1, 2)
        (tmp_path / "given").write_bytes(b"held")
        create_upload_job(collection, tmp_path / "given", "mp4", name="a", title="a", options=JobOptions())
        yield collection


def test_needed_files_are_no_orphans(tmp_path: Path, collection: Collection) -> None:
    copies = collection.media.folder / "job-1" / "00000001.mp4"  # of a job that may go on
    copies.parent.mkdir()
    copies.write_bytes(b"a copy")
    library = CollectionStore(tmp_path / "data" / "collections")
    assert find_orphans(library) == remove_orphans(library) == []
    with collection.media.writing("media/coming.mp4"):  # on its way in, in another process
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
    strangers = [data / "media" / "films" / "holiday.mp4", data / "notes.txt"]  # not of Vitascope's
    for stranger in strangers:
        stranger.parent.mkdir(parents=True, exist_ok=True)
        stranger.write_bytes(b"a stranger")
    orphans = [folder / name for name in ("by-hand.mp4", "link", "job-7/00000000.mp4")]

    def run(*words: str) -> Any:
        assert main(["orphans", "--data", str(data), *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    for _ in range(2):  # nothing is removed by looking
        told = run()
        assert sorted(one["file"] for one in told["orphans"]) == sorted(map(str, orphans))
        assert {one["reason"] for one in told["orphans"]} == {"no video and no job of collection videos needs it"}
        assert next(one for one in told["orphans"] if one["file"].endswith("hand.mp4"))["bytes"] == 7
    assert run("--remove")["removed"] == 3
    assert not any(os.path.lexists(orphan) for orphan in orphans)
    assert run()["orphans"] == []
    assert main(["orphans", "--data", str(data)]) == 0
    assert "no orphans" in capsys.readouterr().out
    assert films(collection) == [b"film 1", b"film 2"]
    assert (outside / "precious.mp4").exists()
    assert all(stranger.exists() for stranger in strangers)


def test_files_of_a_collection_that_cannot_be_opened_are_never_removed(tmp_path: Path, collection: Collection) -> None:
    root = tmp_path / "data" / "collections"
    (collection.media.folder / "by-hand.mp4").write_bytes(b"by hand")
    with CollectionStore(root) as library:
        other = library.create("damaged", manifest())
        add_own(other, 3)
    (root / "damaged" / "catalogue.sqlite3").write_bytes(b"noise" * 1000)
    shutil.copytree(root / "videos" / "media", root / "lost" / "media")
    with CollectionStore(root) as library:
        found = {one.file.parts[-3]: one for one in find_orphans(library)}
        assert set(found) == {"videos", "damaged", "lost"}
        assert "cannot be opened" in found["damaged"].reason
        assert "no catalogue" in found["lost"].reason
        assert [one.file.name for one in remove_orphans(library)] == ["by-hand.mp4"]
    assert len(list((root / "damaged" / "media").iterdir())) == 1
    assert len(list((root / "lost" / "media").iterdir())) == 4


def test_files_left_by_kills_of_version_0_2_0_are_listed_and_removed(tmp_path: Path) -> None:
    data = unpacked(tmp_path)
    with CollectionStore(data / "collections", holds_lock=True) as library:
        found = find_orphans(library)
        assert sorted(one.file.name for one in found) == [f"{'0' * 64}.mp4", f"upload-{'2' * 32}.mp4"]
        assert {one.reason for one in found} == {
            "version 0.2.0 kept it here, and no video needs it here",
            "no video and no job of collection videos needs it",
        }
        assert len(remove_orphans(library)) == 2
        assert find_orphans(library) == []
        assert not (data / "media" / "videos").exists()
        for name in library.names():
            each = library.open(name)
            assert all(each.media_path(video).is_file() for video in each.videos())
