"""Packed corpora: writing, sampling, several clips, damage and replacement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, Color, animation, movie, picture
from tests.waiting import PATIENCE
from training.data.corpus import CorpusError, EmptySplit
from training.data.example import Example, Question
from training.data.packed import (
    STILL_STREAMS,
    VIDEO_STREAMS,
    EncodedMedia,
    Media,
    MediaSpan,
    Origin,
    Packed,
    open_packed,
    write_packed,
)

ORIGIN = Origin("a test", "none needed", "all in one")


def pictures(colors: Iterable[Color]) -> list[tuple[Example, Media]]:
    return [
        (Example(f"k{i}", (f"picture {i}",), still=True), EncodedMedia(f"{i}.jpg", picture(color)))
        for i, color in enumerate(colors)
    ]


def mean_colors(packed: Packed, stream: str, row: int) -> np.ndarray:
    means: np.ndarray = packed.arrays[stream][row].mean(axis=(1, 2))
    return means


def test_a_picture_is_stored_with_one_frame_per_stream(tmp_path: Path) -> None:
    question = Question("what color is it?", ("red",), "colour")
    example = Example("one", ("a red thing",), questions=(question,), still=True)
    write_packed(tmp_path / "colors" / "val", STILL_STREAMS, [(example, EncodedMedia("a.jpg", picture(RED)))], ORIGIN)
    packed = open_packed(tmp_path / "colors" / "val")
    assert packed.examples == [example]
    assert {name: array.shape for name, array in packed.arrays.items()} == {
        "high": (1, 1, 224, 224, 3),
        "low": (1, 1, 112, 112, 3),
    }
    np.testing.assert_allclose(mean_colors(packed, "high", 0), [RED], atol=6)
    assert packed.info["licence"] == "none needed"
    assert (packed.info["corpus"], packed.info["split"]) == ("colors", "val")


def test_a_video_is_sampled_over_its_whole_length_and_in_its_middle(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED, GREEN, BLUE], frames_each=8)
    write_packed(tmp_path / "out", VIDEO_STREAMS, [(Example("a"), tmp_path / "a.mp4")], ORIGIN)
    packed = open_packed(tmp_path / "out")
    np.testing.assert_allclose(mean_colors(packed, "low", 0), [RED, RED, GREEN, GREEN, BLUE, BLUE], atol=12)
    np.testing.assert_allclose(mean_colors(packed, "high", 0), [GREEN], atol=12)


def test_a_video_of_several_clips_is_cut_into_equal_parts_each_sampled_as_a_clip(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED, GREEN, BLUE, RED], frames_each=8)
    items: list[tuple[Example, Media]] = [
        (Example("whole"), tmp_path / "a.mp4"),
        (Example("part"), MediaSpan(tmp_path / "a.mp4", 0.8, 2.4)),
    ]
    info = write_packed(tmp_path / "out", VIDEO_STREAMS, items, ORIGIN, clips=2)
    assert info["clips"] == 2
    packed = open_packed(tmp_path / "out")
    assert packed.clips == 2
    low, high = packed.frames("low"), packed.frames("high")
    assert (low.shape, high.shape) == ((2, 2, 6, 112, 112, 3), (2, 2, 1, 224, 224, 3))
    halves = [[RED, RED, RED, GREEN, GREEN, GREEN], [BLUE, BLUE, BLUE, RED, RED, RED]]
    np.testing.assert_allclose(low[0].mean(axis=(2, 3)), halves, atol=12)
    np.testing.assert_allclose(low[1].mean(axis=(2, 3)), [[GREEN] * 6, [BLUE] * 6], atol=12)
    np.testing.assert_allclose(high[1].mean(axis=(2, 3)), [[GREEN], [BLUE]], atol=12)


def test_one_clip_is_stored_as_before_there_were_several(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED, GREEN, BLUE], frames_each=8)
    write_packed(tmp_path / "out", VIDEO_STREAMS, [(Example("a"), tmp_path / "a.mp4")], ORIGIN)
    assert np.load(tmp_path / "out" / "low.npy").shape == (1, 6, 112, 112, 3)
    info = json.loads((tmp_path / "out" / "pack.json").read_text())
    del info["clips"]  # as of a corpus that was packed earlier
    (tmp_path / "out" / "pack.json").write_text(json.dumps(info))
    packed = open_packed(tmp_path / "out")
    assert packed.clips == 1
    assert packed.frames("low").shape == (1, 1, 6, 112, 112, 3)
    np.testing.assert_array_equal(packed.frames("low")[:, 0], packed.arrays["low"])


def test_arrays_of_another_number_of_clips_are_refused(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED, GREEN])
    write_packed(tmp_path / "out", VIDEO_STREAMS, [(Example("a"), tmp_path / "a.mp4")], ORIGIN, clips=2)
    path = tmp_path / "out" / "pack.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"clips": 3}))
    with pytest.raises(CorpusError, match=r"high\.npy: uint8 \(1, 2, 1, .*uint8 \(1, 3, 1, "):
        open_packed(tmp_path / "out")
    path.write_text(json.dumps(info | {"clips": 0}))
    with pytest.raises(CorpusError, match=r"pack\.json: clips: 0; a whole number from 1"):
        open_packed(tmp_path / "out")


def test_an_animated_picture_is_a_video(tmp_path: Path) -> None:
    media = EncodedMedia("a.webp", animation([RED, GREEN, BLUE]))
    write_packed(tmp_path / "out", VIDEO_STREAMS, [(Example("a"), media)], ORIGIN)
    packed = open_packed(tmp_path / "out")
    np.testing.assert_allclose(mean_colors(packed, "low", 0), [RED, RED, GREEN, GREEN, BLUE, BLUE], atol=3)


def test_worker_processes_give_the_same_corpus_in_the_same_order(tmp_path: Path) -> None:
    items = pictures([RED, GREEN, BLUE] * 6)
    for workers in (1, 2):
        write_packed(tmp_path / str(workers), STILL_STREAMS, iter(items), ORIGIN, workers=workers)
    first, second = open_packed(tmp_path / "1"), open_packed(tmp_path / "2")
    assert [e.key for e in second.examples] == [example.key for example, _ in items]
    assert first.examples == second.examples
    np.testing.assert_array_equal(first.arrays["low"], second.arrays["low"])


KILLED = """
import sys, time
from pathlib import Path
from training.data.example import Example
from training.data.packed import STILL_STREAMS, Origin, write_packed

def items():
    yield Example("a"), Path("none.jpg")
    print("started", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    write_packed(Path(sys.argv[1]), STILL_STREAMS, items(), Origin("", "", ""), workers=2)
"""


def test_workers_end_with_a_killed_process_and_its_files_when_packing_again(tmp_path: Path) -> None:
    script = tmp_path / "pack.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "corpus" / "val")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout
        assert process.stdout.readline() == b"started\n"
        process.kill()
        assert process.communicate(timeout=PATIENCE)[0] == b""  # its workers have closed their standard output, too
    (left,) = (tmp_path / "corpus").iterdir()
    assert left.name.startswith(".val.")
    write_packed(tmp_path / "corpus" / "val", STILL_STREAMS, pictures([RED]), ORIGIN)
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["val"]


def test_two_packings_of_one_split_at_once_do_not_mix(tmp_path: Path) -> None:
    def items() -> Iterator[tuple[Example, Media]]:
        write_packed(tmp_path / "val", STILL_STREAMS, pictures([GREEN, BLUE]), ORIGIN)
        yield from pictures([RED])

    write_packed(tmp_path / "val", STILL_STREAMS, items(), ORIGIN)
    assert len(open_packed(tmp_path / "val").examples) == 1  # the last to end


def test_a_broken_file_is_left_out_and_named(tmp_path: Path) -> None:
    items = pictures([RED, GREEN, BLUE])
    items[1] = (items[1][0], EncodedMedia("1.jpg", picture()[:120]))
    info = write_packed(tmp_path / "out", STILL_STREAMS, items, ORIGIN, max_skipped=0.5)
    packed = open_packed(tmp_path / "out")
    assert [e.key for e in packed.examples] == ["k0", "k2"]
    np.testing.assert_allclose(mean_colors(packed, "low", 1), [BLUE], atol=6)
    assert [s["key"] for s in info["skipped"]] == ["k1"]
    assert info["skipped"][0]["reason"].startswith("media_corrupt: ")
    assert packed.info["skipped"] == info["skipped"]


def test_too_many_broken_files_fail_and_keep_the_old_split(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_packed(folder, STILL_STREAMS, pictures([RED]), ORIGIN)
    broken: list[tuple[Example, Media]] = [(Example("bad"), EncodedMedia("bad.jpg", b"nothing"))]
    with pytest.raises(CorpusError, match=r"1 of 4 media .* 1\.0% may fail .*bad \(media_unsupported"):
        write_packed(folder, STILL_STREAMS, pictures([GREEN] * 3) + broken, ORIGIN)
    assert [e.key for e in open_packed(folder).examples] == ["k0"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmptySplit, match="the source has no media of this split"):
        write_packed(tmp_path / "out", STILL_STREAMS, [], ORIGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example("", ("a",)), "key: '': key: ''; a non-empty string was expected"),
        (Example("k", ("a", " ")), r"key: 'k': captions\[1\]: ' '; a non-empty string"),
        (Example("k", attributes={"url": "\ud83d"}), "key: 'k': .*surrogates not allowed"),
    ],
)
def test_values_that_could_not_be_read_again_are_not_written(tmp_path: Path, example: Example, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        write_packed(tmp_path / "out", STILL_STREAMS, [(example, EncodedMedia("a.jpg", picture(RED)))], ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_a_key_may_be_longer_than_the_name_of_a_file(tmp_path: Path) -> None:
    key = "\u00e4" * 300
    item = (Example(key), EncodedMedia(f"{key}.jpg", picture(RED)))
    assert write_packed(tmp_path / "out", STILL_STREAMS, [item], ORIGIN)["count"] == 1


def test_a_key_may_occur_once_only_even_where_its_file_is_broken(tmp_path: Path) -> None:
    broken: list[tuple[Example, Media]] = [(Example("k0"), EncodedMedia("k0.jpg", b"nothing"))]
    with pytest.raises(CorpusError, match="key: 'k0' occurs twice"):
        write_packed(tmp_path / "out", STILL_STREAMS, broken + pictures([RED]), ORIGIN, max_skipped=0.9)


def test_packing_again_replaces_the_split(tmp_path: Path) -> None:
    write_packed(tmp_path / "out", STILL_STREAMS, pictures([RED, RED]), ORIGIN)
    write_packed(tmp_path / "out", STILL_STREAMS, pictures([BLUE]), ORIGIN)
    packed = open_packed(tmp_path / "out")
    assert len(packed) == 1
    np.testing.assert_allclose(mean_colors(packed, "low", 0), [BLUE], atol=6)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("damage", ["examples", "array", "pack", "missing array"])
def test_a_damaged_split_is_refused_with_the_name_of_the_file(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "out"
    write_packed(folder, STILL_STREAMS, pictures([RED, GREEN]), ORIGIN)
    if damage == "examples":
        lines = (folder / "examples.jsonl").read_text().replace("picture 1", "picture 2")
        (folder / "examples.jsonl").write_text(lines)
        message = r"examples\.jsonl: its SHA-256"
    elif damage == "array":
        np.save(folder / "low.npy", np.zeros((3, 1, 112, 112, 3), np.uint8))
        message = r"low\.npy: uint8 \(3, .*uint8 \(2, "
    elif damage == "pack":
        (folder / "pack.json").write_text("{")
        message = r"pack\.json: not JSON"
    else:
        (folder / "high.npy").unlink()
        message = r"high\.npy"
    with pytest.raises(CorpusError, match=message):
        open_packed(folder)


def test_a_folder_that_is_no_packed_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"pack\.json: missing"):
        open_packed(tmp_path)
