from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.csv_file import csv_rows
from training.data.errors import CorpusError
from training.data.json_file import Record, read_json_lines, read_object, read_objects, records_of, texts_of
from training.data.text_file import numbered_lines


def test_a_byte_order_mark_is_accepted_in_every_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "from-windows"

    def write(content: str) -> Path:
        path.write_text(content, encoding="utf-8-sig")
        return path

    assert read_object(write('{"a": 1}')).fields == {"a": 1}
    assert [record.fields for record in read_objects(write('[{"a": 1}]'))] == [{"a": 1}]
    assert [record.fields for record in read_json_lines(write('{"a": 1}\n{"a": 2}\n'))] == [{"a": 1}, {"a": 2}]
    assert list(numbered_lines(write("a\n"))) == [(1, "a")]
    assert list(csv_rows(write("a,b\n1,2\n"), ("a",))) == [(2, {"a": "1"})]


def test_records_say_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{}, {"clip": [{}]}]')
    *_, last = read_objects(path)
    assert (last.where, [clip.where for clip in records_of(last, "clip")]) == (
        f"{path}: [1].",
        [f"{path}: [1].clip[0]."],
    )
    path.write_text('\n{"a": 1}\n')
    assert [record.where for record in read_json_lines(path)] == [f"{path}:2: "]


def words(record: Record) -> list[str]:
    return texts_of(record, "a", "a word")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": ["x"]}\n{"a": 3}', r"a\.jsonl:2: a: 3; a list was expected"),
        ('{"a": ["x", " "]}', r"a\.jsonl:1: a\[1\]: ' '; a word was expected"),
        ('{"a": ["x"]}\n\n[]', r"a\.jsonl:3: \[\]; a JSON object was expected"),
        ('{"a": ["x"]}\n{', r"a\.jsonl:2: not JSON \(.*\); a JSON object was expected"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(map(words, read_json_lines(path)))


@pytest.mark.parametrize(
    "read", [lambda path: list(numbered_lines(path)), lambda path: list(csv_rows(path, ("a",))), read_object]
)
def test_a_file_that_is_no_utf8_or_no_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(CorpusError, match=r"a\.txt: missing"):
        read(path)
    # Far enough into the file that a decoder has begun anew.
    path.write_bytes(b"a,b\n" + b"1,2\n" * 9_998 + b"caf\xe9,3\n4,5\n")
    with pytest.raises(CorpusError, match=r"a\.txt:10000: .*UTF-8 was expected"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorpusError, match=r"a\.txt: Is a directory; a readable file was expected"):
        read(path)
