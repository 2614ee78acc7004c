"""Limits on file lists and shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from index.collection import Collection
from index.jobs.jobs import create_job, list_items
from index.jobs.runner import run_job
from index.jobs.source_items import list_source
from index.jobs.sources import list_limits, manifest_file
from index.jobs.sources.access_policy import UNRESTRICTED
from index.jobs.sources.list_limits import SETTINGS, ListLimits, read_list_limits
from index.jobs.sources.source_types import ListSource, Source, SourceItem
from tests.index.jobs.fixtures import ENDINGS, paths, write_list, write_shard
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.model import Model


def listed(source: Source, limits: ListLimits) -> list[SourceItem]:
    return list(list_source(source, UNRESTRICTED, limits))


def refusal(source: Source, limits: ListLimits) -> str:
    """Return why the source as a whole is refused, before its first item."""
    items = list_source(source, UNRESTRICTED, limits)
    with pytest.raises(InvalidInput) as raised:
        next(items)
    return str(raised.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_list_of_too_many_rows_is_refused(tmp_path: Path, ending: str) -> None:
    source = ListSource(str(write_list(tmp_path, ending, {"path": paths(4)})))
    assert len(listed(source, ListLimits(rows=4))) == 4
    message = refusal(source, ListLimits(rows=3))
    assert "list." + ending in message
    assert "more than 3 rows; at most that many were expected (VITASCOPE_MAX_LIST_ROWS)" in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_too_many_columns_are_refused(tmp_path: Path, ending: str) -> None:
    source = ListSource(str(write_list(tmp_path, ending, {"path": paths(1), "a": [1], "b": [2]})))
    assert listed(source, ListLimits(columns=3))[0].metadata == {"a": 1, "b": 2}
    expected = "at most 2 were expected (VITASCOPE_MAX_LIST_COLUMNS)"
    if ending == "jsonl":  # each object has its own names
        (item,) = listed(source, ListLimits(columns=2))
        assert item.state == "failed"
        assert item.reason == f"list.jsonl, line 1: 3 keys; {expected}"
    else:
        assert refusal(source, ListLimits(columns=2)).endswith(f"list.{ending}: 3 columns; {expected}")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("column", ["path", "title", "note"])
def test_a_cell_that_is_too_long_is_named_by_line_and_column(tmp_path: Path, ending: str, column: str) -> None:
    columns: dict[str, list[Any]] = {"path": paths(3), "title": ["A", "B", "C"], "note": ["n", "n", "n"]}
    for length in (30, 90):  # Parquet rejects the longer one unread: no text of 20 characters has 90 bytes
        columns[column][1] = "x" * length
        source = ListSource(str(write_list(tmp_path, ending, columns)))
        first, second, third = listed(source, ListLimits(cell_characters=20))
        assert (first.state, third.state) == ("queued", "queued")
        position = "row 2" if ending == "parquet" else f"line {2 if ending == 'jsonl' else 3}"
        assert second.state == "failed"
        assert (second.reason or "").startswith(f"list.{ending}, {position}, column {column!r}: {length} ")
        assert "at most 20 characters were expected (VITASCOPE_MAX_LIST_CELL_CHARACTERS)" in (second.reason or "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_bytes_that_a_list_stores_are_limited(tmp_path: Path, ending: str) -> None:
    source = ListSource(str(write_list(tmp_path, ending, {"path": paths(20), "note": ["x" * 1000] * 20})))
    assert len(listed(source, ListLimits(stored_bytes=50_000))) == 20
    message = refusal(source, ListLimits(stored_bytes=12_000))
    assert f"list.{ending}, " in message
    assert "more than 12000 bytes to read and store; " in message
    assert message.endswith("(VITASCOPE_MAX_LIST_BYTES)")


def test_column_names_count_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of single digits below long names stores the names with each row."""
    monkeypatch.setattr(list_limits, "MIN_STORED_BYTES", 1000)
    columns = {"path": paths(200)} | {f"{number:0128}": [1] * 200 for number in range(60)}
    source = ListSource(str(write_list(tmp_path, "csv", columns)))
    assert Path(source.file).stat().st_size < 40_000
    assert len(listed(source, ListLimits())) == 200
    assert "(VITASCOPE_MAX_LIST_EXPANSION)" in refusal(source, ListLimits(expansion=10))


def test_failed_rows_count_towards_the_limits(tmp_path: Path) -> None:
    """Each stores its reason."""
    source = ListSource(str(write_list(tmp_path, "jsonl", {"path": [7] * 100})))
    assert "(VITASCOPE_MAX_LIST_BYTES)" in refusal(source, ListLimits(stored_bytes=5000))


def test_a_parquet_list_that_expands_too_much_is_refused_and_stores_nothing(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    columns = {f"c{number}": ["a" * 10_000] * 800 for number in range(64)}  # half a gigabyte of text
    file = write_list(tmp_path, "parquet", {"path": paths(800)} | columns)
    assert file.stat().st_size < 311 * 1024
    before = catalogue_bytes(collection)
    job = run_job(collection, small_model, create_job(collection, ListSource(str(file))).id)
    assert job.state == "failed"
    assert "list.parquet, row " in (job.error or "")
    assert "(VITASCOPE_MAX_LIST_EXPANSION)" in (job.error or "")
    assert list_items(collection, job.id) == []
    assert catalogue_bytes(collection) < before + 200_000


def catalogue_bytes(collection: Collection) -> int:
    return sum(file.stat().st_size for file in collection.folder.glob("catalogue*"))


def test_cells_of_parquet_are_counted_before_they_are_read(tmp_path: Path) -> None:
    """Rows that would fail one by one, for their keys, cost no more than the limit either."""
    columns = {"path": paths(50)} | {f"c{n}": ["a" * 1000] * 50 for n in range(100)}
    source = ListSource(str(write_list(tmp_path, "parquet", columns)))
    first, *_ = listed(source, ListLimits())
    assert "100 keys; at most 64" in (first.reason or "")
    message = refusal(source, ListLimits(stored_bytes=2_000_000))
    assert "list.parquet, row 20: more than 2000000 bytes to read and store" in message


def test_a_parquet_list_too_large_when_decompressed_is_not_decompressed(tmp_path: Path) -> None:
    table = pa.table({"path": paths(2), "note": ["a" * 500_000, "b" * 500_000]})
    parquet.write_table(table, tmp_path / "list.parquet", compression="zstd")
    source = ListSource(str(tmp_path / "list.parquet"))
    assert (tmp_path / "list.parquet").stat().st_size < 10_000
    assert "list.parquet: more than 900000 bytes to read" in refusal(source, ListLimits(stored_bytes=900_000))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.struct({"a": pa.int64()}), pa.binary(), pa.duration("s")], ids=str
)
def test_parquet_columns_that_no_metadata_can_hold_are_refused_by_name(tmp_path: Path, kind: pa.DataType) -> None:
    parquet.write_table(pa.table({"path": ["a.mp4"], "odd": pa.nulls(1, kind)}), tmp_path / "list.parquet")
    message = refusal(ListSource(str(tmp_path / "list.parquet")), ListLimits())
    assert "list.parquet: column 'odd': " in message
    assert "text, numbers, booleans or times were expected" in message


def test_parquet_texts_of_every_encoding_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain or in dictionaries, with and without nulls, in batches and slices that end anywhere."""
    monkeypatch.setattr("index.jobs.sources.manifest_file._BATCH_ROWS", 7)
    monkeypatch.setattr("index.jobs.sources.manifest_file._TEXT_BYTES", 50)
    texts = [None if number % 5 == 0 else f"text {number % 9} ä" for number in range(40)]
    table = pa.table(
        {
            "path": pa.array(paths(40), pa.large_string()),
            "plain": texts,
            "coded": pa.array(texts).dictionary_encode(),
            "empty": pa.nulls(40, pa.string()),
            "number": pa.array(range(40), pa.int16()),
        }
    )
    parquet.write_table(table, tmp_path / "list.parquet", row_group_size=11, use_dictionary=["coded"])
    items = listed(ListSource(str(tmp_path / "list.parquet")), ListLimits())
    assert [Path(item.uri).name for item in items] == paths(40)
    for number, item in enumerate(items):
        expected = {} if texts[number] is None else {"plain": texts[number], "coded": texts[number]}
        assert item.metadata == {**expected, "number": number}


def test_a_time_beyond_the_range_of_python_fails_the_list(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    table = pa.table({"path": ["a.mp4"], "when": pa.array([2**62], pa.timestamp("us"))})
    parquet.write_table(table, tmp_path / "list.parquet")
    job = run_job(collection, small_model, create_job(collection, ListSource(str(tmp_path / "list.parquet"))).id)
    assert job.state == "failed"
    assert "list.parquet: after row 0: " in (job.error or "")


@pytest.mark.parametrize("content", [b"path,a\n" + b"x" * 300, b'path,a\na.mp4,"' + b"b\n" * 150 + b'"\n'])
def test_an_endless_row_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(manifest_file, "MAX_ROW_CHARACTERS", 200)
    (tmp_path / "list.csv").write_bytes(content)
    message = refusal(ListSource(str(tmp_path / "list.csv")), ListLimits())
    assert "list.csv, line " in message
    assert "more than 200 characters in one row" in message
    (tmp_path / "list.jsonl").write_bytes(b"{}\n" + b"[" * 300)
    message = refusal(ListSource(str(tmp_path / "list.jsonl")), ListLimits())
    assert "list.jsonl, line 2: more than 200 characters in one row" in message


def test_a_column_name_too_long_for_metadata_is_refused_once(tmp_path: Path) -> None:
    source = ListSource(str(write_list(tmp_path, "csv", {"path": paths(3), "n" * 129: [1, 2, 3]})))
    assert "129 characters; at most 128 were expected" in refusal(source, ListLimits())


# Shards


def test_metadata_of_a_sample_counts_for_each_of_its_files(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_limits, "MIN_STORED_BYTES", 100_000)
    metadata = {f"key{number}": "x" * 5000 for number in range(10)}
    members = {"a.json": json.dumps(metadata).encode(), **{f"a.{number}.mp4": b"" for number in range(100)}}
    source = write_shard(tmp_path / "s.tar.gz", members)
    job = run_job(collection, small_model, create_job(collection, source).id)
    assert job.state == "failed"
    assert "s.tar.gz, tar://a." in (job.error or "")
    assert "(VITASCOPE_MAX_LIST_EXPANSION)" in (job.error or "")
    assert list_items(collection, job.id) == []


def test_a_shard_of_too_many_members_is_refused(tmp_path: Path) -> None:
    source = write_shard(tmp_path / "s.tar.gz", {f"{number}.mp4": b"" for number in range(4)})
    assert len(listed(source, ListLimits(rows=4))) == 4
    with pytest.raises(InvalidInput, match=r"more than 3 rows.*VITASCOPE_MAX_LIST_ROWS"):
        listed(source, ListLimits(rows=3))
    one_sample = write_shard(tmp_path / "one.tar.gz", {f"a.{number}.txt": b"" for number in range(4)})
    with pytest.raises(InvalidInput, match=r"one.tar.gz, member a.3.txt: more than 3 rows"):
        listed(one_sample, ListLimits(rows=3))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": b'{"a": 1, "b": 2, "c": 3}'}, "member a.json: 3 keys; at most 2 were expected"),
        ({"a.json": b'{"note": "a long text here"}'}, "member a.json, key 'note': 16 characters; at most 10"),
        ({"a.txt": b"a long caption"}, "member a.txt: 14 characters; at most 10"),
        (
            {"a.json": b"{%b}" % (b" " * 3_000_000), "a.txt": b" " * 3_000_000},
            "member a.txt: with the sample's other texts larger",
        ),
    ],
)
def test_the_json_and_text_of_a_sample_are_limited(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    source = write_shard(tmp_path / "s.tar.gz", {**members, "a.mp4": b""})
    (item,) = (item for item in listed(source, ListLimits(columns=2, cell_characters=10)) if "mp4" in item.uri)
    assert item.state == "failed"
    assert message in (item.reason or "")


# Settings


def test_the_command_reads_the_limits_from_the_environment() -> None:
    assert read_list_limits({}) == ListLimits()
    named = {name: str(number) for number, name in enumerate(SETTINGS.values(), 1)}
    assert read_list_limits(named) == ListLimits(1, 2, 3, 4, 5)
    for name in SETTINGS.values():
        for text in ("0", "-1", "1e3", "many", "9" * 30, "²"):
            with pytest.raises(InvalidInput, match=f"{name}: .* a whole number from 1"):
                read_list_limits({name: text})
    with pytest.raises(InvalidInput, match="a whole number from 1 to 10000 was expected"):
        read_list_limits({"VITASCOPE_MAX_LIST_CELL_CHARACTERS": "10001"})


def test_the_command_refuses_a_list_beyond_the_limits(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITASCOPE_MAX_LIST_ROWS", "3")
    file = write_list(tmp_path, "csv", {"path": paths(4)})
    assert main(["index", str(file), "--bundle", str(small_bundle), "--data", str(tmp_path / "data")]) == 2
    assert "list.csv, line 5: more than 3 rows" in capsys.readouterr().err
