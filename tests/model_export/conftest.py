"""A small untrained HD-VILA as a checkpoint, its graphs (exported once), and a bundle made from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_export import export
from model_export.assemble import write_manifest
from model_export.graphs import GraphSpec, export_specs, graph_specs
from model_export.weights import Precision
from tests.chaos import is_chaos
from tests.media_files import moving_shot, write_picture, write_video
from tests.once import made_once
from tests.training.conftest import skip_curves  # noqa: F401
from tests.training.small_run import MODEL, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.bundle_checkpoint import checkpoint_folder
from training.checkpoint import Checkpoint
from training.data.scenes.generate import make_example
from training.data.scenes.render import render
from training.models.hd_vila import HdVila, HdVilaConfig, tiny
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GraphName

collect_ignore = [] if is_chaos() else ["test_adapt.py", "test_distil.py"]
"""Run by `make chaos` only, because they train and export for minutes."""
Graphs = dict[GraphName, onnx.ModelProto]

ANSWERS = ["red", "green", "blue", "yellow", "yes", "no"]
CONFIG = HdVilaConfig.model_validate(
    tiny(answers=len(ANSWERS)).model_dump()
    | MODEL
    # A vocabulary and a width at which weights are worth storing small.
    | {"backbone": "test_resnet", "text_width": 96, "text_intermediate": 128, "vocabulary": 16_000, "hub_references": 8}
    | {"mirrored_view": 0.75}
)


def copy_bundle(source: Path, target: Path) -> Path:
    """Copy a bundle and the checkpoint next to it."""
    shutil.copytree(checkpoint_folder(source), checkpoint_folder(target))
    return shutil.copytree(source, target)


def add_caption_matrix(bundle: Path) -> Path:
    """Add a random matrix for CLIPScore to a bundle, and return the bundle."""
    manifest = Bundle.open(bundle).manifest
    matrix = np.random.default_rng(0).standard_normal((manifest.vector_width, manifest.vector_width))
    np.save(bundle / "matrix.npy", matrix.astype(np.float16))
    write_manifest(bundle, manifest.model_dump() | {"caption_matrix": "matrix.npy"})
    return bundle


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, packed corpora)."""

    def make(root: Path) -> None:
        (root / "pictures").mkdir()
        write_corpus(root / "data", root / "pictures", copies=2)
        torch.manual_seed(0)
        model = HdVila(CONFIG)
        # Untrained norms are ones and zeros; other values make each of them have an effect.
        with torch.no_grad():
            for values in model.parameters():
                if values.ndim <= 1:
                    values.add_(0.05 * torch.randn_like(values))
            model.match_head.weight.mul_(3)
            assert model.hubness is not None
            for values in model.hubness.buffers():
                values.normal_()
        tokenizer = write_tokenizer(root / "tokenizer.json")
        checkpoint.save(root / "checkpoint", Checkpoint(model, ANSWERS, recipe(tokenizer), tokenizer, step=3))

    root = made_once(tmp_path_factory, "checkpoint-to-export", make)
    return root / "checkpoint", root / "data"


@pytest.fixture(scope="session")
def model(folders: tuple[Path, Path]) -> HdVila:
    return checkpoint.load(folders[0]).model.eval()


@pytest.fixture(scope="session")
def graphs(model: HdVila, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Graphs:
    """The graphs of the model. Each worker starts with a different one, so that they are exported in parallel."""
    specs = graph_specs(model)
    first = int(worker_id.removeprefix("gw")) if worker_id != "master" else 0
    graphs: Graphs = {}
    for number in range(len(specs)):
        spec = specs[(first + number) % len(specs)]

        def make(root: Path, spec: GraphSpec = spec) -> None:
            onnx.save(export_specs([spec], model.cfg)[spec.name], root / "graph.onnx")

        graphs[spec.name] = onnx.load(made_once(tmp_path_factory, f"graph-{spec.name}", make) / "graph.onnx")
    return {spec.name: graphs[spec.name] for spec in specs}


@pytest.fixture
def cached_graphs(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make exports use `graphs`, because exporting takes seconds per graph."""
    monkeypatch.setattr(export, "export_graphs", lambda _: graphs)


@pytest.fixture(scope="session")
def bundles(folders: tuple[Path, Path], graphs: Graphs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bundle per precision; read-only."""
    precisions: tuple[Precision, ...] = ("float32", "int8-weights")

    def make(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "export_graphs", lambda _: graphs)
            for precision in precisions:
                export.export_checkpoint(folders[0], root / precision, precision=precision, data=folders[1], seed=1)

    root = made_once(tmp_path_factory, "bundles", make)
    return {precision: root / precision for precision in precisions}


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rendered scenes and a tall panorama, as JPEG and PNG of several shapes."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for index in range(3):
        world, _ = make_example(5, "val", index)
        frame = next(iter(render(world)))
        paths.append(folder / f"{index}.jpg")
        frame.convert("RGB").resize((333 + 40 * index, 250)).save(paths[-1], quality=90)
    return [*paths, write_picture(folder / "tall.png", np.concatenate(moving_shot(9, 5)))]


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "two shots.mp4"
    return write_video(path, [frame for seed in (1, 2) for frame in moving_shot(seed, 40)])
