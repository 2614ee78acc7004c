"""A head that finds phrases becomes a graph of a bundle: equal to torch, and no other file changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_export import export
from model_export.graphs import export_graphs, graph_specs
from tests.model_export.conftest import ANSWERS, CONFIG, Graphs
from tests.training.small_run import recipe, write_tokenizer
from training import checkpoint
from training.checkpoint import Checkpoint
from training.models.grounding_head import grounding_outputs
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.model import Model


@pytest.fixture(scope="module")
def grounder(model: HdVila) -> HdVila:
    """The model with an untrained head, whose boxes vary."""
    torch.manual_seed(1)
    grounder = HdVila(CONFIG.model_copy(update={"grounding_layers": 1}))
    grounder.load_state_dict(model.state_dict(), strict=False)
    assert grounder.grounding_head is not None
    with torch.no_grad():
        for values in grounder.grounding_head.parameters():
            values.add_(0.1 * torch.randn_like(values))
    return grounder.eval()


@pytest.fixture(scope="module")
def all_graphs(grounder: HdVila, graphs: Graphs) -> Graphs:
    """The graphs of the model, and that of the head; the first are not exported again."""
    added = [spec for spec in graph_specs(grounder) if spec.name == "grounding"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.graphs.graph_specs", lambda _: added)
        return graphs | export_graphs(grounder)


def test_places_equal_those_of_the_checkpoint_and_no_other_file_changes(
    grounder: HdVila,
    all_graphs: Graphs,
    bundles: dict[str, Path],
    folders: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    checkpoint.save(tmp_path / "checkpoint", Checkpoint(grounder, ANSWERS, recipe(tokenizer), tokenizer, step=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graphs", lambda _: all_graphs)
        export.export_checkpoint(
            tmp_path / "checkpoint", tmp_path / "bundle", precision="float32", data=folders[1], seed=1
        )
    model = Model.open(tmp_path / "bundle", threads=1, device="cpu")
    size = (3, CONFIG.visual_tokens, CONFIG.visual_width)
    tokens = 3 * np.random.default_rng(0).normal(size=size).astype(np.float32)
    phrases = ["a red square", "blue", "a green square"]
    places = model.ground(phrases, tokens)
    with torch.no_grad():
        ids, mask = (torch.from_numpy(array) for array in model.tokenizer.encode(phrases))
        heat, boxes = grounding_outputs(grounder, ids, mask, torch.from_numpy(tokens))
    assert np.allclose([place.heat_map for place in places], heat.sigmoid(), atol=1e-4)
    assert np.allclose([place.box for place in places], boxes, atol=1e-4)
    before, after = Bundle.open(bundles["float32"]), model.bundle
    same = ["weights.bin", *before.manifest.graphs.values()]
    assert [after.manifest.files[name] for name in same] == [before.manifest.files[name] for name in same]
    assert after.fingerprint == before.fingerprint
    assert set(after.manifest.tasks) - set(before.manifest.tasks) == {"grounding"}
