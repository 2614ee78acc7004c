"""Fixtures for the tests of the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.vectors.interface import FAISS
from tests.index.jobs.fixtures import make_pictures
from tests.index.jobs.watched import Watched
from tests.index.milvus_server import MilvusUnderTest
from tests.media_files import solid, write_color_video, write_picture
from vitascope.model import Model


@pytest.fixture
def collection(tmp_path: Path, small_model: Model) -> Iterator[Collection]:
    """An empty collection of the small model, in the store ``tmp_path / "library"``."""
    with CollectionStore(tmp_path / "library") as library:
        yield library.create("videos", small_model)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of ten pictures, all different."""
    return make_pictures(tmp_path / "pictures", 10)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with a red and a blue picture."""
    folder = tmp_path / "films"
    folder.mkdir()
    write_picture(folder / "red.png", solid((220, 10, 10)))
    write_picture(folder / "blue.png", solid((10, 10, 220)))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to watch."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def watched(collection: Collection, small_model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(collection, small_model, folder, monkeypatch)


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusUnderTest]:
    """One server for all tests. A test that stops it starts it again."""
    server = MilvusUnderTest(tmp_path_factory.mktemp("milvus") / "data")
    yield server
    server.end()


@pytest.fixture(scope="module", params=[FAISS, "milvus"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each vector backend."""
    return FAISS if request.param == FAISS else str(request.getfixturevalue("milvus").url)


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """A video with sound, one that has subtitles, too, and a picture."""
    folder = tmp_path / "talks"
    folder.mkdir()
    write_color_video(folder / "plain.mp4", (220, 10, 10), 2.0, sound_seconds=2.0)
    write_color_video(folder / "subtitled.mp4", (10, 10, 220), 2.0, sound_seconds=2.0)
    (folder / "subtitled.srt").write_text("1\n00:00:00,000 --> 00:00:01,500\nas it is written\n")
    write_picture(folder / "slide.png", solid((10, 10, 220)))
    return folder
