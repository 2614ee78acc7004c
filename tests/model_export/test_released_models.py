"""Weights released by the authors of CLIP-ViP, HD-VILA and SOHO: strict reading, published outputs, guesses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from model_export.graphs import random_streams
from model_export.public import families
from model_export.public.export import export_public
from model_export.public.families import ModelSource, is_public, open_public
from model_export.public.model import PublicModel
from model_export.public.released.clip_vip import load_clip_vip
from model_export.public.released.hd_vila import load_hd_vila
from model_export.public.released.soho import load_soho
from model_export.public.weights import read_vocabulary, read_weights
from tests.chaos import only_by_chaos
from tests.media_files import moving_shot, write_video
from tests.model_export import released_forwards as published
from tests.model_export.public_models import bert_tokenizer
from tests.model_export.released_models import ANSWERS, GRID, IMAGE_SIZE, RELEASED, write_folder
from tests.service.conftest import settings_for
from tests.service.running import serving
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

TEXTS = ["a red square", "Two GREEN circles!", "红色 🎉", "many " * 100]
LOADERS: dict[str, Callable[[Path, Any], PublicModel]] = {
    "clip-vip": load_clip_vip,
    "hd-vila": lambda folder, weights: load_hd_vila(folder, weights, GRID),
    "hd-vila-answers": lambda folder, weights: load_hd_vila(folder, weights, GRID),
    "soho": lambda folder, weights: load_soho(folder, weights, IMAGE_SIZE),
    "soho-answers": lambda folder, weights: load_soho(folder, weights, IMAGE_SIZE),
}


@cache
def weights_of(name: str) -> dict[str, Tensor]:
    """The weights of a model; read-only."""
    return RELEASED[name][0]()


@pytest.fixture(scope="module")
def tokenizers_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the tokenizer and the answers of a model, without weights; read-only."""

    @cache
    def folder(name: str) -> Path:
        path = tmp_path_factory.mktemp(name)
        RELEASED[name][1]().save_pretrained(path)
        (path / "answers.json").write_text(json.dumps(ANSWERS))
        return path

    return folder


@pytest.fixture(scope="module")
def loaded(tokenizers_of: Callable[[str], Path]) -> Callable[[str], PublicModel]:
    return cache(lambda name: LOADERS[name](tokenizers_of(name), weights_of(name)))


def encoded(model: PublicModel) -> tuple[Tensor, Tensor]:
    runtime = Tokenizer(tokenizers.Tokenizer.from_str(model.tokenizer_json), model.text_length)
    ids, mask = (torch.from_numpy(array) for array in runtime.encode(TEXTS))
    return ids, mask


def modules(model: PublicModel) -> dict[str, torch.nn.Module]:
    return {spec.name: spec.module for spec in model.specs}


def clips(model: PublicModel, batch: int, count: int) -> dict[str, Tensor]:
    streams = random_streams(model, np.random.default_rng(5), batch, count)
    return {name: torch.from_numpy(array) for name, array in streams.items()}


def center_crop(frames: Tensor) -> Tensor:
    """(..., H, W, 3) -> the center, eight ninths of each side."""
    height, width = frames.shape[-3:-1]
    top, left = int(height * (1 - 8 / 9) / 2 + 0.5), int(width * (1 - 8 / 9) / 2 + 0.5)
    return frames[..., top : height - top, left : width - left, :]


def assert_alike(actual: Tensor, expected: Tensor) -> None:
    cosines = torch.cosine_similarity(actual.double(), expected.double(), dim=-1)
    assert cosines.min() >= 0.99999
    assert expected.std(dim=0).max() > 1e-3, "the samples are alike"


@torch.no_grad()
def test_clip_vip_equals_the_publication(loaded: Callable[[str], PublicModel]) -> None:
    w, model = weights_of("clip-vip"), loaded("clip-vip")
    (stream,) = model.streams()
    assert (stream.frames, stream.width, stream.height, stream.fit) == (4, 32, 32, "stretch")
    assert (model.tasks, model.text_length, model.temperature) == (["retrieval"], 77, pytest.approx(np.exp(-4.2)))
    frames = clips(model, 3, 2)["frames"]
    of_first_clip, _ = modules(model)["video"](frames[:, :1])
    by_clip = published.clip_vip_video(w, frames.flatten(0, 1)).unflatten(0, (3, 2))
    assert_alike(of_first_clip, by_clip[:, 0])
    both, token = modules(model)["video"](frames)
    assert_alike(both, normalize(by_clip.mean(dim=1), dim=-1))
    assert torch.equal(token[:, 0], both)
    ids, mask = encoded(model)
    end = len(RELEASED["clip-vip"][1]()) - 1
    padded = torch.full((len(ids), 77), end)
    padded[:, : ids.shape[1]] = torch.where(mask > 0, ids, end)
    assert_alike(modules(model)["text"](ids, mask), published.clip_vip_text(w, padded))


@torch.no_grad()
def test_clip_vip_depends_on_the_order_of_frames(loaded: Callable[[str], PublicModel]) -> None:
    """Outputs also depend on proxies and temporal embeddings."""
    model = loaded("clip-vip")
    frames = clips(model, 2, 1)["frames"]
    tower: Any = modules(model)["video"]
    before = tower(frames)[0]
    assert torch.cosine_similarity(before, tower(frames.flip(2))[0]).max() < 0.9999
    for part in (tower.model.added_cls, tower.model.temporal_embedding):
        values = part.clone()
        part.zero_()
        assert torch.cosine_similarity(before, tower(frames)[0]).max() < 0.9999
        part.copy_(values)


@torch.no_grad()
def test_hd_vila_equals_the_publication(loaded: Callable[[str], PublicModel]) -> None:
    w, model, answering = weights_of("hd-vila"), loaded("hd-vila"), loaded("hd-vila-answers")
    assert (model.tasks, model.text_length, model.visual_tokens) == (["retrieval"], 50, 1)
    sizes = [(s.name, s.frames, s.height, s.width, s.placement) for s in model.streams()]
    assert sizes == [("high", 1, 144, 216, "middle"), ("low", 4, 36, 54, "uniform")]
    streams = clips(model, 2, 1)
    maps = published.hd_vila_maps(w, *(center_crop(streams[name][:, 0]) for name in ("high", "low")))
    vectors, _ = modules(model)["video"](*streams.values())
    assert_alike(vectors, published.hd_vila_video(w, maps))
    merged, _ = modules(model)["video"](*(array.transpose(0, 1) for array in streams.values()))
    assert torch.cosine_similarity(merged, published.hd_vila_video(w, maps.mean(dim=0, keepdim=True))) >= 0.99999
    ids, mask = encoded(model)
    assert_alike(modules(model)["text"](ids, mask), published.hd_vila_text(w, ids, mask, 1))

    w = weights_of("hd-vila-answers")
    assert (answering.tasks, answering.answers, answering.text_length) == (["answering"], ANSWERS, 100)
    _, tokens = modules(answering)["video"](*streams.values())
    maps = published.hd_vila_maps(w, *(center_crop(streams[name][:, 0]) for name in ("high", "low")))
    assert_alike(tokens.flatten(1), maps.flatten(2).transpose(1, 2).flatten(1))
    ids, mask = (array[::2] for array in encoded(answering))
    expected = published.hd_vila_answers(w, ids, mask, maps, 1, 2)
    assert_alike(modules(answering)["answer"](ids, mask, tokens), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["soho", "soho-answers"])
def test_soho_equals_the_publication(name: str, loaded: Callable[[str], PublicModel]) -> None:
    w, model = weights_of(name), loaded(name)
    (stream,) = model.streams()
    assert (stream.frames, stream.height, stream.width, stream.placement) == (1, *IMAGE_SIZE, "middle")
    assert (model.tasks, model.visual_tokens, model.text_length) == (
        ["matching"] if name == "soho" else ["answering"],
        6,
        16,
    )
    frames = clips(model, 2, 1)["frames"]
    expected = published.soho_tokens(w, frames[:, 0, 0])
    _, tokens = modules(model)["video"](frames)
    assert_alike(tokens.flatten(1), expected.flatten(1))
    ids, mask = (array[::2] for array in encoded(model))
    first = published.soho_first(w, ids, mask, expected, (2, 3), 2)
    if name == "soho":
        logits = modules(model)["match"](ids, mask, tokens)
        np.testing.assert_allclose(logits, published.soho_match(w, first), atol=1e-4)
        assert logits.std() > 1e-2
    else:
        assert_alike(modules(model)["answer"](ids, mask, tokens), published.soho_answers(w, first))


@pytest.mark.parametrize(
    ("name", "removed", "changes", "message"),
    [
        (
            "clip-vip",
            "clipmodel.text_model.final_layer_norm.bias",
            {"clipmodel.surplus": torch.zeros(2), "clipmodel.visual_projection.weight": torch.zeros(24, 3)},
            r"1 missing: clipmodel\.text_model\.final_layer_norm\.bias; 1 unexpected: clipmodel\.surplus; 1 of another "
            r"shape: clipmodel\.visual_projection\.weight \(24, 3\) instead of \(24, 128\)",
        ),
        (
            "soho",
            "neck.gate_fc.bn.running_var",
            {"neck.begin_line.weight": torch.zeros(2), "neck.pos_line.bias": torch.zeros(3)},
            r"1 missing: neck\.gate_fc\.bn\.running_var; 1 unexpected: neck\.begin_line\.weight; 1 of another shape: "
            r"neck\.pos_line\.bias \(3,\) instead of \(128,\)",
        ),
        (
            "hd-vila",
            "timesformer.blocks.1.temporal_attn.qkv.bias",
            {"cnn.layer1.0.odd": torch.zeros(1), "timesformer.pos_embed": torch.zeros(1, 8, 128)},
            r"1 missing: timesformer\.blocks\.1\.temporal_attn\.qkv\.bias; 1 unexpected: cnn\.layer1\.0\.odd; 1 of "
            r"another shape: timesformer\.pos_embed \(1, 8, 128\) instead of \(1, 6, 128\)",
        ),
        (
            "clip-vip",
            "clipmodel.vision_model.embeddings.added_cls",
            {},
            r"1 missing: clipmodel\.vision_mod\S+added_cls",
        ),
        ("hd-vila", "transformer.v_proj.weight", {}, r"1 missing: transformer\.v_proj\.weight"),
        ("soho", "head.match_class.weight", {}, r"neither of head\.match_class\.weight and head\.vqa"),
        (
            "hd-vila",
            "transformer.cls.predictions.bias",
            {"cnn.layer4.2.odd": torch.zeros(1)},
            r"cnn has \(2, 2, 2, 3\) blocks in its four stages, two convolutions each; a ResNet of 18",
        ),
        (
            "clip-vip",
            "clipmodel.logit_scale",
            {"clipmodel.vision_model.embeddings.class_embedding": torch.zeros(100)},
            "the image tower is 100 wide; a multiple of 64",
        ),
        (
            "hd-vila-answers",
            "transformer.bert.pooler1.dense.bias",
            {"transformer.classifier.2.weight": torch.zeros(1, 256)},
            "scores one option of a question.*multiple choice",
        ),
    ],
)
def test_mismatched_tensors_are_listed_by_the_files_names(
    name: str, removed: str, changes: dict[str, Tensor], message: str, tokenizers_of: Callable[[str], Path]
) -> None:
    weights = weights_of(name) | changes
    del weights[removed]
    with pytest.raises(InvalidInput, match=message):
        LOADERS[name](tokenizers_of(name), weights)


def test_every_guess_is_noted(loaded: Callable[[str], PublicModel]) -> None:
    notes = {name: " ".join(loaded(name).notes) for name in RELEASED}
    for name, guesses in {
        "clip-vip": ["image tower has 2 heads of 64", "text tower has 1 heads", "quick GELU", "77 tokens", "4 frames"],
        "hd-vila": ["2 rows and 3 columns", "`bert_mean`", "0.05", "54x36", "timesformer.norm", "2 heads of 64"],
        "hd-vila-answers": ["Of 2 text layers the first 1 read text only", "pooler1"],
        "soho": ["2 heads of 64", "180x120", "192x128", "16 tokens", "no text embeddings", "neck.vq.cluster_sum"],
        "soho-answers": ["no visual dictionary", "separate sigmoids"],
    }.items():
        for guess in guesses:
            assert guess in notes[name], f"{name}: {guess}"
        assert "not with the authors' program" in notes[name]


def test_a_pickle_is_unwrapped_only_with_an_option(tmp_path: Path) -> None:
    """A training checkpoint with other entries, names of `DataParallel`, and half precision."""
    folder = tmp_path / "clip-vip"
    RELEASED["clip-vip"][1]().save_pretrained(folder)
    inner = {
        f"module.{name}": values.half() if values.is_floating_point() else values
        for name, values in weights_of("clip-vip").items()
    }
    torch.save({"meta": {"epoch": 3}, "state_dict": inner}, folder / "epoch_3.pth")
    assert is_public(folder)
    with pytest.raises(InvalidInput, match=r"epoch_3\.pth, which are pickles.*--allow-pickle"):
        open_public(folder, 8, allow_pickle=False)
    model = open_public(folder, 8, allow_pickle=True)
    assert (model.architecture, model.temperature) == ("clip-vip", pytest.approx(np.exp(-4.2), rel=1e-2))
    assert next(modules(model)["video"].parameters()).dtype == torch.float32
    # CLIP's own configuration, which often comes with its tokenizer, does not hide the architecture.
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert open_public(folder, 8, allow_pickle=True).architecture == "clip-vip"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list; tensors by name were expected"),
        ({"step": 3, "clipmodel.logit_scale": torch.zeros(2)}, "holds 2 entries, step not tensors"),
    ],
)
def test_files_without_tensors_are_rejected(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InvalidInput, match=message):
        read_weights(tmp_path, allow_pickle=True)


def test_unknown_architectures_are_rejected(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"1 tensors, encoder\.weight first.*clipmodel\.\* \(CLIP-ViP\).*neck\.\*"):
        open_public(tmp_path, 8, allow_pickle=False)
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(InvalidInput, match=r"\['model\.safetensors', 'more\.safetensors'\]; one file was expected"):
        open_public(tmp_path, 8, allow_pickle=False)


def test_a_missing_tokenizer_is_reported(tmp_path: Path, tokenizers_of: Callable[[str], Path]) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(InvalidInput, match=r"vocab\.json and merges\.txt missing.*openai/clip-vit-base-patch32"):
        load_clip_vip(tmp_path / "bare", weights_of("clip-vip"))
    with pytest.raises(InvalidInput, match=r"vocab\.txt missing; tokenizer\.json, or vocab\.txt, of bert-base-uncased"):
        load_soho(tmp_path / "bare", weights_of("soho"), IMAGE_SIZE)
    name = "language.bert.embeddings.word_embeddings.weight"
    smaller = weights_of("soho") | {name: weights_of("soho")[name][:50]}
    with pytest.raises(InvalidInput, match=f"has {len(bert_tokenizer())} tokens; at most 50 were expected"):
        load_soho(tokenizers_of("soho"), smaller, IMAGE_SIZE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no answers\.json; .*classify into 5 answers without naming them"),
        (ANSWERS[:3], "has 3 answers; 5 were expected"),
        ({"red": 0, "green": 2}, r"an object \{answer: index\}, was expected, each index from 0 once"),
        ({"red": 0, "green": 0}, "each index from 0 once"),
        ("red", "each index from 0 once"),
    ],
)
def test_answers_json_names_the_classifier_outputs(content: Any, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "answers.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=message):
        read_vocabulary(tmp_path, len(ANSWERS))
    (tmp_path / "answers.json").write_text(json.dumps({answer: n for n, answer in reversed([*enumerate(ANSWERS)])}))
    assert read_vocabulary(tmp_path, len(ANSWERS)) == ANSWERS


def test_the_command_lists_missing_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder("clip-vip", tmp_path / "clip-vip")
    weights = load_file(folder / "weights.safetensors")
    del weights["clipmodel.vision_model.post_layernorm.bias"]
    save_file(weights, folder / "weights.safetensors")
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "1 missing: clipmodel.vision_model.post_layernorm.bias" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@only_by_chaos
@pytest.mark.parametrize("name", RELEASED)
def test_a_released_checkpoint_is_exported_and_served(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        families, "open_released", lambda folder, **_: LOADERS[name](folder, read_weights(folder, allow_pickle=False))
    )
    folder = write_folder(name, tmp_path / "source")
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    messages: list[str] = []
    export_public(ModelSource(folder, "authors/released"), tmp_path / "bundle", seed=1, log=messages.append)
    runtime = Model.open(tmp_path / "bundle")
    notes = runtime.bundle.manifest.extra["public_model"]["chosen"]
    assert [f"note: {note}" for note in notes] == [line for line in messages if line.startswith("note: ")]
    video = write_video(tmp_path / "video.mp4", moving_shot(1, 40))
    with serving(settings_for(tmp_path / "bundle", tmp_path / "data")) as service:
        client = service.client
        assert client.post("/v1/collections", json={"name": "mine"}).status_code == 201
        response = client.post("/v1/collections/mine/videos", files={"file": (video.name, video.read_bytes())})
        assert response.status_code == 201, response.text
        clip = {"collection": "mine", "video_id": response.json()["id"]}
        response = client.post("/v1/collections/mine/search", json={"text": TEXTS[0]})
        if "retrieval" in runtime.tasks:
            assert response.json()["results"][0]["video"]["title"] == "video"
        else:
            assert response.json()["code"] == "task_missing"
        tokens = runtime.embed_video_file(video).visual_tokens
        if "matching" in runtime.tasks:
            scores = client.post("/v1/caption-scores", json={"captions": TEXTS[:2], **clip}).json()["scores"]
            assert [score["similarity"] for score in scores] == [None, None]
            expected = runtime.match(TEXTS[:2], np.repeat(tokens, 2, axis=0)).probabilities
            assert [score["match"] for score in scores] == pytest.approx(expected.tolist(), abs=5e-3)
        if "answering" in runtime.tasks:
            answers = client.post("/v1/answers", json={"question": "what colour?", **clip}).json()["answers"]
            assert answers[0]["text"] == runtime.answer(["what colour?"], tokens)[0][0].text
