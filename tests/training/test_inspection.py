"""Inter-modality flow and the pictures of `vitascope inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.small_run import COLOURS, recipe, write_clips, write_corpus, write_tokenizer
from tests.training.test_hd_vila import small_config
from tests.training.test_soho import soho_recipe
from training.evaluation.flow import Flow, FlowOptions, flow_by_layer, inter_modality_flow
from training.models.hd_vila import HdVila
from training.trainer import train
from vitascope.cli.main import main

# Two text tokens and two visual ones; the first text token is [CLS].
ROWS = [[0.5, 0.1, 0.2, 0.2], [0.1, 0.3, 0.5, 0.1], [0.3, 0.1, 0.3, 0.3], [0.0, 0.2, 0.4, 0.4]]
WORDS = torch.tensor([[True, True]])


def weights(*heads: list[list[float]]) -> torch.Tensor:
    return torch.tensor(heads)[None]


def test_shares_of_attention_by_hand() -> None:
    actual = inter_modality_flow(weights(ROWS), WORDS)
    # Text: 0.4 + 0.6 of 2; video: 0.4 + 0.2 of 2; both: 1.6 of 4.
    assert actual == pytest.approx(Flow(0.5, 0.3, 0.4))


def test_residual_connections_halve_the_flow() -> None:
    assert inter_modality_flow(weights(ROWS), WORDS, FlowOptions(residual=True)) == pytest.approx(Flow(0.25, 0.15, 0.2))


def test_special_tokens_and_padding_do_not_count() -> None:
    actual = inter_modality_flow(weights(ROWS), torch.tensor([[False, True]]))
    # Text: 0.6 of 0.9; video: 0.1 + 0.2 of 0.7 + 1.0; both: 0.9 of 2.6.
    assert actual == pytest.approx(Flow(0.6 / 0.9, 0.3 / 1.7, 0.9 / 2.6))


def test_heads_are_averaged_or_the_maximum_is_used() -> None:
    within = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    across = [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    assert inter_modality_flow(weights(within, across), WORDS).crossing == pytest.approx(0.5)
    assert inter_modality_flow(weights(within, within), WORDS).crossing == 0.0
    assert inter_modality_flow(weights(across, across), WORDS, FlowOptions(heads="max")).crossing == 1.0
    half = [[0.5, 0.0, 0.5, 0.0]] * 2 + [[0.5, 0.0, 0.5, 0.0]] * 2
    assert inter_modality_flow(
        weights(within, half), WORDS, FlowOptions(heads="max")
    ).text_reads_video == pytest.approx(1.0 / 3.5)


def test_visual_tokens_that_read_one_another_only_read_no_text() -> None:
    actual = inter_modality_flow(weights(ROWS[:2]), WORDS)
    assert actual == pytest.approx(Flow(0.5, 0.0, 0.25))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"weights: \(1, 1, 3, 4\) for 2 text tokens"):
        inter_modality_flow(weights(ROWS[:3]), WORDS)


@pytest.mark.parametrize("reads", [True, False])
def test_inspected_attention_weights_are_those_of_the_layers(reads: bool) -> None:
    """The attention output of each layer, computed from the inspected weights, equals that of the model."""
    torch.manual_seed(0)
    model = HdVila(small_config(fused_layers=1, visual_reads_text=reads)).eval()
    ids, mask = torch.randint(1, 100, (2, 5)), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    visual = torch.randn(2, 4, 32)
    with torch.no_grad():
        states, seen = model.text.encode(ids, mask), model.prepare_visual(visual)
        (actual,) = model.text.fused_attention(states, mask, seen)
        layer = model.text.bert.encoder.layer[-1]
        both = torch.cat([states, seen.tokens], dim=1)
        values = layer.attention.self.value(both).unflatten(2, (12, 4)).transpose(1, 2)
        context = (actual[:, :, :5] @ values).transpose(1, 2).flatten(2)
        attended = layer.attention.output(context, states)
        made = layer.output(layer.intermediate(attended), attended)
        expected = model.fuse(states, mask, seen)
    assert actual.shape == (2, 12, 9 if reads else 5, 9)
    assert torch.allclose(actual.sum(dim=-1), torch.ones(()), atol=1e-5)
    assert (actual[1, :, :, 3:5] < 1e-6).all()  # padding is not read
    assert torch.allclose(made, expected, atol=1e-5)


def test_flow_of_each_fused_layer() -> None:
    torch.manual_seed(0)
    model = HdVila(small_config(fused_layers=2, visual_reads_text=True)).eval()
    ids, mask = torch.randint(5, 100, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    ids[:, 0] = 2
    actual = flow_by_layer(model, ids, mask, torch.randn(3, 4, 32), special=[2])
    without = flow_by_layer(model, ids, mask, torch.randn(3, 4, 32), special=[2], options=FlowOptions(special=False))
    assert len(actual) == len(without) == 2
    # An untrained model attends to all alike: four of its ten tokens are visual, or four of nine.
    assert all(flow.text_reads_video == pytest.approx(0.4, abs=0.02) for flow in actual)
    assert all(flow.text_reads_video == pytest.approx(4 / 9, abs=0.02) for flow in without)


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
    actual = json.loads(capsys.readouterr().out)
    assert (actual["architecture"], actual["pairs"], len(actual["layers"])) == ("soho-tiny", 16, 2)
    for layer in actual["layers"]:
        assert 0.0 < layer["text_reads_video"] < 1.0
        assert 0.0 < layer["video_reads_text"] < 1.0
    with Image.open(runs / "soho" / "flow-squares.png") as picture:
        assert picture.width > 300
    assert main([*inspect(runs, "flow", "soho", "--without-special", "--residual", "--heads", "max"), "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["options"] == {"heads": "max", "residual": True, "special": False}
    assert other["layers"] != actual["layers"]


def test_a_message_says_that_visual_tokens_do_not_attend_to_text(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(inspect(runs, "flow", "hd-vila")) == 0
    out = capsys.readouterr().out
    assert "hd-vila-tiny on 16 pairs of squares/val" in out
    assert "visual tokens do not attend to text" in out
    assert "0.0%" in out


def test_dictionary_as_a_picture_of_patches(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--entries", "3", "--patches", "4", "--picture", str(runs / "entries.png"))
    assert main([*inspect(runs, "dictionary", "soho", *options), "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)
    assert 1 <= actual["entries used"] <= 8
    assert sum(entry["tokens"] for entry in actual["shown"]) <= 16 * 4
    with Image.open(runs / "entries.png") as picture:
        assert picture.size == (4 * 68, len(actual["shown"]) * 68)
        corner = picture.convert("RGB").getpixel((10, 10))
    assert min(sum(abs(a - b) for a, b in zip(corner, c, strict=True)) for c in COLOURS.values()) < 90  # a square's


def test_videos_of_several_clips_are_inspected_whole(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "data", tmp_path, 4, ("val",))
    options = ["--data", str(tmp_path / "data"), "--corpus", "changing", "--picture", str(tmp_path / "a.png"), "--json"]
    model = str(runs / "soho" / "checkpoint")
    assert main(["inspect", "dictionary", model, *options, "--entries", "99"]) == 0
    actual = json.loads(capsys.readouterr().out)
    assert sum(entry["tokens"] for entry in actual["shown"]) == 8 * 4 * 4  # videos, clips, tokens
    assert main(["inspect", "flow", model, *options]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 8


def test_a_model_without_a_dictionary_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(inspect(runs, "dictionary", "hd-vila")) == 2
    assert "holds hd-vila-tiny; a SOHO checkpoint was expected" in capsys.readouterr().err
