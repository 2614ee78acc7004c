"""Export of separately trained parts to a bundle: their outputs equal torch, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_export import assemble, parts
from model_export.graphs import GraphSpec, Sizes, export_specs
from model_export.parity.checks import OutputCheck, ParityReport
from model_export.update import update_metrics
from tests.model_export.conftest import ANSWERS, CONFIG, Graphs, copy_bundle
from tests.once import made_once
from tests.training.small_run import recipe
from training import checkpoint
from training.bundle_checkpoint import checkpoint_folder
from training.checkpoint import Checkpoint
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import load_initial_model
from training.models.fusion import FusedModel
from training.models.grounding_head import grounding_outputs
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.parts import GroundingGrid
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.model import Model

TEXTS = ["is it red ?", "a square", "blue"]
TOKENS = 3 * np.random.default_rng(0).normal(size=(3, CONFIG.visual_tokens, CONFIG.visual_width)).astype(np.float32)
METRICS = '{"squares": {"t2v R@1": 50.0, "exact (colour)": 12.3456}}'


def save_run(folder: Path, start: FusedModel, tokenizer: Path, part: dict[str, object], seed: int = 1) -> Path:
    """Save a run that has trained a part alone, and return its folder."""
    torch.manual_seed(seed)
    model = HdVila(CONFIG.model_copy(update=part))
    model.load_state_dict(start.state_dict(), strict=False)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.startswith(("grounding_head.", "entailment_head.", "pooled_answer_head.")):
                values.add_(0.1 * torch.randn_like(values))
        if model.pooled_answer_head is not None:
            model.pooled_answer_head.gate.normal_()
    made = Checkpoint(model, ANSWERS, recipe(tokenizer), tokenizer, step=3, lineage=("scenes", "flickr8k"))
    checkpoint.save(folder / "checkpoint", made)
    return folder


@pytest.fixture(scope="module")
def runs(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A classifier trained from the rounded weights next to the bundle, and a head trained from the exact weights."""
    root, tokenizer = tmp_path_factory.mktemp("runs"), folders[0] / "tokenizer.json"
    rounded, exact = load_initial_model(bundles["int8-weights"]).model, checkpoint.load(folders[0]).model
    return {
        "entailment": save_run(root / "entailment", rounded, tokenizer, {"entailment": "video"}),
        "grounding": save_run(root / "grounding", exact, tokenizer, {"grounding_layers": 1}),
    }


@pytest.fixture
def cached_graphs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export each graph once for the same weights, because that takes seconds."""

    def make(specs: list[GraphSpec], cfg: Sizes) -> Graphs:
        graphs: Graphs = {}
        for spec in specs:
            weights = sha256(b"".join(values.numpy().tobytes() for values in spec.module.state_dict().values()))

            def export(root: Path, spec: GraphSpec = spec) -> None:
                onnx.save(export_specs([spec], cfg)[spec.name], root / "graph.onnx")

            folder = made_once(tmp_path_factory, f"{spec.name}-{weights.hexdigest()}", export)
            graphs[spec.name] = onnx.load(folder / "graph.onnx")
        return graphs

    monkeypatch.setattr(parts, "export_specs", make)


@pytest.mark.usefixtures("cached_graphs")
@pytest.mark.parametrize(("precision", "atol"), [("int8-weights", 0.05), ("float32", 5e-3)])
def test_parts_are_added_to_a_bundle_and_nothing_else_changes(
    precision: str, atol: float, bundles: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    bundle = copy_bundle(bundles[precision], tmp_path / "bundle")
    (tmp_path / "metrics.json").write_text(METRICS)
    before = Bundle.open(update_metrics(bundle, tmp_path / "metrics.json"))
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    weights = (checkpoint_folder(bundle) / "model.safetensors").read_bytes()
    arguments = [argument for run in runs.values() for argument in ("--part", str(run))]
    assert main(["export", str(bundle), *arguments, "--seed", "1"]) == 0

    after = Bundle.open(bundle)
    changed = {name for name in files if (bundle / name).read_bytes() != files[name]}
    assert changed == {"manifest.json", "manifest.json.sha256", "MODEL_CARD.md", "NOTICE.md", "parity.json"}
    assert {*after.manifest.files} - {*files} == {"entailment.onnx", "grounding.onnx", "grounding.bin"}
    assert after.fingerprint == before.fingerprint
    assert {*after.manifest.tasks} - {*before.manifest.tasks} == {"entailment", "grounding"}
    report = ParityReport.model_validate_json((bundle / "parity.json").read_text())
    checks = {check.precision for check in report.outputs if check.graph == "entailment"}
    assert checks == {"float32", precision}
    assert "scenes: CC0: no rights reserved" in after.manifest.training_data
    assert after.manifest.licence.startswith(
        "Research and education only, by the terms of squares, flickr8k (NOTICE.md)"
    )
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "| t2v R@1 | 50 |\n| exact (colour) | 12.35 |" in card
    assert "whether a clip entails" in card
    assert f"| {precision} | grounding | box | random |" in card

    model = Model.open(bundle, threads=1, device="cpu")
    reference = TorchEncoder(checkpoint.load(runs["entailment"] / "checkpoint").model.eval(), model.tokenizer, ANSWERS)
    actual, expected = (each.classify_entailment(TEXTS, TOKENS) for each in (model, reference))
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=atol)
    assert np.ptp(actual.probabilities, axis=0).min() > 1e-3
    grounder = checkpoint.load(runs["grounding"] / "checkpoint").model.eval()
    with torch.no_grad():
        ids, mask = (torch.from_numpy(array) for array in model.tokenizer.encode(TEXTS))
        heat, boxes = grounding_outputs(grounder, ids, mask, torch.from_numpy(TOKENS))
    places = model.ground(TEXTS, TOKENS)
    np.testing.assert_allclose([place.heat_map for place in places], heat.sigmoid(), atol=atol)
    np.testing.assert_allclose([place.box for place in places], boxes, atol=atol)

    stored = onnx.load(bundle / "entailment.onnx", load_external_data=False).graph.initializer
    inside = [tensor.name for tensor in stored if not tensor.external_data and len(tensor.raw_data) >= 1024]
    assert inside
    assert all("entailment_head" in name for name in inside), "rounded weights are those of the bundle"
    initial = load_initial_model(bundle)
    assert (initial.model.cfg.entailment, initial.model.cfg.grounding_layers) == ("video", 1)
    assert {"squares", "scenes", "flickr8k"} <= {*initial.lineage}
    assert (checkpoint_folder(bundle) / "model.safetensors").read_bytes() == weights
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle-checkpoint", "metrics.json"}


@pytest.mark.usefixtures("cached_graphs")
def test_a_pooled_answer_head_changes_answers_and_nothing_else(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = copy_bundle(bundles["int8-weights"], tmp_path / "bundle")
    before = Bundle.open(bundle)
    tokenizer = folders[0] / "tokenizer.json"
    run = save_run(tmp_path / "run", load_initial_model(bundle).model, tokenizer, {"pooled_answers": 64})
    assert main(["export", str(bundle), "--part", str(run), "--seed", "1"]) == 0

    after = Bundle.open(bundle)
    changed = {name for name, entry in after.manifest.files.items() if before.manifest.files.get(name) != entry}
    assert changed == {"answer.onnx", "MODEL_CARD.md", "NOTICE.md", "parity.json"}
    assert after.fingerprint != before.fingerprint, "indexes of the bundle before must not be mixed with it unnoticed"
    assert after.manifest.calibration.answer_temperature == 1.0
    model = Model.open(bundle, threads=1, device="cpu")
    trained = checkpoint.load(run / "checkpoint").model.eval()
    reference = TorchEncoder(trained, model.tokenizer, ANSWERS)
    for actual, expected in zip(*(each.answer(TEXTS, TOKENS, 6) for each in (model, reference)), strict=True):
        of = {answer.text: answer.probability for answer in expected}
        assert all(abs(answer.probability - of[answer.text]) < 0.05 for answer in actual)
    without = Model.open(bundles["int8-weights"], threads=1, device="cpu").answer_logits(TEXTS, TOKENS)
    assert np.abs(model.answer_logits(TEXTS, TOKENS) - without).max() > 0.1
    assert load_initial_model(bundle).model.cfg.pooled_answers == 64


def test_each_of_two_runs_from_the_same_parts_replaces_only_what_it_trained(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    tokenizer, both = folders[0] / "tokenizer.json", {"entailment": "video", "grounding_layers": 1}
    save_run(tmp_path / "start", checkpoint.load(folders[0]).model, tokenizer, both)
    own = extended = checkpoint.load(tmp_path / "start" / "checkpoint")
    for trained in ("entailment", "grounding"):
        run = checkpoint.load(tmp_path / "start" / "checkpoint")
        with torch.no_grad():
            for name, values in run.model.named_parameters():
                if name.startswith(f"{trained}_head."):
                    values.fill_(7.0)
        extended = checkpoint.merge_parts(extended, run, checkpoint.trained_parts(own, run))
    heads = [v for n, v in extended.model.named_parameters() if n.startswith(("entailment_head.", "grounding_head."))]
    assert heads
    assert all(bool((values == 7.0).all()) for values in heads)


@pytest.mark.usefixtures("cached_graphs")
def test_a_part_is_replaced_in_another_folder(
    bundles: dict[str, Path],
    runs: dict[str, Path],
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = parts.add_parts(bundles["float32"], [*runs.values()], out=tmp_path / "first")
    assert "entailment" not in Bundle.open(bundles["float32"]).manifest.tasks
    again = save_run(
        tmp_path / "again", load_initial_model(first).model, folders[0] / "tokenizer.json", {"entailment": "video"}, 2
    )
    of_later_version = {"grounding": GroundingGrid(rows=1, columns=1, cells=1)}
    monkeypatch.setattr(parts, "added_parts", lambda *_: of_later_version)
    both = ["--part", str(runs["entailment"]), "--part", str(again)]  # the later one counts
    assert main(["export", str(first), *both, "--out", str(tmp_path / "second"), "--version", "1.0.1"]) == 0
    before, after = Bundle.open(first).manifest, Bundle.open(tmp_path / "second").manifest
    assert (before.version, after.version) == (Bundle.open(bundles["float32"]).manifest.version, "1.0.1")
    assert before.tasks == after.tasks
    assert before.grounding == after.grounding, "its graph stays"
    changed = {name for name, entry in after.files.items() if before.files[name] != entry}
    assert changed - {"parity.json", "MODEL_CARD.md"} == {"entailment.onnx"}
    compared = [(check.precision, check.graph, check.output, check.inputs) for check in outputs_of(tmp_path / "second")]
    assert len(set(compared)) == len(compared) == len(outputs_of(first))
    model = Model.open(tmp_path / "second", threads=1, device="cpu")
    reference = TorchEncoder(checkpoint.load(again / "checkpoint").model.eval(), model.tokenizer, ANSWERS)
    actual, expected = (each.classify_entailment(TEXTS, TOKENS) for each in (model, reference))
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=5e-3)


def outputs_of(bundle: Path) -> list[OutputCheck]:
    return ParityReport.model_validate_json((bundle / "parity.json").read_text("utf-8")).outputs


def change_model(run: Path, _: Path) -> None:
    trained = checkpoint.load(run / "checkpoint")
    with torch.no_grad():
        trained.model.video_project.weight.mul_(1.01)
    checkpoint.save(run / "checkpoint", trained)


def replace_by_start(run: Path, bundle: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(checkpoint_folder(bundle), run / "checkpoint")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_model, r"has another video_project\.weight \(1 tensors\); a run that trained its part alone"),
        (replace_by_start, "has no caption_layers, grounding_layers, entailment, pooled_answers to export"),
        (lambda run, bundle: shutil.rmtree(run), "checkpoint: nothing at"),
        (lambda run, bundle: shutil.rmtree(checkpoint_folder(bundle)), "training continues from its checkpoint"),
    ],
    ids=["of another model", "without a part", "missing", "bundle without its checkpoint"],
)
def test_a_run_that_does_not_fit_is_refused(
    change: Callable[[Path, Path], object],
    message: str,
    bundles: dict[str, Path],
    runs: dict[str, Path],
    tmp_path: Path,
) -> None:
    bundle = copy_bundle(bundles["int8-weights"], tmp_path / "bundle")
    run = shutil.copytree(runs["entailment"], tmp_path / "run")
    manifest = (bundle / "manifest.json").read_bytes()
    change(run, bundle)
    with pytest.raises(InvalidInput, match=message):
        parts.add_parts(bundle, [run])
    assert (bundle / "manifest.json").read_bytes() == manifest


@pytest.mark.usefixtures("cached_graphs")
def test_a_kill_at_any_time_leaves_a_bundle_with_its_checkpoint(
    bundles: dict[str, Path], runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that a kill leaves is copied before each step that renames or removes a folder."""
    bundle = copy_bundle(bundles["int8-weights"], tmp_path / "models" / "bundle")
    states: list[Path] = []

    def copy_before(owner: object, name: str) -> None:
        step = getattr(owner, name)

        def copy_and_run(*args: object, **options: object) -> object:
            states.append(tmp_path / f"killed-{len(states)}")
            shutil.copytree(tmp_path / "models", states[-1])
            return step(*args, **options)

        monkeypatch.setattr(owner, name, copy_and_run)

    copy_before(Path, "rename")
    copy_before(shutil, "rmtree")
    copy_before(assemble, "_exchange")
    parts.add_parts(bundle, [runs["entailment"]])
    monkeypatch.undo()
    assert len(states) >= 4
    has_part = []
    for state in states:
        expected = "entailment" in Bundle.open(state / "bundle").manifest.tasks
        assert load_initial_model(state / "bundle").model.cfg.entailment == ("video" if expected else None)
        has_part.append(expected)
    assert (has_part[0], has_part[-1]) == (False, True)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"bundle", "bundle-checkpoint"}


@pytest.mark.usefixtures("cached_graphs")
def test_an_interrupted_export_leaves_bundle_and_checkpoint(
    bundles: dict[str, Path], runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copy_bundle(bundles["int8-weights"], tmp_path / "bundle")
    before = Bundle.open(bundle).manifest

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        parts.add_parts(bundle, [runs["entailment"]])
    assert Bundle.open(bundle).manifest == before
    assert load_initial_model(bundle).model.cfg == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle-checkpoint"}
