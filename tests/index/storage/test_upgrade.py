"""Catalogues of earlier versions are upgraded when they are opened, and keep their content."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from index.clips.rules import Segmentation
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, get_job, list_items, retry
from index.jobs.records import JobOptions
from index.jobs.sources.source_types import FolderSource
from index.recognitions import load_speech, store_captions
from index.storage import catalogue as catalogue_module
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.fulltext import match_words, parse_words
from index.storage.schema import CAPTIONS, SCHEMA_VERSION, SOURCE_COLUMNS, create_tables, upgrade_tables
from index.storage.schema_upgrades import UPGRADES
from index.video_text import ClipCaption
from tests.index.jobs.fixtures import create_folder_job
from tests.index.sample_data import (
    add,
    clip_total,
    content,
    new_collection,
    new_video,
    numbers_in,
    tokens_of,
    vectors_of,
)
from vitascope.errors import StorageError
from vitascope.speech.interface import SpeechSegment

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
    """Write a collection `videos` of version 1 with video number 2."""
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
        metadata = '{"color": "blue", "even": true, "number": 2, "weight": 0.5}'
        row = (content(2), video.path, video.title, video.duration, metadata, clip_total(2))
        connection.execute("INSERT INTO videos VALUES (1, ?, ?, ?, ?, 320, 180, ?, 1.0, 1, ?)", row)
        for n, clip in enumerate(clips):
            connection.execute("INSERT INTO clips VALUES (?, 1, ?, ?)", (n + 1, clip.start, clip.end))
            connection.execute("INSERT INTO vectors VALUES (?, ?)", (n + 1, vectors_of(2)[n].astype("<f4").tobytes()))
            connection.execute("INSERT INTO tokens VALUES (?, ?)", (n + 1, tokens_of(2)[n].astype("<f2").tobytes()))
        connection.execute("INSERT INTO changes (kind, first_clip, clip_count) VALUES ('add', 1, ?)", (clip_total(2),))
        connection.executescript(JOBS_OF_VERSION_1)


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The columns of every table and index."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
        return {
            name: connection.execute(
                f"PRAGMA {'table_xinfo' if kind == 'table' else 'index_xinfo'} ({name})"
            ).fetchall()
            for kind, name in names
        }


def test_a_catalogue_of_version_1_is_upgraded_and_keeps_its_content(tmp_path: Path) -> None:
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
    assert columns(tmp_path / "videos" / CATALOGUE_NAME) == columns(tmp_path / "fresh" / CATALOGUE_NAME)


def test_jobs_of_version_1_can_be_read_and_continued(tmp_path: Path) -> None:
    old_collection(tmp_path)
    with CollectionStore(tmp_path).open("videos") as collection:
        done = get_job(collection, 3)
        assert done.source == FolderSource("/videos", recursive=False)
        assert done.options == JobOptions(Segmentation(4.0, 1.0), {"year": 2020})
        assert (done.state, done.requested, done.finished_at, done.rate) == ("succeeded", None, 3.0, None)
        items = list_items(collection, 3)
        assert [
            (item.path, item.state, item.reason, item.video_id, item.attempts, item.is_final) for item in items
        ] == [
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
    before = columns(tmp_path / "videos" / CATALOGUE_NAME)
    failing = "CREATE TABLE half (done);\nCREATE TABLE clips (twice)"
    with monkeypatch.context() as patch:
        patch.setattr(catalogue_module, "UPGRADES", (failing, *["SELECT 1"] * SCHEMA_VERSION))
        with pytest.raises(StorageError, match="clips already exists"):
            CollectionStore(tmp_path).open("videos")
    assert columns(tmp_path / "videos" / CATALOGUE_NAME) == before
    with CollectionStore(tmp_path).open("videos") as collection:
        assert numbers_in(collection) == [2]


def test_an_upgrade_indexes_existing_text_for_full_text_search(tmp_path: Path) -> None:
    old_collection(tmp_path)
    path = tmp_path / "videos" / CATALOGUE_NAME
    before = next(number for number, script in enumerate(UPGRADES) if "words" in script)
    with closing(sqlite3.connect(path)) as connection:
        for script in UPGRADES[:before]:
            connection.executescript(script)
        connection.execute("UPDATE clips SET text = '海滩上的小狗' WHERE id = 2")
        connection.execute(f"PRAGMA user_version = {1 + before}")
        connection.commit()
    with CollectionStore(tmp_path).open("videos") as collection, collection.catalogue.read() as connection:
        assert load_speech(collection, 1) == [SpeechSegment(4, 8, "海滩上的小狗")]  # the times of the clip
        assert set(match_words(connection, parse_words(["小狗"])).clips) == {2}
        for name in ("video", "videos", "2.mp4"):  # of the title, a folder and the file
            assert set(match_words(connection, parse_words([name])).names) == {1}


def test_the_index_of_captions_has_the_stemming_of_the_collection(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        add(collection, 1)
        collection.set_stemming("none")
    with closing(sqlite3.connect(tmp_path / "videos" / CATALOGUE_NAME)) as connection:
        connection.executescript(
            "DROP TABLE caption_words; ALTER TABLE clips DROP COLUMN caption; ALTER TABLE videos DROP COLUMN file_size;"
            f"PRAGMA user_version = {CAPTIONS - 1}"
        )
    with CollectionStore(tmp_path).open("videos") as collection:
        clip = collection.clips(1)[0]
        store_captions(collection, 1, [ClipCaption(clip.start, clip.end, "two foxes")], "captioner")
        with collection.catalogue.read() as connection:
            matching = {word: list(match_words(connection, parse_words([word])).clips) for word in ("fox", "foxes")}
    assert matching == {"fox": [], "foxes": [clip.id]}


@pytest.mark.parametrize("folder", ["media", "/data/collections/videos/media"])
def test_an_upgrade_finds_the_urls_of_copies(folder: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection, SOURCE_COLUMNS - 1)
        connection.execute("INSERT INTO jobs (id, source, options, state, created_at) VALUES (12, '', '', 'queued', 1)")
        for video, (path, uri) in enumerate(
            [(f"{folder}/job-12/00000003.mp4", "https://media.example/a.mp4"), ("/media/job-12/b.mp4", "/x.mp4")], 1
        ):
            connection.execute(
                "INSERT INTO videos VALUES (?, ?, ?, 'a', 1, 1, 1, '{}', 1, ?, 1)", (video, str(video), path, video)
            )
            connection.execute(
                "INSERT INTO job_items (job_id, position, path, state, video_id) VALUES (12, ?, ?, 'succeeded', ?)",
                (video + 2, uri, video),
            )
        upgrade_tables(connection, SOURCE_COLUMNS - 1)
        urls = connection.execute("SELECT source_uri FROM videos ORDER BY id").fetchall()
        assert urls == [("https://media.example/a.mp4",), (None,)]
        assert connection.execute("SELECT count(*) FROM job_items").fetchone() == (2,)
