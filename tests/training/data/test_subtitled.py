from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, key_frames, movie
from training.data.errors import CorpusError
from training.data.example import Utterance
from training.data.hash_split import split_of
from training.data.packed import VIDEO_STREAMS, MediaSpan, open_packed, write_packed
from training.data.subtitled import ORIGIN, pair_subtitles, subtitled


def cue(number: int, start: float, end: float, text: str) -> str:
    times = [f"00:{int(t) // 60:02}:{int(t) % 60:02},{round(t * 1000) % 1000:03}" for t in (start, end)]
    return f"{number}\n{times[0]} --> {times[1]}\n{text}\n\n"


def write(path: Path, *cues: tuple[float, float, str]) -> None:
    """A video that is no video, with subtitles: enough where nothing is decoded."""
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
