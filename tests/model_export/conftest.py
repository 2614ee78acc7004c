"""A small untrained HD-VILA as a checkpoint, its graphs (exported once), and a bundle made from it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from model_export import export
from model_export.graphs import export_graphs
from tests.training.small_run import MODEL, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.checkpoint import Checkpoint
from training.models.hdvila import HdVila, HdVilaConfig, tiny
from vitascope.manifest import GraphName

ANSWERS = ["red", "green", "blue", "yellow", "yes", "no"]
CONFIG = HdVilaConfig.model_validate(
    tiny(answers=len(ANSWERS)).model_dump()
    | MODEL
    # A vocabulary and a width at which weights are worth storing small.
    | {"backbone": "test_resnet", "text_width": 96, "text_intermediate": 128, "vocabulary": 16_000}
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, packed corpora)."""
    root = tmp_path_factory.mktemp("export")
    (root / "pictures").mkdir()
    write_corpus(root / "data", root / "pictures", copies=2)
    torch.manual_seed(0)
    model = HdVila(CONFIG)
    # Untrained norms are all ones and zeros; move them, so that a forgotten one is noticed.
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim <= 1:
                values.add_(0.05 * torch.randn_like(values))
        model.match_head.weight.mul_(3)
    tokenizer = write_tokenizer(root / "tokenizer.json")
    checkpoint.save(root / "checkpoint", Checkpoint(model, ANSWERS, recipe(tokenizer), tokenizer, step=3))
    return root / "checkpoint", root / "data"


@pytest.fixture(scope="session")
def model(folders: tuple[Path, Path]) -> HdVila:
    return checkpoint.load(folders[0]).model.eval()


@pytest.fixture(scope="session")
def graphs(model: HdVila) -> dict[GraphName, onnx.ModelProto]:
    return export_graphs(model)


@pytest.fixture
def exported_before(graphs: dict[GraphName, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the graphs that were made already: the exporter itself takes seconds."""
    monkeypatch.setattr(export, "export_graphs", lambda _: graphs)


@pytest.fixture(scope="session")
def bundles(
    folders: tuple[Path, Path], graphs: dict[GraphName, onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One bundle per precision; read-only."""
    root = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graphs", lambda _: graphs)
        return {
            precision: export.export_checkpoint(
                folders[0], root / precision, precision=precision, data=folders[1], seed=1
            )
            for precision in ("float32", "float16-weights", "int8-weights")
        }
