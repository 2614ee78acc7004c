"""Gradient cache: micro-batches of the encoders, and losses over the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small_run import COLOURS, MODEL, recipe, write_corpus, write_tokenizer
from training import batch_encoding
from training.data.batches import Batches
from training.initialization import model_config
from training.models.architectures import build
from training.recipe import Recipe
from training.train_step import compute_losses, word_masking
from training.trainer import train
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

Gradients = dict[str, torch.Tensor]
OBJECTIVES = {"itc": 1.0, "itm": 1.0, "mlm": 0.5, "vqa": 1.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("squares")
    write_corpus(folder / "data", folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def cached(
    corpus: Path, micro_batch_size: int | None, *, model: dict[str, Any] | None = None, **changes: Any
) -> Recipe:
    """One stage with contrast and fusion, batches of eight pictures with two captions each."""
    plain = recipe(corpus / "tokenizer.json", steps=2).model_dump()
    (stage,) = plain["stages"][:1]
    stage["datasets"][0] |= {
        "captions_per_video": 2,
        "micro_batch_size": micro_batch_size,
        "objectives": OBJECTIVES,
    } | changes
    return Recipe.model_validate(plain | {"stages": [stage], "model": MODEL | (model or {})})


def gradients(corpus: Path, micro_batch_size: int | None, dropout: float, bf16: bool = False) -> Gradients:
    """Gradients of all losses of one batch, by parameter."""
    made = cached(corpus, micro_batch_size, model={"dropout": dropout, "drop_path": dropout})
    torch.manual_seed(0)
    model = build(model_config(made, len(COLOURS))).train()
    tokenizer = corpus / "tokenizer.json"
    batches = Batches(
        made.stages[0], corpus / "data", Tokenizer.open(tokenizer, max_length=16), [*COLOURS], 7, model.cfg.streams()
    )
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = compute_losses(model, batches[0], word_masking(tokenizer, model.cfg.vocabulary), None)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
    assert set(losses) == set(OBJECTIVES)
    total.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(actual: Gradients, expected: Gradients, tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        # The gradient of a key's bias is 0 but for rounding.
        allowed = tolerance * float(gradient.abs().max()) + 1e-7
        assert float((actual[name] - gradient).abs().max()) <= allowed, name


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_gradients_equal_those_of_the_whole_batch(corpus: Path, micro_batch_size: int) -> None:
    assert_close(gradients(corpus, micro_batch_size, dropout=0.0), gradients(corpus, None, dropout=0.0), 1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_dropout_is_that_of_the_first_pass(corpus: Path, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    recomputed = gradients(corpus, 3, dropout=0.5, bf16=bf16)
    monkeypatch.setattr(batch_encoding, "checkpoint", lambda encode, part, use_reentrant: encode(part))
    kept = gradients(corpus, 3, dropout=0.5, bf16=bf16)
    assert_close(recomputed, kept, 1e-6)
    monkeypatch.undo()
    assert any(not torch.equal(recomputed[n], g) for n, g in gradients(corpus, 3, dropout=0.0, bf16=bf16).items())


def test_a_run_trains_in_micro_batches(corpus: Path, tmp_path: Path) -> None:
    assert (train(cached(corpus, 3), corpus / "data", tmp_path) / "model.safetensors").exists()


def test_norms_that_learn_their_statistics_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"micro_batch_size: 3 in stage 'contrast', where the BatchNorm video\.\S+"):
        train(cached(corpus, 3, model={"frozen_norm": False}), corpus / "data", tmp_path)


def test_masked_visual_tokens_are_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match="micro_batch_size: 3 of 'squares' with 'mvm'"):
        cached(corpus, 3, objectives={"itc": 1.0, "mvm": 1.0})
