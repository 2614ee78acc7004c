"""Items of each kind of source, and where their files are stored."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from index.collection import Collection
from index.jobs import source_items
from index.jobs.jobs import create_job, list_items
from index.jobs.runner import run_job
from index.jobs.source_items import list_folder, list_source
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.fetcher import BLOCK, open_url
from index.jobs.sources.source_types import (
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    SourceItem,
    UrlSource,
    check_source,
    parse_source,
    read_source,
    source_json,
)
from index.storage.catalogue import CATALOGUE_NAME
from tests.index.jobs.fixtures import write_shard
from vitascope.errors import InvalidInput
from vitascope.media.limits import MediaLimits
from vitascope.model import Model


def listed(source: Source, policy: AccessPolicy = UNRESTRICTED) -> list[SourceItem]:
    return list(list_source(check_source(source, policy), policy))


def indexed(collection: Collection, model: Model, source: Source, **options: Any) -> dict[str, tuple[str, str | None]]:
    """(state, reason) by path of a job that was run to its end."""
    job = run_job(collection, model, create_job(collection, source).id, **options)
    assert job.state == "succeeded", job.error
    return {item.path: (item.state, item.reason) for item in list_items(collection, job.id)}


# Descriptions


def test_arguments_are_parsed_to_sources(films: Path) -> None:
    name = str(films)
    for file in ("list.CSV", "a.tar", "a.mp4"):
        (films / file).touch()
    assert parse_source([name], recursive=False) == FolderSource(name, recursive=False)
    assert parse_source([f"{name}/list.CSV"]) == ListSource(f"{name}/list.CSV")
    assert parse_source([f"{name}/a.tar"]) == ShardsSource((f"{name}/a.tar",))
    assert parse_source([f"{name}/a.mp4", f"{name}/red.png"]) == FilesSource((f"{name}/a.mp4", f"{name}/red.png"))
    assert parse_source(["s3://bucket/a/"]) == UrlSource("s3://bucket/a/")
    with pytest.raises(InvalidInput, match="together with others"):
        parse_source([name, f"{name}/a.mp4"])
    with pytest.raises(InvalidInput, match=r"source: 'nowhere.mp4' does not exist"):
        parse_source(["nowhere.mp4"])


@pytest.mark.parametrize(
    "source",
    [
        FolderSource("/a", recursive=False),
        FilesSource(("/a", "/b")),
        ListSource("/a.csv", "x", "y"),
        ShardsSource(("/a.tar",)),
        UrlSource("s3://a/b"),
    ],
    ids=lambda source: source.kind,
)
def test_a_stored_source_is_read_back(source: Source) -> None:
    assert read_source(source_json(source)) == source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (FolderSource("/no/where"), "folder: '/no/where' is not a folder"),
        (FilesSource(()), "files: 0 given"),
        (FilesSource(("/no/where",)), "files: '/no/where' is not a file"),
        (FilesSource((os.fsdecode(b"/no/caf\xe9.mp4"),)), r"files: '/no/caf\\xe9.mp4': the path is not valid UTF-8"),
        (ListSource(__file__), "file: .*a name ending in .csv"),
        (ShardsSource((__file__,)), "shards: .*a name ending in .tar"),
    ],
)
def test_a_source_that_does_not_exist_is_named(source: Source, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_source(source)


def test_paths_of_a_relative_source_do_not_depend_on_the_working_folder(
    films: Path, tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    relative = os.path.relpath(films)
    assert relative.startswith("..")
    run_job(collection, small_model, create_job(collection, parse_source([relative])).id)
    assert {Path(video.path).parent for video in collection.videos()} == {films}


def test_a_local_url_is_the_file_itself(films: Path) -> None:
    assert check_source(UrlSource(films.as_uri())) == FolderSource(str(films))
    assert check_source(UrlSource((films / "red.png").as_uri())) == FilesSource((str(films / "red.png"),))


# Folders


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def folder_items(root: Path, recursive: bool = True) -> dict[str, str]:
    """Relative path to "state: reason"."""
    return {
        os.path.relpath(item.uri, root): f"{item.state}: {item.reason}" if item.reason else item.state
        for item in list_folder(root, recursive)
    }


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.mp4", "a/b/c.mp4", "A.mp4", "a.mp4", "ä.mp4")
    assert list(folder_items(tmp_path)) == ["A.mp4", "a/b/c.mp4", "a/z.mp4", "a.mp4", "b.mp4", "ä.mp4"]
    assert list(folder_items(tmp_path, recursive=False)) == ["A.mp4", "a.mp4", "b.mp4", "ä.mp4"]
    with pytest.raises(FileNotFoundError):
        list(list_folder(tmp_path / "nothing"))


def test_the_data_of_collections_is_not_indexed(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "vitascope-data/collections/videos/catalogue.sqlite3-wal", "vitascope-data/b.mp4")
    touch(tmp_path, *(f"vitascope-data/collections/videos/{name}" for name in (CATALOGUE_NAME, "media/uploaded.mp4")))
    assert list(folder_items(tmp_path)) == ["a.mp4", "vitascope-data/b.mp4"]


def test_a_file_that_is_no_media_is_skipped_or_failed_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.srt", "notes.TXT", "no-suffix", "b.unknown", ".DS_Store", ".git/x.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    touch(tmp_path, os.fsdecode(b"caf\xe9.mp4"), os.fsdecode(b"caf\xe9.srt"))
    assert folder_items(tmp_path) == {
        "a.mp4": "queued",
        "a.srt": "skipped: not a media file (.srt)",
        "notes.TXT": "skipped: not a media file (.txt)",
        "no-suffix": "queued",
        "b.unknown": "queued",
        ".DS_Store": "skipped: hidden file",
        "pipe.mp4": "skipped: not a regular file",
        "caf\\xe9.mp4": "failed: the path is not valid UTF-8, which was expected; rename the file or folder",
        "caf\\xe9.srt": "skipped: not a media file (.srt)",
    }


def test_links_do_not_lead_out_of_the_folder_or_in_circles(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    touch(inside, "a.mp4", "deep/b.mp4")
    touch(outside, "secret.mp4")
    (inside / "same.mp4").symlink_to(inside / "deep" / "b.mp4")
    (inside / "out.mp4").symlink_to(outside / "secret.mp4")
    (inside / "dead.mp4").symlink_to(tmp_path / "nothing")
    (inside / "circle.mp4").symlink_to("circle.mp4")
    (inside / "deep" / "up").symlink_to(inside)
    (inside / "others").symlink_to(outside)
    expected = {
        "a.mp4": "queued",
        "circle.mp4": "failed: a symbolic link that leads nowhere",
        "dead.mp4": "failed: a symbolic link that leads nowhere",
        "deep/b.mp4": "queued",
        "out.mp4": "skipped: a symbolic link that leaves the folder",
        "same.mp4": "queued",
    }
    assert folder_items(inside) == expected
    (tmp_path / "link").symlink_to(inside)
    assert folder_items(tmp_path / "link") == expected  # the folder itself may be a link


def test_an_unreadable_folder_is_listed_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "locked/b.mp4", "z.mp4")
    open_folder = source_items.open_folder_beneath

    def open_unless_locked(top: int, folder: PurePath) -> int:  # root may read every folder
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return open_folder(top, folder)

    monkeypatch.setattr(source_items, "open_folder_beneath", open_unless_locked)
    assert folder_items(tmp_path) == {
        "a.mp4": "queued",
        "locked": "failed: cannot be listed: Permission denied",
        "z.mp4": "queued",
    }


# File lists


def test_columns_of_a_csv_become_title_and_metadata(films: Path, collection: Collection, small_model: Model) -> None:
    (films / "list.csv").write_text(
        "\ufeffpath,title,year,site,checked,duration\n"
        'red.png,"Red, a film",2020,north,true,12.5\n'
        "blue.png,,007,,false,\n",
        "utf-8",
    )
    indexed(collection, small_model, ListSource(str(films / "list.csv")))
    red, blue = sorted(collection.videos(), key=lambda video: video.title)
    assert (red.title, red.path) == ("Red, a film", str(films / "red.png"))
    assert red.metadata == {"year": 2020, "site": "north", "checked": True, "source_duration": 12.5}
    assert (blue.title, blue.metadata) == ("blue", {"year": "007", "checked": False})


def test_a_row_that_cannot_be_used_is_named_by_file_line_and_field(films: Path) -> None:
    (films / "list.csv").write_bytes(
        b"path,title\nred.png,one\n,two\nblue.png\nred.png,three\n"
        b'"broken\nname.png",caf\xe9\n\nblue.png,four\nhttp://user:secret@host/a.mp4,\n'
    )
    items = listed(ListSource(str(films / "list.csv")))
    assert [(item.state, item.reason and item.reason.split(";")[0]) for item in items] == [
        ("queued", None),
        ("failed", "list.csv, line 3, column 'path': None"),
        ("failed", "list.csv, line 4: 1 cells"),
        ("skipped", "duplicate URI in the source"),
        ("failed", "list.csv, line 6, column 'title': 'caf\\udce9' holds a NUL or a lone surrogate"),
        ("queued", None),
        (
            "failed",
            "list.csv, line 10, column 'path': the URL of 'host' holds a name or password, which would be "
            "stored in plain text",
        ),
    ]
    assert [item.uri for item in items if item.state == "queued"] == [str(films / "red.png"), str(films / "blue.png")]
    assert items[1].uri == "list.csv, line 3"


def test_json_lines_are_read_and_invalid_ones_named(films: Path) -> None:
    lines = {
        json.dumps({"file": "red.png", "name": "Red", "year": 2020, "note": None}): "",
        "{": "line 2: not JSON",
        "[1]": "line 3: a JSON list",
        json.dumps({"file": "blue.png", "tags": ["a", "b"]}): "line 4, column 'tags'",
        json.dumps({"file": 7}): "line 5, column 'file': 7",
        json.dumps({"file": "blue.png", "name": 7}): "line 6, column 'name'",
        json.dumps({"file": "blue.png", "big": 2**70}): "line 7, column 'big'",
    }
    (films / "list.jsonl").write_text("\n".join(lines) + "\n")
    red, *failed = listed(ListSource(str(films / "list.jsonl"), path_column="file", title_column="name"))
    assert red == SourceItem(str(films / "red.png"), title="Red", metadata={"year": 2020})
    assert len(failed) == 6
    for item, problem in zip(failed, list(lines.values())[1:], strict=True):
        assert item.state == "failed"
        assert f"list.jsonl, {problem}" in (item.reason or "")


def test_parquet_is_read_row_by_row(films: Path) -> None:
    table = pa.table(
        {
            "path": ["red.png", None, "blue.png"],
            "year": [2020, 2021, None],
            "weight": [0.5, 1.0, float("nan")],
            "when": pa.array([86400, 0, None], pa.timestamp("s")),
        }
    )
    parquet.write_table(table, films / "list.parquet")
    red, missing, blue = listed(ListSource(str(films / "list.parquet")))
    assert red.metadata == {"year": 2020, "weight": 0.5, "when": "1970-01-02T00:00:00"}
    assert missing.reason == "list.parquet, row 2, column 'path': None; a path or URL was expected"
    assert (blue.uri, blue.metadata) == (str(films / "blue.png"), {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"file,title\na,b\n", "no column 'path' among 'file', 'title'"),
        ("b.csv", b"", "no column 'path' among none"),
        ("c.csv", b"path,a,a\n", "column 'a' is empty or there twice"),
        ("d.parquet", b"not parquet at all", "a Parquet file was expected"),
    ],
)
def test_a_malformed_list_fails_the_job_with_the_reason(
    tmp_path: Path, collection: Collection, small_model: Model, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    job = run_job(collection, small_model, create_job(collection, ListSource(str(tmp_path / name))).id)
    assert job.state == "failed"
    assert message in (job.error or "")


# Shards


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_members_of_shards_become_videos_with_copies_in_the_collection(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model, suffix: str
) -> None:
    red, blue = (films / "red.png").read_bytes(), (films / "blue.png").read_bytes()
    shard = tmp_path / f"shard-0{suffix}"
    source = write_shard(
        shard,
        {
            "set/a.png": red,
            "set/a.json": b'{"title": "A red thing", "width": 96, "nested": {"a": 1}, "ok": true, "none": null}',
            "set/a.txt": b"a red thing\n",
            "set/b.png": blue,
            "set/b.npy": b"numbers",
            "set/c.json": b"{}",
            "set/d.png": red,
            "set/e.png": b"no picture",
            "set/f.png": blue,
            "set/f.json": b"[]",
        },
    )
    items = indexed(collection, small_model, source)
    outcome = {path.removeprefix("tar://set/").split("::")[0]: result for path, result in items.items()}
    assert outcome["a.png"] == outcome["b.png"] == ("succeeded", None)
    assert outcome["b.npy"] == ("skipped", "not a media file (.npy)")
    assert outcome["c.json"] == ("skipped", "no media file has this key")
    assert outcome["d.png"][0] == "skipped"
    assert outcome["e.png"][0] == "failed"
    assert (outcome["e.png"][1] or "").startswith("e.png: ")
    assert "set/f.json: a JSON list" in (outcome["f.png"][1] or "")

    first, second = sorted(collection.videos(), key=lambda video: video.title)
    assert first.title == "A red thing"
    assert first.metadata == {"source_width": 96, "ok": True, "caption": "a red thing"}
    assert (second.title, second.metadata) == ("b", {})
    shard.unlink()  # they play from the collection's own copies
    copies = [collection.media_path(video) for video in (first, second)]
    assert copies[0].read_bytes() == red
    assert sorted(copies[0].parent.iterdir()) == sorted(copies)
    assert collection.owns(first)
    assert copies[0].is_relative_to(collection.folder)


def test_members_before_the_damage_of_a_shard_are_added(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model
) -> None:
    whole, cut, none, flipped = (tmp_path / f"{name}.tar" for name in ("whole", "cut", "none", "flipped"))
    write_shard(whole, {"a.png": (films / "red.png").read_bytes(), "b.png": b"b" * 5000})
    cut.write_bytes(whole.read_bytes()[:2000])
    none.write_bytes(b"words" * 1000)
    flipped.write_bytes(whole.read_bytes().replace(b"b.png\0", b"B.png\0"))  # the checksum of its header is wrong
    items = indexed(collection, small_model, ShardsSource((str(cut), str(none), str(flipped))))
    assert items[f"tar://a.png::{cut}"] == ("succeeded", None)
    assert "cannot be read beyond" in (items[str(none)][1] or "")
    assert "cannot be read beyond a.png: bad checksum" in (items[str(flipped)][1] or "")
    assert items[f"tar://b.png::{cut}"][0] == "failed"
    assert sum(state == "failed" for state, _ in items.values()) == 4


# URLs


def test_files_behind_a_url_are_copied_into_the_collection(
    films: Path, collection: Collection, small_model: Model, memory: Any
) -> None:
    for name in ("red.png", "deep/blue.png"):
        memory.pipe(f"/bucket/{name}", (films / Path(name).name).read_bytes())
    memory.pipe("/bucket/notes.txt", b"words")
    memory.pipe("/bucket/broken.mp4", b"no film")
    pattern = [item.uri for item in listed(UrlSource("memory://bucket/*e*.png"))]
    assert pattern == ["memory://bucket/red.png"]
    items = indexed(collection, small_model, UrlSource("memory://bucket/"))
    assert items["memory://bucket/red.png"] == ("succeeded", None)
    assert items["memory://bucket/deep/blue.png"] == ("succeeded", None)
    assert items["memory://bucket/notes.txt"] == ("skipped", "not a media file (.txt)")
    assert (items["memory://bucket/broken.mp4"][1] or "").startswith("broken.mp4: ")
    memory.rm("/bucket", recursive=True)
    assert sorted(video.title for video in collection.videos()) == ["blue", "red"]
    assert all(collection.media_path(video).is_file() for video in collection.videos())
    assert len(list((collection.folder / "media").rglob("*.*"))) == 2
    missing = "memory://bucket/missing.png"
    assert indexed(collection, small_model, UrlSource(missing))[missing][0] == "failed"


def test_a_file_that_is_too_large_is_not_copied(
    collection: Collection, small_model: Model, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/bucket/large.mp4", b"x" * 10_000)
    limits = MediaLimits(max_bytes=1000)
    source = UrlSource("memory://bucket/large.mp4")
    assert "10000 bytes" in (indexed(collection, small_model, source, limits=limits)[source.url][1] or "")
    monkeypatch.setattr("index.jobs.sources.fetcher.open_url", lambda url: (open_url(url)[0], None))  # size unknown
    assert "more than 1000 bytes" in (indexed(collection, small_model, source, limits=limits)[source.url][1] or "")
    assert list((collection.folder / "media").rglob("*.*")) == []


def test_http_needs_no_ranges_and_has_no_limit_on_the_whole_download(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[dict[str, Any]] = []

    class Streams:
        def open(self, path: str, mode: str, **options: Any) -> io.BytesIO:
            used.append(options)
            return io.BytesIO(b"film")

        def info(self, path: str) -> dict[str, int]:
            return {"https://host/a.mp4": {"size": 4}}[path]

    def url_to_fs(url: str, **options: Any) -> tuple[Streams, str]:
        used.append(options)
        return Streams(), url

    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(ClientTimeout=dict))
    monkeypatch.setattr("fsspec.url_to_fs", url_to_fs)
    for url, known in (("https://host/a.mp4", 4), ("https://host/b.mp4", None), ("memory://bucket/a.mp4", None)):
        stream, size = open_url(url)
        assert (stream.read(), size) == (b"film", known)
    http = [{"timeout": {"sock_connect": 60, "sock_read": 60}}, {"block_size": 0}]
    assert used == [*http, *http, {}, {"block_size": BLOCK}]


def test_an_unknown_protocol_fails_the_job(collection: Collection, small_model: Model) -> None:
    job = run_job(collection, small_model, create_job(collection, UrlSource("nonsense://a/b.mp4")).id)
    assert job.state == "failed"
    assert "nonsense" in (job.error or "")
