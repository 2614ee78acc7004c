"""Untrusted exports: videos with paths that are not allowed are refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.collection_store import CollectionStore
from index.transfer.parquet_export import export_collection
from index.transfer.parquet_import import import_collection
from tests.index.numbered import add, allowed, content, manifest, numbers_in
from tests.index.transfer.hostile_paths import HOSTILE_PATHS, hostile_path, make_links
from vitascope.errors import InvalidInput


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with CollectionStore(folder / "data" / "collections") as library:
        collection = library.create("videos", manifest())
        add(collection, 0, 1, 2)
        export_collection(collection, folder / "export", tokens=True)
    return folder


@pytest.fixture
def library(tmp_path: Path, made_once: Path) -> Iterator[CollectionStore]:
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    (tmp_path / "data" / "keys.sqlite3").write_text("secrets")
    with CollectionStore(tmp_path / "data" / "collections") as library:
        yield library


def edit(file: Path, row: int, column: str, value: Any) -> None:
    """Change one value, as `pyarrow` users would: types and metadata stay."""
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[row][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


@pytest.mark.parametrize("attack", HOSTILE_PATHS)
def test_a_media_path_that_is_not_allowed_is_refused(tmp_path: Path, library: CollectionStore, attack: str) -> None:
    make_links(tmp_path)
    path, message = hostile_path(attack, tmp_path)
    edit(tmp_path / "export" / "videos.parquet", 1, "path", path)
    with pytest.raises(InvalidInput, match=rf"videos\.parquet: row 2: path: .* {message}") as raised:
        import_collection(
            library, tmp_path / "export", "copy", manifest(), allowed=allowed(library, tmp_path / "roots")
        )
    assert repr(path) in str(raised.value)
    assert [entry.name for entry in library.root.iterdir()] == ["videos"]
    assert (tmp_path / "data" / "keys.sqlite3").read_text() == "secrets"


def test_an_export_by_0_2_0_gets_its_uploads_from_the_data_folder(tmp_path: Path, library: CollectionStore) -> None:
    """That version named them by absolute paths, in a data folder that may have been elsewhere."""
    held = tmp_path / "data" / "media" / "videos" / f"{content(1)}.mp4"
    held.parent.mkdir(parents=True)
    held.write_bytes(b"1")  # which `content` is the SHA-256 of
    edit(tmp_path / "export" / "videos.parquet", 1, "path", f"/former/media/videos/{content(1)}.mp4")
    copy = import_collection(library, tmp_path / "export", "copy", manifest(), allowed=allowed(library))
    video = copy.get_video(2)
    assert video.path == f"media/{content(1)}.mp4"
    assert copy.media_path(video).read_bytes() == b"1"
    copy.delete_video(2)
    assert held.read_bytes() == b"1"


def test_a_file_of_other_content_does_not_count_as_an_upload_of_0_2_0(tmp_path: Path, library: CollectionStore) -> None:
    secret = tmp_path / "data" / "media" / "videos" / f"{content(1)}.mp4"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(b"another's")
    edit(tmp_path / "export" / "videos.parquet", 1, "path", str(secret))
    with pytest.raises(InvalidInput, match="in the data folder"):
        import_collection(library, tmp_path / "export", "copy", manifest(), allowed=allowed(library))


def test_columns_that_no_export_has_are_not_read(tmp_path: Path, library: CollectionStore) -> None:
    file = tmp_path / "export" / "videos.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("evil", pa.array([None, None, None])), file)
    copy = import_collection(library, tmp_path / "export", "copy", manifest(), allowed=allowed(library))
    assert numbers_in(copy) == [0, 1, 2]
