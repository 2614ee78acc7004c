"""`vitascope inspect` on checkpoints of both systems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.small_run import COLOURS, recipe, write_clips, write_corpus, write_tokenizer
from tests.training.test_soho import soho_recipe
from training.trainer import train
from vitascope.cli.main import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `hd-vila/checkpoint` and `soho/checkpoint`."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("inspect")
    (root / "pictures").mkdir()
    write_corpus(root / "data", root / "pictures")
    tokenizer = write_tokenizer(root / "tokenizer.json")
    train(recipe(tokenizer, steps=2), root / "data", root / "hd-vila")
    train(soho_recipe(tokenizer), root / "data", root / "soho")
    return root


def inspect(runs: Path, kind: str, system: str, *options: str) -> list[str]:
    data = ["--data", str(runs / "data"), "--corpus", "squares"]
    return ["inspect", kind, str(runs / system / "checkpoint"), *data, *options]


def test_flow_by_layer_and_direction_as_numbers_and_as_a_picture(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*inspect(runs, "flow", "soho"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["architecture"], found["pairs"], len(found["layers"])) == ("soho-tiny", 16, 2)
    for layer in found["layers"]:
        assert 0.0 < layer["text_reads_video"] < 1.0
        assert 0.0 < layer["video_reads_text"] < 1.0
    with Image.open(runs / "soho" / "flow-squares.png") as picture:
        assert picture.width > 300
    assert main([*inspect(runs, "flow", "soho", "--without-special", "--residual", "--heads", "max"), "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["options"] == {"heads": "max", "residual": True, "special": False}
    assert other["layers"] != found["layers"]


def test_where_visual_tokens_do_not_read_text_it_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(inspect(runs, "flow", "hd-vila")) == 0
    out = capsys.readouterr().out
    assert "hd-vila-tiny on 16 pairs of squares/val" in out
    assert "nothing can flow from text to video" in out
    assert "0.0%" in out


def test_dictionary_as_a_picture_of_patches(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--entries", "3", "--patches", "4", "--picture", str(runs / "entries.png"))
    assert main([*inspect(runs, "dictionary", "soho", *options), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 1 <= found["entries used"] <= 8
    assert sum(entry["tokens"] for entry in found["shown"]) <= 16 * 4
    with Image.open(runs / "entries.png") as picture:
        assert picture.size == (4 * 68, len(found["shown"]) * 68)
        corner = picture.convert("RGB").getpixel((10, 10))
    assert min(sum(abs(a - b) for a, b in zip(corner, c, strict=True)) for c in COLOURS.values()) < 90  # a square's


def test_videos_of_several_clips_are_inspected_whole(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "data", tmp_path, 4, ("val",))
    options = ["--data", str(tmp_path / "data"), "--corpus", "changing", "--picture", str(tmp_path / "a.png"), "--json"]
    model = str(runs / "soho" / "checkpoint")
    assert main(["inspect", "dictionary", model, *options, "--entries", "99"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(entry["tokens"] for entry in found["shown"]) == 8 * 4 * 4  # videos, clips, tokens
    assert main(["inspect", "flow", model, *options]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 8


def test_a_model_without_a_dictionary_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(inspect(runs, "dictionary", "hd-vila")) == 2
    assert "holds hd-vila-tiny; a SOHO checkpoint was expected" in capsys.readouterr().err
