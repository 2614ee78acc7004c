"""Parquet export and import of collections."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.jobs.jobs import create_job
from index.jobs.runner import run_job
from index.recognitions import load_video_text
from index.records import SourceValues
from index.storage.filters import parse_filter
from index.transfer import new_catalogue, parquet
from index.transfer.parquet import export_collection, import_collection
from tests.index.jobs.fixtures import write_shard
from tests.index.sample_data import (
    WIDTH,
    WITH_TEXT,
    add,
    allowed,
    clip_total,
    content,
    kept_tokens_of,
    manifest,
    metadata_of,
    numbers_in,
    tokens_of,
    vectors_of,
)
from tests.media_files import solid, write_picture
from vitascope.errors import CollectionExists, FingerprintMismatch, InvalidInput, StorageError
from vitascope.model import Model

JPEG = b"\xff\xd8\xff\xe0 a picture"
NUMBERS = range(14)
DELETED = (4, 13)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose collection has numbered videos, some deleted again, and one with text and a thumbnail."""
    root = tmp_path_factory.mktemp("template") / "library"
    source = SourceValues("stated", {"shelf": 1}, "0" * 64)
    with CollectionStore(root) as library:
        collection = library.create("videos", manifest())
        ids = add(collection, *NUMBERS)
        for number in DELETED:
            collection.delete_video(ids[number])
        video = NewVideo(
            "f" * 64,
            "/videos/ünï/“q” .mp4",
            "titel, ç\n",
            2.5,
            640,
            480,
            {"a": 1, "b": 1.0, "c": True, "d": "1"},
            "https://example.org/film.mp4",
            source,
        )
        vector = np.arange(1.0, WIDTH + 1)
        collection.add_if_new(
            video,
            [
                NewClip(0, 1.25, vector, tokens_of(0)[0], "spoken words", JPEG),
                NewClip(1.25, 2.5, -vector, tokens_of(1)[0]),
            ],
            WITH_TEXT,
        )
    return root


@pytest.fixture
def library(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CollectionStore]:
    _use_small_batches(monkeypatch)
    shutil.copytree(template, tmp_path / "data" / "collections")
    with CollectionStore(tmp_path / "data" / "collections") as library:
        yield library


@pytest.fixture
def collection(library: CollectionStore) -> Collection:
    return library.open("videos")


@pytest.fixture(scope="module")
def exported_template(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "out"
    with pytest.MonkeyPatch.context() as patch, CollectionStore(template) as library:
        _use_small_batches(patch)
        export_collection(library.open("videos"), folder, tokens=True, thumbnails=True)
    return folder


@pytest.fixture
def exported(tmp_path: Path, exported_template: Path) -> Path:
    return Path(shutil.copytree(exported_template, tmp_path / "exported"))


def _use_small_batches(patch: pytest.MonkeyPatch) -> None:
    """Write and read a small collection in many batches."""
    patch.setattr(parquet, "ROW_GROUP_BYTES", 300)
    patch.setattr(parquet, "_FETCH_ROWS", 5)
    patch.setattr(parquet, "IMPORT_BATCH_ROWS", 5)
    patch.setattr(new_catalogue, "BATCH_CLIPS", 8)


def everything(collection: Collection) -> list[Any]:
    """Return everything in a collection."""
    videos = collection.videos(1000)
    clips = [collection.clips(video.id) for video in videos]
    ids = [clip.id for own in clips for clip in own]
    texts = [load_video_text(collection, video.id) for video in videos]
    return [videos, clips, collection.visual_tokens(ids).tolist(), [collection.thumbnail(i) for i in ids], texts]


def test_an_imported_collection_equals_the_original(
    library: CollectionStore, collection: Collection, exported: Path
) -> None:
    copy = import_collection(library, exported, "copy", manifest(), allowed=allowed(library))
    assert everything(copy) == everything(collection)
    for number in (*NUMBERS, 100):
        query = vectors_of(number)[0]
        assert copy.search(query, 100) == collection.search(query, 100)
        where = parse_filter({"color": "red", "even": True})
        assert copy.search(query, 5, where) == collection.search(query, 5, where)
    assert copy.catalogue.integrity_errors() == []
    assert copy.token_encoding == collection.token_encoding
    # New videos get higher ids, and the two collections are independent.
    assert add(copy, 200)[0] > collection.videos(1000)[-1].id
    copy.delete_video(1)
    assert collection.get_video(1).title == "video 0"


def test_copies_of_later_jobs_are_not_those_of_imported_videos(tmp_path: Path, small_model: Model) -> None:
    colors = {"a.png": (220, 10, 10), "b.png": (10, 10, 220)}
    members = {name: write_picture(tmp_path / name, solid(color)).read_bytes() for name, color in colors.items()}
    shards = [write_shard(tmp_path / f"{name}.tar", {name: content}) for name, content in members.items()]
    with CollectionStore(tmp_path / "data" / "collections") as library:
        original = library.create("videos", small_model)
        run_job(original, small_model, create_job(original, shards[0]).id)
        export_collection(original, tmp_path / "out", tokens=True)
        imported = import_collection(
            library, tmp_path / "out", "copy", small_model.bundle.manifest, allowed=allowed(library)
        )
        run_job(imported, small_model, create_job(imported, shards[1]).id)
        contents = [imported.media_path(video).read_bytes() for video in imported.videos()]
        assert contents == list(members.values())


def test_duckdb_reads_an_export(exported: Path) -> None:
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT v.title, c.start, c.vector::FLOAT[8], json_extract(v.metadata, '$.weight')::DOUBLE"
            f" FROM '{exported}/clips.parquet' c JOIN '{exported}/videos.parquet' v USING (video_id)"
            " WHERE json_extract_string(v.metadata, '$.color') = 'red' ORDER BY c.clip_id"
        ).fetchall()
        metadata = dict(
            db.execute(
                f"SELECT decode(key), decode(value) FROM parquet_kv_metadata('{exported}/clips.parquet')"
            ).fetchall()
        )
    reds = [n for n in NUMBERS if metadata_of(n)["color"] == "red" and n not in DELETED]
    expected = [(f"video {n}", 4.0 * i, metadata_of(n)["weight"]) for n in reds for i in range(clip_total(n))]
    assert [(title, start, weight) for title, start, _, weight in rows] == expected
    np.testing.assert_array_equal([row[2] for row in rows], np.concatenate([vectors_of(n) for n in reds]))
    assert metadata["vitascope.format"] == "1"
    assert metadata["vitascope.fingerprint"] == manifest().fingerprint()
    assert metadata["vitascope.bundle"] == "numbers 1"


def test_pyarrow_reads_an_export(collection: Collection, exported: Path) -> None:
    clips = pq.read_table(exported / "clips.parquet")
    assert clips.schema.field("vector").type.list_size == WIDTH
    assert pq.ParquetFile(exported / "clips.parquet").metadata.num_row_groups > 3
    assert clips.num_rows == collection.stats().clips
    last = clips.slice(clips.num_rows - 2).to_pylist()
    assert [(row["text"], row["thumbnail"]) for row in last] == [("spoken words", JPEG), ("", None)]
    videos = pq.read_table(exported / "videos.parquet").to_pylist()
    assert json.loads(videos[-1]["metadata"]) == {"a": 1, "b": 1.0, "c": True, "d": "1"}
    assert [type(v) for v in json.loads(videos[-1]["metadata"]).values()] == [int, float, bool, str]


def test_an_export_is_of_one_state(tmp_path: Path, library: CollectionStore, collection: Collection) -> None:
    before = everything(collection)
    written: list[int] = []

    def write(done: int, total: int) -> None:
        number = 300 + len(written)
        written.append(add(collection, number)[0])
        if len(written) < 4:
            collection.delete_video(len(written))

    export_collection(collection, tmp_path / "out", tokens=True, thumbnails=True, on_progress=write)
    assert len(written) > 3
    assert (
        everything(import_collection(library, tmp_path / "out", "copy", manifest(), allowed=allowed(library))) == before
    )


def test_without_tokens_clips_are_found_and_have_none(
    tmp_path: Path, library: CollectionStore, collection: Collection
) -> None:
    export_collection(collection, tmp_path / "out")
    assert "tokens" not in pq.read_schema(tmp_path / "out" / "clips.parquet").names
    copy = import_collection(library, tmp_path / "out", "copy", manifest(), allowed=allowed(library))
    query = vectors_of(3)[0]
    assert copy.search(query, 100) == collection.search(query, 100)
    ids = [clip.id for clip in copy.clips(1)]
    assert set(copy.stored_tokens(ids).values()) == {None}
    # New videos have them.
    new = add(copy, 400)[0]
    np.testing.assert_array_equal(
        copy.visual_tokens([clip.id for clip in copy.clips(new)]), kept_tokens_of(400, copy.token_encoding)
    )


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_tokens_keep_their_encoding_and_words_their_stemming(tmp_path: Path, encoding: Any) -> None:
    with CollectionStore(tmp_path / "data" / "collections") as library:
        add(library.create("one", manifest(), token_encoding=encoding, stemming="none"), 1, 2)
        export_collection(library.open("one"), tmp_path / "out", tokens=True)
        copy = import_collection(library, tmp_path / "out", "copy", manifest(), allowed=allowed(library))
        assert (copy.token_encoding, copy.stemming()) == (encoding, "none")
        assert numbers_in(copy) == [1, 2]


def changed(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[pa.Table], pa.Table]:
    """A table whose rows were changed in place, with the same schema and metadata."""

    def apply(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        change(rows)
        nullable = pa.schema([f.with_nullable(True) for f in table.schema], metadata=table.schema.metadata)
        return pa.Table.from_pylist(rows, schema=nullable)

    return apply


def put(row: int, field: str, value: object) -> Callable[[pa.Table], pa.Table]:
    return changed(lambda rows: rows[row].update({field: value}))


def with_silent_sound(table: pa.Table) -> pa.Table:
    vectors = pa.array([[0.0] * WIDTH] * table.num_rows, table.schema.field("vector").type)
    return table.append_column("audio_vector", vectors)


def with_bytes_in_titles(table: pa.Table) -> pa.Table:
    titles = pa.array([b"caf\xe9"] * table.num_rows).view(pa.string())
    return table.set_column(table.schema.names.index("title"), "title", titles)


WRONG = [
    ("videos", put(2, "path", "/etc/passwd"), "videos.parquet: row 3: path: '/etc/passwd' leads to .*outside"),
    (
        "videos",
        put(2, "path", "media/../x"),
        "videos.parquet: row 3: path: .* is neither an absolute path",
    ),
    ("videos", put(2, "content_sha256", "xyz"), "videos.parquet: row 3: content_sha256: 'xyz'; 64 lower-case"),
    (
        "videos",
        put(2, "content_sha256", "f" * 64),
        r"videos.parquet: row 13: content_sha256: f+ is that of an earlier row",
    ),
    ("videos", put(7, "duration", float("nan")), "videos.parquet: row 8: duration: nan"),
    ("videos", put(7, "title", None), "videos.parquet: row 8: title: null; a value was expected"),
    ("videos", put(0, "metadata", "{"), "videos.parquet: row 1: metadata: not JSON"),
    ("videos", put(0, "metadata", '{"a": [1]}'), r"videos.parquet: row 1: metadata\['a'\]: \[1\]; a string"),
    ("videos", put(0, "metadata", "[]"), "videos.parquet: row 1: metadata: "),
    ("videos", put(1, "video_id", 1), "videos.parquet: row 2: video_id: 1; more than 1"),
    ("videos", put(1, "clip_count", 0), "videos.parquet: row 2: clip_count: 0; at least 1"),
    ("videos", put(1, "clip_count", 3), r"row 4 is of video 3 after 2 clips of video 2; 3 in a row.*row 2: clip_count"),
    ("videos", put(1, "added_at", float("inf")), "videos.parquet: row 2: added_at: inf"),
    (
        "videos",
        put(1, "added_at", 1.7e15),
        r"videos.parquet: row 2: added_at: 1700000000000000.0; .* before the year 3000",
    ),
    (
        "videos",
        changed(lambda rows: rows.pop()),
        "clips.parquet: row .*: video_id: 15; no row of videos.parquet is left",
    ),
    ("videos", changed(lambda rows: rows.reverse()), "after 0 clips of video 15; 2 in a row"),
    ("clips", changed(lambda rows: rows.pop()), "clips.parquet: the file ends after 1 clips of video 15; 2 in a row"),
    ("clips", put(4, "clip_id", 9), "clips.parquet: row 5: clip_id: 9; 5 was expected"),
    ("clips", put(5, "end", -1.0), "clips.parquet: row 6: clip: .* to -1.0 s"),
    ("clips", put(6, "vector", [0.0] * WIDTH), "clips.parquet: row 7: vector: its length is 0.0"),
    ("clips", put(6, "vector", [float("nan")] * WIDTH), "clips.parquet: row 7: vector: its length is nan"),
    ("clips", with_silent_sound, "clips.parquet: row 1: audio_vector: its length is 0.0"),
    ("videos", with_bytes_in_titles, "videos.parquet: after row 0: title: not UTF-8"),
    ("clips", put(8, "tokens", b"123"), r"clips.parquet: row 9: tokens: 3 bytes; 10 were expected"),
    ("clips", put(9, "thumbnail", b"GIF8"), "clips.parquet: row 10: thumbnail: 4 bytes"),
    ("clips", put(10, "text", "a\0"), "clips.parquet: row 11: text: .* NUL"),
    ("clips", lambda table: table.drop_columns(["vector"]), "clips.parquet: column vector: missing"),
    ("videos", lambda table: table.append_column("title", table["title"]), "column title: occurs more than once"),
    (
        "clips",
        lambda table: table.set_column(0, "clip_id", pa.array(["x"] * table.num_rows)),
        "column clip_id: string; int64",
    ),
    ("clips", lambda table: table.replace_schema_metadata({}), "clips.parquet: no vitascope.format in its metadata"),
]


@pytest.mark.parametrize(("file", "change", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_an_invalid_row_is_named_and_no_collection_is_created(
    library: CollectionStore, exported: Path, file: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = exported / f"{file}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(InvalidInput, match=message):
        import_collection(library, exported, "copy", manifest(), allowed=allowed(library))
    assert [entry.name for entry in library.root.iterdir()] == ["videos"]


def test_files_of_different_exports_or_damaged_ones_are_refused(
    tmp_path: Path, library: CollectionStore, collection: Collection, exported: Path
) -> None:
    export_collection(collection, tmp_path / "second", tokens=True)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(exported / "videos.parquet", mixed)
    with pytest.raises(InvalidInput, match=r"mixed' has no clips.parquet"):
        import_collection(library, mixed, "copy", manifest(), allowed=allowed(library))
    shutil.copy(tmp_path / "second" / "clips.parquet", mixed)
    with pytest.raises(InvalidInput, match=r"clips.parquet: of export "):
        import_collection(library, mixed, "copy", manifest(), allowed=allowed(library))
    whole = (exported / "clips.parquet").read_bytes()
    for damaged in (whole[:-200], b"not parquet", b""):
        (exported / "clips.parquet").write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"clips.parquet: "):
            import_collection(library, exported, "copy", manifest(), allowed=allowed(library))
    assert library.names() == ["videos"]


def test_another_bundle_and_existing_names_are_refused(library: CollectionStore, exported: Path) -> None:
    with pytest.raises(FingerprintMismatch, match="collection of bundle numbers 1, fingerprint "):
        import_collection(library, exported, "copy", manifest("others"), allowed=allowed(library))
    with pytest.raises(CollectionExists, match="videos"):
        import_collection(library, exported, "videos", manifest(), allowed=allowed(library))
    assert library.names() == ["videos"]


def test_an_export_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for target, problem in ((tmp_path, "exists; a new folder"), (tmp_path / "a" / "b", "is not a folder")):
        with pytest.raises(InvalidInput, match=problem):
            export_collection(collection, target)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    before = sorted(entry.name for entry in tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"was not exported: .*No space left"):
        export_collection(collection, tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    assert collection.search(vectors_of(1)[0], 1)[0].video.title == "video 1"


def edit(file: Path, row: int, column: str, value: object) -> None:
    pq.write_table(put(row, column, value)(pq.read_table(file)), file)


def test_an_export_by_0_2_0_gets_its_uploads_from_the_data_folder(
    tmp_path: Path, library: CollectionStore, exported: Path
) -> None:
    """Version 0.2.0 named them by absolute paths, in a data folder that may have been elsewhere."""
    upload = library.root.parent / "media" / "videos" / f"{content(1)}.mp4"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"1")  # `content` is its SHA-256
    edit(exported / "videos.parquet", 1, "path", f"/former/media/videos/{content(1)}.mp4")
    copy = import_collection(library, exported, "copy", manifest(), allowed=allowed(library))
    video = copy.get_video(2)
    assert video.path == f"media/{content(1)}.mp4"
    assert copy.media_path(video).read_bytes() == b"1"
    copy.delete_video(2)
    upload.write_bytes(b"another file")
    edit(exported / "videos.parquet", 1, "path", str(upload))
    with pytest.raises(InvalidInput, match="in the data folder"):
        import_collection(library, exported, "other", manifest(), allowed=allowed(library))


def test_unknown_columns_are_not_read(library: CollectionStore, exported: Path) -> None:
    file = exported / "videos.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("unknown", pa.nulls(table.num_rows)), file)
    copy = import_collection(library, exported, "copy", manifest(), allowed=allowed(library))
    assert copy.stats() == library.open("videos").stats()


def test_an_export_by_an_earlier_version_has_no_columns_of_the_source(library: CollectionStore, exported: Path) -> None:
    file = exported / "videos.parquet"
    table = pq.read_table(file).drop_columns(["source_uri", "source_values"])
    header = {key: value for key, value in table.schema.metadata.items() if key != b"vitascope.stemming"}
    pq.write_table(table.replace_schema_metadata(header), file)
    copy = import_collection(library, exported, "copy", manifest(), allowed=allowed(library))
    assert {(video.source_uri, video.source_values) for video in copy.videos()} == {(None, SourceValues())}
