"""Export of a model with sound: the graph `audio`, and a match graph that reads audio tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from model_export import export
from model_export.graphs import export_graph, export_graphs, graph_specs
from model_export.onnx_graph import log_spectrum_nodes
from model_export.optimize import search
from model_export.optimize.report import read_variant
from model_export.optimize.speed import Effort
from model_export.optimize.validation_scores import Budget
from model_export.parity.variants import read_report
from model_export.targets.tensorrt import make_variant
from tests.chaos import only_by_chaos
from tests.once import made_once
from tests.training.data.corpus_files import tone, wav
from tests.training.small_run import MODEL, recipe, write_tokenizer
from tests.training.test_audio import SMALL_AUDIO
from training import checkpoint
from training.checkpoint import Checkpoint
from training.data.example import Example
from training.data.packed import EncodedMedia, Origin, write_packed
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila, HdVilaConfig, tiny
from training.recipe import Recipe
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GraphName
from vitascope.errors import InvalidInput
from vitascope.model import Model

TEXTS = ["a red square", "a blue square"]
WITHOUT_SOUND: tuple[GraphName, ...] = ("video", "text")
"""Graphs that are the same for models with and without fused sound: exported once, as each takes seconds."""


def made_recipe(tokenizer: Path) -> Recipe:
    dataset = {"corpus": "tones", "weight": 1.0, "batch_size": 2, "objectives": {"text_audio": 1.0}}
    stage = {"name": "sound", "steps": 1, "learning_rate": 1e-3, "datasets": [dataset]}
    return recipe(tokenizer, stages=[stage], answers_from=[])


def made_model(audio: dict[str, Any]) -> HdVila:
    torch.manual_seed(0)
    return HdVila(HdVilaConfig.model_validate(tiny().model_dump() | MODEL | {"audio": audio}))


def export_bundle(root: Path) -> None:
    """Export `checkpoint` as `bundle`."""
    data = root / "data"
    export.export_checkpoint(root / "checkpoint", root / "bundle", data=data, seed=0, keep_checkpoint=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle) of a small untrained model with sound, checked on two real sounds."""

    def make(root: Path) -> None:
        model = made_model(SMALL_AUDIO)
        torch.nn.init.constant_(model.match_audio_scale, 0.3)
        torch.nn.init.normal_(model.match_head.weight, std=0.1)
        items = [
            (Example(f"{hertz}", (text,), caption_needs=("sound",)), EncodedMedia("a.wav", wav(tone(hertz))))
            for text, hertz in zip(TEXTS, (300.0, 2000.0), strict=True)
        ]
        write_packed(root / "data" / "tones" / "val", (), items, Origin("a test", "CC0-1.0", "all"), audio=True)
        tokenizer = write_tokenizer(root / "tokenizer.json")
        checkpoint.save(root / "checkpoint", Checkpoint(model, [], made_recipe(tokenizer), tokenizer, step=1))

        def export_and_keep(model: FusedModel) -> dict[GraphName, onnx.ModelProto]:
            graphs = export_graphs(model)
            for name in WITHOUT_SOUND:
                onnx.save(graphs[name], root / f"{name}.onnx")
            return graphs

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "export_graphs", export_and_keep)
            export_bundle(root)

    root = made_once(tmp_path_factory, "exported-with-sound", make)
    return root / "checkpoint", root / "bundle"


def test_the_manifest_lists_the_audio_stream_and_the_report_compares_its_graph(exported: tuple[Path, Path]) -> None:
    manifest = Model.open(exported[1]).bundle.manifest
    assert manifest.tasks == ["retrieval", "audio_retrieval", "matching"]
    assert manifest.audio is not None
    assert (manifest.audio.samples, manifest.audio.tokens, manifest.audio.fused) == (25_600, 5, True)
    report = (exported[1] / manifest.parity_report).read_text()
    for inputs in ("random", "real"):
        assert f'"graph": "audio",\n   "output": "audio_tokens",\n   "inputs": "{inputs}"' in report


def test_sound_is_encoded_and_matched_as_by_torch(exported: tuple[Path, Path]) -> None:
    torch_model, model = checkpoint.load(exported[0]).model.eval(), Model.open(exported[1])
    samples, lengths = np.zeros((2, 25_600), np.float32), np.array([8000, 0])
    samples[0, :8000] = tone(700.0) / 2**15
    outputs = model.run_graph("audio", {"samples": samples, "lengths": lengths})
    visual = np.random.default_rng(0).normal(size=(2, 4, 32)).astype(np.float32)
    with torch.no_grad():
        vector, tokens = torch_model.encode_audio(torch.from_numpy(samples), torch.from_numpy(lengths))
        ids, mask = map(torch.from_numpy, model.tokenizer.encode(TEXTS))
        cache = torch_model.prepare_visual(torch.from_numpy(visual), tokens)
        logits = torch_model.match_logits(torch_model.text.encode(ids, mask), mask, cache)
    assert (outputs["vector"][0] * vector[0].numpy()).sum() == pytest.approx(1.0, abs=1e-3)
    assert np.allclose(outputs["audio_tokens"], tokens, atol=0.05)
    assert not outputs["audio_tokens"][1].any()
    heard = model.match(TEXTS, visual, outputs["audio_tokens"]).logits
    silent = model.match(TEXTS, visual).logits
    assert np.allclose(heard, logits, atol=0.05)
    assert silent[1] == pytest.approx(heard[1], abs=1e-4)  # the second clip has no sound
    assert abs(silent[0] - heard[0]) > 1e-3
    with pytest.raises(InvalidInput, match="audio_tokens"):
        model.match(TEXTS, visual, outputs["audio_tokens"][:1])


@only_by_chaos
def test_a_model_whose_fused_layers_read_no_sound_uses_sound_only_for_retrieval(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_others(model: FusedModel) -> dict[GraphName, onnx.ModelProto]:
        stored = {name: onnx.load(exported[0].with_name(f"{name}.onnx")) for name in WITHOUT_SOUND}
        specs = [spec for spec in graph_specs(model) if spec.name not in stored]
        return stored | {spec.name: export_graph(spec, model.cfg) for spec in specs}

    fused = checkpoint.load(exported[0])
    model = made_model(SMALL_AUDIO | {"fused": False})
    model.load_state_dict(fused.model.state_dict(), strict=False)  # without the embeddings of sound
    checkpoint.save(tmp_path / "checkpoint", replace(fused, model=model))
    (tmp_path / "data").symlink_to(exported[0].with_name("data"))
    monkeypatch.setattr(export, "export_graphs", export_others)
    export_bundle(tmp_path)
    opened = Model.open(tmp_path / "bundle")
    assert opened.bundle.manifest.tasks == ["retrieval", "audio_retrieval", "matching"]
    assert opened.bundle.manifest.audio is not None
    assert (opened.bundle.manifest.audio.tokens, opened.bundle.manifest.audio.fused) == (0, False)
    outputs = opened.run_graph("audio", {"samples": np.ones((1, 25_600), np.float32), "lengths": np.array([8000])})
    assert outputs.keys() == {"vector"}
    with pytest.raises(InvalidInput, match="audio_tokens"):
        opened.match(TEXTS[:1], np.zeros((1, 4, 32), np.float32), np.zeros((1, 5, 16), np.float32))


def test_features_stay_in_float32(exported: tuple[Path, Path]) -> None:
    graph = onnx.load(exported[1] / "audio.onnx", load_external_data=False).graph
    types = {t.name.split(".log_mel.")[1]: t.data_type for t in graph.initializer if ".log_mel." in t.name}
    assert types == dict.fromkeys(("cosine", "sine", "mel"), onnx.TensorProto.FLOAT)
    assert not any(node.op_type in ("DFT", "STFT", "MelWeightMatrix") for node in graph.node)


def test_variants_for_tensorrt_keep_the_features_in_float32(exported: tuple[Path, Path], tmp_path: Path) -> None:
    data = exported[1].parent / "data"
    types = make_variant(exported[1], tmp_path / "variant", "int8", data=data, seed=0)
    assert types["audio"] == "int8"
    report = json.loads((tmp_path / "variant" / "parity.json").read_text())
    assert min(o["cosine"] for o in report["outputs"] if o["graph"] == "audio") >= 0.98
    graph = onnx.load(tmp_path / "variant" / "audio.onnx").graph
    operators = {node.name: node.op_type for node in graph.node}
    assert "QuantizeLinear" in operators.values()
    assert all(operators[name] not in ("QuantizeLinear", "Cast") for name in log_spectrum_nodes(graph))


def test_an_optimized_bundle_has_its_audio_graph_in_int8(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs without inputs in any validation split are not changed."""
    faster = {"as stored": 1.0, "fused": 1.5, "float16": 0.9, "int8": 3.0}  # the time of such small graphs is noise
    monkeypatch.setattr(search, "QUICK", Effort((2,), 1, 0.0))
    monkeypatch.setattr(search, "THOROUGH", Effort((1,), 1, 0.0))
    monkeypatch.setattr(search._Search, "speedup", lambda _, candidate, stored=None: faster[candidate.kind])
    search.optimize(exported[1], tmp_path / "fast", Budget(50), exported[1].parent / "data")
    bundle = Bundle.open(tmp_path / "fast")
    variant = read_variant(bundle.manifest)
    assert variant is not None
    assert {way.graph: way.way for way in variant.ways if way.chosen} == {
        **{"video": "as stored", "match": "as stored"},
        **{"text": "int8", "audio": "int8"},
    }
    assert set(variant.shares) == {"tones t2a R@1", "tones a2t R@1"}
    outputs = {(o["graph"], o["output"]): o for o in read_report(bundle)["beside"]["outputs"]}
    assert 0.999 < outputs["audio", "vector"]["least_cosine"] < 1
