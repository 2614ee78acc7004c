from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import GREEN, RED, movie, pictogram_packages, picture, write_shard
from training.data import pictograms
from training.data.packed import open_packed
from training.data.prepare import main, prepare


def flickr8k_shards(folder: Path) -> Path:
    for split in ("train", "val", "test"):
        samples = {f"{split}{n}": (picture(), {"captions": [f"picture {n} of {split}"]}) for n in range(2)}
        write_shard(folder / f"{split}-00000.tar", samples)
    return folder


def test_every_split_is_packed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = flickr8k_shards(tmp_path / "shards")
    assert main(["flickr8k", "--source", str(source), "--out", str(tmp_path / "packed")]) == 0
    for split in ("train", "val", "test"):
        packed = open_packed(tmp_path / "packed" / "flickr8k" / split)
        assert [e.captions for e in packed.examples] == [(f"picture {n} of {split}",) for n in range(2)]
        assert packed.info["licence"].startswith("research and education")
    assert "flickr8k/val: 2 packed, 0 skipped" in capsys.readouterr().err


def test_one_split_can_be_packed_alone(tmp_path: Path) -> None:
    source = flickr8k_shards(tmp_path / "shards")
    main(["flickr8k", "--source", str(source), "--out", str(tmp_path / "packed"), "--splits", "val"])
    assert [folder.name for folder in (tmp_path / "packed" / "flickr8k").iterdir()] == ["val"]


def test_daquar_is_packed_with_its_questions(tmp_path: Path) -> None:
    record = {"questions": [{"question": "what is on the desk?", "answers": ["book", "lamp"]}]}
    write_shard(tmp_path / "test-00000.tar", {"image1": (picture(), record)})
    done = prepare("daquar", tmp_path, tmp_path / "packed", ["test"])
    assert done["daquar/test"]["count"] == 1
    (example,) = open_packed(tmp_path / "packed" / "daquar" / "test").examples
    assert example.questions[0].answers == ("book", "lamp")


def test_generated_scenes_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "scenes" / "train"
    folder.mkdir(parents=True)
    movie(folder / "a.mp4", [RED, GREEN])
    (folder / "examples.jsonl").write_text(json.dumps({"key": "a", "media": "a.mp4", "captions": ["it turns green"]}))
    prepare("scenes", tmp_path / "scenes", tmp_path / "packed", ["train"])
    packed = open_packed(tmp_path / "packed" / "scenes" / "train")
    assert packed.arrays["low"].shape == (1, 6, 112, 112, 3)
    first, last = packed.arrays["low"][0, [0, 5]].mean(axis=(1, 2))
    np.testing.assert_allclose([first, last], [RED, GREEN], atol=12)


def test_pictograms_become_a_corpus_of_stills_and_one_of_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = pictogram_packages(tmp_path / "npm")
    monkeypatch.setattr(pictograms, "fetch_packages", lambda cache: packages)
    done = prepare("pictograms", tmp_path / "npm", tmp_path / "packed", ["val"])
    assert {name: part["count"] for name, part in done.items()} == {
        "pictogram_stills/val": 2,
        "pictogram_videos/val": 1,
    }
    videos = open_packed(tmp_path / "packed" / "pictogram_videos" / "val")
    np.testing.assert_allclose(videos.arrays["low"][0, [0, 5]].mean(axis=(1, 2)), [RED, GREEN], atol=3)
    assert "@lobehub/fluent-emoji-anim-1@1.0.0" in videos.info["source"]


def test_a_missing_source_fails_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daquar", "--source", str(tmp_path), "--out", str(tmp_path / "packed")]) == 1
    assert "one of these was expected" in capsys.readouterr().err
