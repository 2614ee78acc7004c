from __future__ import annotations

from pathlib import Path

import pytest

from training.data.errors import CorpusError
from training.data.example import Utterance
from training.data.subtitles import merged, read_subtitles

SRT = """1
00:00:01,000 --> 00:00:02,500
A cat sits
on a mat.

2
01:00:03,250 --> 01:00:04,000
It sleeps.
"""


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_subrip_is_read_with_any_line_ending_and_byte_order_mark(tmp_path: Path, ending: str, mark: bytes) -> None:
    content = mark + SRT.replace("\n", ending).encode()
    assert read_subtitles(written(tmp_path / "a.srt", content)) == [
        Utterance(1.0, 2.5, "A cat sits on a mat."),
        Utterance(3603.25, 3604.0, "It sleeps."),
    ]


def test_webvtt_gives_what_is_shown_and_nothing_else(tmp_path: Path) -> None:
    content = """\ufeffWEBVTT - a title
Kind: captions

STYLE
::cue(v) { color: red }

REGION
id:left

NOTE
a remark of
two lines

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Mary Ann>Hello &amp; <i>welcome</i></v>

NOTE another remark

100:00:00.500 --> 100:00:01.000
<c.yellow>late</c>&nbsp;words
"""
    assert read_subtitles(written(tmp_path / "a.vtt", content)) == [
        Utterance(1.0, 2.0, "Hello & welcome"),
        Utterance(360000.5, 360001.0, "late words"),
    ]


def test_tags_go_and_comparisons_stay(tmp_path: Path) -> None:
    content = (
        '1\n00:00:01.000 --> 00:00:02,000\n{\\an8}<font color="red">red</font> if 1 < 2\n\n'
        "2\n00:00:05,000 --> 00:00:06,000\n<b></b>\n\n3\n00:00:07,000 --> 00:00:08,000\n\n"
    )
    assert read_subtitles(written(tmp_path / "a.srt", content)) == [Utterance(1.0, 2.0, "red if 1 < 2")]


def test_a_blank_line_within_a_cue_does_not_end_it(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nfirst\n\nsecond\n\n2\n00:00:03,000 --> 00:00:04,000\n42\n"
    assert [u.text for u in read_subtitles(written(tmp_path / "a.srt", content))] == ["first second", "42"]


def test_cues_without_blank_lines_or_numbers_between_them_are_kept_apart(tmp_path: Path) -> None:
    content = (
        "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n00:00:05,000 --> 00:00:06,000\n3"
    )
    assert [u.text for u in read_subtitles(written(tmp_path / "a.srt", content))] == ["one", "two", "3"]


def test_a_number_may_stand_apart_from_its_times(tmp_path: Path) -> None:
    content = "\n1\n\n00:00:01,000 --> 00:00:02,000\none\n\n2\n\n00:00:03,000 --> 00:00:04,000\n7\n"
    assert [u.text for u in read_subtitles(written(tmp_path / "a.srt", content))] == ["one", "7"]


def test_a_number_that_is_said_is_kept(tmp_path: Path) -> None:
    content = "WEBVTT\n\n00:01.000 --> 00:02.000\n2\n\n00:03.000 --> 00:04.000\n3\n"
    assert [u.text for u in read_subtitles(written(tmp_path / "a.vtt", content))] == ["2", "3"]


def test_automatic_captions_say_each_line_once(tmp_path: Path) -> None:
    content = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
\x20
hello<00:00:00.480><c> everyone</c><00:00:00.880><c> here</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello everyone here
\x20

00:00:02.399 --> 00:00:04.230 align:start position:0%
hello everyone here
this<00:00:02.639><c> is</c><00:00:02.720><c> a</c><00:00:02.879><c> cat</c>

00:00:04.230 --> 00:00:04.240 align:start position:0%
this is a cat
\x20
"""
    assert read_subtitles(written(tmp_path / "a.en.vtt", content)) == [
        Utterance(0.16, 2.399, "hello everyone here"),
        Utterance(2.399, 4.24, "this is a cat"),
    ]


def test_words_that_are_said_again_after_a_pause_are_kept(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nNo!\n\n2\n00:00:05,000 --> 00:00:06,000\nNo!\n"
    assert [u.start for u in read_subtitles(written(tmp_path / "a.srt", content))] == [1.0, 5.0]


def test_cues_are_given_in_order_of_time(tmp_path: Path) -> None:
    content = "1\n00:00:05,000 --> 00:00:06,000\nlater\n\n2\n00:00:01,000 --> 00:00:02,000\nearlier\n"
    assert [u.text for u in read_subtitles(written(tmp_path / "a.srt", content))] == ["earlier", "later"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "1\n00:00:0x,000 --> 00:00:02,000\nhi\n", r"a\.srt:2: time: '00:00:0x,000'; HH:MM:SS,mmm"),
        ("a.srt", SRT + "\n3\n00:00:05,000 --> 00:00:75,000\nhi\n", r"a\.srt:11: time: '00:00:75,000'"),
        ("a.srt", SRT + "\n3\n00:00:05,000 -> 00:00:06,000\nhi\n", r"a\.srt:11: time: '00:00:05,000 -> 00:00:06"),
        ("a.srt", "1\n00:00:05,000 -->\nhi\n", r"a\.srt:2: time: ''; HH:MM:SS,mmm"),
        ("a.srt", "1\n00:00:05,000 --> 00:00:04,000\nhi\n", r"a\.srt:2: time: '.*'; an end after the start"),
        ("a.srt", "no subtitles at all\n", r"a\.srt:1: time: 'no subtitles at all'; START --> END"),
        ("a.vtt", "1\n00:00:01.000 --> 00:00:02.000\nhi\n", r"a\.vtt:1: header: '1'; WEBVTT was expected"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> soon\nhi\n", r"a\.vtt:3: time: 'soon'"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n", r"a\.srt:3: .*UTF-8 was expected"),
    ],
)
def test_a_malformed_file_is_named_with_line_and_value(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read_subtitles(written(tmp_path / name, content))


def test_cues_are_merged_until_they_are_long_enough_and_never_beyond_the_longest() -> None:
    said = [Utterance(start, end, str(start)) for start, end in [(0, 2), (2, 3), (3, 5), (5, 6), (30, 70), (71, 72)]]
    groups = merged(said, shortest=4.0, longest=16.0)
    assert [[u.start for u in group] for group in groups] == [[0, 2, 3], [5], [30], [71]]
    assert all(len(group) == 1 for group in merged(said, shortest=0.0, longest=16.0))
