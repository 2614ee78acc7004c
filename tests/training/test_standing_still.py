"""Encoders of a stage that freezes them: still in every mode, and through everything that changes the mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import test_hdvila, test_soho, test_visual_parsing
from tests.training.small_run import write_corpus, write_tokenizer
from training import checkpoint
from training.evaluation.encoder import TorchEncoder
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila
from training.models.soho import Soho
from training.models.visual_parsing import VisualParsing
from training.recipe import Recipe
from training.trainer import train
from training.validation import validator
from vitascope.tokenizer import Tokenizer

LIVELY = {"dropout": 0.5, "attention_dropout": 0.5}
Make = Callable[[], tuple[FusedModel, dict[str, torch.Tensor]]]


def hdvila() -> tuple[FusedModel, dict[str, torch.Tensor]]:
    made = HdVila(test_hdvila.small_config(drop_path=0.5, frozen_stages=0, frozen_norm=False, **LIVELY))
    return made, test_hdvila.frames(3, 1)


def soho() -> tuple[FusedModel, dict[str, torch.Tensor]]:
    return Soho(test_soho.small_config(frozen_norm=False, **LIVELY)), test_soho.frames(3)


def visual_parsing() -> tuple[FusedModel, dict[str, torch.Tensor]]:
    return VisualParsing(test_visual_parsing.small_config(drop_path=0.5, **LIVELY)), test_visual_parsing.frames(3)


def encoded(model: FusedModel, streams: dict[str, torch.Tensor], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens and text states, whatever chance has to do with them."""
    torch.manual_seed(seed)
    ids = torch.arange(5, 15).reshape(2, 5)
    with torch.no_grad():
        return model.encode_video(streams)[1], model.text.encode(ids, torch.ones_like(ids))


@pytest.mark.parametrize("make", [hdvila, soho, visual_parsing])
def test_encoders_that_stand_still_do_so_in_training_and_after_an_evaluation(make: Make, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, streams = make()
    model.train()
    lively = [encoded(model, streams, seed) for seed in (1, 2)]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(*lively, strict=True))

    model.encoders_frozen = True
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    still = encoded(model, streams, 1)
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path / "tokenizer.json"), max_length=16)
    TorchEncoder(model, tokenizer, []).embed_text(["a red square"])
    again = encoded(model, streams, 2)
    assert all(torch.equal(a, b) for a, b in zip(still, again, strict=True))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # What still learns keeps its dropout; in a single-stream model all text layers belong to the text encoder.
    assert model.text.bert.encoder.layer[-1].training != model.cfg.vector_from_fused
    assert model.visual_embeddings.training

    model.encoders_frozen = False
    model.train()
    lively = [encoded(model, streams, seed) for seed in (1, 2)]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(*lively, strict=True))


def test_a_frozen_stage_that_encodes_anew_moves_no_dictionary_and_no_statistics(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    plain = test_soho.soho_recipe(write_tokenizer(tmp_path / "tokenizer.json")).model_dump()
    (first,) = plain["stages"]
    first["steps"] = 3
    source = first["datasets"][0] | {"jitter": 0.2, "objectives": {"itm": 1.0, "mlm": 0.5, "vqa": 1.0}}
    plain["stages"] = [first, first | {"name": "frozen", "frozen": "encoders", "steps": 5, "datasets": [source]}]
    made = Recipe.model_validate(plain | {"validate_every": 2, "validate_on": ["squares"]})
    data, validate = tmp_path / "data", validator(made, tmp_path / "data")

    before = checkpoint.load(train(made, data, tmp_path / "pieces", validate=validate, stop_after=3)).model
    for steps in (2, None):
        pieces = checkpoint.load(train(made, data, tmp_path / "pieces", validate=validate, stop_after=steps)).model
    whole = checkpoint.load(train(made, data, tmp_path / "whole", validate=validate)).model
    still = set(before.encoder_parameters()) | {name for name, _ in before.named_buffers()}
    assert {"video.dictionary.entries", "video.gate.1.running_mean", "video.neck.1.running_var"} <= still
    old, new, resumed = before.state_dict(), whole.state_dict(), pieces.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in still & set(old))
    assert any(not torch.equal(old[name], new[name]) for name in set(old) - still)
    assert all(torch.equal(new[name], resumed[name]) for name in new)

    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("whole", "pieces")]
    for row in [row for log in logs for row in log]:
        row.pop("seconds")
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0] if any(name.startswith("val/") for name in row)] == [1, 3, 5, 7]
    assert [row["step"] for row in logs[0] if "perplexity" in row] == [0, 1, 2]  # of a dictionary that moves


def test_a_frozen_stage_of_a_single_stream_model_keeps_its_text_embeddings(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    tokenizer_file = write_tokenizer(tmp_path / "tokenizer.json")
    plain = test_soho.soho_recipe(tokenizer_file).model_dump()
    (first,) = plain["stages"]
    source = first["datasets"][0] | {"objectives": {"itm": 1.0, "mlm": 0.5, "vqa": 1.0}}
    frozen = first | {"name": "frozen", "frozen": "encoders", "steps": 3, "datasets": [source]}
    made = Recipe.model_validate(plain | {"stages": [first | {"steps": 2}, frozen]})
    tokenizer = Tokenizer.open(tokenizer_file, max_length=16)
    embeddings = []
    for steps in (2, None):
        trained = checkpoint.load(train(made, tmp_path / "data", tmp_path / "run", stop_after=steps)).model
        embeddings.append(TorchEncoder(trained, tokenizer, []).embed_text(["a red square", "a blue square"]))
    assert np.array_equal(*embeddings)
