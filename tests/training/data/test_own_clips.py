"""Training and held-out clips of a user's videos, with and without subtitles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, movie
from tests.training.data.test_subtitled import write
from training.data.corpus import CorpusError, split_of
from training.data.own_clips import SENTENCE, UNLABELLED_ORIGIN, OwnClips, choose_held_out, own_clips, unlabelled_clips
from training.data.packed import open_packed, write_packed
from vitascope.bundle.manifest import FrameStream


def named(split: str, count: int) -> list[str]:
    """Return the first names of videos that belong to a split by the rule for folders."""
    return [name for name in (f"talk{n}.mp4" for n in range(2000)) if split_of(name) == split][:count]


def videos_of(clips: list) -> set[str]:  # type: ignore[type-arg]
    return {str(example.attributes["video"]) for example, _ in clips}


def fill(folder: Path, names: list[str], cues: int) -> None:
    """Write videos with a number of cues of five seconds each, all with different texts."""
    for name in names:
        write(folder / name, *((5.0 * n, 5.0 * n + 5, f"{Path(name).stem} says {n}") for n in range(cues)))


def read(folder: Path) -> OwnClips:
    return own_clips(folder, 4.0, 16.0)


def test_the_splits_of_the_folder_are_used_if_validation_is_large_enough(tmp_path: Path) -> None:
    train, val, test = named("train", 6), named("val", 1), named("test", 2)
    fill(tmp_path, train + val + test, 4)
    actual = read(tmp_path)
    assert videos_of(actual.training) == set(train)
    assert videos_of(actual.held_out) == set(val)
    assert actual.unused == 8
    assert {example.attributes[SENTENCE] for example, _ in actual.held_out} == {
        f"{Path(val[0]).stem} says {n}" for n in range(4)
    }


def test_few_videos_are_held_out_from_the_test_split_first() -> None:
    train, test = named("train", 5), named("test", 1)
    assert choose_held_out(dict.fromkeys([*train, *test], 4)) == set(test)
    (chosen,) = choose_held_out(dict.fromkeys(train, 4))
    assert chosen in train
    # Two clips are less than four: one more video, and as always the one of the next lowest hash.
    assert choose_held_out(dict.fromkeys(train, 2)) > {chosen}


def test_never_more_than_half_is_held_out() -> None:
    (val,), (single, other) = named("val", 1), named("train", 2)
    assert val not in choose_held_out({val: 300, single: 10, other: 12})
    assert choose_held_out({single: 300, other: 10}) == {other}
    assert choose_held_out({single: 10, other: 300}) == {single}


def test_test_videos_are_trained_on_if_there_are_too_few_others(tmp_path: Path) -> None:
    train, val, test = named("train", 1), named("val", 1), named("test", 2)
    fill(tmp_path, train + val + test, 8)
    actual = read(tmp_path)
    assert videos_of(actual.training) == {*train, *test}
    assert actual.unused == 0


def test_other_clip_lengths_or_videos_give_another_set_of_clips(tmp_path: Path) -> None:
    fill(tmp_path, named("train", 5), 10)
    first = read(tmp_path)
    assert read(tmp_path).identity == first.identity
    assert own_clips(tmp_path, 8.0, 16.0).identity != first.identity
    (tmp_path / named("train", 1)[0]).write_bytes(b"longer than before")
    second = read(tmp_path)
    assert second.identity != first.identity
    fill(tmp_path, ["new.mp4"], 1)
    assert read(tmp_path).identity != second.identity


def test_too_few_clips_are_an_error_with_their_number(tmp_path: Path) -> None:
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
        CorpusError, match=r"too few clips to train on: 5 with 5 different sentences; at least 16 were expected"
    ):
        read(tmp_path)


def test_clips_with_equal_texts_are_too_few(tmp_path: Path) -> None:
    for name in named("train", 10):
        write(tmp_path / name, *((9.0 * n, 9.0 * n + 5, "Applause" if n else "applause") for n in range(4)))
    with pytest.raises(CorpusError, match=r"too few clips to train on: 36 with 1 different sentences"):
        read(tmp_path)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "old").mkdir()
    movie(folder / "a.mp4", [RED, GREEN, BLUE, RED])  # two seconds
    movie(folder / "old" / "b.mp4", [GREEN, GREEN])
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".hidden.mp4").write_bytes(b"")
    return folder


def test_every_video_is_cut_into_equal_clips_and_whole_videos_are_held_out(unlabelled: Path) -> None:
    output: list[str] = []
    training, held_out = unlabelled_clips(unlabelled, 0.5, output.append)
    by_video = {
        video: [(e.attributes["start"], e.attributes["end"]) for e, _ in clips if e.attributes["video"] == video]
        for clips in (training, held_out)
        for video in {str(e.attributes["video"]) for e, _ in clips}
    }
    assert by_video == {
        "a.mp4": [pytest.approx(span) for span in ((0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2))],
        "old/b.mp4": [pytest.approx(span) for span in ((0, 0.5), (0.5, 1))],
    }
    assert {str(e.attributes["video"]) for e, _ in training}.isdisjoint(e.attributes["video"] for e, _ in held_out)
    assert held_out
    assert len(output) == 1
    assert output[0].startswith("broken.mp4: ")


def test_clips_are_decoded_at_their_times(unlabelled: Path, tmp_path: Path) -> None:
    training, held_out = unlabelled_clips(unlabelled, 0.5, lambda _: None)
    clips = [clip for clip in [*training, *held_out] if clip[0].attributes["video"] == "a.mp4"]
    stream = FrameStream(name="high", frames=1, height=16, width=16, placement="middle")
    write_packed(tmp_path / "unlabelled" / "train", [stream], clips, UNLABELLED_ORIGIN)
    packed = open_packed(tmp_path / "unlabelled" / "train")
    assert [e.key for e in packed.examples] == [f"a.mp4#{i:05}" for i in range(4)]
    assert packed.arrays["high"].mean(axis=(1, 2, 3)).argmax(axis=1).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(("seconds", "message"), [(0.0, "clip-seconds: 0"), (1.0, "no readable video in it")])
def test_a_folder_without_films_and_clips_without_length_are_refused(
    seconds: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=message):
        unlabelled_clips(tmp_path, seconds, lambda _: None)
