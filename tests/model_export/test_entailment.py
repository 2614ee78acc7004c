"""The classifier of sentences becomes a graph of a bundle: equal to torch, and no other file changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_export import export
from model_export.graphs import export_graphs, graph_specs
from model_export.weights import store
from tests.model_export.conftest import ANSWERS, CONFIG, Graphs
from tests.training.small_run import recipe, write_tokenizer
from training import checkpoint
from training.checkpoint import Checkpoint
from training.evaluation.encoder import TorchEncoder
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.model import Model


def test_classes_equal_those_of_the_checkpoint_and_no_other_file_changes(
    model: HdVila, graphs: Graphs, folders: tuple[Path, Path], bundles: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    classifier = HdVila(CONFIG.model_copy(update={"entailment": "video"}))
    classifier.load_state_dict(model.state_dict(), strict=False)
    added = [spec for spec in graph_specs(classifier) if spec.name == "entailment"]
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    checkpoint.save(tmp_path / "checkpoint", Checkpoint(classifier, ANSWERS, recipe(tokenizer), tokenizer, step=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.graphs.graph_specs", lambda _: added)
        all_graphs = graphs | export_graphs(classifier)
        patch.undo()
        patch.setattr(export, "export_graphs", lambda _: all_graphs)
        bundle = export.export_checkpoint(
            tmp_path / "checkpoint", tmp_path / "bundle", precision="float32", data=folders[1], seed=1
        )
    runtime = Model.open(bundle, threads=1, device="cpu")
    reference = TorchEncoder(classifier, runtime.tokenizer, ANSWERS)
    size = (3, CONFIG.visual_tokens, CONFIG.visual_width)
    tokens = 3 * np.random.default_rng(0).normal(size=size).astype(np.float32)
    texts = ["is it red ?", "a square", "blue"]
    actual, expected = (each.classify_entailment(texts, tokens) for each in (runtime, reference))
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=1e-4)
    assert np.ptp(actual.probabilities, axis=0).min() > 1e-3

    before, after = Bundle.open(bundles["float32"]), Bundle.open(bundle)
    same = ["weights.bin", *before.manifest.graphs.values()]
    assert [after.manifest.files[name] for name in same] == [before.manifest.files[name] for name in same]
    assert after.fingerprint == before.fingerprint
    assert set(after.manifest.tasks) - set(before.manifest.tasks) == {"entailment"}
    store(all_graphs, tmp_path, "int8-weights")
    for name in same:
        assert (tmp_path / name).read_bytes() == (bundles["int8-weights"] / name).read_bytes()
    stored = onnx.load(tmp_path / "entailment.onnx", load_external_data=False).graph.initializer
    inside = [tensor.name for tensor in stored if not tensor.external_data and len(tensor.raw_data) >= 1024]
    assert inside
    assert all("entailment_head" in name for name in inside), "weights of other graphs are in weights.bin"
