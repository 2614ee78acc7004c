"""Compact checkpoints: float16, without weights that equal those of a public package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.chaos import only_by_chaos
from tests.model_export.conftest import ANSWERS, CONFIG
from tests.training.small_run import recipe, write_tokenizer
from training import checkpoint, public_starts
from training.checkpoint import Checkpoint
from training.models import hd_vila
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila
from training.models.pretrained import STARTS, TEXT_PACKAGE, load_pretrained
from training.public_starts import Package
from vitascope.errors import InvalidInput

LAYER = "text.bert.encoder.layer.0."


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of weights of an installed package whose text layer the small model starts from."""
    torch.manual_seed(1)
    file = tmp_path / "package.safetensors"
    layer = {name: torch.randn_like(v) for name, v in HdVila(CONFIG).state_dict().items() if name.startswith(LAYER)}
    save_file(layer, file)

    def load(model: FusedModel) -> None:
        model.load_state_dict(load_file(file), strict=False)

    monkeypatch.setitem(public_starts.PACKAGES, TEXT_PACKAGE, Package(lambda: file, load))
    monkeypatch.setattr(public_starts, "version", lambda _: "0.1.0")
    return file


@pytest.fixture
def stored(package: Path, tmp_path: Path) -> Checkpoint:
    """A checkpoint at tmp_path/full, of whose public layer only one tensor was trained."""
    torch.manual_seed(0)
    model = HdVila(CONFIG)
    model.load_state_dict(load_file(package), strict=False)
    with torch.no_grad():
        model.get_parameter(f"{LAYER}output.dense.weight").add_(0.5)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    saved = Checkpoint(model, ANSWERS, recipe(tokenizer), tokenizer, 3, lineage=("squares", STARTS[1]))
    checkpoint.save(tmp_path / "full", saved)
    return saved


def test_a_compact_checkpoint_loads_as_the_full_one(stored: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save_compact(tmp_path / "compact", stored)
    kept = load_file(tmp_path / "compact" / "model.safetensors")
    assert [name for name in kept if name.startswith(LAYER)] == [f"{LAYER}output.dense.weight"]
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("compact", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    full, compact = (checkpoint.load(tmp_path / name) for name in ("full", "compact"))
    assert (compact.answers, compact.step, compact.recipe, compact.lineage) == (
        full.answers,
        full.step,
        full.recipe,
        full.lineage,
    )
    expected = full.model.state_dict()
    for name, values in compact.model.state_dict().items():
        assert values.dtype == expected[name].dtype, name
        exact = values.numel() < checkpoint.MIN_FLOAT16_VALUES or name not in kept
        torch.testing.assert_close(values, expected[name], rtol=0 if exact else 1e-3, atol=0 if exact else 1e-6)


def test_a_changed_public_start_is_rejected(stored: Checkpoint, package: Path, tmp_path: Path) -> None:
    checkpoint.save_compact(tmp_path / "compact", stored)
    save_file({name: values + 1 for name, values in load_file(package).items()}, package)
    with pytest.raises(InvalidInput, match=rf"leaves out weights of {TEXT_PACKAGE} 0\.1\.0 .* has others \(SHA-256"):
        checkpoint.load(tmp_path / "compact")


@only_by_chaos
def test_the_default_models_compact_checkpoint_restores_both_packages_and_is_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hd_vila.HdVila(hd_vila.tiny(answers=1000))
    load_pretrained(model)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    saved = Checkpoint(model, [f"{i}" for i in range(1000)], recipe(tokenizer), tokenizer, 0, lineage=STARTS)
    checkpoint.save_compact(tmp_path / "compact", saved)
    assert (tmp_path / "compact" / "model.safetensors").stat().st_size < 60e6
    restored = checkpoint.load(tmp_path / "compact").model.state_dict()
    for name, values in model.state_dict().items():
        torch.testing.assert_close(restored[name], values, rtol=1e-3, atol=1e-6)
