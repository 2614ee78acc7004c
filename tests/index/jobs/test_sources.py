"""Items of each kind of source, and where their files are stored."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from index.collection import Collection
from index.jobs.jobs import create_job, list_items
from index.jobs.runner import run_job
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.fetcher import open_url
from index.jobs.sources.iterate_source import list_source
from index.jobs.sources.source_types import ListSource, ShardsSource, Source, SourceItem, UrlSource, check_source
from vitascope.errors import InvalidInput
from vitascope.media.limits import MediaLimits
from vitascope.model import Model


def listed(source: Source, policy: AccessPolicy = UNRESTRICTED) -> list[SourceItem]:
    return list(list_source(check_source(source, policy), policy))


def indexed(collection: Collection, model: Model, source: Source, **options: Any) -> dict[str, tuple[str, str | None]]:
    """(state, reason) by path of a job that was run to its end."""
    done = run_job(collection, model, create_job(collection, source).id, **options)
    assert done.state == "succeeded", done.error
    return {item.path: (item.state, item.reason) for item in list_items(collection, done.id)}


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
            "list.csv, line 10, column 'path': the URL of 'host' holds a name or password, which would be "
            "stored in plain text",
        ),
    ]
    assert [item.uri for item in found if item.state == "queued"] == [str(films / "red.png"), str(films / "blue.png")]
    assert found[1].uri == "list.csv, line 3"


def test_json_lines_are_read_and_invalid_ones_named(films: Path) -> None:
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
    with pytest.raises(InvalidInput, match=r"nested.parquet: column 'words': list<.*>; text, numbers"):
        listed(ListSource(str(films / "nested.parquet")))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"file,title\na,b\n", "no column 'path' among 'file', 'title'"),
        ("b.csv", b"", "no column 'path' among none"),
        ("c.csv", b"path,a,a\n", "column 'a' is empty or there twice"),
        ("d.parquet", b"not parquet at all", "a Parquet file was expected"),
    ],
)
def test_a_malformed_list_fails_the_job_with_the_reason(
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
def test_members_of_shards_become_videos_with_copies_in_the_collection(
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
    own = [collection.media_path(video) for video in (first, second)]
    assert own[0].read_bytes() == red
    assert sorted(own[0].parent.iterdir()) == sorted(own)
    assert collection.owns(first)
    assert own[0].is_relative_to(collection.folder)


def test_members_before_the_damage_of_a_shard_are_added(
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
    assert all(collection.media_path(video).is_file() for video in collection.videos())
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
    real = open_url
    monkeypatch.setattr(
        "index.jobs.sources.fetcher.open_url", lambda url: (real(url)[0], None)
    )  # a size that is not told
    assert "more than 1000 bytes" in (indexed(collection, small_model, source, limits=limits)[source.url][1] or "")
    assert list((collection.folder / "media").rglob("*.*")) == []


def test_an_unknown_protocol_fails_the_job(collection: Collection, small_model: Model) -> None:
    done = run_job(collection, small_model, create_job(collection, UrlSource("nonsense://a/b.mp4")).id)
    assert done.state == "failed"
    assert "nonsense" in (done.error or "")
