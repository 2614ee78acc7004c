"""Cues are read from subtitle files and from containers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import av
import pytest

from tests.media_files import (
    ONE_TO_FIVE,
    solid,
    write_audio_only,
    write_color_video,
    write_picture,
    write_subtitled_video,
)
from vitascope.errors import SubtitlesCorrupt
from vitascope.media.subtitles import MAX_BYTES, Cue, read_subtitles, stream_cues, subtitle_streams

SRT = "1\n00:00:01,000 --> 00:00:02,500\nUn café à Köln\n\n2\n00:00:03,000 --> 00:00:04,000\nfin\n"
CUES = [Cue(1.0, 2.5, "Un café à Köln"), Cue(3.0, 4.0, "fin")]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (SRT.encode(), "utf-8"),
        (SRT.encode("utf-8-sig"), "utf-8"),
        (b"\xff\xfe" + SRT.encode("utf-16-le"), "utf-16-le"),
        (b"\xfe\xff" + SRT.encode("utf-16-be"), "utf-16-be"),
        (SRT.encode("utf-16-le"), "utf-16-le"),
        (SRT.encode("utf-16-be"), "utf-16-be"),
        (SRT.encode("latin-1"), "windows-1252"),
        (b"\xef\xbb\xbf" + SRT.encode("latin-1"), "windows-1252"),
    ],
)
def test_common_encodings_are_detected(tmp_path: Path, content: bytes, encoding: str) -> None:
    assert read_subtitles(write(tmp_path / "a.srt", content)) == (CUES, encoding)


def test_a_byte_undefined_in_windows_1252_is_no_error(tmp_path: Path) -> None:
    content = SRT.replace("fin", "f\x81in").encode("latin-1")
    cues, encoding = read_subtitles(write(tmp_path / "a.srt", content))
    assert (cues[1].text, encoding) == ("f\ufffdin", "windows-1252")


def test_webvtt_styling_is_removed(tmp_path: Path) -> None:
    content = """WEBVTT

STYLE
::cue { color: lime }

00:01.000 --> 00:02.000 line:0 align:start
<v Mary><c.loud.yellow>Come</c> <b>here</b>, <00:01.500>now</v> &lt;3
"""
    assert read_subtitles(write(tmp_path / "a.vtt", content.encode()))[0] == [Cue(1.0, 2.0, "Come here, now <3")]


def test_overlapping_cues_are_kept_in_order_of_time(tmp_path: Path) -> None:
    content = "1\n00:00:02,000 --> 00:00:05,000\nB\n\n2\n00:00:01,000 --> 00:00:04,000\nA\n"
    cues, _ = read_subtitles(write(tmp_path / "a.srt", content.encode()))
    assert cues == [Cue(1.0, 4.0, "A"), Cue(2.0, 5.0, "B")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x02\x03 no text", r"a\.srt:1: time"),
        (b"\xff\xfe\x00\xd8\x00", r"a\.srt: not utf-16-le at byte 0"),
        (b"1\n00:00:01,000 --> 00:00:02,000\n" + b"x" * 20_000, r"a\.srt:3: 20000 characters; at most 10000"),
        (b" " * (MAX_BYTES + 1), rf"a\.srt: larger than {MAX_BYTES} bytes"),
        (b"1\n" + b"9" * 5000 + b":00:01,000 --> 00:00:02,000\nx\n", r"a\.srt:2: time: '99999"),
    ],
)
def test_the_error_names_the_line_of_an_invalid_file(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SubtitlesCorrupt, match=message):
        read_subtitles(write(tmp_path / "a.srt", content))


def test_blank_lines_are_parsed_in_linear_time(tmp_path: Path) -> None:
    """Each line begins like an invalid time; a pattern that backtracks would take minutes."""
    line = b"0:00.0" + b" " * 9_900 + b"x\n"
    content = b"1\n00:00:01,000 --> 00:00:02,000\n" + line * 400
    assert len(read_subtitles(write(tmp_path / "a.srt", content))[0]) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubtitlesCorrupt, match=r"a\.srt: no such file"):
        read_subtitles(tmp_path / "a.srt")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "subrip"), ("a.mkv", "ass"), ("a.mkv", "webvtt"), ("a.mp4", "mov_text")]
)
def test_text_streams_of_a_container_are_read(tmp_path: Path, name: str, codec: str) -> None:
    cues = [(0.5, 1.0, r"A {\i1}cat{\i0}, sits\Non a mat."), (1.2, 1.9, "It sleeps & dreams")]
    path = write_subtitled_video(
        tmp_path / name, [solid((9, 9, 9))] * 30, [(codec, "eng", cues), (codec, "ger", [(0.5, 1.0, "Eine Katze")])]
    )
    first, second = subtitle_streams(path)
    assert (first.language, second.language) == ("eng", "ger")
    assert stream_cues(path, first.index) == [Cue(0.5, 1.0, "A cat, sits on a mat."), Cue(1.2, 1.9, cues[1][2])]
    assert [cue.text for cue in stream_cues(path, second.index)] == ["Eine Katze"]


def test_text_streams_of_sound_without_pictures_are_read(tmp_path: Path) -> None:
    streams = [("subrip", "eng", [(0.5, 1.0, "A cat sits.")])]
    sources = [
        (write_audio_only(tmp_path / "sound.mka"), 0),
        (write_subtitled_video(tmp_path / "film.mkv", [solid((9, 9, 9))] * 20, streams), 1),
    ]
    with av.open(str(tmp_path / "a.mka"), "w", format="matroska") as target, ExitStack() as files:
        inputs = [(files.enter_context(av.open(str(path))), index) for path, index in sources]
        outputs = [target.add_stream_from_template(container.streams[index]) for container, index in inputs]
        for (container, index), output in zip(inputs, outputs, strict=True):
            for packet in container.demux(container.streams[index]):
                if packet.dts is not None:
                    packet.stream = output
                    target.mux(packet)
    [info] = subtitle_streams(tmp_path / "a.mka")
    assert stream_cues(tmp_path / "a.mka", info.index) == [Cue(0.5, 1.0, "A cat sits.")]


@pytest.mark.parametrize(("codec", "text"), [("ass", "A cat sits."), ("subrip", "m 0 0 l 640 0 A cat{quietly} sits.")])
def test_drawings_and_comments_of_ass_are_no_text(tmp_path: Path, codec: str, text: str) -> None:
    written = r"{\an7\p1}m 0 0 l 640 0{\p0} A cat{quietly} {\pos(9,9)}sits."
    streams = [
        (codec, "eng", [(0.5, 1.0, written), (1.2, 1.9, r"{\p1}m 0 0 l 9 9 {\fs9}l 0 0"), (2.0, 2.2, "It purrs.")])
    ]
    path = write_subtitled_video(tmp_path / "a.mkv", [solid((9, 9, 9))] * 25, streams)
    [stream] = subtitle_streams(path)
    cues = [cue.text for cue in stream_cues(path, stream.index)]
    assert (cues[0], cues[-1]) == (text, "It purrs.")
    assert (len(cues) == 2) is (codec == "ass")


def test_files_without_text_streams_have_none(tmp_path: Path) -> None:
    assert subtitle_streams(write_color_video(tmp_path / "a.mp4", (9, 9, 9), 0.5)) == []
    assert subtitle_streams(write_picture(tmp_path / "a.png", solid((9, 9, 9)))) == []
    assert subtitle_streams(ONE_TO_FIVE) == []  # sound alone
