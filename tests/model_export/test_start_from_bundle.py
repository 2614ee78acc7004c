"""Training from a bundle continues from its checkpoint, and keeps the terms of its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from model_export.assemble import write_manifest
from model_export.export import export_checkpoint
from tests.model_export.conftest import CONFIG
from tests.small_bundle import make_small_bundle
from tests.training.small_run import recipe
from training import checkpoint
from training.initialization import load_initial_model
from training.trainer import train
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.errors import InvalidInput


def test_training_continues_from_a_bundle(bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path) -> None:
    changed = recipe(folders[0] / "tokenizer.json", steps=1, model={})
    ended = checkpoint.load(train(changed, folders[1], tmp_path, start_from=bundles["float32"]))
    start = load_initial_model(bundles["float32"])
    assert ended.step == 2
    assert ended.answers == start.answers
    assert ended.lineage == ("squares",)
    before, after = start.model.state_dict(), ended.model.state_dict()
    name = "video_project.weight"
    assert not torch.equal(before[name], after[name])
    assert torch.nn.functional.cosine_similarity(before[name].flatten(), after[name].flatten(), dim=0) > 0.9


def test_a_recipe_may_change_settings_that_need_no_other_weights(
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
    with pytest.raises(InvalidInput, match=r"hybrid_layers.*video\.hybrid\.blocks\.1\."):
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
    assert load_initial_model(bundle.folder).lineage == ("flickr8k", "EfficientNet-Lite0", "squares")


@pytest.mark.usefixtures("cached_graphs")
def test_calibration_is_kept_where_validation_splits_are_small(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    start, out = shutil.copytree(bundles["float32"], tmp_path / "start"), tmp_path / "mine"
    fields = Bundle.open(start).manifest.model_dump()
    write_manifest(start, fields | {"calibration": fields["calibration"] | {"match_scale": 0.75}})
    command = ["export", str(folders[0]), "--out", str(out), "--data", str(folders[1]), "--start-from", str(start)]
    assert main([*command, "--no-checkpoint"]) == 0
    assert Bundle.open(out).manifest.calibration.match_scale == 0.75


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "has no checkpoint, from which training continues"),
        ({"public_model": {"source": "them/released"}}, r"is a public model \(.*vitascope distil"),
        ({"variant_of": {"name": "big", "version": "2"}}, r"was made of big 2 \(variant of\)"),
        ({"distilled_from": {"name": "big", "version": "2"}}, r"was made of big 2 \(distilled from\)"),
    ],
)
def test_a_bundle_without_a_checkpoint_is_refused(extra: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, {**manifest, "extra": extra})
    with pytest.raises(InvalidInput, match=message):
        load_initial_model(folder)
