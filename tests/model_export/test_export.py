"""From a checkpoint to a bundle that answers as the checkpoint does, or to no bundle at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from model_export import export
from model_export.export import export_checkpoint, update_metrics
from model_export.graphs import export_graph, graph_specs, random_streams, random_tokens
from model_export.parity import checks
from model_export.parity.checks import Case, ParityError, ParityReport, run_torch
from tests.chaos import only_by_chaos
from tests.model_export.conftest import ANSWERS, CONFIG
from training import checkpoint
from training.data.packed import open_packed
from training.evaluation.encoder import TorchEncoder, streams_of
from training.models.hd_vila import HdVila, HdVilaConfig
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GraphName
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.model import Model

Graphs = dict[GraphName, onnx.ModelProto]


def test_bundle_equals_its_checkpoint(bundles: dict[str, Path], folders: tuple[Path, Path]) -> None:
    runtime = Model.open(bundles["float32"], threads=1)
    held = checkpoint.load(folders[0])
    reference = TorchEncoder(held.model, runtime.bundle.tokenizer(), held.answers, runtime.bundle.manifest.calibration)
    packed = open_packed(folders[1] / "squares" / "val")
    streams = streams_of(packed, np.arange(4), CONFIG.streams())
    captions = [example.captions[0] for example in packed.examples[:4]]
    questions = ["what color is it ?", "is it red ?", "is it a square ?", "red"]

    ours, theirs = runtime.embed_video(streams), reference.embed_video(streams)
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-5)
    np.testing.assert_allclose(ours.visual_tokens, theirs.visual_tokens, atol=1e-4)
    np.testing.assert_allclose(runtime.embed_text(captions), reference.embed_text(captions), atol=1e-5)
    match, wanted = runtime.match(captions, ours.visual_tokens), reference.match(captions, theirs.visual_tokens)
    np.testing.assert_allclose(match.logits, wanted.logits, atol=1e-4)
    np.testing.assert_allclose(match.probabilities, wanted.probabilities, atol=1e-4)
    for mine, yours in zip(
        runtime.answer(questions, ours.visual_tokens), reference.answer(questions, theirs.visual_tokens), strict=True
    ):
        assert [a.text for a in mine] == [a.text for a in yours]
        np.testing.assert_allclose([a.probability for a in mine], [a.probability for a in yours], atol=1e-4)


def test_unchecked_sizes_run_too(bundles: dict[str, Path], model: HdVila) -> None:
    rng = np.random.default_rng(7)
    inputs = {"video": random_streams(CONFIG, rng, 5, 3), "text": random_tokens(CONFIG, rng, 4, 11)}
    visual = rng.normal(size=(4, CONFIG.visual_tokens, CONFIG.hybrid_width)).astype(np.float32)
    inputs["match"] = inputs["answer"] = inputs["text"] | {"visual_tokens": visual}
    for spec in graph_specs(model):
        found = OnnxRuntimeEngine(bundles["float32"] / f"{spec.name}.onnx", threads=1).run(inputs[spec.name])
        for name, wanted in run_torch(spec, inputs[spec.name]).items():
            np.testing.assert_allclose(found[name], wanted, atol=1e-4, err_msg=f"{spec.name} {name}")


def test_report_contains_every_comparison(bundles: dict[str, Path]) -> None:
    report = ParityReport.model_validate_json((bundles["int8-weights"] / "parity.json").read_text())
    outputs = {(o.precision, o.graph, o.output, o.inputs) for o in report.outputs}
    expected = [
        (graph, output)
        for graph, names in {
            "video": ("vector", "visual_tokens"),
            "text": ("vector",),
            "match": ("match_logit",),
            "answer": ("answer_logits",),
        }.items()
        for output in names
    ]
    assert outputs == {
        (precision, graph, output, inputs)
        for precision in ("float32", "int8-weights")
        for graph, output in expected
        for inputs in ("random", "real")
    }
    exact = [o for o in report.outputs if o.precision == "float32"]
    assert all(o.max_difference <= 1e-4 and o.cosine >= 0.99999 for o in exact)
    assert {shape[0] for o in exact for shape in o.shapes} >= {1, 2, 3}
    recall = [(r.precision, r.direction, r.disagreeing) for r in report.recall]
    assert recall[:2] == [("float32", "t2v", 0), ("float32", "v2t", 0)]
    assert all(r.corpus == "squares" and r.queries == 8 for r in report.recall)


@pytest.mark.parametrize(("graph", "output"), [("video", "vector"), ("answer", "answer_logits")])
def test_one_changed_weight_fails_the_export(
    graph: GraphName,
    output: str,
    graphs: Graphs,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "model.video_project.weight" if graph == "video" else "model.answer_head.3.bias"
    monkeypatch.setattr(
        export, "export_graphs", lambda _: graphs | {graph: _with_a_changed_weight(graphs[graph], name)}
    )
    with pytest.raises(ParityError, match=rf"{graph}: output '{output}' on random inputs at float32 .* 0.0001"):
        export_checkpoint(folders[0], tmp_path / "bundle", data=folders[1])
    assert list(tmp_path.iterdir()) == []


def _with_a_changed_weight(graph: onnx.ModelProto, name: str) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    (tensor,) = [t for t in changed.graph.initializer if t.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[3] += 0.2
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return changed


@pytest.mark.parametrize(("level", "passes"), [(12.0, True), (0.0, False)])
def test_logits_are_compared_as_probabilities(
    model: HdVila, bundles: dict[str, Path], level: float, passes: bool
) -> None:
    rng = np.random.default_rng(0)
    visual = rng.normal(size=(2, CONFIG.visual_tokens, CONFIG.hybrid_width)).astype(np.float32)
    case = Case("random", random_tokens(CONFIG, rng, 2, 5) | {"visual_tokens": visual})
    (spec,) = [s for s in graph_specs(model) if s.name == "match"]
    logits = run_torch(spec, case.inputs)["match_logit"]

    class Off:
        """An engine whose logits are 0.2 too high, all of them around `level`."""

        def run(self, _: object) -> dict[str, np.ndarray]:
            return {"match_logit": logits - logits.mean() + level + 0.2}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "run_torch", lambda *_: {"match_logit": logits - logits.mean() + level})
        patch.setattr(checks, "OnnxRuntimeEngine", lambda *_, **__: Off())
        paths = {s.name: bundles["float32"] / f"{s.name}.onnx" for s in graph_specs(model)}
        if passes:
            (check,) = checks.check_outputs(
                graph_specs(model), paths, {"match": [case]}, "int8-weights", checks.REDUCED
            )
            assert check.max_difference == pytest.approx(0.2, abs=1e-4)
        else:
            with pytest.raises(ParityError, match=r"match: output 'match_logit' .* by a probability of 0\.0\d+"):
                checks.check_outputs(graph_specs(model), paths, {"match": [case]}, "int8-weights", checks.REDUCED)


def test_failed_export_keeps_the_existing_bundle(
    bundles: dict[str, Path], graphs: Graphs, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.open(bundles["float32"]).fingerprint
    changed = _with_a_changed_weight(graphs["text"], "model.text_project.weight")
    monkeypatch.setattr(export, "export_graphs", lambda _: graphs | {"text": changed})
    with pytest.raises(ParityError, match="text: output 'vector'"):
        export_checkpoint(folders[0], bundles["float32"], data=folders[1])
    assert Bundle.open(bundles["float32"]).fingerprint == before


@pytest.mark.usefixtures("exported_before")
def test_bundle_with_other_recall_is_rejected(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Model.embed_video

    def mixed_up(self: Model, streams: dict[str, np.ndarray]) -> object:
        found = real(self, streams)
        return type(found)(found.vectors[::-1].copy(), found.visual_tokens)

    monkeypatch.setattr(Model, "embed_video", mixed_up)
    with pytest.raises(ParityError, match=r"squares: (t2v|v2t) R@1 at float32 .* queries disagree"):
        export_checkpoint(folders[0], tmp_path / "bundle", data=folders[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_before")
def test_same_checkpoint_gives_the_same_fingerprint(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    again = export_checkpoint(folders[0], tmp_path / "again", precision="int8-weights", data=folders[1], seed=1)
    assert Bundle.open(again).fingerprint == Bundle.open(bundles["int8-weights"]).fingerprint


def test_export_is_deterministic_and_contains_no_local_paths(model: HdVila, graphs: Graphs) -> None:
    (spec,) = [s for s in graph_specs(model) if s.name == "text"]
    stored = graphs["text"].SerializeToString(deterministic=True)
    assert export_graph(spec, CONFIG).SerializeToString(deterministic=True) == stored
    for graph in graphs.values():
        strings = graph.SerializeToString()
        assert str(Path(__file__).parents[2]).encode() not in strings
        assert b"site-packages" not in strings


@pytest.mark.usefixtures("exported_before")
def test_unknown_corpus_needs_its_terms(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'squares' was trained on, but its source and terms are not known"):
        export_checkpoint(folders[0], tmp_path / "bundle")


def test_other_folders_are_never_replaced(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InvalidInput, match="is not a bundle"):
        export_checkpoint(folders[0], tmp_path, data=folders[1])
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_manifest_card_and_notices_state_origin_and_terms(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["int8-weights"])
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    notice = (bundle.folder / "NOTICE.md").read_text()
    assert "NOTICE.md" in bundle.manifest.files
    assert bundle.answers == ANSWERS
    assert bundle.manifest.training_data == ["squares: CC0-1.0"]
    for text in ("## Out of scope", "made in the test", "CC0-1.0", "Nothing was measured", "vitascope train"):
        assert text in card
    assert "made in the test" in notice
    assert "CC0-1.0" in notice
    assert 0 < bundle.manifest.calibration.answer_temperature != 1.0


def test_metrics_change_card_and_manifest_only(bundles: dict[str, Path], tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    numbers = {"scenes": {"t2v R@1": 61.5, "exact": 86.0, "exact (digit)": 12.25, "exact (single word)": 3.0}}
    metrics.write_text(json.dumps(numbers))
    before = Bundle.open(bundles["float16-weights"])
    copy = shutil.copytree(before.folder, tmp_path / "bundle")
    after = Bundle.open(update_metrics(copy, metrics))
    assert after.fingerprint == before.fingerprint
    assert after.manifest.metrics == {"scenes t2v R@1": 61.5, "scenes exact": 86.0}
    card = (after.folder / "MODEL_CARD.md").read_text()
    assert "| exact (single word) | 3 |" in card
    assert "scenes, exact (digit): 12.2" in card
    assert "scenes, exact (single word)" not in card, "a mixture of all kinds is not a kind that is confused"


def test_invalid_metrics_are_rejected(bundles: dict[str, Path], tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_text('{"scenes": {"t2v R@1": "good"}}')
    with pytest.raises(InvalidInput, match=r"scenes: \{corpus: \{metric: number\}\} was expected"):
        update_metrics(bundles["float32"], metrics)


@only_by_chaos
def test_a_shift_between_frames_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shifting = HdVilaConfig.model_validate(
        CONFIG.model_dump() | {"backbone": "tf_efficientnet_lite0", "low_frames": 4, "temporal_shift": 0.125}
    )
    model = HdVila(shifting)
    # Nothing is shifted in the encoder of the high resolution: what keeps its maps' shape is left out, which the
    # exporter would take seconds to go through.
    for stage in list(model.video.high.modules()):
        if isinstance(stage, torch.nn.Sequential):
            for number in reversed(range(len(stage))):
                if getattr(stage[number], "has_skip", False):
                    del stage[number]
    (spec,) = [s for s in graph_specs(model) if s.name == "video"]
    onnx.save(export_graph(spec, shifting), tmp_path / "video.onnx")
    inputs = random_streams(shifting, np.random.default_rng(3), 3, 2)
    found = OnnxRuntimeEngine(tmp_path / "video.onnx", threads=1).run(inputs)
    for name, wanted in run_torch(spec, inputs).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-4, err_msg=name)
