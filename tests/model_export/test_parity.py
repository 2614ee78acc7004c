"""Parity checks of an export: inputs, report, and rejection of bundles whose outputs differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from model_export import export
from model_export.export import export_checkpoint
from model_export.parity import checks
from model_export.parity.cases import model_cases, real_cases
from model_export.parity.checks import ParityError, ParityReport
from model_export.weights import Precision
from tests.model_export.conftest import Graphs, copy_bundle
from tests.training.small_run import write_clips, write_tokenizer
from training import checkpoint
from training.data.packed import open_packed
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GraphName
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer


def test_the_report_contains_every_comparison(bundles: dict[str, Path]) -> None:
    report = ParityReport.model_validate_json((bundles["int8-weights"] / "parity.json").read_text())
    outputs = ("video vector", "video visual_tokens", "text vector", "match match_logit", "answer answer_logits")
    assert {(o.precision, f"{o.graph} {o.output}", o.inputs) for o in report.outputs} == {
        (precision, output, inputs)
        for precision in ("float32", "int8-weights")
        for output in outputs
        for inputs in ("random", "real")
    }
    exact = [o for o in report.outputs if o.precision == "float32"]
    assert all(o.max_difference <= 1e-4 and o.cosine >= 0.99999 for o in exact)
    assert {shape[0] for o in exact for shape in o.shapes} >= {1, 2, 3}
    recall = [(r.precision, r.direction, r.disagreeing) for r in report.recall]
    assert recall[:2] == [("float32", "t2v", 0), ("float32", "v2t", 0)]
    assert all(r.corpus == "squares" and r.queries == 8 for r in report.recall)


def with_a_changed_weight(graph: onnx.ModelProto, name: str) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    (tensor,) = [t for t in changed.graph.initializer if t.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[3] += 0.2
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return changed


@pytest.mark.parametrize(
    ("graph", "weight"), [("video", "model.video_project.weight"), ("text", "model.text_project.weight")]
)
def test_one_changed_weight_fails_the_export_and_keeps_the_existing_bundle(
    graph: GraphName,
    weight: str,
    graphs: Graphs,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: dict[str, Path],
) -> None:
    existing = copy_bundle(bundles["int8-weights"], tmp_path / "bundle")
    changed = graphs | {graph: with_a_changed_weight(graphs[graph], weight)}
    monkeypatch.setattr(export, "export_graphs", lambda _: changed)
    with pytest.raises(ParityError, match=rf"{graph}: output 'vector' on random inputs at float32 .* 0.0001"):
        export_checkpoint(folders[0], existing, data=folders[1])
    assert Bundle.open(existing).fingerprint == Bundle.open(bundles["int8-weights"]).fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle-checkpoint"}


def test_match_logits_are_compared_as_probabilities() -> None:
    def compare(level: float) -> checks.OutputCheck:
        expected = np.array([level, level + 1.0], np.float32)
        return checks.compare_output(
            "match", "match_logit", "real", [expected], [expected + 0.2], "int8-weights", checks.REDUCED
        )

    assert compare(12.0).max_difference == pytest.approx(0.2, abs=1e-4)
    with pytest.raises(ParityError, match=r"match: output 'match_logit' .* by a probability of 0\.0\d+"):
        compare(0.0)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", checks.FLOAT32), ("int8-weights", checks.REDUCED)])
@pytest.mark.parametrize(("output", "shape"), [("vector", (3, 4)), ("match_logit", (3,))])
def test_nan_in_any_run_is_an_error(
    output: str, shape: tuple[int, ...], precision: Precision, tolerance: checks.Bounds
) -> None:
    expected = np.ones(shape, np.float32)
    actual = [expected, np.full(shape, np.nan, np.float32)]
    with pytest.raises(ParityError):
        checks.compare_output("match", output, "random", [expected, expected], actual, precision, tolerance)


@pytest.mark.usefixtures("cached_graphs")
def test_a_bundle_with_another_recall_is_rejected(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_video = Model.embed_video

    def reversed_vectors(self: Model, streams: dict[str, np.ndarray]) -> object:
        video = embed_video(self, streams)
        return type(video)(video.vectors[::-1].copy(), video.visual_tokens)

    monkeypatch.setattr(Model, "embed_video", reversed_vectors)
    with pytest.raises(ParityError, match=r"squares: (t2v|v2t) R@1 at float32 .* queries disagree"):
        export_checkpoint(folders[0], tmp_path / "bundle", data=folders[1])
    assert list(tmp_path.iterdir()) == []


def test_parity_is_checked_on_all_packed_clips(model: HdVila, tmp_path: Path) -> None:
    write_clips(tmp_path / "data", tmp_path, 4, ("val",), name="pictogram_videos")
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path / "tokenizer.json"), max_length=16)
    cases = real_cases(model, tokenizer, [open_packed(tmp_path / "data" / "pictogram_videos" / "val")], count=3)
    assert [case.inputs["high"].shape[:2] for case in cases["video"]] == [(3, 4)]


def test_parity_of_entailment_is_checked_on_captions_without_questions(folders: tuple[Path, Path]) -> None:
    loaded, packed = checkpoint.load(folders[0]), open_packed(folders[1] / "squares" / "val")
    tokenizer = Tokenizer.open(loaded.tokenizer, max_length=16)
    model = loaded.model.eval()
    cases = model_cases(model, tokenizer, [packed], seed=1, count=3)
    (match,), (entailment,) = (
        [case for case in cases[name] if case.kind == "real"] for name in ("match", "entailment")
    )
    question, _ = tokenizer.encode([packed.examples[0].questions[0].question])
    captions, _ = tokenizer.encode([example.captions[0] for example in packed.examples[:3]])
    assert match.inputs["input_ids"][1, : question.shape[1]].tolist() == question[0].tolist()
    assert entailment.inputs["input_ids"].tolist() == captions.tolist()
