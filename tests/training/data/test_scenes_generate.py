"""The corpus on disk: its layout, going on after a stop, and being made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.scenes.generate import main, make_corpus

COUNTS = {"train": 3, "val": 1, "test": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    make_corpus(out, COUNTS, seed=5)
    return out


def test_layout(corpus: Path) -> None:
    described = json.loads((corpus / "corpus.json").read_text())
    assert described["counts"] == COUNTS
    assert (described["name"], described["seed"], described["licence"]) == ("scenes", 5, "CC0-1.0")
    assert len(json.loads((corpus / "split.json").read_text())["held_out_colour_shape"]) == 8
    for split, count in COUNTS.items():
        records = [json.loads(line) for line in (corpus / split / "examples.jsonl").read_text().splitlines()]
        assert [record["key"] for record in records] == [f"{index:06d}" for index in range(count)]
        for record in records:
            assert (corpus / split / record["media"]).stat().st_size > 1000
            assert record["still"] is False
            assert len(record["scene"]["things"]) >= 1
            assert record["held_out"] is False or split == "test"
        assert sorted(p.name for p in (corpus / split).iterdir()) == [
            *(record["media"] for record in records),
            "examples.jsonl",
        ]


def test_the_command_makes_the_same_files_with_other_workers(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # the encoder must not read memory that it has not written
    main(["--out", str(tmp_path), "--train", "3", "--val", "1", "--test", "2", "--seed", "5", "--workers", "2"])
    files = sorted(p.relative_to(corpus) for p in corpus.rglob("*") if p.is_file())
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == files
    for file in files:
        assert (tmp_path / file).read_bytes() == (corpus / file).read_bytes(), file


def test_a_stopped_run_goes_on_and_keeps_finished_clips(corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path, {"train": 3}, seed=5)
    kept, lost = tmp_path / "train" / "000000.mp4", tmp_path / "train" / "000001.mp4"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "train" / "examples.jsonl").unlink()
    (tmp_path / "train" / ".000001.mp4.99.part").write_bytes(b"half a clip")
    make_corpus(tmp_path, {"train": 3}, seed=5)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == (corpus / "train" / "000001.mp4").read_bytes()
    assert (tmp_path / "train" / "examples.jsonl").read_text() == (corpus / "train" / "examples.jsonl").read_text()
    assert not list((tmp_path / "train").glob(".*"))


def test_another_seed_is_not_mixed_into_a_corpus(corpus: Path) -> None:
    with pytest.raises(SystemExit, match="'seed': 5"):
        make_corpus(corpus, COUNTS, seed=6)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dev'"):
        make_corpus(tmp_path, {"dev": 1})
