"""Export of a moment head as the graph `moments` of a bundle: it equals torch, and the fingerprint does not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn.functional import normalize

from model_export import moments
from model_export.moments import add_moments
from model_export.parity.checks import ParityError
from model_export.update import update_metrics
from tests.once import made_once
from tests.small_bundle import make_small_bundle
from training import checkpoint
from training.data.packed import Origin
from training.moments.head import MomentHead
from training.moments.loop import CONFIG_NAME, HeadCheckpoint
from training.moments.recipe import MomentRecipe
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.model import Model

HEAD = {"width": 16, "layers": 2, "patch": 2}
ORIGIN = Origin("films of a friend", "CC BY-NC 4.0", "by name")
METRICS = {"friends/test": {"head": {"R1@0.5": 61.25}, "fixed windows of 2 s": {"R1@0.5": 20.0}}}


def write_run(folder: Path, bundle: Path) -> Path:
    opened = Bundle.open(bundle)
    recipe = MomentRecipe.model_validate({"name": "mine", "steps": 7, "max_windows": 40, "head": HEAD})
    torch.manual_seed(0)
    width = opened.manifest.vector_width
    config = HeadCheckpoint(
        recipe=recipe,
        bundle="small-colours 1",
        fingerprint=opened.fingerprint,
        window_seconds=0.5,
        width=width,
        corpora={"friends": ORIGIN},
    )
    with checkpoint.replaced_whole(folder / "checkpoint") as part:
        checkpoint.save_weights(part, MomentHead(recipe.head, width))
        (part / CONFIG_NAME).write_text(config.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, run) of the small head, exported once, because that takes seconds; read-only."""

    def make(root: Path) -> None:
        bundle = make_small_bundle(root / "bundle")
        add_moments(bundle, write_run(root / "run", bundle), seed=1)

    root = made_once(tmp_path_factory, "exported-moments", make)
    return root / "bundle", root / "run"


@pytest.fixture(scope="module")
def graph(exported: tuple[Path, Path]) -> onnx.ModelProto:
    return onnx.load(exported[0] / moments.GRAPH_NAME)


@pytest.fixture
def cached_graph(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "export_graph", lambda *_: graph)


def test_outputs_of_the_graph_equal_those_of_the_head(exported: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, run = exported
    model = Model.open(bundle, threads=1)
    assert model.bundle.fingerprint == Bundle.open(make_small_bundle(tmp_path / "before")).fingerprint
    assert model.tasks[-1] == "moments"
    assert (model.moment_windows.window_seconds, model.moment_windows.max_windows) == (0.5, 40)
    windows, text = normalize(torch.randn(2, 23, 16), dim=-1), normalize(torch.randn(2, 16), dim=-1)
    mask = torch.ones(2, 23, dtype=torch.int64)
    mask[1, 9:] = 0
    outputs = model.run_graph(
        "moments", {"windows": windows.numpy(), "window_mask": mask.numpy(), "text": text.numpy()}
    )
    with torch.no_grad():
        expected = moments.load_head(run).head(windows, mask, text)
    for name, values in zip(("saliency", "spans", "span_scores"), expected, strict=True):
        np.testing.assert_allclose(outputs[name], values.numpy(), atol=1e-4)


@pytest.mark.usefixtures("cached_graph")
def test_the_card_and_the_manifest_state_the_origin_of_the_head(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    run = write_run(tmp_path / "run", bundle)
    add_moments(bundle, run)
    assert "Nothing was measured" in (bundle / "MODEL_CARD.md").read_text()
    (run / "metrics.json").write_text(json.dumps(METRICS))
    assert main(["export", str(bundle), "--moments", str(run)]) == 0  # in place of the former one
    manifest = Bundle.open(bundle).manifest
    assert manifest.tasks.count("moments") == 1
    assert manifest.training_data == ["none", "friends: CC BY-NC 4.0"]
    assert manifest.licence.startswith("MIT Research and education only, by the terms of friends")
    notice = (bundle / "NOTICE.md").read_text()
    assert notice.count("## friends") == notice.count("## The bundle itself") == 1
    assert notice.index("## friends") < notice.index("## The bundle itself")
    card = (bundle / "MODEL_CARD.md").read_text()
    assert card.startswith("# Small bundle\n\nKnows eight colours.")
    assert card.count("## Moments") == 1
    assert "| head | 61.2 |" in card
    outputs = json.loads((bundle / "parity.json").read_text())["outputs"]
    assert [check["output"] for check in outputs] == ["saliency", "spans", "span_scores"]


def test_a_card_has_the_new_version_and_keeps_the_section_when_it_is_written_again(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles["float32"], bundle)
    add_moments(bundle, write_run(tmp_path / "run", bundle), version="1.2.0")  # of another width than `exported`
    card = (bundle / "MODEL_CARD.md").read_text()
    assert card.splitlines()[0].endswith(" 1.2.0")
    assert "--version 1.2.0" in card
    (tmp_path / "metrics.json").write_text(json.dumps({"squares": {"t2v R@1": 50.0}}))
    update_metrics(bundle, tmp_path / "metrics.json")
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "### squares" in card
    assert "The graph `moments` finds" in card


def test_a_head_of_another_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    run = write_run(tmp_path / "run", make_small_bundle(tmp_path / "other", seed=4))
    with pytest.raises(InvalidInput, match="was trained on embeddings of small-colours 1"):
        add_moments(bundle, run)
    assert "moments" not in Bundle.open(bundle).manifest.tasks
    assert main(["export", str(run), "--moments", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "--moments is for bundles" in capsys.readouterr().err


def test_a_graph_that_differs_from_torch_is_not_added(
    graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    damaged = onnx.ModelProto()
    damaged.CopyFrom(graph)
    weight = max(damaged.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    weight.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), weight.name))
    monkeypatch.setattr(moments, "export_graph", lambda *_: damaged)
    with pytest.raises(ParityError, match="moments: output"):
        add_moments(bundle, write_run(tmp_path / "run", bundle))
    assert "moments" not in Bundle.open(bundle).manifest.tasks
