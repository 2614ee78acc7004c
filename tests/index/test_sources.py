"""What each kind of source names, and where the bytes of its videos come to lie."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from index.collection import Collection
from index.jobs.jobs import JobOptions, create_job, items, job, run_job
from index.jobs.sources import remote
from index.jobs.sources.description import (
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    UrlSource,
    check_source,
    guess_source,
    read_source,
    source_json,
)
from index.jobs.sources.item import SourceItem
from index.jobs.sources.listing import list_source
from index.jobs.sources.reach import EVERYWHERE, Reach
from index.library import Library
from tests.media_files import solid, write_color_video, write_picture
from vitascope.errors import Conflict, InvalidInput
from vitascope.media.limits import MediaLimits
from vitascope.model import Model


@pytest.fixture
def collection(tmp_path: Path, small_model: Model) -> Iterator[Collection]:
    with Library(tmp_path / "library") as library:
        yield library.create("videos", small_model)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with a red and a blue picture."""
    folder = tmp_path / "films"
    folder.mkdir()
    write_picture(folder / "red.png", solid((220, 10, 10)))
    write_picture(folder / "blue.png", solid((10, 10, 220)))
    return folder


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def listed(source: Source, reach: Reach = EVERYWHERE) -> list[SourceItem]:
    return list(list_source(check_source(source, reach), reach))


def indexed(collection: Collection, model: Model, source: Source, **options: Any) -> dict[str, tuple[str, str | None]]:
    """(state, reason) by path of a job that was run to its end."""
    done = run_job(collection, model, create_job(collection, source).id, **options)
    assert done.state == "succeeded", done.error
    return {item.path: (item.state, item.reason) for item in items(collection, done.id)}


# File lists


def test_columns_of_a_csv_become_title_and_metadata(films: Path, collection: Collection, small_model: Model) -> None:
    (films / "list.csv").write_text(
        "\ufeffpath,title,year,site,checked,duration\n"
        'red.png,"Red, a film",2020,north,true,12.5\n'
        "blue.png,,007,,false,\n",
        "utf-8",
    )
    indexed(collection, small_model, ListSource(str(films / "list.csv")))
    red, blue = sorted(collection.videos(), key=lambda video: video.title, reverse=False)
    assert (red.title, red.path) == ("Red, a film", str(films / "red.png"))
    assert red.metadata == {"year": 2020, "site": "north", "checked": True, "source_duration": 12.5}
    assert (blue.title, blue.metadata) == ("blue", {"year": "007", "checked": False})


def test_a_row_that_cannot_be_used_is_named_by_file_line_and_field(films: Path) -> None:
    (films / "list.csv").write_bytes(
        b"path,title\nred.png,one\n,two\nblue.png\nred.png,three\n"
        b'"broken\nname.png",caf\xe9\n\nblue.png,four\nhttp://user:secret@host/a.mp4,\n'
    )
    found = listed(ListSource(str(films / "list.csv")))
    assert [(item.state, item.reason and item.reason.split(";")[0]) for item in found] == [
        ("queued", None),
        ("failed", "list.csv, line 3, column 'path': None"),
        ("failed", "list.csv, line 4: 1 cells"),
        ("skipped", "the source has named this before"),
        ("failed", "list.csv, line 6, column 'title': 'caf\\udce9' holds a NUL or a lone surrogate"),
        ("queued", None),
        (
            "failed",
            "list.csv, line 10, column 'path': the URL of 'host' holds a name or password, which would lie "
            "open in the catalogue",
        ),
    ]
    assert [item.uri for item in found if item.state == "queued"] == [str(films / "red.png"), str(films / "blue.png")]
    assert found[1].uri == "list.csv, line 3"


def test_json_lines_are_read_and_their_mistakes_named(films: Path) -> None:
    lines = [
        json.dumps({"file": "red.png", "name": "Red", "year": 2020, "note": None}),
        "{",
        "[1]",
        json.dumps({"file": "blue.png", "tags": ["a", "b"]}),
        json.dumps({"file": 7}),
        json.dumps({"file": "blue.png", "name": 7}),
        json.dumps({"file": "blue.png", "big": 2**70}),
    ]
    (films / "list.jsonl").write_text("\n".join(lines) + "\n")
    found = listed(ListSource(str(films / "list.jsonl"), path_column="file", title_column="name"))
    assert found[0] == SourceItem(str(films / "red.png"), title="Red", metadata={"year": 2020})
    for item, words in zip(
        found[1:],
        [
            "line 2: not JSON",
            "line 3: a JSON list",
            "line 4, column 'tags'",
            "line 5, column 'file': 7",
            "line 6, column 'name'",
            "line 7, column 'big'",
        ],
        strict=True,
    ):
        assert item.state == "failed"
        assert f"list.jsonl, {words}" in (item.reason or "")


def test_parquet_is_read_row_by_row(films: Path) -> None:
    table = pa.table(
        {
            "path": ["red.png", None, "blue.png"],
            "year": [2020, 2021, None],
            "weight": [0.5, 1.0, float("nan")],
            "when": pa.array([86400, 0, None], pa.timestamp("s")),
            "words": [["a"], None, None],
        }
    )
    parquet.write_table(table.drop_columns(["words"]), films / "list.parquet")
    red, missing, blue = listed(ListSource(str(films / "list.parquet")))
    assert red.metadata == {"year": 2020, "weight": 0.5, "when": "1970-01-02T00:00:00"}
    assert missing.reason == "list.parquet, row 2, column 'path': None; a path or URL was expected"
    assert (blue.uri, blue.metadata) == (str(films / "blue.png"), {})
    parquet.write_table(table, films / "nested.parquet")
    assert "row 1, column 'words'" in (listed(ListSource(str(films / "nested.parquet")))[0].reason or "")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"file,title\na,b\n", "no column 'path' among 'file', 'title'"),
        ("b.csv", b"", "no column 'path' among none"),
        ("c.csv", b"path,a,a\n", "column 'a' is empty or there twice"),
        ("d.parquet", b"not parquet at all", "a Parquet file was expected"),
    ],
)
def test_a_list_that_is_none_fails_the_job_with_the_reason(
    tmp_path: Path, collection: Collection, small_model: Model, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run_job(collection, small_model, create_job(collection, ListSource(str(tmp_path / name))).id)
    assert done.state == "failed"
    assert words in (done.error or "")


# Shards


def write_shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_members_of_shards_become_videos_that_the_collection_keeps(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model, ending: str
) -> None:
    red, blue = (films / "red.png").read_bytes(), (films / "blue.png").read_bytes()
    shard = write_shard(
        tmp_path / f"shard-0{ending}",
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
        "w:gz" if ending == ".tar.gz" else "w",
    )
    found = indexed(collection, small_model, ShardsSource((str(shard),)))
    outcome = {path.removeprefix("tar://set/").split("::")[0]: ended for path, ended in found.items()}
    assert outcome["a.png"] == outcome["b.png"] == ("succeeded", None)
    assert outcome["b.npy"] == ("skipped", "not a media file (.npy)")
    assert outcome["c.json"] == ("skipped", "no media file of this key is beside it")
    assert outcome["d.png"][0] == "skipped"
    assert outcome["e.png"][0] == "failed"
    assert (outcome["e.png"][1] or "").startswith("e.png: ")
    assert "set/f.json: a JSON list" in (outcome["f.png"][1] or "")

    first, second = sorted(collection.videos(), key=lambda video: video.title)
    assert first.title == "A red thing"
    assert first.metadata == {"source_width": 96, "ok": True, "caption": "a red thing"}
    assert (second.title, second.metadata) == ("b", {})
    shard.unlink()  # they play from the collection's own copies
    assert Path(first.path).read_bytes() == red
    assert sorted(Path(first.path).parent.iterdir()) == sorted([Path(first.path), Path(second.path)])
    assert Path(first.path).is_relative_to(collection.folder)


def test_a_damaged_shard_gives_what_is_before_the_damage(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model
) -> None:
    whole = write_shard(tmp_path / "whole.tar", {"a.png": (films / "red.png").read_bytes(), "b.png": b"b" * 5000})
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "none.tar").write_bytes(b"words" * 1000)
    found = indexed(collection, small_model, ShardsSource((str(tmp_path / "cut.tar"), str(tmp_path / "none.tar"))))
    assert found[f"tar://a.png::{tmp_path / 'cut.tar'}"] == ("succeeded", None)
    assert "cannot be read beyond" in (found[str(tmp_path / "none.tar")][1] or "")
    assert found[f"tar://b.png::{tmp_path / 'cut.tar'}"][0] == "failed"
    assert sum(state == "failed" for state, _ in found.values()) == 3


# URLs


def test_files_behind_a_url_are_copied_into_the_collection(
    films: Path, collection: Collection, small_model: Model, memory: Any
) -> None:
    for name in ("red.png", "deep/blue.png"):
        memory.pipe(f"/bucket/{name}", (films / Path(name).name).read_bytes())
    memory.pipe("/bucket/notes.txt", b"words")
    memory.pipe("/bucket/broken.mp4", b"no film")
    found = indexed(collection, small_model, UrlSource("memory://bucket/"))
    assert found["memory://bucket/red.png"] == ("succeeded", None)
    assert found["memory://bucket/deep/blue.png"] == ("succeeded", None)
    assert found["memory://bucket/notes.txt"] == ("skipped", "not a media file (.txt)")
    assert (found["memory://bucket/broken.mp4"][1] or "").startswith("broken.mp4: ")
    memory.rm("/bucket", recursive=True)
    assert sorted(video.title for video in collection.videos()) == ["blue", "red"]
    assert all(Path(video.path).is_file() for video in collection.videos())
    assert len(list((collection.folder / "media").rglob("*.*"))) == 2
    gone = "memory://bucket/gone.png"
    assert indexed(collection, small_model, UrlSource(gone))[gone][0] == "failed"


def test_a_pattern_names_what_matches(films: Path, memory: Any) -> None:
    for name in ("a1.png", "a2.png", "b.png"):
        memory.pipe(f"/bucket/{name}", b"x")
    assert [item.uri for item in listed(UrlSource("memory://bucket/a*.png"))] == [
        "memory://bucket/a1.png",
        "memory://bucket/a2.png",
    ]


def test_a_file_that_is_too_large_is_not_copied(
    films: Path, collection: Collection, small_model: Model, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/bucket/large.mp4", b"x" * 10_000)
    limits = MediaLimits(max_bytes=1000)
    source = UrlSource("memory://bucket/large.mp4")
    assert "10000 bytes" in (indexed(collection, small_model, source, limits=limits)[source.url][1] or "")
    monkeypatch.setattr(remote, "open_url", remote.open_url)
    real = remote.open_url
    monkeypatch.setattr(
        "index.jobs.sources.fetching.open_url", lambda url: (real(url)[0], None)
    )  # a size that is not told
    assert "more than 1000 bytes" in (indexed(collection, small_model, source, limits=limits)[source.url][1] or "")
    assert list((collection.folder / "media").rglob("*.*")) == []


def test_a_local_url_is_the_file_itself(films: Path) -> None:
    assert check_source(UrlSource(films.as_uri())) == FolderSource(str(films))
    assert check_source(UrlSource((films / "red.png").as_uri())) == FilesSource((str(films / "red.png"),))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("simplecache::file:///etc/passwd", "is no URL"),
        ("tar://a::s3://b/c.tar", "chains file systems"),
        ("https://me:secret@host/a.mp4", "holds a name or password"),
        ("s3://bucket/videos/../secret", "'..'"),
        ("https://media.exa\tmple/a.mp4", "control characters"),
        ("s3://bucket/videos/%2e%2e/secret", "'..'"),
        ("nothing", "is no URL"),
        ("file://other/a.mp4", "names the machine 'other'"),
    ],
)
def test_urls_that_lead_elsewhere_are_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidInput, match="url: ") as raised:
        check_source(UrlSource(url))
    assert words in str(raised.value)
    assert "secret@" not in str(raised.value)


def test_a_protocol_that_nobody_knows_fails_the_job(collection: Collection, small_model: Model) -> None:
    done = run_job(collection, small_model, create_job(collection, UrlSource("nonsense://a/b.mp4")).id)
    assert done.state == "failed"
    assert "nonsense" in (done.error or "")


# How far a source may reach


def test_allowed_urls_are_compared_part_by_part() -> None:
    reach = Reach((), ("https://media.example/films", "s3://bucket/"))
    for url in ("https://media.example/films", "https://media.example/films/a.mp4", "s3://bucket/a/b.mp4"):
        assert reach.refuses_url(url) is None
    for url in (
        "https://media.example.evil/films/a.mp4",
        "https://media.example/filmsecrets",
        "http://media.example/films/a.mp4",
        "https://media.example:81/films/a.mp4",
        "s3://bucket2/a.mp4",
        "memory://bucket/a",
    ):
        assert "outside the URLs" in (reach.refuses_url(url) or ""), url


def test_no_item_of_a_list_leads_out_of_the_allowed_folders(tmp_path: Path, films: Path) -> None:
    secret = write_picture(tmp_path / "secret.png", solid((1, 2, 3)))
    (films / "link.png").symlink_to(secret)
    (films / "list.csv").write_text(
        f"path\nred.png\n../secret.png\n{secret}\nlink.png\n{secret.as_uri()}\nmemory://a/b\n"
    )
    reach = Reach((films,), ())
    found = listed(ListSource(str(films / "list.csv")), reach)
    assert [item.state for item in found] == ["queued", *["failed"] * 5]
    assert all("is outside the" in (item.reason or "") for item in found[1:])
    with pytest.raises(InvalidInput, match=r"files: .*secret.png' is outside"):
        check_source(FilesSource((str(secret),)), reach)


def test_a_confined_job_checks_again_when_it_reads(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model
) -> None:
    secret = write_picture(tmp_path / "secret.png", solid((1, 2, 3)))
    reach = Reach((films,), ())
    source = FilesSource((str(films / "red.png"), str(films / "blue.png")))
    made = create_job(collection, source, JobOptions(confined=True), reach)
    (films / "red.png").unlink()
    (films / "red.png").symlink_to(secret)
    with pytest.raises(Conflict, match="belongs to a service"):
        run_job(collection, small_model, made.id)
    assert job(collection, made.id).state == "queued"
    done = run_job(collection, small_model, made.id, reach=reach)
    assert (done.counts.succeeded, done.counts.failed) == (1, 1)
    assert "outside the folders" in (items(collection, made.id, "failed")[0].reason or "")


# Descriptions


def test_what_is_named_on_the_command_line_is_understood(tmp_path: Path, films: Path) -> None:
    (films / "list.CSV").write_text("path\n")
    (films / "a.tar").touch()
    write_color_video(films / "a.mp4", (1, 2, 3))
    name = str(films)
    assert guess_source([name], recursive=False) == FolderSource(name, recursive=False)
    assert guess_source([f"{name}/list.CSV"]) == ListSource(f"{name}/list.CSV")
    assert guess_source([f"{name}/a.tar"]) == ShardsSource((f"{name}/a.tar",))
    assert guess_source([f"{name}/a.mp4", f"{name}/red.png"]) == FilesSource((f"{name}/a.mp4", f"{name}/red.png"))
    assert guess_source(["s3://bucket/a/"]) == UrlSource("s3://bucket/a/")
    with pytest.raises(InvalidInput, match="beside others"):
        guess_source([name, f"{name}/a.mp4"])
    with pytest.raises(InvalidInput, match=r"source: 'nowhere.mp4' is not there"):
        guess_source(["nowhere.mp4"])


def test_a_description_is_kept_as_it_is(tmp_path: Path) -> None:
    for source in (
        FolderSource("/a", recursive=False),
        FilesSource(("/a", "/b")),
        ListSource("/a.csv", "x", "y"),
        ShardsSource(("/a.tar",)),
        UrlSource("s3://a/b"),
    ):
        assert read_source(source_json(source)) == source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (FolderSource("/no/where"), "folder: '/no/where' is not a folder"),
        (FilesSource(()), "files: 0 given"),
        (FilesSource(("/no/where",)), "files: '/no/where' is not a file"),
        (ListSource(__file__), "file: .*a name ending in .csv"),
        (ShardsSource((__file__,)), "shards: .*a name ending in .tar"),
    ],
)
def test_a_source_that_is_not_there_is_named(source: Source, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_source(source)
