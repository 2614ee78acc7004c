"""Untrusted backups: invalid ones are refused by name and leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index.clips.rules import Segmentation
from index.collection_store import CollectionStore
from index.jobs.jobs import create_job, get_job, list_items, list_jobs
from index.jobs.records import JobOptions
from index.jobs.sources.source_types import FolderSource
from index.storage import foreign_catalogue
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.fulltext import normalize_for_index
from index.storage.schema import SCHEMA_VERSION
from index.storage.schema_upgrades import UPGRADES
from index.transfer.backup import backup_collection, restore_collection
from tests.chaos import rounds
from tests.index.sample_data import add, allowed, manifest, numbers_in
from tests.index.storage.test_upgrade import old_collection
from tests.mutated_files import mutated
from vitascope.errors import InvalidInput, StorageError, VitascopeError

NUMBERS = [0, 1, 2, 5]
"""Video n + 1 has 1 + n % 3 clips: ids 1; 2, 3; 4 to 6; 7 to 9."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, whose collection has videos and a job with an item, and the collection's backup."""
    folder = tmp_path_factory.mktemp("template")
    with CollectionStore(folder / "data" / "collections") as library:
        collection = library.create("videos", manifest())
        add(collection, *NUMBERS)
        create_job(collection, FolderSource(str(folder)), JobOptions(Segmentation(4.0), {"a": 1, "b": 1.0, "c": True}))
        with collection.catalogue.write() as connection:
            connection.execute("INSERT INTO job_items (job_id, position, path, state) VALUES (1, 0, '/a', 'queued')")
        backup_collection(collection, folder / "backup")
    return folder


@pytest.fixture
def library(tmp_path: Path, template: Path) -> Iterator[CollectionStore]:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    (tmp_path / "data" / "keys.sqlite3").write_text("secrets")
    with CollectionStore(tmp_path / "data" / "collections") as library:
        yield library


@pytest.fixture
def backup(tmp_path: Path, library: CollectionStore) -> Path:
    return tmp_path / "backup"


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def schema(name: str, old: str, new: str) -> str:
    return f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{name}'"


def check_refused(
    library: CollectionStore, file: Path, message: str, error: type[VitascopeError] = VitascopeError
) -> None:
    before = hashlib.sha256(file.read_bytes()).digest()
    files = sorted(file.parent.iterdir())
    with pytest.raises(error, match=message) as raised:
        restore_collection(library, file, "copy", allowed=allowed(library))
    assert str(file) in str(raised.value)
    assert [entry.name for entry in library.root.iterdir()] == ["videos"]
    assert sorted(file.parent.iterdir()) == files
    assert hashlib.sha256(file.read_bytes()).digest() == before


SCHEMAS = {
    "trigger": (
        ["CREATE TRIGGER evil AFTER INSERT ON videos BEGIN UPDATE videos SET path = '/etc/passwd'; END"],
        "trigger 'evil' is not one of its",
    ),
    "view": (["CREATE VIEW evil AS SELECT path FROM videos"], "view 'evil' is not one of its"),
    "view in place of a table": (
        ["DROP TABLE thumbnails", "CREATE VIEW thumbnails AS SELECT 1 AS clip_id, x'ffd8' AS jpeg"],
        "view 'thumbnails' is not one of its",
    ),
    "table with an expression": (
        ["CREATE TABLE evil (x DEFAULT (randomblob(1000000000)))"],
        "table 'evil' is not one of its",
    ),
    "virtual table": (["CREATE VIRTUAL TABLE evil USING fts5(x)"], "table 'evil.*' is not one of its"),
    "statistics": (["ANALYZE"], "table 'sqlite_stat1' is not one of its"),
    "index of an expression": (["CREATE INDEX evil ON videos (upper(path))"], "index 'evil' is not one of its"),
    "generated column": (
        ["ALTER TABLE videos ADD COLUMN evil TEXT AS (upper(path))"],
        r"table 'videos' is defined otherwise: ',' in place of '\)'",
    ),
    "default expression": (
        [schema("clips", "DEFAULT ''''", "DEFAULT (hex(randomblob(9)))")],
        "table 'clips' is defined otherwise",
    ),
    "check": (
        [schema("jobs", "source         TEXT    NOT NULL", "source TEXT NOT NULL CHECK (length(source) > 0)")],
        "table 'jobs' is defined otherwise: 'CHECK' in place of ','",
    ),
    "condition of an index": (
        [schema("job_items_by_event", "event IS NOT NULL", "abs(event) > 0")],
        "index 'job_items_by_event' is defined otherwise: 'abs' in place of 'event' after '.*WHERE'",
    ),
    "keyword as a name": (
        [schema("videos", "path           TEXT    NOT NULL", 'path TEXT "NOT" NULL')],
        "table 'videos' is defined otherwise",
    ),
    "missing table": (["DROP TABLE job_states"], "'job_states' is missing"),
    "missing index": (["DROP INDEX clips_by_video"], "index 'clips_by_video' is missing"),
}


@pytest.mark.parametrize("attack", SCHEMAS)
def test_another_schema_is_refused_by_name(library: CollectionStore, backup: Path, attack: str) -> None:
    statements, message = SCHEMAS[attack]
    execute(backup, *statements)
    check_refused(library, backup, message, InvalidInput)


def put(table: str, row: int, column: str, value: str) -> str:
    key = {"videos": "id", "clips": "id", "jobs": "id", "job_items": "position"}.get(table, "clip_id")
    return f"UPDATE {table} SET {column} = {value} WHERE {key} = {row}"


ROWS = {
    "media path": (
        put("videos", 2, "path", "'/etc/passwd'"),
        "table videos: row 2: path: '/etc/passwd' leads to .*outside",
    ),
    "media path in the data folder": (
        put("videos", 2, "path", "'media/../../../keys.sqlite3'"),
        "table videos: row 2: path: .* is neither an absolute path nor one below media/",
    ),
    "text that is none": (put("videos", 2, "path", "x'2f61'"), "table videos: row 2: path: b'/a'; .* valid string"),
    "text that is not UTF-8": (put("videos", 2, "title", "CAST(x'ff' AS TEXT)"), "Could not decode to UTF-8"),
    "text with NUL": (put("videos", 2, "title", "'a' || char(0)"), "table videos: row 2: title: .* NUL"),
    "long text": (put("videos", 2, "title", "hex(zeroblob(5001))"), "table videos: row 2: title: 10002 characters"),
    "hash": (put("videos", 2, "content_sha256", "'../../x'"), "table videos: row 2: content_sha256: '../../x'"),
    "metadata": (put("videos", 2, "metadata", "'{\"a\": [1]}'"), "table videos: row 2: metadata"),
    "infinite": (put("videos", 2, "added_at", "9e999"), "table videos: row 2: added_at: inf"),
    "text as a number": (put("videos", 2, "duration", "'long'"), "table videos: row 2: duration: 'long'"),
    "too many clips": (put("videos", 1, "clip_count", "2"), "table videos: row 1: first_clip, clip_count: 1, 2"),
    "too few clips": (put("videos", 4, "clip_count", "2"), "table clips: 1 rows are those of no video"),
    "clips of another": (put("videos", 4, "first_clip", "4"), "table videos: row 4: first_clip, clip_count: 4, 3"),
    "span": (put("clips", 3, "start", "-1"), "table clips: row 3: clip: -1.0 to"),
    "vector": (put("vectors", 3, "vector", "x'00'"), "table clips: row 3: vector: 1 bytes; 32 were expected"),
    "vector of NaN": (
        put("vectors", 3, "vector", f"x'{'ffffffff' * 8}'"),
        "table clips: row 3: vector: its length is nan",
    ),
    "no vector": ("DELETE FROM vectors WHERE clip_id = 3", "table clips: row 3: vector: None"),
    "tokens": (put("tokens", 3, "tokens", "x'00'"), "table clips: row 3: tokens: 1 bytes"),
    "picture": ("INSERT INTO thumbnails VALUES (3, x'00')", "table clips: row 3: thumbnail: 1 bytes"),
    "speech": (
        "INSERT INTO speech (video_id, source, start, end, text) VALUES (2, 'transcript', 5, 1, 'a')",
        r"table videos: row 2: speech\[0\]: 5\.0 to 1\.0 s",
    ),
    "screen text": (
        "INSERT INTO screen_text (video_id, start, end, text, box, confidence) VALUES (2, 0, 1, 'a', '[[]]', 1)",
        r"table videos: row 2: screen_text\.0\.box",
    ),
    "sequence": ("UPDATE sqlite_sequence SET seq = 'x' WHERE name = 'clips'", "table sqlite_sequence: clips: 'x'"),
    "meta": ("DELETE FROM meta WHERE key = 'vector_width'", "table meta: 'vector_width'"),
    "server of vectors": (
        "UPDATE meta SET value = 'http://evil:19530' WHERE key = 'vectors'",
        "table meta: vectors: 'http://evil:19530' .* --vectors PLACE",
    ),
    "source": (put("jobs", 1, "source", "'{'"), "table jobs: row 1: "),
    "kind of source": (put("jobs", 1, "source", '\'{"kind": "evil"}\''), "table jobs: row 1: 'evil'"),
    "folder of a source": (
        put("jobs", 1, "source", '\'{"kind": "folder", "folder": 1}\''),
        "table jobs: row 1: folder: 1; Input should be a valid string",
    ),
    "held file": (
        put("jobs", 1, "source", """'{"kind": "upload", "file": "a", "held": "../../../keys.sqlite3", "title": ""}'"""),
        "table jobs: row 1: source: held: '../../../keys.sqlite3'",
    ),
    "options": (put("jobs", 1, "options", '\'{"segmentation": {"length": -1}}\''), "table jobs: row 1: length: -1"),
    "item": (put("job_items", 0, "path", "x'00'"), "table job_items: row 1, 0: path"),
    "event": ("UPDATE job_states SET job = '{}'", "table job_states: row 1, 1: [a-z_]+: Field required"),
}


@pytest.mark.parametrize("attack", ROWS)
def test_an_invalid_row_is_refused_by_table_row_and_column(library: CollectionStore, backup: Path, attack: str) -> None:
    statement, message = ROWS[attack]
    execute(backup, statement)
    check_refused(library, backup, message)


def test_an_oversized_cell_is_refused(library: CollectionStore, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(foreign_catalogue._LIMITS, sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
    execute(backup, put("thumbnails", 1, "jpeg", "x'ffd8'"), "INSERT INTO thumbnails VALUES (1, zeroblob(2000000))")
    check_refused(library, backup, "too big", StorageError)


def first_page_of(file: Path, table: str) -> tuple[int, int]:
    with closing(sqlite3.connect(file)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        return (page - 1) * (size := connection.execute("PRAGMA page_size").fetchone()[0]), size


def set_large_cell(page: bytearray) -> None:
    """Let the first cell claim gigabytes."""
    cell = int.from_bytes(page[8:10], "big")
    page[cell : cell + 5] = b"\x8f\xff\xff\xff\x7f"


def set_distant_cell(page: bytearray) -> None:
    """Let the first cell lie outside of the page."""
    page[8:10] = b"\xff\xff"


def overwrite(page: bytearray) -> None:
    page[:] = b"\x55" * len(page)


@pytest.mark.parametrize("table", ["videos", "vectors", "job_items", "clips_by_video"])
@pytest.mark.parametrize("damage", [set_large_cell, set_distant_cell, overwrite])
def test_a_damaged_page_is_refused(
    library: CollectionStore, backup: Path, table: str, damage: Callable[[bytearray], None]
) -> None:
    at, size = first_page_of(backup, table)
    content = bytearray(backup.read_bytes())
    page = content[at : at + size]
    damage(page)
    content[at : at + size] = page
    backup.write_bytes(content)
    check_refused(library, backup, "damaged|malformed", StorageError)


def test_a_damaged_backup_is_refused_or_gives_an_intact_collection(library: CollectionStore, backup: Path) -> None:
    whole = backup.read_bytes()
    for seed in range(rounds(30, 2000)):
        backup.write_bytes(mutated(whole, seed))
        try:
            copy = restore_collection(library, backup, "copy", allowed=allowed(library))
        except (InvalidInput, StorageError):
            assert library.names() == ["videos"]
            continue
        assert copy.catalogue.integrity_errors() == []
        assert [len(copy.clips(video.id)) for video in copy.videos()] == [video.clip_count for video in copy.videos()]
        library.drop("copy")


def test_the_full_text_index_of_a_backup_is_never_opened(library: CollectionStore, backup: Path) -> None:
    execute(backup, "UPDATE words_data SET block = x'00ff00ff00ff'", "DELETE FROM words_config")
    copy = restore_collection(library, backup, "copy", allowed=allowed(library))
    assert numbers_in(copy) == NUMBERS


def test_restored_jobs_are_confined(tmp_path: Path, library: CollectionStore, backup: Path) -> None:
    source = json.dumps({"kind": "folder", "folder": "/etc", "recursive": True})
    execute(backup, put("jobs", 1, "source", f"'{source}'"))
    copy = restore_collection(library, backup, "copy", allowed=allowed(library))
    (job,) = list_jobs(copy)
    assert (job.state, job.source, job.options.confined) == ("paused", FolderSource("/etc"), True)
    assert [item.path for item in list_items(copy, 1)] == ["/a"]
    assert job.options.segmentation == Segmentation(4.0)
    assert json.dumps(job.options.metadata) == '{"a": 1, "b": 1.0, "c": true}'


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_backups_of_every_version_are_restored(tmp_path: Path, version: int) -> None:
    with CollectionStore(tmp_path / "old") as library:
        old_collection(library.root)
    file = tmp_path / "backup"
    shutil.copy(library.root / "videos" / CATALOGUE_NAME, file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE" if version % 2 else "PRAGMA journal_mode = WAL")
        connection.create_function("spaced", 1, normalize_for_index)
        for script in UPGRADES[: version - 1]:
            connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {version}")
    with CollectionStore(tmp_path / "data" / "collections") as library:
        copy = restore_collection(library, file, "copy", allowed=allowed(library))
        assert numbers_in(copy) == [2]
        assert copy.catalogue.integrity_errors() == []
        assert (get_job(copy, 3).source, get_job(copy, 3).counts.total) == (FolderSource("/videos", recursive=False), 3)
        assert get_job(copy, 4).state == "cancelled"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("backup")] == ["backup"]
