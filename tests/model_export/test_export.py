"""`vitascope export` of a checkpoint: a bundle whose outputs equal the checkpoint's, or no bundle."""

from __future__ import annotations

import copy
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model_export import export
from model_export.assemble import write_manifest
from model_export.card import read_metrics
from model_export.export import export_checkpoint
from model_export.graphs import GraphSpec, export_graph, graph_specs, random_streams, run_torch
from model_export.parity.cases import random_cases
from model_export.parity.checks import ParityError
from model_export.sources import CORPORA, STARTS, languages_of
from model_export.update import update_metrics
from tests.chaos import only_by_chaos
from tests.model_export.conftest import ANSWERS, CONFIG, Graphs
from tests.training import test_soho, test_visual_parsing
from tests.training.small_run import recipe, write_clips, write_tokenizer
from training import checkpoint
from training.checkpoint import Checkpoint
from training.data.packed import Packed, open_packed
from training.evaluation.encoder import embed_texts, streams_of
from training.evaluation.report import evaluate, open_encoder
from training.evaluation.retrieval import embed_gallery
from training.evaluation.torch_encoder import TorchEncoder
from training.models import soho, visual_parsing
from training.models.config import FusedConfig
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila, HdVilaConfig
from training.models.pretrained import starts_of
from training.recipe import Recipe
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.model import Model


@pytest.fixture(scope="module")
def video_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus of four clips per video."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder / "data", folder, 4, ("train", "val", "test"), name="pictogram_videos")
    return folder / "data"


def assert_equal_outputs(checkpoint_folder: Path, bundle: Path, streams: dict[str, np.ndarray]) -> None:
    """Compare embeddings, visual tokens, match logits and answers of four texts and videos."""
    atol = 1e-4
    runtime, loaded = Model.open(bundle, threads=1), checkpoint.load(checkpoint_folder)
    manifest = runtime.bundle.manifest
    reference = TorchEncoder(loaded.model, runtime.bundle.tokenizer(), loaded.answers, manifest.calibration)
    texts = ["what color is it ?", "is it red ?", "a blue square", "red"]
    actual, expected = runtime.embed_video(streams), reference.embed_video(streams)
    np.testing.assert_allclose(actual.vectors, expected.vectors, atol=atol)
    np.testing.assert_allclose(actual.visual_tokens, expected.visual_tokens, atol=atol)
    np.testing.assert_allclose(runtime.embed_text(texts), reference.embed_text(texts), atol=atol)
    match, expected_match = (
        encoder.match(texts, video.visual_tokens) for encoder, video in ((runtime, actual), (reference, expected))
    )
    np.testing.assert_allclose(match.logits, expected_match.logits, atol=atol)
    np.testing.assert_allclose(match.probabilities, expected_match.probabilities, atol=atol)
    if not runtime.bundle.answers:
        return
    for ours, theirs in zip(
        runtime.answer(texts, actual.visual_tokens), reference.answer(texts, expected.visual_tokens), strict=True
    ):
        assert [answer.text for answer in ours] == [answer.text for answer in theirs]
        np.testing.assert_allclose([a.probability for a in ours], [a.probability for a in theirs], atol=atol)


def test_the_bundle_equals_its_checkpoint(bundles: dict[str, Path], folders: tuple[Path, Path]) -> None:
    packed = open_packed(folders[1] / "squares" / "val")
    streams = streams_of(packed, np.arange(4), CONFIG.streams())
    assert_equal_outputs(folders[0], bundles["float32"], streams)


SMALL_SWIN = {"image_height": 32, "image_width": 32, "swin_depths": [2, 1], "swin_heads": [1, 2]}
"""The windows of the second block are shifted."""
ARCHITECTURES = {
    "soho": (lambda: soho.Soho(test_soho.small_config(answers=0, fused_layers=1)), "SOHO, size tiny (Huang"),
    "visual-parsing": (
        lambda: visual_parsing.VisualParsing(test_visual_parsing.small_config(answers=0, fused_layers=1, **SMALL_SWIN)),
        "Visual Parsing, size tiny (Xue",
    ),
}
"""As few layers as possible, because exporting takes seconds per layer. The code of other graphs is that of HD-VILA."""


@only_by_chaos
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpoints_of_other_architectures_are_exported(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, description = ARCHITECTURES[architecture]
    model: FusedModel = make()
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    fields = recipe(tokenizer, architecture=architecture, model={}).model_dump_json()
    known_terms = Recipe.model_validate_json(fields.replace('"squares"', '"scenes"'))
    checkpoint.save(tmp_path / "checkpoint", Checkpoint(model, [], known_terms, tokenizer, step=3))
    bundle = export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", precision="float32", seed=1)
    streams = random_streams(model.cfg, np.random.default_rng(0), 4, 1)
    assert_equal_outputs(tmp_path / "checkpoint", bundle, streams)
    manifest = Bundle.open(bundle).manifest
    assert (manifest.architecture, [stream.name for stream in manifest.streams]) == (f"{architecture}-tiny", ["high"])
    card = (bundle / manifest.model_card).read_text()
    assert description in card
    assert "it sees one frame of a clip" in card


@pytest.mark.parametrize("cfg", [soho.tiny(3), visual_parsing.tiny(3)], ids=["soho", "visual-parsing"])
def test_only_pretrained_parts_of_the_architecture_are_listed(cfg: FusedConfig) -> None:
    assert starts_of(cfg, "pretrained") == ("EfficientNet-Lite0", "all-MiniLM-L6-v2")


def test_graphs_contain_no_local_paths(graphs: Graphs) -> None:
    for graph in graphs.values():
        content = graph.SerializeToString()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content


@only_by_chaos
def test_graphs_are_deterministic(model: HdVila, graphs: Graphs) -> None:
    for spec in graph_specs(model):
        stored = graphs[spec.name].SerializeToString(deterministic=True)
        assert export_graph(spec, CONFIG).SerializeToString(deterministic=True) == stored


def test_manifest_card_and_notices_state_origin_and_terms(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["int8-weights"])
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    notice = (bundle.folder / "NOTICE.md").read_text()
    assert "NOTICE.md" in bundle.manifest.files
    assert bundle.answers == ANSWERS
    assert bundle.manifest.training_data == ["squares: CC0-1.0"]
    assert bundle.manifest.languages is None, "the captions of an unknown corpus may be of any language"
    for text in (
        "## Out of scope",
        "made in the test",
        "CC0-1.0",
        "Nothing was measured",
        "vitascope train",
        "75% mirrored",
    ):
        assert text in card
    assert "made in the test" in notice
    assert "CC0-1.0" in notice
    assert 0 < bundle.manifest.calibration.answer_temperature != 1.0


def test_a_model_of_known_corpora_states_that_it_knows_english() -> None:
    assert languages_of([CORPORA["scenes"], CORPORA["flickr8k"], *STARTS[:2]]) == ["en"]


def test_metrics_change_card_and_manifest_only(bundles: dict[str, Path], tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    values = {"scenes": {"t2v R@1": 61.5, "exact": 86.0, "exact (digit)": 12.25, "exact (single word)": 3.0}}
    metrics.write_text(json.dumps(values))
    before = Bundle.open(bundles["int8-weights"])
    after = Bundle.open(update_metrics(shutil.copytree(before.folder, tmp_path / "bundle"), metrics))
    assert after.fingerprint == before.fingerprint
    assert after.manifest.metrics == {"scenes t2v R@1": 61.5, "scenes exact": 86.0}
    card = (after.folder / "MODEL_CARD.md").read_text()
    assert "| exact (single word) | 3 |" in card
    assert "scenes, exact (digit): 12.2" in card
    assert "scenes, exact (single word)" not in card, "a subset that mixes all kinds is no kind"
    metrics.write_text(json.dumps({"scenes": {"exact": 87.0, "entailment accuracy": 90.0}}))
    again = Bundle.open(update_metrics(after.folder, metrics))
    assert again.manifest.metrics == {"scenes t2v R@1": 61.5, "scenes exact": 87.0}
    card = (after.folder / "MODEL_CARD.md").read_text()
    for row in ("| exact (single word) | 3 |", "| exact | 87 |", "| entailment accuracy | 90 |"):
        assert row in card


@pytest.mark.parametrize("value", ["NaN", "1e999", "1" + 400 * "0", "true"])
def test_metrics_that_are_not_finite_numbers_are_rejected(value: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(f'{{"scenes": {{"exact": {value}}}}}')
    with pytest.raises(InvalidInput, match="scenes: exact is not a finite number"):
        read_metrics(tmp_path / "metrics.json")


def test_a_bundle_is_updated_from_within_and_keeps_files_of_subfolders(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(bundles["int8-weights"], tmp_path / "bundle")
    (bundle / "docs").mkdir()
    (bundle / "docs" / "notes.md").write_text("Notes")
    write_manifest(bundle, Bundle.open(bundle).manifest.model_dump())
    (tmp_path / "metrics.json").write_text('{"scenes": {"exact": 90.0}}')
    monkeypatch.chdir(bundle)
    assert main(["export", ".", "--metrics", "../metrics.json"]) == 0
    manifest = Bundle.open(bundle).manifest
    assert manifest.metrics == {"scenes exact": 90.0}
    assert "docs/notes.md" in manifest.files


def test_metrics_of_a_bundle_of_an_earlier_version_are_kept(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Such a bundle has all metrics only in its card."""
    metrics, bundle = tmp_path / "metrics.json", shutil.copytree(bundles["int8-weights"], tmp_path / "bundle")
    metrics.write_text('{"scenes": {"exact (digit)": 12.25}}')
    manifest = Bundle.open(update_metrics(bundle, metrics)).manifest.model_dump()
    del manifest["extra"]["metrics"]
    write_manifest(bundle, manifest)
    metrics.write_text('{"scenes": {"entailment accuracy": 90}}')
    update_metrics(bundle, metrics)
    assert "| exact (digit) | 12.25 |\n| entailment accuracy | 90 |" in (bundle / "MODEL_CARD.md").read_text()


@pytest.mark.usefixtures("cached_graphs")
def test_the_command_prints_json_and_the_same_checkpoint_gives_the_same_fingerprint(
    folders: tuple[Path, Path], bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    command = ["export", str(folders[0]), "--out", str(out), "--data", str(folders[1]), "--version", "2.0.1", "--json"]
    assert main(command) == 0
    assert checkpoint.load(tmp_path / "mine-checkpoint").step == 3
    printed, bundle = json.loads(capsys.readouterr().out), Bundle.open(out)
    assert printed["fingerprint"] == bundle.fingerprint == Bundle.open(bundles["int8-weights"]).fingerprint
    assert printed["bytes"] == sum(f.stat().st_size for f in out.iterdir() if not f.name.startswith("manifest.json"))
    manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.precision) == ("mine", "2.0.1", "int8-weights")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{nowhere} --out {out}", "checkpoint: nothing at"),
        ("{checkpoint}", "out: missing"),
        ("{checkpoint} --out {data} --data {data}", "is not a bundle"),
        ("{checkpoint} --out {out}", "'squares' was trained on, but its source and terms are not known"),
        ("{checkpoint} --out {out} --data {data} --metrics {nowhere}", "cannot be read"),
        ("{checkpoint} --out {out} --data {data} --checkpoint {checkpoint}", "is not a bundle; --checkpoint"),
        ("{bundle}", "is a bundle: one of --metrics, --checkpoint, --moments, --part, --caption-scores was expected"),
        ("{checkpoint} --out {checkpoint}/state.json/out --data {data}", "state.json: File exists"),
        ("{bundle} --metrics {nowhere} --version 2.0.0", "is a bundle that gets --metrics; no --version was expected"),
        ("{bundle} --out {out} --budget recall=1 --licence MIT", "that gets --budget; no --licence was expected"),
        ("{bundle} --metrics {checkpoint}/state.json", "{corpus: {metric: number}} was expected"),
    ],
)
def test_mistakes_are_reported_and_nothing_is_written(
    arguments: str,
    message: str,
    folders: tuple[Path, Path],
    bundles: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "checkpoint": folders[0],
        "data": folders[1],
        "out": tmp_path / "out",
        "nowhere": tmp_path / "nowhere",
        "bundle": bundles["float32"],
    }
    assert main(["export", *(part.format(**places) for part in arguments.split())]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert (folders[1] / "squares").is_dir()


@pytest.mark.usefixtures("cached_graphs")
def test_a_terminated_export_leaves_no_files(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(*_: object) -> None:
        assert list(tmp_path.iterdir()), "the new folder was expected to exist by now"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(export, "check_outputs", terminate)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_info:
        main(["export", str(folders[0]), "--out", str(tmp_path / "mine"), "--data", str(folders[1])])
    assert exit_info.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.usefixtures("cached_graphs")
def test_an_export_without_precision_falls_back_to_a_larger_one(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = export.check_outputs

    def strict(specs: Any, paths: Any, cases: Any, precision: str, *rest: Any) -> Any:
        if precision == "int8-weights":
            raise ParityError("video: output 'vector' on real inputs at int8-weights has cosine 0.998")
        return compare(specs, paths, cases, precision, *rest)

    monkeypatch.setattr(export, "check_outputs", strict)
    arguments = ["export", str(folders[0]), "--out", str(tmp_path / "mine"), "--data", str(folders[1])]
    assert main([*arguments, "--precision", "int8-weights"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert main(arguments) == 0
    assert Bundle.open(tmp_path / "mine").manifest.precision == "float16-weights"
    assert "int8-weights fails the parity check, trying a larger precision: video" in capsys.readouterr().err


# Videos of several clips.


def assert_same_embeddings(
    checkpoint_folder: Path, bundle: Path, packed: Packed, temperature: float | None, clips: int | None
) -> np.ndarray:
    """Compare embeddings of videos and captions; return those of the videos.

    Ranks are not compared: an untrained model embeds the few videos nearly alike, and rounding decides their order.
    """
    encoders = open_encoder(checkpoint_folder), open_encoder(bundle)
    expected, actual = (embed_gallery(encoder, packed, temperature, clips=clips)[0].vectors for encoder in encoders)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    captions = sorted({caption for example in packed.examples for caption in example.captions})
    np.testing.assert_allclose(*(embed_texts(encoder, captions) for encoder in encoders), atol=1e-4)
    return expected


@pytest.mark.usefixtures("cached_graphs")
def test_clips_merged_by_log_sum_exp_are_evaluated_as_with_the_checkpoint(
    folders: tuple[Path, Path], video_corpora: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(folders[0], tmp_path / "checkpoint")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"clip_merge": "logsumexp"}))
    bundle = export_checkpoint(source, tmp_path / "bundle", precision="float32", data=folders[1], seed=1)
    packed = open_packed(video_corpora / "pictogram_videos" / "test")
    assert assert_same_embeddings(source, bundle, packed, 0.05, clips=3).shape == (8, 3, 24)
    by_checkpoint, by_bundle = (
        evaluate(model, video_corpora, corpora=["pictogram_videos"], clips=3)["pictogram_videos"]
        for model in (source, bundle)
    )
    assert by_checkpoint.keys() == by_bundle.keys()
    assert by_checkpoint["clips"] == by_bundle["clips"] == 3


def test_a_bundle_is_evaluated_on_any_corpus_with_its_streams(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path, video_corpora: Path
) -> None:
    bundle = bundles["float32"]
    shutil.copytree(folders[1] / "squares", tmp_path / "mine")
    shutil.copytree(video_corpora / "pictogram_videos", tmp_path / "talks")
    by_checkpoint, by_bundle = (evaluate(m, tmp_path, "val", clips=None) for m in (folders[0], bundle))
    assert [*by_checkpoint] == [*by_bundle] == ["mine", "talks"]
    for corpus in by_checkpoint:
        assert by_checkpoint[corpus].keys() == by_bundle[corpus].keys()
        assert_same_embeddings(folders[0], bundle, open_packed(tmp_path / corpus / "val"), None, clips=None)
    packing = tmp_path / "mine" / "val" / "pack.json"
    packing.write_text(packing.read_text().replace('"height": 32', '"height": 16'))
    low = tmp_path / "mine" / "val" / "low.npy"
    np.save(low, np.ascontiguousarray(np.load(low)[:, :, ::2]))
    with pytest.raises(InvalidInput, match=r"mine.*: low: 1 frame of 32x16 .* 2 frames of 32x32 .* expected"):
        evaluate(bundle, tmp_path, "val")


@only_by_chaos
def test_a_shift_between_frames_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = HdVilaConfig.model_validate(
        CONFIG.model_dump()
        | {"backbone": "tf_efficientnet_lite0", "low_frames": 4, "temporal_shift": 0.125, "paired_frames": True}
    )
    model = HdVila(config)
    # Nothing is shifted in the encoder of the high resolution: blocks that keep the shape of its maps are left out,
    # because exporting them takes seconds.
    for stage in list(model.video.high.modules()):
        if isinstance(stage, torch.nn.Sequential):
            for index in reversed(range(len(stage))):
                if getattr(stage[index], "has_skip", False):
                    del stage[index]
    (spec,) = [s for s in graph_specs(model) if s.name == "video"]
    onnx.save(export_graph(spec, config), tmp_path / "video.onnx")
    inputs = random_streams(config, np.random.default_rng(3), 3, 2)
    actual = OnnxRuntimeEngine(tmp_path / "video.onnx", threads=1).run(inputs)
    for name, expected in run_torch(spec, inputs).items():
        np.testing.assert_allclose(actual[name], expected, atol=1e-4, err_msg=name)


@pytest.mark.gpu
def test_graphs_on_a_gpu_equal_torch_there(model: HdVila, graphs: Graphs, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA build of torch")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs the GPU build of onnxruntime")
    cases = random_cases(graph_specs(model), model.cfg, seed=1)
    for spec in graph_specs(copy.deepcopy(model).cuda()):
        onnx.save(graphs[spec.name], tmp_path / f"{spec.name}.onnx")
        engine = OnnxRuntimeEngine(tmp_path / f"{spec.name}.onnx", device="cuda")
        for case in cases[spec.name]:
            actual = engine.run(case.inputs)
            for name, expected in _run_on_gpu(spec, case.inputs).items():
                limit = 1e-2 * max(1.0, float(np.abs(expected).max()))
                assert np.abs(actual[name] - expected).max() < limit, (spec.name, name)


def _run_on_gpu(spec: GraphSpec, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = spec.module.eval()(*(torch.from_numpy(inputs[name]).cuda() for name in spec.inputs))
    results = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: r.float().cpu().numpy() for name, r in zip(spec.outputs, results, strict=True)}
