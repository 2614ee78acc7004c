"""Folders of videos with subtitles, and the subtitle formats."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, key_frames, movie
from training.data.corpus import CorpusError, split_of
from training.data.example import Utterance
from training.data.packed import VIDEO_STREAMS, MediaSpan, open_packed, write_packed
from training.data.subtitled import ORIGIN, merged, pair_subtitles, read_subtitles, subtitled


def cue(number: int, start: float, end: float, text: str) -> str:
    times = [f"00:{int(t) // 60:02}:{int(t) % 60:02},{round(t * 1000) % 1000:03}" for t in (start, end)]
    return f"{number}\n{times[0]} --> {times[1]}\n{text}\n\n"


def write(path: Path, *cues: tuple[float, float, str]) -> None:
    """Write a file that is not a video, with subtitles; it suffices if nothing is decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.with_suffix(".srt").write_text("".join(cue(n, *c) for n, c in enumerate(cues, 1)))


def test_cues_become_clips_with_their_words_and_times(tmp_path: Path) -> None:
    write(tmp_path / "a" / "talk.mp4", (1, 3, "A cat"), (3.5, 6, "sits down."), (7, 12, "It sleeps."))
    split = split_of("a/talk.mp4")
    (first, first_media), (second, second_media) = subtitled(tmp_path, split)
    assert first.key == "a/talk.mp4#00000"
    assert first.captions == ("A cat sits down.",)
    assert first.transcript == (Utterance(0, 2, "A cat"), Utterance(2.5, 5, "sits down."))
    assert first.attributes == {"video": "a/talk.mp4", "subtitles": "a/talk.srt", "start": 1.0, "end": 6.0}
    assert first_media == MediaSpan(tmp_path / "a" / "talk.mp4", 1.0, 6.0)
    assert (second.captions, second_media) == (("It sleeps.",), MediaSpan(tmp_path / "a" / "talk.mp4", 7.0, 12.0))


def test_the_length_of_clips_can_be_stated(tmp_path: Path) -> None:
    write(tmp_path / "talk.mp4", (0, 1, "one"), (1, 2, "two"), (2, 9, "three"))
    split = split_of("talk.mp4")
    single = subtitled(tmp_path, split, shortest=0.0, longest=5.0)
    assert [(e.captions[0], e.attributes["start"], e.attributes["end"]) for e, _ in single] == [
        ("one", 0, 1),
        ("two", 1, 2),
        ("three", 2, 7),
    ]
    with pytest.raises(CorpusError, match=r"clips of 9 to 5 s"):
        list(subtitled(tmp_path, split, shortest=9.0, longest=5.0))


def test_all_clips_of_a_video_are_in_one_split(tmp_path: Path) -> None:
    names = [f"talk{n}.mp4" for n in range(80)]
    for name in names:
        write(tmp_path / name, (0, 5, "one"), (5, 10, "two"))
    seen = {
        split: [example.attributes["video"] for example, _ in subtitled(tmp_path, split)]
        for split in ("train", "val", "test")
    }
    assert sorted(video for videos in seen.values() for video in videos) == sorted(names * 2)
    assert all(len(set(videos)) * 2 == len(videos) and videos for videos in seen.values())
    assert len(seen["train"]) > 100


def test_a_split_that_no_video_falls_into_is_named(tmp_path: Path) -> None:
    write(tmp_path / "talk.mp4", (0, 5, "one"))
    other = "val" if split_of("talk.mp4") != "val" else "test"
    with pytest.raises(CorpusError, match=rf"split: '{other}': none of 1 videos falls into it"):
        list(subtitled(tmp_path, other))


def test_unpaired_files_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "talk.mp4", (0, 5, "one"))
    for name in ("silent.mkv", "lost.srt", "talk.v2.srt", "._talk.srt", "talk.de.vtt"):
        (tmp_path / name).touch()
    pairing = pair_subtitles(tmp_path)
    assert pairing.pairs == ((Path("talk.mp4"), Path("talk.srt")),)
    assert pairing.without_subtitles == (Path("silent.mkv"),)
    assert pairing.without_video == (Path("lost.srt"), Path("talk.v2.srt"))
    assert pairing.other_languages == (Path("talk.de.vtt"),)
    with caplog.at_level(logging.WARNING):
        list(subtitled(tmp_path, split_of("talk.mp4")))
    assert "1 videos without subtitles (silent.mkv); 2 subtitles without a video (lost.srt, talk.v2.srt)" in caplog.text


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("talk.de.vtt", "talk.en-GB.vtt"), "talk.en-GB.vtt"),
        (("talk.en.vtt", "talk.vtt", "talk.srt"), "talk.srt"),
        (("talk.fr.srt", "talk.de.forced.srt"), "talk.de.forced.srt"),
    ],
)
def test_one_of_several_languages_is_chosen(tmp_path: Path, names: tuple[str, ...], chosen: str) -> None:
    for name in (*names, "talk.MP4"):
        (tmp_path / name).touch()
    assert pair_subtitles(tmp_path).pairs == ((Path("talk.MP4"), Path(chosen)),)


def test_a_folder_without_any_pair_and_an_ambiguous_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(CorpusError, match=r"0 videos with subtitles; 1 videos without subtitles \(a\.mp4\)"):
        list(subtitled(tmp_path, "train"))
    for name in ("a.mkv", "a.srt"):
        (tmp_path / name).touch()
    with pytest.raises(CorpusError, match=r"a\.srt belongs to a\.mkv, a\.mp4; one video was expected"):
        list(subtitled(tmp_path, "train"))


def test_subtitles_without_words_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "talk.mp4")
    with caplog.at_level(logging.WARNING):
        assert list(subtitled(tmp_path, split_of("talk.mp4"))) == []
    assert "talk.srt: no cue has words; talk.mp4 is not used" in caplog.text


def test_a_packed_clip_shows_its_time_of_the_video_frame_accurately(tmp_path: Path) -> None:
    """Each cue's clip shows its own color alone, although only the video's first frame is a key frame."""
    source = tmp_path / "source"
    source.mkdir()
    movie(source / "colors.mp4", [RED, GREEN, BLUE], frames_each=7, one_key_frame=True)
    assert key_frames(source / "colors.mp4") == 1
    (source / "colors.srt").write_text(cue(1, 0, 0.7, "red") + cue(2, 0.7, 1.4, "green") + cue(3, 1.4, 9, "blue"))
    items = subtitled(source, split_of("colors.mp4"), shortest=0.5)
    write_packed(tmp_path / "out", VIDEO_STREAMS, items, ORIGIN)
    packed = open_packed(tmp_path / "out")
    assert [example.captions for example in packed.examples] == [("red",), ("green",), ("blue",)]
    for row, color in enumerate([RED, GREEN, BLUE]):
        means = packed.arrays["low"][row].mean(axis=(1, 2))
        np.testing.assert_allclose(means, [color] * 6, atol=12)


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


def test_webvtt_gives_only_the_displayed_text(tmp_path: Path) -> None:
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


def test_tags_are_removed_and_comparison_signs_are_kept(tmp_path: Path) -> None:
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


def test_repeated_lines_of_automatic_captions_are_removed(tmp_path: Path) -> None:
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
    output = [Utterance(start, end, str(start)) for start, end in [(0, 2), (2, 3), (3, 5), (5, 6), (30, 70), (71, 72)]]
    groups = merged(output, shortest=4.0, longest=16.0)
    assert [[u.start for u in group] for group in groups] == [[0, 2, 3], [5], [30], [71]]
    assert all(len(group) == 1 for group in merged(output, shortest=0.0, longest=16.0))
