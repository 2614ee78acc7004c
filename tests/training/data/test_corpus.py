"""Split rules, annotation files and stored examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.corpus import (
    CorpusError,
    Record,
    check_split,
    csv_rows,
    numbered_lines,
    read_json_lines,
    read_object,
    read_objects,
    records_of,
    split_of,
    split_rule,
    texts_of,
)
from training.data.example import Example, ExampleError, Negative, Question, Utterance, example_of


def test_the_split_is_what_the_written_rule_says() -> None:
    names = [f"videos/{n}.mp4" for n in range(3000)]
    first = {name: int(hashlib.sha1(name.encode()).hexdigest()[:2], 16) for name in names}
    assert split_rule("key") == (
        "by key: test when the first byte of its SHA-1 is below 13, validation when it is below 26, else train"
    )
    assert all(split_of(name) == ("test" if b < 13 else "val" if b < 26 else "train") for name, b in first.items())
    assert {split_of(name) for name in names} == {"train", "val", "test"}


def test_the_split_rule_does_not_change() -> None:
    keys = [f"{number:09d}" for number in range(100)]
    assert [int(key) for key in keys if split_of(key) == "test"] == [12, 16, 32, 36, 43, 45, 50, 56, 64, 65, 98]
    assert [int(key) for key in keys if split_of(key) == "val"] == [0, 5, 74]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"split: 'dev'; one of \('train', 'val', 'test'\)"):
        check_split("dev")


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


def test_a_quote_that_does_not_close_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"a ""b"", c"\n2,3\n')
    assert list(csv_rows(path, ("b",))) == [(2, {"b": 'a "b", c'}), (3, {"b": "3"})]
    path.write_text('a,b\n1,2\n3,"a man\n4,5\n')
    with pytest.raises(CorpusError, match=r"a\.csv:3: unexpected end of data; CSV was expected"):
        list(csv_rows(path, ("b",)))


def words(record: Record) -> list[str]:
    return texts_of(record, "a", "a word")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": ["x"]}\n{"a": 3}', r"a\.jsonl:2: a: 3; a list was expected"),
        ('{"a": ["x", " "]}', r"a\.jsonl:1: a\[1\]: ' '; a word was expected"),
        ('{"a": ["x"]}\n\n[]', r"a\.jsonl:3: \[\]; a JSON object was expected"),
        ("[" * 100_000, r"a\.jsonl:1: not JSON \(.*\); a JSON object was expected"),
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


FULL = Example(
    key="000017",
    captions=("a red square moves left", "ein rotes Quadrat \N{BLACK LARGE SQUARE}"),
    questions=(Question("what is on the table?", ("lamp", "book"), "object"),),
    negatives=(Negative("a blue square moves left", 0, 1, "colour"),),
    transcript=(Utterance(0.5, 1.25, "and now it moves"), Utterance(1.5, 2.0, "to the left")),
    still=True,
    attributes={"held_out": False, "scene": {"things": [1, 2]}},
)


def test_an_example_survives_the_way_through_a_line_of_json() -> None:
    line = FULL.to_json()
    assert "\n" not in line
    assert Example.from_json(line) == FULL


def test_absent_parts_are_empty() -> None:
    assert Example.from_json('{"key": "a"}') == Example("a")


def test_the_transcript_can_be_read_as_one_text() -> None:
    assert FULL.spoken == "and now it moves to the left"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "  "}, "key: '  '; a non-empty string"),
        ({"captions": "one"}, "captions: 'one'; a list"),
        ({"captions": ["fine", ""]}, r"captions\[1\]: ''; a non-empty string"),
        ({"questions": [{"question": "what?", "answers": []}]}, r"questions\[0\].answers: empty"),
        ({"questions": [{"answers": ["a"]}]}, r"questions\[0\].question: None"),
        (
            {"negatives": [{"caption": "no", "of": 0, "grade": "1"}]},
            r"negatives\[0\].grade: '1'; a whole number",
        ),
        ({"transcript": [{"start": 2.0, "end": 1.0, "text": "x"}]}, r"transcript\[0\]: from 2.0 to 1.0 s"),
        ({"transcript": [{"start": 0, "end": float("nan"), "text": "x"}]}, r"transcript\[0\].end: nan"),
        ({"still": "yes"}, "still: 'yes'; bool"),
        ({"caption": ["typing mistake"]}, r"unknown fields \['caption'\]"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ExampleError, match=message):
        example_of({"key": "a", **change})


def test_a_line_that_is_not_an_object_is_refused() -> None:
    with pytest.raises(ExampleError, match="not JSON"):
        Example.from_json('{"key": "a"')
    with pytest.raises(ExampleError, match="a JSON object was expected"):
        Example.from_json(json.dumps(["a"]))
