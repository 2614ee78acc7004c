"""Packed corpora whose frames are JPEG in tar shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, movie, picture, write_shard
from tests.training.small_run import recipe, write_tokenizer
from training.data import shards
from training.data.batches import Batches
from training.data.corpus import CorpusError
from training.data.example import Example
from training.data.packed import STILL_STREAMS, VIDEO_STREAMS, EncodedMedia, Origin, Packed, open_packed, write_packed
from training.data.prepare import main
from training.data.webdataset import shard_entries
from training.objectives.class_names import classify
from training.recipe import Recipe
from vitascope.tokenizer import Tokenizer

ORIGIN = Origin("a test", "none needed", "all in one")
COLORS = (RED, GREEN, BLUE)
ITEM = (Example("a", still=True), EncodedMedia("a.jpg", picture(RED)))
JPEG_ERROR = 4
"""Largest difference of plain colours."""


def packed_both_ways(folder: Path, clips: int = 1) -> tuple[Packed, Packed]:
    """Three videos as arrays and as shards, each beginning with another colour."""
    items = []
    for i in range(3):
        movie(folder / f"{i}.mp4", [*COLORS[i:], *COLORS[:i]], frames_each=8)
        items.append((Example(f"video {i}", (f"a square {i}",)), folder / f"{i}.mp4"))
    for name in ("arrays", "shards"):
        write_packed(folder / name / "c" / "train", VIDEO_STREAMS, items, ORIGIN, clips=clips, shards=name == "shards")
    arrays, sharded = (open_packed(folder / name / "c" / "train") for name in ("arrays", "shards"))
    return arrays, sharded


@pytest.mark.parametrize("clips", [1, 2])
def test_shards_are_indexed_as_arrays_and_show_the_same_frames(clips: int, tmp_path: Path) -> None:
    arrays, sharded = packed_both_ways(tmp_path, clips)
    assert sharded.examples == arrays.examples
    for stream in ("high", "low"):
        expected, actual = arrays.frames(stream), sharded.frames(stream)
        assert (len(actual), actual.shape) == (3, expected.shape)
        rows, last = np.array([2, 0])[:, None], np.arange(clips)
        for index in (
            (rows, last),
            (rows, np.array([[0], [clips - 1]])),
            slice(1, 3),
            2,
            (slice(None), slice(None), 0),
        ):
            shown = actual[index]
            assert (shown.dtype, shown.shape) == (np.uint8, expected[index].shape)
            np.testing.assert_allclose(shown.astype(int), expected[index], atol=JPEG_ERROR)


def test_one_recipe_gives_the_same_batches_of_arrays_and_of_shards(tmp_path: Path) -> None:
    packed_both_ways(tmp_path, clips=2)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    plain = recipe(tokenizer).model_dump()
    (stage,) = plain["stages"][:1]
    stage["datasets"][0] |= {
        "corpus": "c",
        "group_by": None,
        "batch_size": 2,
        "clips_per_video": 1,
        "objectives": {"itc": 1.0},
    }
    made = Recipe.model_validate(plain | {"stages": [stage]})
    opened = [
        Batches(made.stages[0], tmp_path / name, Tokenizer.open(tokenizer, max_length=16), [], 7, VIDEO_STREAMS)
        for name in ("arrays", "shards")
    ]
    for step in range(3):
        first, second = (batches[step] for batches in opened)
        assert first.rows.tolist() == second.rows.tolist()
        assert first.captions is not None
        assert second.captions is not None
        assert first.captions.ids.equal(second.captions.ids)
        assert first.streams is not None
        assert second.streams is not None
        for name, frames in first.streams.items():
            np.testing.assert_allclose(second.streams[name], frames, atol=1.5 * JPEG_ERROR)


def test_the_classifier_reads_shards(tmp_path: Path) -> None:
    arrays, sharded = packed_both_ways(tmp_path)
    np.testing.assert_allclose(classify(sharded, bf16=False), classify(arrays, bf16=False), atol=0.05)


def test_other_readers_find_each_clip_with_its_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # an example in each shard
    _, sharded = packed_both_ways(tmp_path, clips=2)
    tars = sorted(sharded.folder.glob("*.tar"))
    assert [path.name for path in tars] == ["frames-00000.tar", "frames-00001.tar", "frames-00002.tar"]
    entries = [entry for tar in tars for entry in shard_entries(tar)]
    assert [key for key, _ in entries] == [f"{row:09d}_{clip:05d}" for row in range(3) for clip in range(2)]
    assert all(set(parts) == {"high.jpg", "low.jpg", "json"} for _, parts in entries)
    assert [json.loads(parts["json"])["key"] for _, parts in entries[::2]] == ["video 0", "video 1", "video 2"]


@pytest.mark.parametrize("damage", ["missing shard", "short shard", "missing index"])
def test_damaged_shards_are_refused_with_the_name_of_the_file(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_packed(
        folder, STILL_STREAMS, [(Example("a", still=True), EncodedMedia("a.jpg", picture(RED)))], ORIGIN, shards=True
    )
    shard, index = folder / "frames-00000.tar", folder / "frames.npy"
    if damage == "short shard":
        shard.write_bytes(shard.read_bytes()[:600])
    else:
        (shard if damage == "missing shard" else index).unlink()
    name = r"frames\.npy" if damage == "missing index" else r"frames-00000\.tar"
    with pytest.raises(CorpusError, match=name):
        open_packed(folder)


def test_a_damaged_picture_is_an_error_that_names_the_shard(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_packed(
        folder, STILL_STREAMS, [(Example("a", still=True), EncodedMedia("a.jpg", picture(RED)))], ORIGIN, shards=True
    )
    with (folder / "frames-00000.tar").open("r+b") as shard:
        shard.seek(512)
        shard.write(b"no picture")
    with pytest.raises(CorpusError, match=r"frames-00000\.tar: byte 512: .*; pack the corpus again"):
        open_packed(folder).frames("high")[0]


def test_the_command_packs_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-00000.tar", {"one": (picture(GREEN), {"captions": ["a green picture"]})})
    options = ["flickr8k", "--source", str(tmp_path), "--out", str(tmp_path / "packed"), "--splits", "val", "--shards"]
    assert main(options) == 0
    packed = open_packed(tmp_path / "packed" / "flickr8k" / "val")
    assert sorted(path.name for path in packed.folder.iterdir()) == [
        "examples.jsonl",
        "frames-00000.tar",
        "frames.npy",
        "pack.json",
    ]
    np.testing.assert_allclose(packed.frames("high")[0].mean(axis=(0, 1, 2, 3)), GREEN, atol=6)
