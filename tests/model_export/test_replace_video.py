"""Replacing the video graph of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_export import calibrate
from model_export.graphs import VideoGraph
from model_export.optimize import replace_video
from model_export.optimize.replace_video import VideoReplacement, export_with_video
from model_export.parity.checks import ParityError
from tests.model_export.conftest import Graphs, add_caption_matrix, copy_bundle
from tests.small_bundle import make_small_bundle
from training.data.packed import open_packed
from training.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from training.evaluation.encoder import embed_corpus
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Reranking
from vitascope.cli.main import main
from vitascope.model import Model


@pytest.fixture(autouse=True)
def cached_video_graph(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the exported video encoder of the fixture for every module, because exporting takes seconds."""
    monkeypatch.setattr(replace_video, "export_graph", lambda *_: graphs["video"])


@pytest.fixture
def held_out(bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path) -> dict[str, TeacherOutputs]:
    packed = open_packed(folders[1] / "squares" / "val")
    return {
        "squares": compute_teacher_outputs(Model.open(bundles["int8-weights"], threads=1), packed, tmp_path / "teacher")
    }


def replacement(model: HdVila, **changes: Any) -> VideoReplacement:
    fields: dict[str, Any] = {
        "module": VideoGraph(model),
        "streams": model.cfg.streams(),
        "name": "other",
        "version": "2.0.0",
        "precision": "float32",
        "extra": {"variant_of": {"name": "small"}},
        "description": ["Made in the test."],
        "seed": 1,
    }
    return VideoReplacement(**fields | changes)


def test_all_other_graphs_are_unchanged(
    bundles: dict[str, Path], model: HdVila, held_out: dict[str, TeacherOutputs], tmp_path: Path
) -> None:
    """The bundle stores int8 weights; only its video graph is replaced, by a float32 graph."""
    opened = Bundle.open(add_caption_matrix(copy_bundle(bundles["int8-weights"], tmp_path / "graded")))
    before = replace(opened, manifest=opened.manifest.model_copy(update={"reranking": Reranking(candidates=20)}))
    measured, precision, clip_ms = export_with_video(before, replacement(model), tmp_path / "other", held_out=held_out)
    after = Model.open(tmp_path / "other", threads=1)
    manifest = after.bundle.manifest
    assert precision == "float32"
    assert manifest.precision == "video float32, others int8-weights"
    assert (manifest.name, manifest.version, manifest.tasks) == ("other", "2.0.0", before.manifest.tasks)
    assert after.bundle.fingerprint != before.fingerprint
    original = Model(before, threads=1)
    texts = ["a red square", "is it blue ?"]
    np.testing.assert_array_equal(after.embed_text(texts), original.embed_text(texts))
    packed = held_out["squares"].packed
    vectors, tokens = embed_corpus(after, packed)
    pairs = [example.captions[0] for example in packed.examples]
    np.testing.assert_array_equal(after.match(pairs, tokens).logits, original.match(pairs, tokens).logits)
    assert after.bundle.answers == before.answers
    np.testing.assert_array_equal(after.caption_matrix, before.caption_matrix)
    assert measured["squares"]["cosine"] == pytest.approx(
        float((vectors * held_out["squares"].vectors).sum(axis=1).mean()), abs=1e-3
    )
    assert manifest.extra["measured"] == measured
    assert set(clip_ms) == {"before", "after"}
    assert all(milliseconds > 0 for milliseconds in clip_ms.values())
    assert manifest.extra["variant_of"] == {"name": "small"}
    assert manifest.calibration.match_scale == before.manifest.calibration.match_scale  # too few clips to fit it
    assert manifest.reranking == Reranking(candidates=20)
    card = (tmp_path / "other" / manifest.model_card).read_text()
    assert "Made in the test." in card
    assert "| squares | cosine |" in card
    report = json.loads((tmp_path / "other" / "parity.json").read_text())
    compared = {(o["graph"], o["output"]): o for o in report["beside"]["outputs"]}
    assert compared["video", "vector"]["cosine"] == pytest.approx(measured["squares"]["cosine"], abs=1e-4)
    assert compared["text", "vector"]["max_difference"] == 0
    assert set(compared) >= {("video", "visual_tokens"), ("match", "match_logit"), ("answer", "answer_logits")}
    assert report["beside"]["of"] == {"name": "int8-weights", "version": "1.0.0", "fingerprint": before.fingerprint}
    assert set(report["beside"]["unchanged"]) == set(before.manifest.graphs) - {"video"}
    assert manifest.extra["calibration"]["kept_of"]["name"] == before.manifest.name
    assert "Probabilities (match and fused) use the calibration of int8-weights 1.0.0" in card
    assert {(o["output"], o["inputs"]) for o in report["outputs"]} == {
        (output, inputs) for output in ("vector", "visual_tokens") for inputs in ("random", "real")
    }


def test_enough_held_out_clips_recalibrate_probabilities(
    bundles: dict[str, Path],
    model: HdVila,
    held_out: dict[str, TeacherOutputs],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate, "MIN_CAPTIONED", 4)
    export_with_video(Bundle.open(bundles["int8-weights"]), replacement(model), tmp_path / "many", held_out=held_out)
    facts = Bundle.open(tmp_path / "many").manifest.extra["calibration"]
    assert facts["match error after"] <= facts["match error kept"] + 0.01  # the likelihood is fitted, not this error
    assert "Probabilities (match and fused) are fitted on" in (tmp_path / "many" / "MODEL_CARD.md").read_text()


class RolledEmbeddings(nn.Module):
    """Module whose embeddings differ from those of the exported graph."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        vector, tokens = self.graph(*streams)
        return torch.roll(vector, 1, dims=1), tokens


def test_a_graph_with_other_outputs_is_not_written(bundles: dict[str, Path], model: HdVila, tmp_path: Path) -> None:
    messages: list[str] = []
    wrong = replacement(model, module=RolledEmbeddings(VideoGraph(model)), precision="float16-weights")
    with pytest.raises(ParityError, match="output 'vector' on random inputs at float32"):
        export_with_video(Bundle.open(bundles["float32"]), wrong, tmp_path / "other", log=messages.append)
    assert not (tmp_path / "other").exists()
    assert any(line.startswith("float16-weights fails the parity check") for line in messages)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reduce {small} --frames 2 --out {out}", "has no checkpoint, from which"),
        ("reduce {bundle} --frames 2 --out {bundle}", "is the source itself"),
        ("reduce {bundle} --out {out}", "frames, size, tokens: none given"),
        ("reduce {bundle} --frames 9 --out {out}", "frames: 9; 2 to 2 were expected"),
        ("reduce {bundle} --tokens 2 --out {out} --data {data} --corpus none", r"corpus: ['none'] with a split 'val'"),
        ("distil {small} --out {out} --student huge", "student: 'huge'"),
        ("distil {small} --out {small}", "is the source itself"),
        ("distil {small} --out {out} --data {data} --videos {data}", "data, videos: exactly one was expected"),
        ("distil {small} --out {out} --data {out}", "no corpus in"),
        ("distil {small} --out {out} --data {data} --corpus none", "corpus: ['none'] have no split 'train'"),
        ("distil {small} --out {out} --data {data} --init-from teacher", "has no checkpoint, from which"),
        ("distil {small} --out {out} --videos {out}", "no such folder"),
        ("distil {small} --out {out} --data {data} --steps 0", "steps: 0; at least 1 was expected"),
        ("distil {small} --out {out} --data {data} --limit 0", "limit: 0; at least 1 was expected"),
    ],
)
def test_invalid_options_are_reported_before_anything_is_written(
    command: str,
    message: str,
    bundles: dict[str, Path],
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "small": make_small_bundle(tmp_path / "small"),
        "bundle": bundles["float32"],
        "data": folders[1],
        "out": tmp_path / "out",
    }
    arguments = [part.format(**places) for part in command.split()]
    if arguments[0] == "distil":
        arguments += ["--work", str(tmp_path / "work")]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
