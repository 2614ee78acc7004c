"""Which of one's own clips are learned from, and which are held out to measure by."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.test_subtitled import write
from training.data.errors import CorpusError
from training.data.hash_split import split_of
from training.data.own_clips import SENTENCE, OwnClips, choose_held_out, own_clips


def named(split: str, count: int) -> list[str]:
    """The first names of videos that the split of the folder puts there."""
    return [name for name in (f"talk{n}.mp4" for n in range(2000)) if split_of(name) == split][:count]


def videos_of(clips: list) -> set[str]:  # type: ignore[type-arg]
    return {str(example.attributes["video"]) for example, _ in clips}


def fill(folder: Path, names: list[str], cues: int) -> None:
    """Videos with so many cues of five seconds each; every one says something else."""
    for name in names:
        write(folder / name, *((5.0 * n, 5.0 * n + 5, f"{Path(name).stem} says {n}") for n in range(cues)))


def read(folder: Path) -> OwnClips:
    return own_clips(folder, 4.0, 16.0)


def test_the_splits_of_the_folder_decide_where_validation_has_enough(tmp_path: Path) -> None:
    train, val, test = named("train", 6), named("val", 1), named("test", 2)
    fill(tmp_path, train + val + test, 4)
    found = read(tmp_path)
    assert videos_of(found.learned) == set(train)
    assert videos_of(found.held_out) == set(val)
    assert found.untouched == 8
    assert {example.attributes[SENTENCE] for example, _ in found.held_out} == {
        f"{Path(val[0]).stem} says {n}" for n in range(4)
    }


def test_of_few_videos_test_videos_are_held_out_and_then_others() -> None:
    train, test = named("train", 5), named("test", 1)
    assert choose_held_out(dict.fromkeys([*train, *test], 4)) == set(test)
    (chosen,) = choose_held_out(dict.fromkeys(train, 4))
    assert chosen in train
    # Two clips are less than four: one more video, and as always the one of the next lowest hash.
    assert choose_held_out(dict.fromkeys(train, 2)) > {chosen}


def test_never_more_than_half_is_held_out() -> None:
    (val,), (one, other) = named("val", 1), named("train", 2)
    assert val not in choose_held_out({val: 300, one: 10, other: 12})
    assert choose_held_out({one: 300, other: 10}) == {other}
    assert choose_held_out({one: 10, other: 300}) == {one}


def test_test_videos_are_learned_from_where_the_rest_is_too_little(tmp_path: Path) -> None:
    train, val, test = named("train", 1), named("val", 1), named("test", 2)
    fill(tmp_path, train + val + test, 8)
    found = read(tmp_path)
    assert videos_of(found.learned) == {*train, *test}
    assert found.untouched == 0


def test_another_cut_or_another_video_is_another_set_of_clips(tmp_path: Path) -> None:
    fill(tmp_path, named("train", 5), 10)
    first = read(tmp_path)
    assert read(tmp_path).identity == first.identity
    assert own_clips(tmp_path, 8.0, 16.0).identity != first.identity
    (tmp_path / named("train", 1)[0]).write_bytes(b"longer than before")
    second = read(tmp_path)
    assert second.identity != first.identity
    fill(tmp_path, ["new.mp4"], 1)
    assert read(tmp_path).identity != second.identity


def test_too_little_is_named_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CorpusError, match=r"no video in it; \.mp4, .* were expected"):
        read(tmp_path)
    (tmp_path / "talk.mp4").touch()
    with pytest.raises(CorpusError, match=r"1 videos without subtitles \(talk\.mp4\); a video with an \.srt or \.vtt"):
        read(tmp_path)
    fill(tmp_path, ["talk.mp4"], 40)
    with pytest.raises(CorpusError, match=r"1 videos with words; at least 2 were expected"):
        read(tmp_path)
    fill(tmp_path, ["talk.mp4", "other.mp4"], 5)
    with pytest.raises(
        CorpusError, match=r"too few clips to learn from: 5 with 5 different sentences; at least 16 were expected"
    ):
        read(tmp_path)


def test_clips_that_all_say_the_same_are_too_few(tmp_path: Path) -> None:
    for name in named("train", 10):
        write(tmp_path / name, *((9.0 * n, 9.0 * n + 5, "Applause" if n else "applause") for n in range(4)))
    with pytest.raises(CorpusError, match=r"too few clips to learn from: 36 with 1 different sentences"):
        read(tmp_path)
