"""Export of public models: embeddings, logits and rankings of the bundle equal those of the model's own library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model_export.public import export as public_export
from model_export.public import library_parity
from model_export.public.blip import MAX_SCORED_ANSWERS, NOT_SCORED
from model_export.public.export import export_public
from model_export.public.families import ModelSource, open_public, read_answers, read_licence
from model_export.public.model import PublicModel
from model_export.public.tokenization import open_tokenizer
from tests.chaos import is_chaos, only_by_chaos
from tests.model_export.public_libraries import LibraryOutputs, library_embeddings, library_logits, library_sounds
from tests.model_export.public_models import (
    ANSWERS,
    EMBEDDING_MODELS,
    PAIR_MODELS,
    SOUND_MODELS,
    replace_by_sentencepiece,
)
from tests.once import made_once
from tests.service.conftest import settings_for
from tests.service.running import serving
from vitascope.audio_windows import batched_inputs, cut_windows
from vitascope.bundle.graph_specs import LENGTHS, SAMPLES
from vitascope.bundle.manifest import FrameStream, Prompts
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.media.decode import read_frames
from vitascope.media.frame import tile_grid, top_left_size
from vitascope.media.sampling import clip_times, sample_streams
from vitascope.model import Model
from vitascope.scoring import fused_score
from vitascope.tokenizer import Tokenizer

FRAMES = 4
SPANS = ((0.4, 3.0), (1.2, 1.7))
"""Clips of the video, in seconds."""
TEXTS = [
    "a red square moves left",
    "Two GREEN circles, and a blue triangle!",
    "红色的正方形向左移动",
    "🎉 a party 🐕‍🦺 with   a dog 👩‍👩‍👧",
    "many " * 1000,
]
Sources = Callable[[str], Path]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The folder of a family's small model; read-only."""

    def make(family: str) -> Path:
        maker = (EMBEDDING_MODELS | SOUND_MODELS | PAIR_MODELS)[family]
        return made_once(tmp_path_factory, f"source-{family}", lambda folder: maker(folder / "model")) / "model"

    return make


@pytest.fixture(scope="session")
def bundle_of(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The bundle of a family's small model, with the exporter's messages in log.json next to it."""

    def export(family: str) -> Path:
        def make(folder: Path) -> None:
            messages: list[str] = []
            answers = ANSWERS if family == "blip_answers" else None
            source = ModelSource(sources(family), "authors/small")
            frames = None if family in ("xclip", "clap") else FRAMES  # of these the model decides
            export_public(source, folder / "bundle", seed=1, frames=frames, answers=answers, log=messages.append)
            (folder / "log.json").write_text(json.dumps(messages))

        return made_once(tmp_path_factory, f"public-{family}", make) / "bundle"

    return export


def frames_of_clips(streams: Sequence[FrameStream], photographs: list[Path], video: Path) -> list[list[Image.Image]]:
    """The frames of each photograph and of two clips of the video, at the bundle's times and in full size."""
    stream = streams[0]
    stills = [[Image.open(path).convert("RGB")] * stream.frames for path in photographs]
    return stills + [[Image.fromarray(f) for f in read_frames(video, clip_times(stream, *span))] for span in SPANS]


def sampled_inputs(model: PublicModel, photographs: list[Path], video: Path) -> list[torch.Tensor]:
    """The video graph's inputs by the runtime's decoder, one row per clip of `frames_of_clips`."""
    clips = [(path, (0.0, 0.0)) for path in photographs] + [(video, span) for span in SPANS]
    sampled = [sample_streams(path, model.streams(), [span]) for path, span in clips]
    return [torch.from_numpy(np.stack([clip[stream.name] for clip in sampled])) for stream in model.streams()]


def encode(model: PublicModel, texts: list[str]) -> list[torch.Tensor]:
    """Ids and mask by the runtime's tokenizer."""
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(model.tokenizer_json), model.text_length)
    return [torch.from_numpy(array) for array in tokenizer.encode(texts)]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result: np.ndarray = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return result


def assert_equal_outputs(expected: LibraryOutputs, texts: np.ndarray, clips: np.ndarray, logits: np.ndarray) -> None:
    """Cosines of at least 0.99999 and the same best result, both ways."""
    assert cosines(texts, expected.texts).min() >= 0.99999
    assert cosines(clips, expected.clips).min() >= 0.99999
    np.testing.assert_allclose(logits, expected.logits, rtol=0.02, atol=0.05)
    for axis in (0, 1):
        best, selected = expected.logits.max(axis=axis), logits.argmax(axis=axis)
        score = np.take_along_axis(expected.logits, np.expand_dims(selected, axis), axis).squeeze(axis)
        np.testing.assert_allclose(score, best, atol=1e-3)  # the same, or a near tie


def assert_equal_logits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Logits (T, P, N): cosines of at least 0.99999, and the same best answer, or best text and clip."""
    last = expected.shape[2] if expected.shape[2] > 1 else expected.shape[1]
    assert cosines(actual.reshape(-1, last), expected.reshape(-1, last)).min() >= 0.99999
    spread = expected.std(axis=(0, 1) if expected.shape[2] == 1 else 2).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.05 * spread)
    for axis in (2,) if expected.shape[2] > 1 else (0, 1):
        score = np.take_along_axis(expected, np.expand_dims(actual.argmax(axis=axis), axis), axis).squeeze(axis)
        np.testing.assert_allclose(score, expected.max(axis=axis), atol=0.02 * spread)


LARGEST = "pe_audio_video"
"""The family that takes longest; `make chaos` has it."""


@pytest.mark.parametrize("family", [f for f in EMBEDDING_MODELS if f != LARGEST or is_chaos()])
def test_modules_embed_like_the_library(family: str, sources: Sources, photographs: list[Path], video: Path) -> None:
    """The exported modules in torch, on inputs of the runtime's tokenizer and decoder."""
    model = open_public(sources(family), FRAMES, allow_pickle=False)
    modules = {spec.name: spec.module for spec in model.specs}
    ids, mask = encode(model, [model.prompts.query + text for text in TEXTS])
    with torch.no_grad():
        clips, tokens = modules["video"](*sampled_inputs(model, photographs, video))
        texts = modules["text"](ids, mask)
        logits = texts @ clips.T / model.temperature + model.logit_bias
        if "match" in modules:
            columns = [modules["match"](ids, mask, token.expand(len(TEXTS), -1, -1)) for token in tokens]
            logits = torch.stack(columns, dim=1)
    frames = frames_of_clips(model.streams(), photographs, video)
    expected = library_embeddings(family, sources(family), TEXTS, frames)
    assert_equal_outputs(expected, texts.numpy(), clips.numpy(), logits.numpy())


@pytest.mark.parametrize("family", [f for f in SOUND_MODELS if f != LARGEST or is_chaos()])
def test_modules_embed_sounds_like_the_library(family: str, sources: Sources) -> None:
    """The exported modules in torch, on windows and token ids of the runtime."""
    model = open_public(sources(family), FRAMES, allow_pickle=False)
    modules = {spec.name: spec.module for spec in model.specs}
    assert model.audio is not None
    sounds = library_parity.make_sounds(model.audio)
    (inputs,) = [arrays for _, arrays in batched_inputs(cut_windows(model.audio, enumerate(sounds)), len(sounds))]
    with torch.no_grad():
        actual = modules["audio"](*(torch.from_numpy(inputs[name]) for name in (SAMPLES, LENGTHS)))
        texts = modules["text"](*encode(model, [model.prompts.query + text for text in TEXTS]))
    by_text, by_sound = library_sounds(family, sources(family), TEXTS, sounds)
    assert cosines(actual.numpy(), by_sound).min() >= 0.99999
    assert cosines(texts.numpy(), by_text).min() >= 0.99999
    assert (by_sound @ by_sound.T).min() < 0.999


@pytest.mark.parametrize("family", PAIR_MODELS)
def test_modules_score_like_the_library(family: str, sources: Sources, photographs: list[Path], video: Path) -> None:
    model = open_public(sources(family), FRAMES, allow_pickle=False)
    modules = {spec.name: spec.module for spec in model.specs}
    inputs, texts = sampled_inputs(model, photographs, video), TEXTS[2:]
    answers = [array.expand(len(texts), -1, -1) for array in encode(model, ANSWERS)] if family == "blip_answers" else []
    with torch.no_grad():
        tokens = modules["video"](*inputs)
        head = modules["match" if family == "vilt_match" else "answer"]
        logits = [head(*encode(model, texts), token.expand(len(texts), -1, -1), *answers) for token in tokens]
        of_two_clips = modules["video"](*[torch.cat([array, array], dim=1) for array in inputs])
    assert tuple(tokens.shape[1:]) == (model.visual_tokens, model.visual_width)
    assert of_two_clips.shape == tokens.shape
    frames = frames_of_clips(model.streams(), photographs, video)
    actual = torch.stack(logits, dim=1).reshape(len(texts), len(frames), -1).numpy()
    assert_equal_logits(actual, library_logits(family, sources(family), texts, frames))


@pytest.mark.parametrize("family", ["blip", *(sorted(set(EMBEDDING_MODELS) - {"blip"}) if is_chaos() else [])])
def test_the_bundle_embeds_like_the_library(
    family: str, bundle_of: Sources, sources: Sources, photographs: list[Path], video: Path
) -> None:
    runtime = Model.open(bundle_of(family), threads=1)
    videos = [runtime.embed_video_file(path) for path in photographs] + [
        runtime.embed_video_file(video, [span]) for span in SPANS
    ]
    texts, clips = runtime.embed_text(TEXTS), np.concatenate([embedded.vectors for embedded in videos])
    manifest = runtime.bundle.manifest
    logits = texts @ clips.T / manifest.temperature + manifest.logit_bias
    if "matching" in runtime.tasks:
        columns = [runtime.match(TEXTS, np.repeat(embedded.visual_tokens, len(TEXTS), 0)).logits for embedded in videos]
        logits = np.stack(columns, axis=1)
    expected = library_embeddings(family, sources(family), TEXTS, frames_of_clips(runtime.streams, photographs, video))
    assert_equal_outputs(expected, texts, clips, logits)


def test_guessed_settings_are_printed_and_on_the_card(bundle_of: Sources) -> None:
    bundle = bundle_of("blip")
    manifest = Model.open(bundle).bundle.manifest
    public_model = manifest.extra["public_model"]
    assert public_model["source"] == "authors/small"
    assert "mean of the embeddings of 4 frames" in public_model["chosen"][0]
    assert public_model["chosen"][0] in (bundle / manifest.model_card).read_text()
    assert f"note: {public_model['chosen'][0]}" in json.loads((bundle.parent / "log.json").read_text())


def test_a_served_collection_is_searched_and_reranked_as_by_the_library(
    bundle_of: Sources, sources: Sources, photographs: list[Path], video: Path, tmp_path: Path
) -> None:
    bundle = bundle_of("blip")
    with serving(settings_for(bundle, tmp_path / "data")) as service:
        client = service.client
        assert client.post("/v1/collections", json={"name": "mine"}).status_code == 201
        for path in [*photographs, video]:
            response = client.post("/v1/collections/mine/videos", files={"file": (path.name, path.read_bytes())})
            assert response.status_code == 201, response.text
        request = {"text": TEXTS[0], "limit": 50, "rerank": 10}
        hits = client.post("/v1/collections/mine/search", json=request).json()["results"]
    frames = frames_of_clips(Model.open(bundle).streams, photographs, video)[: len(photographs)]
    expected = library_embeddings("blip", sources("blip"), TEXTS[:1], frames)
    titles = [path.stem for path in photographs]
    assert {hit["video"]["title"] for hit in hits} == {*titles, "two shots"}
    by_title = {hit["video"]["title"]: hit for hit in hits if hit["video"]["title"] != "two shots"}
    logits = dict(zip(titles, expected.logits[0].tolist(), strict=True))
    assert list(by_title) == sorted(titles, key=lambda title: -logits[title])
    for title, cosine in zip(titles, expected.clips @ expected.texts[0], strict=True):
        assert by_title[title]["similarity"] == pytest.approx(float(cosine), abs=1e-3)
        assert by_title[title]["match"] == pytest.approx(1 / (1 + np.exp(-logits[title])), abs=5e-3)


@only_by_chaos
@pytest.mark.parametrize("family", PAIR_MODELS)
def test_a_bundle_without_embeddings_scores_and_serves_like_the_library(
    family: str, bundle_of: Sources, sources: Sources, photographs: list[Path], video: Path, tmp_path: Path
) -> None:
    runtime = Model.open(bundle_of(family), threads=1)
    files = [(path, None) for path in photographs] + [(video, [span]) for span in SPANS]
    videos = [runtime.embed_video_file(path, spans) for path, spans in files]
    assert videos[0].vectors.shape == (1, 0)
    expected = library_logits(family, sources(family), TEXTS, frames_of_clips(runtime.streams, photographs, video))
    rows = [np.repeat(embedded.visual_tokens, len(TEXTS), 0) for embedded in videos]
    if family == "vilt_match":
        actual = np.stack([runtime.match(TEXTS, tokens).logits for tokens in rows], axis=1)[..., None]
    else:
        answers = ANSWERS if family == "blip_answers" else None
        actual = np.stack([runtime.answer_logits(TEXTS, tokens, answers) for tokens in rows], axis=1)
    assert_equal_logits(actual, expected)
    with serving(settings_for(bundle_of(family), tmp_path / "data")) as service:
        client = service.client
        rejection = client.post("/v1/collections", json={"name": "mine"})
        assert (rejection.status_code, rejection.json()["code"]) == (409, "task_missing")
        upload = {"file": (photographs[0].name, photographs[0].read_bytes())}
        if family == "vilt_match":
            scores = client.post("/v1/caption-scores", files=upload, data={"captions": TEXTS[:4]}).json()["scores"]
            probabilities = 1 / (1 + np.exp(-expected[:4, 0, 0]))
            assert [score["match"] for score in scores] == pytest.approx(probabilities.tolist(), abs=5e-3)
            assert {score["similarity"] for score in scores} == {None}
        else:
            response = client.post("/v1/answers", files=upload, data={"question": TEXTS[0], "top": "5"}).json()
            softmax = np.exp(expected[0, 0]) / np.exp(expected[0, 0]).sum()
            assert {answer["text"]: answer["probability"] for answer in response["answers"]} == pytest.approx(
                dict(zip(ANSWERS, softmax.tolist(), strict=True)), abs=5e-3
            )


@pytest.mark.parametrize("line", ["license: mit", 'license: "mit"', "license: 'mit'", "license: mit  # see LICENSE"])
def test_the_licence_is_that_of_the_front_matter(line: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{line}\ntags:\n- x\n---\n# A model\n")
    assert read_licence(tmp_path) == "mit"


def test_the_command_exports_a_folder_with_its_licence(
    bundle_of: Sources,
    sources: Sources,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Model.open(bundle_of("blip")).bundle
    source = shutil.copytree(sources("blip"), tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    graphs = {name: onnx.load(before.graph_path(name)) for name in before.manifest.graphs}  # exporting takes seconds
    monkeypatch.setattr(public_export, "export_specs", lambda *_: graphs)
    assert main(["export", str(source), "--out", str(tmp_path / "mine"), "--frames", str(FRAMES), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    bundle = Model.open(tmp_path / "mine").bundle
    assert bundle.manifest.licence == "mit"
    assert printed["precision"] == "float32"
    assert printed["fingerprint"] == bundle.fingerprint == before.fingerprint


def test_siglip_probabilities_include_its_bias(sources: Sources) -> None:
    model = open_public(sources("siglip"), FRAMES, allow_pickle=False)
    assert (model.text_length, model.logit_bias) == (64, pytest.approx(-9.5))
    assert model.temperature == pytest.approx(np.exp(-2.9))
    similarity = np.array([0.4, 0.9])
    expected = 1 / (1 + np.exp(-(similarity / model.temperature + model.logit_bias)))
    np.testing.assert_allclose(fused_score(model.calibration, similarity, np.zeros(2)), expected, atol=1e-6)
    (stream,) = model.streams()
    assert (stream.fit, stream.resample, stream.shortest_edge) == ("stretch", "bicubic", None)


def test_a_sentencepiece_model_gives_the_ids_of_tokenizer_json(sources: Sources, tmp_path: Path) -> None:
    folder = shutil.copytree(sources("siglip"), tmp_path / "siglip")
    expected = open_tokenizer(folder).library
    replace_by_sentencepiece(folder)
    runtime = Tokenizer(tokenizers.Tokenizer.from_str(open_tokenizer(folder).json), 64)
    for text in [*TEXTS, *library_parity.TEXTS, "tabs\tand, marks!?", "under_score"]:
        ids, _ = runtime.encode([text])
        assert ids[0].tolist() == expected(text, truncation=True, max_length=64)["input_ids"], text


def test_vilt_images_are_resized_as_by_its_processor() -> None:
    from transformers import ViltImageProcessor

    processor = ViltImageProcessor()
    for size in ((640, 480), (480, 640), (384, 384), (100, 90), (1333, 800), (800, 1334), (401, 97), (30, 300)):
        expected = processor(Image.new("RGB", size), return_tensors="pt")["pixel_values"].shape[2:]
        assert top_left_size(*size, 384, 639, 32)[::-1] == tuple(expected), size


def test_gemma_images_are_divided_into_tiles_as_by_its_processor() -> None:
    from transformers.models.gemma4.image_processing_gemma4 import get_aspect_ratio_preserving_size

    for size in ((640, 480), (1080, 1920), (48, 48), (401, 97), (30, 3000), (7000, 20), (1, 5000)):
        for tiles in (70, 280):
            height, width = get_aspect_ratio_preserving_size(size[1], size[0], 16, tiles * 9, 3)
            assert tile_grid(*size, tiles, 48) == (width // 48, height // 48), size


def test_prompts_and_dimensions_are_those_of_the_model(sources: Sources) -> None:
    model = open_public(sources("embedding_gemma2"), FRAMES, allow_pickle=False)
    assert model.prompts == Prompts(query="task: search | query: ", document="text: ")
    assert model.matryoshka_dimensions == [16, 8]


@torch.no_grad()
def test_blip_scores_only_the_likeliest_of_many_answers_and_ignores_padding(sources: Sources) -> None:
    model = open_public(sources("blip_answers"), 1, allow_pickle=False)
    (module,) = [spec.module for spec in model.specs if spec.name == "answer"]
    random = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, model.visual_tokens, model.visual_width, generator=random)
    answers = torch.randint(5, model.vocabulary, (1, 400, 4), generator=random)
    ids, mask = encode(model, ["what colour is it?"])

    def score(selected: torch.Tensor, padding: int = 0) -> torch.Tensor:
        padded = torch.cat([ids, torch.full((1, padding), 7)], 1), torch.cat([mask, torch.zeros(1, padding).long()], 1)
        scores: torch.Tensor = module(*padded, tokens, selected, torch.ones_like(selected))[0]
        return scores

    scores = score(answers)
    is_scored = scores > NOT_SCORED
    assert is_scored.sum() == MAX_SCORED_ANSWERS
    of_parts = torch.cat([score(part) for part in answers.split(100, dim=1)])
    torch.testing.assert_close(scores[is_scored], of_parts[is_scored])
    by_first_token = torch.cat([score(part[:, :, :2]) for part in answers.split(100, dim=1)])
    assert by_first_token[is_scored].min() >= by_first_token[~is_scored].max() - 1e-5
    torch.testing.assert_close(score(answers[:, :20], padding=9), score(answers[:, :20]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("text_projection.weight"), r"1 missing: text_projection\.weight"),
        (lambda w: w.update(surplus=torch.zeros(2)), "1 unexpected: surplus"),
        (lambda w: w.update({"text_projection.weight": torch.zeros(3, 3)}), "1 of another shape: text_projection"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_mismatched_weights_are_listed(
    change: Callable[[dict[str, torch.Tensor]], None], message: str, sources: Sources, tmp_path: Path
) -> None:
    folder = shutil.copytree(sources("clip"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match=message):
        open_public(folder, FRAMES, allow_pickle=False)


def test_pickles_need_an_option_and_run_no_code(sources: Sources, tmp_path: Path) -> None:
    folder, trace = shutil.copytree(sources("clip"), tmp_path / "clip"), tmp_path / "trace"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"pytorch_model\.bin, which are pickles.*--allow-pickle"):
        open_public(folder, FRAMES, allow_pickle=False)
    assert open_public(folder, FRAMES, allow_pickle=True).text_length == 77

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    torch.save({"logit_scale": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="its weights cannot be read"):
        open_public(folder, FRAMES, allow_pickle=True)
    assert not trace.exists()


CONFIG, PROCESSOR, OPEN_CLIP = "config.json", "preprocessor_config.json", "open_clip_config.json"
OMNI = "processor_config.json"


@pytest.mark.parametrize(
    ("family", "file", "changes", "message"),
    [
        ("clip", CONFIG, {"model_type": "llama"}, "model_type 'llama'; one of clip"),
        ("clip", PROCESSOR, {"do_resize": False}, "does not resize"),
        ("clip", PROCESSOR, {"resample": 0}, "resamples by"),
        ("clip", PROCESSOR, {"crop_size": {"height": 24, "width": 24}}, r"outputs 24x24 pixels; 32x32"),
        ("clip", PROCESSOR, {"do_center_crop": False}, "shortest_edge with a crop"),
        ("clip", PROCESSOR, {"rescale_factor": 0}, "clip cannot be loaded: ZeroDivisionError"),
        ("clip", CONFIG, {"text_config": {"hidden_act": "none"}}, "clip cannot be loaded: KeyError: 'none'"),
        ("siglip", CONFIG, {"model_type": "siglip2"}, "model_type 'siglip2'; one of clip, siglip"),
        ("blip", CONFIG, {"architectures": ["BlipModel"]}, "BlipForConditionalGeneration.*expected"),
        ("open_clip", OPEN_CLIP, {"model_cfg": {"custom_text": True}}, "custom_text true; a plain CLIP"),
        (
            "open_clip",
            OPEN_CLIP,
            {"model_cfg": {"vision_cfg": {"timm_model_name": "vit"}}},
            r"vision_cfg\.timm_model_name; a plain CLIP",
        ),
        ("open_clip", OPEN_CLIP, {"preprocess_cfg": {"resize_mode": "longest"}}, "shortest or squash"),
        (
            "vilt_match",
            CONFIG,
            {"architectures": ["ViltForMaskedLM"]},
            r"ViltForQuestionAnswering.\] was expected",
        ),
        ("vilt_match", CONFIG, {"max_image_length": 20}, "max_image_length 20.*at least 54 was expected"),
        ("vilt_match", PROCESSOR, {"size_divisor": 8}, "size_divisor 8; 4 was expected"),
        ("embedding_gemma2", OMNI, {"image_processor": {"patch_size": 8}}, r"\(8, 2\); \(4, 2\) was expected"),
        ("embedding_gemma2", OMNI, {"video_processor": {"add_timestamps": True}}, "add_timestamps true"),
        ("embedding_gemma2", OMNI, {"feature_extractor": {"dither": 0.1}}, r"dither 0\.1; 0 was expected"),
    ],
)
def test_unsupported_settings_are_rejected(
    family: str, file: str, changes: dict[str, Any], message: str, sources: Sources, tmp_path: Path
) -> None:
    folder = shutil.copytree(sources(family), tmp_path / family)
    settings = json.loads((folder / file).read_text())
    for key, value in changes.items():
        settings[key] = settings[key] | value if isinstance(value, dict) and key in settings else value
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(InvalidInput, match=message):
        open_public(folder, FRAMES, allow_pickle=False)


@pytest.mark.parametrize("family", ["clip", "blip_answers", "vilt_match"])
def test_a_folder_without_a_tokenizer_is_rejected(family: str, sources: Sources, tmp_path: Path) -> None:
    """transformers opens it as a tokenizer without words, whose texts are all alike."""
    folder = shutil.copytree(sources(family), tmp_path / family)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InvalidInput, match=rf"{family} has no tokenizer, or an empty one; tokenizer\.json"):
        open_public(folder, FRAMES, allow_pickle=False)


def test_a_number_of_frames_that_the_model_does_not_use_is_rejected(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="frames: 4; 3 was expected, as the model decides"):
        export_public(ModelSource(sources("xclip"), "authors/small"), tmp_path / "out", frames=4)


@pytest.mark.parametrize(
    ("family", "answers", "message"),
    [
        ("blip_answers", ["red", "blue", "red"], "'red' occurs twice"),
        ("blip_answers", ["red", "so " * 20], "tokens long; at most 16 were expected"),
        ("vilt_match", ["red"], "does not score other answers"),
    ],
)
def test_invalid_answers_are_rejected(family: str, answers: list[str], message: str, sources: Sources) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_public(sources(family), FRAMES, allow_pickle=False, answers=answers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('["red"', "is not JSON"),
        ('{"red": 1}', "a JSON list of strings"),
        ('["red", " "]', "none of them blank"),
        ("[]", "a JSON list of strings"),
    ],
)
def test_a_file_of_answers_is_a_list_of_strings(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInput, match=message):
        read_answers(path)
    path.write_text(json.dumps(ANSWERS))
    assert read_answers(path) == ANSWERS


def test_a_failed_download_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert main(["export", "openai/no-such-model", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "model: openai/no-such-model: no such folder; the folder of a checkpoint or public model was" in error
    assert error.endswith("could not be downloaded: no route to the hub\n")
