"""A catalogue of an earlier version: opened by this one it has the tables of this one, and everything it held."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.clips.segmentation import Segmentation
from index.collection import Collection, NewClip
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, get_job, list_items, retry
from index.jobs.records import JobOptions
from index.jobs.sources.source_types import FolderSource
from index.storage import catalogue as catalogue_module
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.schema import SCHEMA_VERSION
from tests.index.jobs.fixtures import create_folder_job
from tests.index.numbered import (
    WIDTH,
    add,
    clip_total,
    content,
    new_collection,
    new_video,
    numbers_in,
    tokens_of,
    vectors_of,
)
from vitascope.errors import InvalidInput, NotFound, StorageError

JOBS_OF_VERSION_1 = """
INSERT INTO jobs VALUES
  (3, '/videos', '{"metadata": {"year": 2020}, "recursive": false,
                   "segmentation": {"length": 4.0, "overlap": 1.0, "shortest": null}}',
   'succeeded', NULL, 1, 0, NULL, NULL, 1.0, 2.0, 3.0),
  (4, '/more', '{"metadata": {}, "recursive": true, "segmentation": {"length": 8.0, "overlap": 0.0, "shortest": null}}',
   'running', NULL, 1, 1, 'nobody', 5.0, 4.0, 4.5, NULL);
INSERT INTO job_items VALUES
  (3, 0, '/videos/a.mp4', 'succeeded', NULL, 1, 1),
  (3, 1, '/videos/b.mp4', 'failed', 'b.mp4: empty', NULL, 2),
  (3, 2, '/videos/notes.txt', 'skipped', 'not a media file (.txt)', NULL, 0),
  (4, 0, '/more/c.mp4', 'running', NULL, NULL, 1),
  (4, 1, '/more/d.mp4', 'queued', NULL, NULL, 0);
"""
VERSION_1 = Path(__file__).with_name("catalogue_v1.sql")


def old_collection(root: Path) -> None:
    """Collection `videos` as version 1 wrote it, with video number 2."""
    new_collection(root).close()
    path = root / "videos" / CATALOGUE_NAME
    with closing(sqlite3.connect(path)) as connection:
        meta = connection.execute("SELECT key, value FROM meta WHERE key <> 'token_encoding'").fetchall()
    (root / "videos" / "media").rmdir()
    for file in (root / "videos").iterdir():
        file.unlink()
    video, clips = new_video(2)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL;\n" + VERSION_1.read_text("utf-8"))
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        row = (
            1,
            content(2),
            video.path,
            video.title,
            video.duration,
            320,
            180,
            '{"color": "blue", "even": true, "number": 2, "weight": 0.5}',
            1.0,
            1,
            clip_total(2),
        )
        connection.execute(f"INSERT INTO videos VALUES ({', '.join('?' * len(row))})", row)
        for n, clip in enumerate(clips):
            connection.execute("INSERT INTO clips VALUES (?, 1, ?, ?)", (n + 1, clip.start, clip.end))
            connection.execute("INSERT INTO vectors VALUES (?, ?)", (n + 1, vectors_of(2)[n].astype("<f4").tobytes()))
            connection.execute("INSERT INTO tokens VALUES (?, ?)", (n + 1, tokens_of(2)[n].astype("<f2").tobytes()))
        connection.execute("INSERT INTO changes (kind, first_clip, clip_count) VALUES ('add', 1, ?)", (clip_total(2),))
        connection.executescript(JOBS_OF_VERSION_1)


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table's columns and every index's."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
        return {
            name: connection.execute(
                f"PRAGMA {'table_xinfo' if kind == 'table' else 'index_xinfo'} ({name})"
            ).fetchall()
            for kind, name in names
        }


def test_it_is_upgraded_and_keeps_what_it_held(tmp_path: Path) -> None:
    old_collection(tmp_path)
    new_collection(tmp_path, "fresh").close()
    with CollectionStore(tmp_path).open("videos") as collection:
        assert numbers_in(collection) == [2]
        assert [clip.text for clip in collection.clips(1)] == [""] * clip_total(2)
        assert collection.thumbnail(1) is None
        assert collection.token_encoding == "float16"
        add(collection, 3)
        assert numbers_in(collection) == [2, 3]
        assert collection.catalogue.integrity_errors() == []
    assert shape(tmp_path / "videos" / CATALOGUE_NAME) == shape(tmp_path / "fresh" / CATALOGUE_NAME)


def test_its_jobs_can_be_looked_at_and_gone_on_with(tmp_path: Path) -> None:
    old_collection(tmp_path)
    with CollectionStore(tmp_path).open("videos") as collection:
        done = get_job(collection, 3)
        assert done.source == FolderSource("/videos", recursive=False)
        assert done.options == JobOptions(Segmentation(4.0, 1.0), {"year": 2020})
        assert (done.state, done.requested, done.finished_at, done.rate) == ("succeeded", None, 3.0, None)
        assert [(i.path, i.state, i.reason, i.video_id, i.attempts, i.is_final) for i in list_items(collection, 3)] == [
            ("/videos/a.mp4", "succeeded", None, 1, 1, False),
            ("/videos/b.mp4", "failed", "b.mp4: empty", None, 2, False),
            ("/videos/notes.txt", "skipped", "not a media file (.txt)", None, 0, True),
        ]
        running = get_job(collection, 4)
        assert (running.source, running.requested) == (FolderSource("/more"), "cancel")
        assert retry(collection, 3).counts.queued == 1
        assert cancel(collection, 4).counts.cancelled == 2
        assert create_folder_job(collection, tmp_path).id == 5
        assert collection.catalogue.integrity_errors() == []


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_collection(tmp_path)
    before = shape(tmp_path / "videos" / CATALOGUE_NAME)
    with monkeypatch.context() as patch:
        patch.setattr(
            catalogue_module,
            "UPGRADES",
            ("CREATE TABLE half (done);\nCREATE TABLE clips (twice)", *["SELECT 1"] * SCHEMA_VERSION),
        )
        with pytest.raises(StorageError, match="clips already exists"):
            CollectionStore(tmp_path).open("videos")
    assert shape(tmp_path / "videos" / CATALOGUE_NAME) == before
    with CollectionStore(tmp_path).open("videos") as collection:
        assert numbers_in(collection) == [2]


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    new_collection(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "videos" / CATALOGUE_NAME)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StorageError, match=f"schema {SCHEMA_VERSION + 1}; this version reads 1 to {SCHEMA_VERSION}"):
        CollectionStore(tmp_path).open("videos")


def test_what_is_said_in_a_clip_and_its_picture_are_kept(tmp_path: Path) -> None:
    jpeg = b"\xff\xd8\xff\xe0 a picture"
    vector, tokens = np.ones(WIDTH, np.float32), tokens_of(0)[0]
    with new_collection(tmp_path) as collection:
        video, _ = new_video(0)
        video_id = collection.add_video(
            video, [NewClip(0, 2, vector, tokens, "what is said", jpeg), NewClip(2, 4, vector, tokens)]
        ).id
        first, second = collection.clips(video_id)
        assert (first.text, second.text) == ("what is said", "")
        assert collection.thumbnail(first.id) == jpeg
        assert collection.thumbnail(second.id) is None
        collection.delete_video(video_id)
        with pytest.raises(NotFound, match=f"no clip {first.id}"):
            collection.thumbnail(first.id)


def test_a_picture_that_is_no_jpeg_is_refused(tmp_path: Path) -> None:
    vector, tokens = np.ones(WIDTH, np.float32), tokens_of(0)[0]
    with new_collection(tmp_path) as collection, pytest.raises(InvalidInput, match="thumbnail: 4 bytes"):
        collection.add_video(new_video(0)[0], [NewClip(0, 2, vector, tokens, thumbnail=b"GIF8")])
    with CollectionStore(tmp_path).open("videos") as collection:
        assert isinstance(collection, Collection)
        assert collection.stats().videos == 0
