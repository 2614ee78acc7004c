"""Training from a bundle: its model is restored, trained further, and keeps the terms of its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.assemble import write_manifest
from model_export.export import export_checkpoint
from tests.model_export.conftest import ANSWERS, CONFIG
from tests.small_bundle import make_small_bundle
from tests.training.small_run import recipe
from training import checkpoint
from training.data.packed import open_packed
from training.evaluation.encoder import TorchEncoder, streams_of
from training.from_bundle import model_of_bundle
from training.trainer import train
from vitascope.bundle.bundle import Bundle
from vitascope.errors import InvalidInput
from vitascope.model import Model


def with_config(bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy of the bundle whose manifest states another architecture."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["extra"]["provenance"]["config"] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "manifest.json.sha256").unlink()
    return folder


@pytest.mark.parametrize("precision", ["float32", "int8-weights"])
def test_the_restored_model_equals_the_bundle(
    bundles: dict[str, Path], folders: tuple[Path, Path], precision: str
) -> None:
    runtime = Model.open(bundles[precision], threads=1)
    start = model_of_bundle(bundles[precision])
    rebuilt = TorchEncoder(start.model, runtime.bundle.tokenizer(), start.answers, runtime.bundle.manifest.calibration)
    packed = open_packed(folders[1] / "squares" / "val")
    streams = streams_of(packed, np.arange(4), CONFIG.streams())
    captions = [example.captions[0] for example in packed.examples[:4]]
    ours, theirs = rebuilt.embed_video(streams), runtime.embed_video(streams)
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-4)
    np.testing.assert_allclose(ours.visual_tokens, theirs.visual_tokens, atol=1e-3)
    np.testing.assert_allclose(rebuilt.embed_text(captions), runtime.embed_text(captions), atol=1e-4)
    tokens = theirs.visual_tokens
    np.testing.assert_allclose(
        rebuilt.match(captions, tokens).logits, runtime.match(captions, tokens).logits, atol=1e-3
    )
    questions = ["what color is it ?"] * 4
    for ours_, theirs_ in zip(rebuilt.answer(questions, tokens), runtime.answer(questions, tokens), strict=True):
        assert [a.text for a in ours_] == [a.text for a in theirs_]
    assert start.answers == ANSWERS
    assert start.lineage == ("squares",)


def test_training_goes_on_from_a_bundle(bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path) -> None:
    changed = recipe(folders[0] / "tokenizer.json", steps=1, model={})
    ended = checkpoint.load(train(changed, folders[1], tmp_path, start_from=bundles["float32"]))
    start = model_of_bundle(bundles["float32"])
    assert ended.step == 2
    assert ended.answers == start.answers
    assert ended.lineage == ("squares",)
    before, after = start.model.state_dict(), ended.model.state_dict()
    name = "video_project.weight"
    assert not torch.equal(before[name], after[name])
    assert torch.nn.functional.cosine_similarity(before[name].flatten(), after[name].flatten(), dim=0) > 0.9


def test_a_recipe_may_change_what_needs_no_other_weights(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    tokenizer, start = folders[0] / "tokenizer.json", bundles["float32"]
    changed = recipe(tokenizer, steps=1, model={"drop_path": 0.2})
    ended = checkpoint.load(train(changed, folders[1], tmp_path / "drop", start_from=start, stop_after=1))
    assert ended.model.cfg == CONFIG.model_copy(update={"drop_path": 0.2})
    merging = recipe(tokenizer, steps=1, model={"clip_merge": "logsumexp"})
    ended = checkpoint.load(train(merging, folders[1], tmp_path / "merge", start_from=start, stop_after=1))
    assert ended.model.cfg == CONFIG.model_copy(update={"clip_merge": "logsumexp"})
    deeper = recipe(tokenizer, steps=1, model={"hybrid_layers": 2})
    with pytest.raises(ValueError, match=r"hybrid_layers.*video\.hybrid\.blocks\.1\."):
        train(deeper, folders[1], tmp_path / "deep", start_from=start)


@pytest.mark.usefixtures("cached_graphs")
def test_terms_of_earlier_training_data_are_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "checkpoint")
    state = tmp_path / "checkpoint" / "state.json"
    lineage = ["flickr8k", "EfficientNet-Lite0"]
    state.write_text(json.dumps(json.loads(state.read_text()) | {"lineage": lineage}))
    bundle = Bundle.open(export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", data=folders[1], seed=1))
    assert bundle.manifest.licence.startswith("Research and education only, by the terms of flickr8k")
    notice = (bundle.folder / "NOTICE.md").read_text()
    for name in ("flickr8k", "squares", "EfficientNet-Lite0"):
        assert f"## {name}" in notice
    assert "all-MiniLM" not in notice
    assert "start: a model trained before" in (bundle.folder / "MODEL_CARD.md").read_text()
    assert model_of_bundle(bundle.folder).lineage == ("flickr8k", "squares", "EfficientNet-Lite0")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "no provenance with config and sources"),
        ({"public_model": {"source": "them/released"}}, r"is a public model \(.*vitascope distil"),
        ({"variant_of": {"name": "big", "version": "2"}}, r"was made of big 2 \(variant of\)"),
        ({"distilled_from": {"name": "big", "version": "2"}}, r"was made of big 2 \(distilled from\)"),
    ],
)
def test_a_bundle_with_graphs_of_another_program_is_refused(
    extra: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = make_small_bundle(tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, {**manifest, "extra": extra})
    with pytest.raises(InvalidInput, match=message):
        model_of_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centre_weight": 0.9}, r"vector of a video of the model rebuilt .* differs by"),
        ({"frozen_norm": False}, "frozen_norm is false"),
        ({"hybrid_layers": 2}, r"no weights found for \['video\.hybrid\.blocks\.1\."),
    ],
    ids=["outputs differ", "trained norms", "weight missing"],
)
def test_a_config_that_does_not_fit_the_graphs_is_refused(
    changes: dict[str, object], message: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = with_config(bundles["float32"], tmp_path / "bundle", **changes)
    with pytest.raises(InvalidInput, match=message):
        model_of_bundle(folder)
