"""Replacement of a collection by its re-embedded successor, killed at any step."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from index import collection_store as library_module
from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import get_job, pause
from index.transfer.reembed import _replace
from tests.index.jobs.fixtures import create_folder_job
from tests.index.numbered import add, manifest, new_video, numbers_in
from tests.index.transfer.switching import DIED
from vitascope.errors import CollectionNotFound, StorageError, VitascopeError

ROOT = Path(__file__).parents[3]
NUMBERS = list(range(3))
COPIES = {"job-1/00000000.mp4": b"a film", "job-2/00000000.png": b"a picture"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with `videos`, which keeps copies of films and has a job, and `videos-next` of another bundle."""
    root = tmp_path_factory.mktemp("prepared") / "library"
    with CollectionStore(root) as library:
        old, new = library.create("videos", manifest()), library.create("videos-next", manifest("better"))
        add(old, *NUMBERS)
        for video, number in zip(old.videos(), NUMBERS, strict=True):
            new.add_with_ids(video, new_video(number)[1], old.clips(video.id)[0].id)
        pause(old, create_folder_job(old, root).id)
        for name, content in COPIES.items():
            copy = old.folder / "media" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "library"))


def is_new(collection: Collection) -> bool:
    """Whether this is the new collection; it is complete, with the files and jobs of the old one."""
    assert collection.catalogue.integrity_errors() == []
    assert numbers_in(collection) == NUMBERS
    assert get_job(collection, 1).state == "paused"
    assert {name: (collection.folder / "media" / name).read_bytes() for name in COPIES} == COPIES
    return collection.fingerprint == manifest("better").fingerprint()


def switched(library: CollectionStore) -> bool:
    return _replace(library, library.open("videos"), library.open("videos-next"), set())


def test_a_replacement_killed_at_any_step_leaves_one_collection_and_can_be_repeated(
    prepared: Path, tmp_path: Path
) -> None:
    seen = []
    command = [sys.executable, "-m", "tests.index.transfer.switching"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        for step in itertools.count():
            root = Path(shutil.copytree(prepared, tmp_path / str(step)))
            with CollectionStore(root) as watching:  # is there all the time; every other time another process starts
                assert not is_new(watching.open("videos"))
                starter.stdin.write(f"{root} {step}\n")
                starter.stdin.flush()
                status = int(starter.stdout.readline())
                assert status in (0, DIED)
                if step % 2:
                    CollectionStore(root).close()
                seen.append(is_new(watching.open("videos")))
                assert watching.names() == (["videos"] if seen[-1] else ["videos", "videos-next"])
                if not seen[-1]:
                    assert switched(watching)
                    assert is_new(watching.open("videos"))
            with CollectionStore(root):
                assert os.listdir(root) == ["videos"]
            if status == 0:
                break
        starter.stdin.close()
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    assert step > 10


def test_a_write_during_the_replacement_is_not_acknowledged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[object] = []
    with CollectionStore(root) as library, CollectionStore(root) as elsewhere:
        other = elsewhere.open("videos")

        def write() -> None:
            try:
                outcomes.append(other.add_video(*new_video(77)))
            except VitascopeError as error:
                outcomes.append(error)

        writer = threading.Thread(target=write)

        def begin_writing(_: object) -> bool:
            writer.start()
            return True

        discard = library_module._discard

        def discard_later(folder: Path) -> None:
            writer.join()
            discard(folder)

        monkeypatch.setattr(library_module, "_discard", discard_later)

        assert library.replace("videos", "videos-next", begin_writing)
        writer.join()
        (outcome,) = outcomes
        assert isinstance(outcome, CollectionNotFound)
        assert numbers_in(library.open("videos")) == NUMBERS
        assert numbers_in(elsewhere.open("videos")) == NUMBERS


def test_an_incomplete_collection_does_not_replace_the_old_one(root: Path) -> None:
    with CollectionStore(root) as library:
        assert not library.replace("videos", "videos-next", lambda _: False)
        assert library.names() == ["videos", "videos-next"]
        add(library.open("videos"), 5)


@pytest.fixture
def linkless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("linkless")
def test_files_are_copied_where_hard_links_do_not_work(root: Path) -> None:
    with CollectionStore(root) as library:
        assert switched(library)
        assert is_new(library.open("videos"))


@pytest.mark.usefixtures("linkless")
def test_a_full_disk_keeps_the_old_collection(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with CollectionStore(root) as library:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", full)
            with pytest.raises(StorageError, match=r"media: its files cannot be linked: .*No space left"):
                switched(library)
        assert not is_new(library.open("videos"))
        assert switched(library)
        assert is_new(library.open("videos"))
