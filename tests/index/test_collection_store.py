"""Collections are created, opened, dropped and replaced by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from index.collection_store import CollectionStore
from tests.index.numbered import WIDTH, add, manifest, new_video, numbers_in
from vitascope.errors import CollectionExists, CollectionNotFound, InvalidInput, StorageError
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
        made = library.create("videos", small_model)
        assert made.fingerprint == small_model.bundle.fingerprint
        assert made.embed_dim == small_model.bundle.manifest.vector_width
    with CollectionStore(tmp_path) as library:
        assert library.open("videos").fingerprint == small_model.bundle.fingerprint


def test_a_collection_is_opened_once(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library:
        assert library.create("videos", manifest()) is library.open("videos")


def test_a_collection_that_was_closed_can_be_opened_again(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library:
        add(library.create("videos", manifest()), 1)
        library.open("videos").close()
        assert numbers_in(library.open("videos")) == [1]


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


def test_an_unknown_collection_is_not_found(tmp_path: Path) -> None:
    library = CollectionStore(tmp_path)
    for use in (library.open, library.drop):
        with pytest.raises(CollectionNotFound, match="nowhere"):
            use("nowhere")


def test_a_dropped_collection_is_not_found_by_those_that_have_it_open(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library, CollectionStore(tmp_path) as elsewhere:
        add(library.create("videos", manifest()), 1)
        others = elsewhere.open("videos")
        assert numbers_in(others) == [1]
        library.drop("videos")
        assert library.names() == []
        assert list(tmp_path.iterdir()) == []
        for use in (
            lambda: others.search(np.ones(WIDTH), 1),
            lambda: others.add_video(*new_video(2)),
            lambda: elsewhere.open("videos"),
            lambda: library.open("videos"),
        ):
            with pytest.raises(CollectionNotFound, match="videos"):
                use()


def test_the_name_of_a_dropped_collection_can_be_reused(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library, CollectionStore(tmp_path) as elsewhere:
        add(library.create("videos", manifest()), 1)
        old = elsewhere.open("videos")
        library.drop("videos")
        add(library.create("videos", manifest("others")), 2)
        with pytest.raises(CollectionNotFound):
            old.stats()
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
