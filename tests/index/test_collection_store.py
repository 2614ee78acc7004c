"""Collections are created, opened, dropped and replaced by name, also if a process is killed."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index import collection_store as store_module
from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import get_job, pause
from index.transfer.reembed import _replace
from tests.index.jobs.fixtures import create_folder_job
from tests.index.killed_processes import killed_processes
from tests.index.sample_data import WIDTH, add, manifest, new_video, numbers_in
from vitascope.errors import CollectionExists, CollectionNotFound, InvalidInput, StorageError, VitascopeError
from vitascope.model import Model


def test_collections_are_listed_by_name(tmp_path: Path) -> None:
    with CollectionStore(tmp_path / "made" / "as-needed") as library:
        assert library.names() == []
        for name in ("b", "a_1", "0-c"):
            library.create(name, manifest())
        (library.root / "just-a-folder").mkdir()
        (library.root / "a file").touch()
        assert library.names() == ["0-c", "a_1", "b"]


def test_a_collection_stores_its_bundle(tmp_path: Path, small_model: Model) -> None:
    with CollectionStore(tmp_path) as library:
        created = library.create("videos", small_model)
        assert created.fingerprint == small_model.bundle.fingerprint
        assert created.embed_dim == small_model.bundle.manifest.vector_width
    with CollectionStore(tmp_path) as library:
        assert library.open("videos").fingerprint == small_model.bundle.fingerprint


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a b", "../a", "a/b", ".a", "a\n", "a" * 64, "ä", None])
def test_an_invalid_name_is_rejected(tmp_path: Path, name: str) -> None:
    library = CollectionStore(tmp_path)
    for use in (library.open, library.drop, lambda n: library.create(n, manifest())):
        with pytest.raises(InvalidInput, match="collection name"):
            use(name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_name_is_rejected_and_its_collection_stays(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library:
        add(library.create("videos", manifest()), 1)
        with pytest.raises(CollectionExists, match="videos"):
            library.create("videos", manifest("others"))
        assert numbers_in(library.open("videos")) == [1]
        assert [entry.name for entry in tmp_path.iterdir()] == ["videos"]


def test_a_dropped_collection_is_not_found_and_its_name_can_be_reused(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library, CollectionStore(tmp_path) as elsewhere:
        add(library.create("videos", manifest()), 1)
        assert library.open("videos") is library.open("videos")
        old = elsewhere.open("videos")
        assert numbers_in(old) == [1]
        library.drop("videos")
        assert library.names() == list(tmp_path.iterdir()) == []
        for use in (
            lambda: old.search(np.ones(WIDTH), 1),
            lambda: old.add_video(*new_video(2)),
            lambda: elsewhere.open("videos"),
            lambda: library.open("videos"),
        ):
            with pytest.raises(CollectionNotFound, match="videos"):
                use()
        add(library.create("videos", manifest("others")), 2)
        with pytest.raises(CollectionNotFound):
            old.stats()
        elsewhere.open("videos").close()
        assert numbers_in(elsewhere.open("videos")) == [2]


def test_old_leftovers_of_a_killed_create_are_removed(tmp_path: Path) -> None:
    for name in (".new-old", ".new-now"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".new-old", (0, 0))
    assert CollectionStore(tmp_path).names() == []
    assert [entry.name for entry in tmp_path.iterdir()] == [".new-now"]


def test_a_store_opens_while_another_process_creates_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / ".new-a-moment-ago"]))
    with CollectionStore(tmp_path) as library:
        monkeypatch.undo()
        assert library.names() == []


def test_leftovers_of_a_killed_drop_are_removed(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library:
        library.create("videos", manifest()).close()
    (tmp_path / "videos").rename(tmp_path / ".gone-0123")
    (tmp_path / ".gone-empty").mkdir()
    assert CollectionStore(tmp_path).names() == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        CollectionStore(tmp_path / "file")


NUMBERS = list(range(3))
COPIES = {"job-1/00000000.mp4": b"a film", "job-2/00000000.png": b"a picture"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `videos`, which has a job and copies of files, and `videos-next` of another bundle."""
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
    """Return whether this is the new collection; check that it is complete."""
    assert collection.catalogue.integrity_errors() == []
    assert numbers_in(collection) == NUMBERS
    assert get_job(collection, 1).state == "paused"
    assert {name: (collection.folder / "media" / name).read_bytes() for name in COPIES} == COPIES
    return collection.fingerprint == manifest("better").fingerprint()


def replaced(library: CollectionStore) -> bool:
    return _replace(library, library.open("videos"), library.open("videos-next"), set())


def test_a_replacement_killed_at_any_step_leaves_one_collection_and_can_be_repeated(
    prepared: Path, tmp_path: Path
) -> None:
    results = []
    with killed_processes() as processes:
        for step in itertools.count():
            root = Path(shutil.copytree(prepared, tmp_path / str(step)))
            with CollectionStore(root) as watching:  # open all the time; every other time another process starts
                assert not is_new(watching.open("videos"))
                is_complete = processes.run("replace", root, step)
                if step % 2:
                    CollectionStore(root).close()
                results.append(is_new(watching.open("videos")))
                assert watching.names() == (["videos"] if results[-1] else ["videos", "videos-next"])
                if not results[-1]:
                    assert replaced(watching)
                    assert is_new(watching.open("videos"))
            with CollectionStore(root):
                assert os.listdir(root) == ["videos"]
            if is_complete:
                break
    assert results == sorted(results)
    assert set(results) == {False, True}
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

        def start_writing(_: object) -> bool:
            writer.start()
            return True

        discard = store_module._discard

        def discard_later(folder: Path) -> None:
            writer.join()
            discard(folder)

        monkeypatch.setattr(store_module, "_discard", discard_later)
        assert library.replace("videos", "videos-next", start_writing)
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


def test_a_full_disk_keeps_the_old_collection(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: int) -> Callable[..., None]:
        return lambda *_: (_ for _ in ()).throw(OSError(error, os.strerror(error)))

    monkeypatch.setattr(os, "link", fail(errno.EPERM))  # without hard links files are copied
    with CollectionStore(root) as library:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", fail(errno.ENOSPC))
            with pytest.raises(StorageError, match=r"media: its files cannot be linked: .*No space left"):
                replaced(library)
        assert not is_new(library.open("videos"))
        assert replaced(library)
        assert is_new(library.open("videos"))
