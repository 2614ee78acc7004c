"""Selection of a video's subtitles, and notes about broken ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from index.clips.subtitles import find_subtitles
from tests.media_files import solid, write_color_video, write_subtitled_video

FRAMES = [solid((9, 9, 9))] * 20


def srt(*texts: str, start: int = 0) -> str:
    return "".join(
        f"{n + 1}\n00:00:{start + n:02},000 --> 00:00:{start + n:02},900\n{text}\n\n" for n, text in enumerate(texts)
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_color_video(tmp_path / "my talk.mp4", (9, 9, 9))


def write_subtitles(video: Path, ending: str, text: str) -> Path:
    path = video.with_name(f"{video.stem}{ending}")
    path.write_text(f"WEBVTT\n\n00:00.000 --> 00:01.000\n{text}\n" if ending.lower().endswith("vtt") else srt(text))
    return path


def texts_of(video: Path, language: str | None = None) -> list[str]:
    return [cue.text for cue in find_subtitles(video, 2.0, language).cues]


def test_subtitle_files_are_chosen_by_name_and_language(video: Path) -> None:
    assert texts_of(video) == []
    write_subtitles(video, ".de.srt", "deutsch")
    write_subtitles(video, ".en-GB.forced.srt", "signs alone")
    write_subtitles(video, ".fr.VTT", "français")
    write_subtitles(video, ".final cut.srt", "of another video")
    write_subtitles(video, "2.srt", "of another video")
    assert texts_of(video) == ["deutsch"]
    assert texts_of(video, "fr") == texts_of(video, "fre") == ["français"]
    assert texts_of(video, "en") == ["signs alone"]
    write_subtitles(video, ".en-US.srt", "english")
    assert texts_of(video, "en") == texts_of(video, "EN_us") == ["english"]
    write_subtitles(video, ".srt", "no language")
    assert texts_of(video) == ["no language"]
    assert texts_of(video, "it") == ["no language"]
    assert texts_of(video, "en-US") == ["english"]


def test_a_missing_language_is_a_note_that_lists_the_others(video: Path) -> None:
    write_subtitles(video, ".de.srt", "deutsch")
    write_subtitles(video, ".fr.srt", "français")
    subtitles = find_subtitles(video, 2.0, "it")
    assert (subtitles.cues, subtitles.notes) == ([], ("no subtitles in it; there are some in de, fr",))


def test_subtitle_files_come_before_embedded_streams(tmp_path: Path) -> None:
    streams = [("subrip", "eng", [(0.0, 1.0, "inside")]), ("subrip", "ger", [(0.0, 1.0, "innen")])]
    path = write_subtitled_video(tmp_path / "a.mkv", FRAMES, streams)
    assert texts_of(path) == ["inside"]
    assert texts_of(path, "de") == ["innen"]
    (tmp_path / "a.en.srt").write_text(srt("beside"))
    assert texts_of(path) == texts_of(path, "en") == ["beside"]
    assert texts_of(path, "de") == ["innen"]


def test_a_broken_subtitle_file_is_a_note_and_the_next_one_is_read(video: Path) -> None:
    broken = write_subtitles(video, ".srt", "x")
    broken.write_text("1\n00:00:0x,000 --> 00:00:02,000\nhi\n")
    only = find_subtitles(video, 2.0)
    assert only.cues == []
    assert only.notes == ("my talk.srt:2: time: '00:00:0x,000'; HH:MM:SS,mmm was expected",)
    write_subtitles(video, ".en.srt", "whole")
    both = find_subtitles(video, 2.0)
    assert ([cue.text for cue in both.cues], both.notes) == (["whole"], only.notes)


def test_a_guessed_encoding_late_cues_and_no_cues_are_notes(video: Path) -> None:
    path = write_subtitles(video, ".srt", "x")
    path.write_bytes(srt("über", "jetzt", "zu spät", start=0).encode("latin-1"))
    subtitles = find_subtitles(video, 1.5)
    assert [(cue.start, cue.end, cue.text) for cue in subtitles.cues] == [(0.0, 0.9, "über"), (1.0, 1.5, "jetzt")]
    assert subtitles.notes == (
        "my talk.srt: not UTF-8; read as windows-1252",
        "my talk.srt: 1 of 3 cues begin after the end of the video (1.50 s) and are left out",
    )
    path.write_text("\n\n")
    assert find_subtitles(video, 1.5).notes == ("my talk.srt: no cue has words",)


def test_links_out_of_the_folder_are_not_read(video: Path, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name} outside.srt"
    outside.write_text(srt("secret"))
    link = video.with_suffix(".srt")
    link.symlink_to(outside)
    os.mkfifo(video.with_suffix(".en.srt"))
    video.with_suffix(".de.srt").symlink_to("nowhere")
    subtitles = find_subtitles(video, 2.0)
    assert subtitles.cues == []
    assert "my talk.de.srt: cannot be read" in subtitles.notes[1]
    assert subtitles.notes[::2] == (
        "my talk.srt: a symbolic link that leaves the folder; it is not read",
        "my talk.en.srt: not a regular file; subtitles were expected",
    )
    link.unlink()
    inside = write_subtitles(video, ".words.srt", "of the folder")
    link.symlink_to(inside.name)
    assert texts_of(video) == ["of the folder"]
