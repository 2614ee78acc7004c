"""Stages that freeze the video encoder: what is cached, what is trained, and the pretrained stages that are kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from tests.training import test_soho, test_visual_parsing
from tests.training.small_run import MODEL, VIDEO_STREAMS, recipe, write_corpus, write_tokenizer
from tests.training.test_hd_vila import small_config
from training import checkpoint, visual_token_cache
from training.cached_embeddings import similar_videos
from training.data.arrays import create_array
from training.data.batch import Tokens
from training.data.batches import Batches
from training.data.example import Example
from training.data.packed import Origin, open_packed, write_packed
from training.data.scenes.sampling import sample_world
from training.evaluation.encoder import streams_of
from training.initialization import load_or_initialize, model_config
from training.models.architectures import build
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila, HdVilaConfig
from training.models.soho import Soho
from training.models.text import TextTransformer
from training.objectives import losses
from training.objectives.class_prototypes import ClassPrototypes
from training.recipe import Recipe
from training.text_states import MeanTextStates, TextStates
from training.trainer import train
from vitascope.errors import InvalidInput, StorageError
from vitascope.tokenizer import Tokenizer

KEPT = {**MODEL, "frozen_stages": 3, "keep_pretrained": True}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data folder, tokenizer file)"""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("squares")
    write_corpus(folder / "data", folder)
    return folder / "data", write_tokenizer(folder / "tokenizer.json")


def cached_recipe(
    tokenizer: Path,
    steps: int = 6,
    model: dict[str, Any] = KEPT,
    frozen: str = "visual",
    architecture: str = "hd-vila",
    **stage: object,
) -> Recipe:
    """One stage with a frozen video encoder and two views of each picture."""
    dataset = {
        "corpus": "squares",
        "weight": 1.0,
        "batch_size": 8,
        "captions_per_video": 2,
        "min_crop": 0.8,
        "num_views": 2,
        "soft_targets": 0.2,
        "token_dropout": 0.3 if frozen == "visual" and architecture == "hd-vila" else 0.0,
        "objectives": {"itc": 1.0, "correlation": 1.0} if frozen == "visual" else {"itm": 1.0, "vqa": 1.0},
    }
    fields = {"name": "cached", "steps": steps, "learning_rate": 1e-2, "frozen": frozen, "text_lr_mult": 1.0}
    stages = [{**fields, "datasets": [dataset], **stage}]
    return recipe(tokenizer, architecture=architecture, model=model, stages=stages)


def changed_parameters(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def initial_weights(made: Recipe) -> dict[str, torch.Tensor]:
    torch.manual_seed(made.seed)
    return build(model_config(made, answers=4)).state_dict()


@pytest.mark.parametrize(
    ("architecture", "model", "trained"),
    [
        ("hd-vila", KEPT, {"branch"}),
        ("soho", test_soho.SMALL, {"neck", "dictionary", "entry", "gate"}),
        ("visual-parsing", test_visual_parsing.SMALL, {"swin", "from_cnn"}),
    ],
)
def test_only_layers_after_the_features_are_trained_and_an_interrupted_run_ends_equally(
    architecture: str, model: dict[str, Any], trained: set[str], corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    made = cached_recipe(corpus[1], architecture=architecture, model=model, ema=0.9)
    whole = checkpoint.load(train(made, corpus[0], tmp_path / "whole")).model.state_dict()
    for steps in (2, None):
        pieces = checkpoint.load(train(made, corpus[0], tmp_path / "pieces", stop_after=steps)).model.state_dict()
    assert not changed_parameters(whole, pieces)
    changed = changed_parameters(initial_weights(made), whole)
    assert {name.split(".")[1] for name in changed if name.startswith("video.")} == trained
    assert {"video_project.weight", "text_project.weight"} <= changed
    assert any(name.startswith("text.bert.encoder.layer.0.") for name in changed)


def test_a_full_disk_is_an_error_before_arrays_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    create_array(tmp_path / "a.npy", (3, 1000), np.float16)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 6000
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"b\.npy: No space left on device"):
        create_array(tmp_path / "b.npy", (3, 1000), np.float16)
    with pytest.raises(StorageError, match=r"checkpoint\.part: "), checkpoint.replaced_whole(tmp_path / "checkpoint"):
        save_file({"a": torch.zeros(1)}, "/dev/full/none")


def test_a_stage_with_frozen_embeddings_trains_details_and_fused_layers_alone(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    made = cached_recipe(corpus[1], frozen="embeddings", scale_class_names=2.0)
    changed = changed_parameters(
        initial_weights(made), checkpoint.load(train(made, corpus[0], tmp_path)).model.state_dict()
    )
    assert {name for name in changed if name.startswith("video.")} == {
        f"video.branch.detail.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    assert not [name for name in changed if name.startswith(("text_p", "video_project", "text.bert.encoder.layer.0."))]
    assert {"match_head.weight", "visual_embeddings.project.weight"} <= changed
    made = cached_recipe(corpus[1], frozen="embeddings", token_lr_mult=0.0)
    changed = changed_parameters(
        initial_weights(made), checkpoint.load(train(made, corpus[0], tmp_path / "tokens kept")).model.state_dict()
    )
    assert "match_head.weight" in changed
    assert not [name for name in changed if name.startswith(("video.", "visual_embeddings."))]


def test_batches_of_similar_videos_contain_nearest_neighbours(
    corpus: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cached_recipe(corpus[1], frozen="embeddings", model={**KEPT, "dropout": 0.0})
    config = made.stages[0].datasets[0].model_copy(update={"similar_videos": 4})
    stage = made.stages[0].model_copy(update={"datasets": [config]})
    batches = Batches(stage, corpus[0], Tokenizer.open(corpus[1], max_length=16), [], 0, VIDEO_STREAMS)
    torch.manual_seed(0)
    model = build(model_config(made, answers=4)).eval()
    (dataset,) = batches.datasets
    rows = np.arange(len(dataset.packed))
    streams = {name: torch.from_numpy(x) for name, x in streams_of(dataset.packed, rows, VIDEO_STREAMS).items()}
    with torch.no_grad():
        dataset.visual = {"visual": model.encode_video(streams)[1].numpy()[None]}
    monkeypatch.setattr("training.cached_embeddings.SIMILAR_VIDEOS", 3)  # as many as there are of a colour
    dataset.similar = similar_videos(model, dataset)
    colours = [example.attributes["colour"] for example in dataset.packed.examples]
    assert len(set(colours)) == 4
    for step in range(stage.steps):
        chosen = batches[step].rows
        assert len(chosen) == 8
        assert len({colours[row] for row in chosen}) <= 2


def test_a_stage_averages_embeddings_with_those_of_the_start_of_fine_tuning(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    made, mixes = (cached_recipe(corpus[1], steps=2, mix_initial=share) for share in (0.0, 0.25))
    start = train(made, corpus[0], tmp_path / "start")
    initial, trained, mixed = (
        checkpoint.load(path).model.state_dict()
        for path in (
            start,
            train(made, corpus[0], tmp_path / "trained", start_from=start),
            train(mixes, corpus[0], tmp_path / "mixed", start_from=start),
        )
    )
    for name in ("text_project.weight", "video_project.bias", "text.bert.encoder.layer.0.output.dense.weight"):
        assert not torch.equal(trained[name], initial[name])
        assert torch.allclose(mixed[name], 0.75 * trained[name] + 0.25 * initial[name], atol=1e-6)
    with pytest.raises(InvalidInput, match=r"mix_initial: 0.25 in stage 'cached'; `--start-from` was expected"):
        train(mixes, corpus[0], tmp_path / "alone")


@pytest.mark.parametrize(("frozen", "stored"), [("visual", "MeanTextStates"), ("embeddings", "TextStates")])
def test_frozen_text_layers_are_read_once_and_train_as_if_they_were_read_at_every_step(
    frozen: str, stored: str, corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cached_recipe(corpus[1], frozen=frozen, text_lr_mult=0.0).model_copy(update={"precision": "float32"})
    texts: list[tuple[int, ...]] = []
    encode = TextTransformer.encode

    def count(model: TextTransformer, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        texts.extend({tuple(row[: int(length)].tolist()) for row, length in zip(ids, mask.sum(dim=1), strict=True)})
        return encode(model, ids, mask)

    monkeypatch.setattr(TextTransformer, "encode", count)
    cached = checkpoint.load(train(made, corpus[0], tmp_path / "cached")).model.state_dict()
    text_layers = ("text.bert.embeddings.", "text.bert.encoder.layer.0.")
    assert not [name for name in changed_parameters(initial_weights(made), cached) if name.startswith(text_layers)]
    assert texts
    assert len(texts) == len(set(texts))
    monkeypatch.setattr(f"training.stage_run.{stored}", lambda _: None)
    shutil.copytree(tmp_path / "cached" / "visual", tmp_path / "again" / "visual")  # encoding takes seconds
    train(made, corpus[0], tmp_path / "again")
    rows, rows_again = (
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("cached", "again")
    )
    names = [name for name in rows[0] if name.startswith("loss/")]
    assert len(names) == 2
    for row, again in zip(rows, rows_again, strict=True):
        assert [row[name] for name in names] == pytest.approx([again[name] for name in names], abs=2e-3)


@pytest.mark.parametrize("kind", [TextStates, MeanTextStates])
@pytest.mark.parametrize("bf16", [False, True])
def test_stored_states_of_a_text_do_not_depend_on_other_texts(
    kind: type[TextStates | MeanTextStates], bf16: bool
) -> None:
    torch.manual_seed(0)
    model = build(small_config()).eval()
    ids = torch.randint(1, 100, (40, 14))
    mask = (torch.arange(14) < torch.randint(3, 15, (40, 1))).long()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        together = kind(model)(Tokens(ids, mask))
        for row in (0, 7, 39):
            length = int(mask[row].sum())
            alone = kind(model)(Tokens(ids[row : row + 1, :length], mask[row : row + 1, :length]))[0]
            assert torch.equal(alone, together[row][:length] if kind is TextStates else together[row])


class SmallEncoder(torch.nn.Module):
    """A model with two features of two streams."""

    cfg = SimpleNamespace(streams=lambda: VIDEO_STREAMS)

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(3, 4)

    def visual_features(self, streams: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens = self.project(streams["low"] / 255.0).mean(dim=(2, 3, 4))
        return {"tokens": tokens, "pretrained": streams["high"].mean(dim=(2, 3, 4))}


def test_features_that_onnx_runtime_computes_in_float32_are_those_of_torch() -> None:
    torch.manual_seed(0)
    model = SmallEncoder()
    encode = visual_token_cache._OnnxEncoder(model, clips=1)
    for count in (1, 3):
        streams = {s.name: torch.rand(count, 1, s.frames, s.height, s.width, 3) * 255 for s in VIDEO_STREAMS}
        actual, expected = encode(streams), model.visual_features(streams)
        assert actual.keys() == expected.keys()
        assert all(torch.allclose(actual[name], expected[name], rtol=1e-4, atol=1e-4) for name in expected)


def test_models_that_differ_behind_the_video_encoder_share_cached_features() -> None:
    config = model_config(recipe(Path(), model=KEPT), answers=4)
    behind = {"answers": 2, "caption_layers": 1, "grounding_layers": 1, "entailment": "video", "dropout": 0.5}
    model, shared, other = (
        build(config.model_copy(update=update)) for update in ({}, behind, {"image_mean": (0.0, 0.0, 0.0)})
    )
    for each in (shared, other):
        each.video.load_state_dict(model.video.state_dict())
    key = visual_token_cache._hash_of_weights
    assert key(shared) == key(model) != key(other)


@pytest.mark.parametrize(("min_crop", "caches"), [(1.0, 1), (0.8, 2)])
def test_runs_with_other_seeds_share_cached_features_of_frames_that_are_not_altered_at_random(
    corpus: tuple[Path, Path], tmp_path: Path, min_crop: float, caches: int
) -> None:
    made = cached_recipe(corpus[1])
    dataset = made.stages[0].datasets[0].model_copy(update={"min_crop": min_crop})
    stage = made.stages[0].model_copy(update={"datasets": [dataset]})
    model = build(model_config(made, answers=4)).eval()
    packed = [open_packed(corpus[0] / "squares" / "train")]
    for seed in (0, 1):
        visual_token_cache.encode_frozen(model, stage, packed, tmp_path, fresh=False, seed=seed)
    assert len(list(tmp_path.iterdir())) == caches


def test_locked_text_layers_do_not_change(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    made = cached_recipe(corpus[1], steps=2, locked_text_layers=1)
    changed = changed_parameters(
        initial_weights(made), checkpoint.load(train(made, corpus[0], tmp_path)).model.state_dict()
    )
    assert not [name for name in changed if name.startswith(("text.bert.embeddings.", "text.bert.encoder.layer.0."))]
    assert "text_project.weight" in changed


def test_projections_do_not_change_at_a_learning_rate_of_zero(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    made = cached_recipe(corpus[1], steps=2, projection_lr_mult=0.0)
    changed = changed_parameters(
        initial_weights(made), checkpoint.load(train(made, corpus[0], tmp_path)).model.state_dict()
    )
    assert changed
    assert not [name for name in changed if name.startswith(("text_p", "video_project"))]


def test_a_stage_ends_with_the_average_of_its_weights(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    last = [
        checkpoint.load(train(cached_recipe(corpus[1], ema=ema), corpus[0], tmp_path / str(ema))).model.state_dict()
        for ema in (0.0, 0.99)
    ]
    start = initial_weights(cached_recipe(corpus[1]))
    moved = [float((weights["video_project.weight"] - start["video_project.weight"]).norm()) for weights in last]
    assert 0 < moved[1] < moved[0]


def test_before_training_the_kept_stages_change_nothing_and_later_only_their_summary_changes_the_embedding() -> None:
    torch.manual_seed(0)
    config = HdVilaConfig.model_validate(model_config(recipe(Path("unused"), model=KEPT), 4).model_dump())
    model = HdVila(config).eval()
    streams = {s.name: torch.rand(2, 1, s.frames, s.height, s.width, 3) * 255 for s in config.streams()}
    features = model.visual_features(streams)
    tokens = model.tokens_of_features(features)
    assert torch.equal(tokens[:, :-1], features["tokens"])
    assert tokens.shape[1] == config.visual_tokens
    assert torch.allclose(model.encode_video(streams)[1], tokens, atol=1e-5)
    assert model.video.branch is not None
    torch.nn.init.normal_(model.video.branch.detail[2].weight)
    detailed = model.tokens_of_features(features)
    assert not torch.allclose(detailed, tokens, atol=1e-2)
    assert torch.allclose(model.video_embedding(detailed), model.video_embedding(tokens), atol=1e-4)
    torch.nn.init.normal_(model.video.branch.nonlinear[2].weight)
    moved = model.video_embedding(model.tokens_of_features(features))
    assert not torch.allclose(moved, model.video_embedding(tokens), atol=1e-2)
    means = {name: x.mean(dim=1) for name, x in features.items()}
    assert torch.allclose(model.embedding_of_features(means), moved, atol=1e-4)


def test_early_fusion_adds_details_of_motion_to_the_tokens_and_keeps_the_embedding() -> None:
    torch.manual_seed(0)
    config = HdVilaConfig.model_validate(
        model_config(recipe(Path("unused"), model=KEPT | {"early_fusion": 6}), 4).model_dump()
    )
    model = HdVila(config).eval()
    streams = {s.name: torch.rand(2, 1, s.frames, s.height, s.width, 3) * 255 for s in config.streams()}
    without = HdVila(config.model_copy(update={"early_fusion": 0})).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    for before, untrained in zip(without.encode_video(streams), model.encode_video(streams), strict=True):
        assert torch.equal(before, untrained)
    assert model.video.early_fusion is not None
    torch.nn.init.normal_(model.video.early_fusion.project.weight)
    vector, tokens = model.encode_video(streams)
    assert torch.allclose(vector, without.encode_video(streams)[0], atol=1e-4)

    def details(low: Tensor) -> Tensor:
        changed = streams | {"low": low}
        return model.encode_video(changed)[1] - without.encode_video(changed)[1]

    assert details(streams["low"]).abs().max() > 0.1
    assert (details(streams["low"]) - details(streams["low"].flip(2))).abs().max() > 0.1  # the order of frames matters
    assert details(streams["low"][:, :, ::2]).abs().max() > 0.1  # fewer frames are repeated
    assert torch.allclose(model.tokens_of_features(model.visual_features(streams)), tokens, atol=1e-5)


def test_a_stage_trains_early_fusion_alone_and_only_if_the_model_has_it(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    pictures = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        scene = asdict(sample_world(0, "train", i, varied=True))
        pictures.append((Example(key=path.stem, captions=(), still=True, attributes={"scene": scene}), path))
    write_packed(tmp_path / "data/varied/train", VIDEO_STREAMS, iter(pictures), Origin("the test", "CC0-1.0", "all"))
    dataset = {"corpus": "varied", "weight": 1.0, "batch_size": 4, "objectives": {"objects": 1.0}}
    stage = {"name": "objects", "steps": 3, "learning_rate": 1e-2, "frozen": "all_but_early_fusion"}
    made = recipe(
        corpus[1], model=KEPT | {"early_fusion": 6}, stages=[stage | {"datasets": [dataset]}], answers_from=[]
    )
    trained = checkpoint.load(train(made, tmp_path / "data", tmp_path / "run")).model
    torch.manual_seed(made.seed)
    changed = changed_parameters(build(model_config(made, 0)).state_dict(), trained.state_dict())
    assert changed
    assert all(name.startswith("video.early_fusion.") for name in changed)
    made = recipe(corpus[1], model=KEPT, stages=[stage | {"datasets": [dataset]}], answers_from=[])
    with pytest.raises(InvalidInput, match="'all_but_early_fusion' for a model without early fusion"):
        train(made, tmp_path / "data", tmp_path / "other")


def test_soho_embeds_cached_feature_maps_as_it_embeds_pictures() -> None:
    torch.manual_seed(0)
    model = Soho(test_soho.small_config()).eval()
    streams = test_soho.frames(3)
    with torch.no_grad():
        embedded = model.embedding_of_features(model.visual_features(streams))
        assert torch.allclose(embedded, model.encode_video(streams)[0], atol=1e-6)


def test_kept_classes_are_found_by_their_names_before_training() -> None:
    torch.manual_seed(0)
    config = HdVilaConfig.model_validate(model_config(recipe(Path("unused"), model=KEPT), 4).model_dump())
    model = HdVila(config).eval()
    assert model.video.branch is not None
    classifier = model.video.branch.classifier
    torch.nn.init.normal_(classifier.weight, std=20.0)
    torch.nn.init.zeros_(model.video_project.bias)
    names = torch.nn.functional.normalize(torch.randn(1000, config.vector_width), dim=-1)
    model.align_class_names(names, torch.randn(50, config.hybrid_width), 1.0)
    tokens = torch.zeros(50, config.hybrid_width)
    features = torch.rand(50, classifier.in_features)
    best = (model.embedding_of_features({"tokens": tokens, "pretrained": features}) @ names.T).argmax(dim=1)
    assert (best == classifier(features).argmax(dim=1)).float().mean() > 0.9
    tokens = 10 * torch.randn(50, config.hybrid_width)
    similarity = []
    for _ in range(2):
        embeddings = model.embedding_of_features({"tokens": tokens, "pretrained": features})
        similarity.append((embeddings * names[classifier(features).argmax(dim=1)]).sum(dim=1).mean())
        model.scale_class_names(4.0)
    assert similarity[1] > similarity[0]


def test_kept_stages_need_frozen_ones_before_them_and_prototypes_a_stage_with_features(
    corpus: tuple[Path, Path],
) -> None:
    with pytest.raises(ValidationError, match="frozen_stages: 0 with keep_pretrained"):
        HdVilaConfig.model_validate(model_config(recipe(corpus[1]), 4).model_dump() | {"keep_pretrained": True})
    fields = recipe(corpus[1]).model_dump()
    fields["stages"][0]["datasets"][0]["prototypes"] = 4
    with pytest.raises(ValidationError, match="prototypes: 4 of 'squares'"):
        Recipe.model_validate(fields)
    fields = cached_recipe(corpus[1]).model_dump()
    fields["stages"][0]["datasets"][0]["objectives"] = {"itm": 1.0}
    with pytest.raises(ValidationError, match=r"objectives: \['itm'\] of 'squares' in stage 'cached'"):
        Recipe.model_validate(fields)


def test_every_caption_of_a_video_is_a_target_and_similar_captions_of_others_are_a_part_of_it() -> None:
    videos, texts = torch.eye(3, 4), torch.eye(3, 4).repeat_interleave(2, dim=0)
    groups = torch.arange(3)
    right = losses.itc(videos, texts, 0.1, groups)
    assert right < losses.itc(videos, texts.roll(2, 0), 0.1, groups)
    assert right.item() == pytest.approx(0.5 * np.log(2), abs=1e-3)  # a video's two captions share its target
    similar = losses.caption_similarity(texts, 3)
    assert similar.shape == (3, 6)
    assert torch.allclose(similar.sum(dim=1), torch.ones(3))
    assert torch.equal(similar.topk(2, dim=1).indices.sort(dim=1).values, torch.arange(6).reshape(3, 2))
    assert losses.itc(videos, texts, 0.1, groups, soft=0.5 * torch.full((3, 6), 1 / 6)) > right


def test_features_are_moved_until_the_classifier_predicts_the_class() -> None:
    torch.manual_seed(0)
    features = torch.rand(200, 16) * 3
    weight = torch.randn(5, 16)
    relative = weight - weight.mean(dim=0)
    directions = relative @ torch.cov(features.T)
    directions /= (relative * directions).sum(dim=1, keepdim=True)
    prototypes = ClassPrototypes(weight, torch.zeros(5), features.mean(dim=0), directions)
    moved = prototypes.move(features[:100])
    assert moved.shape == (100, 16)
    assert moved.min() >= 0
    assert moved.max() <= 6
    after = prototypes.probabilities(moved)
    assert torch.allclose(after.sum(dim=1), torch.ones(100), atol=1e-5)
    assert set(after.argmax(dim=1).tolist()) == set(range(5))


def test_fine_tuning_adds_kept_stages_and_answers_and_starts_with_the_same_outputs(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.initialization.load_kept_stages", lambda *_: None)  # no package has this backbone
    plain = {**MODEL, "frozen_stages": 3}
    first = checkpoint.load(train(recipe(corpus[1], steps=1, model=plain), corpus[0], tmp_path / "first"))
    shorter = replace(first, answers=first.answers[:2], model=with_answers(first.model, 2))
    checkpoint.save(tmp_path / "shorter", shorter)
    made = cached_recipe(corpus[1]).model_copy(update={"extend_answers": True})
    adapted = load_or_initialize(made, corpus[0], tmp_path / "new" / "checkpoint", tmp_path / "shorter")
    assert adapted.answers[:2] == shorter.answers
    assert sorted(adapted.answers) == sorted(first.answers)
    streams = {s.name: torch.rand(2, 1, s.frames, s.height, s.width, 3) * 255 for s in first.model.cfg.streams()}
    ids = torch.tensor([[2, 7, 8, 3]]).expand(2, -1)
    with torch.no_grad():
        outputs = []
        for model in (shorter.model.eval(), adapted.model.eval()):
            vector, tokens = model.encode_video(streams)
            states = model.text.encode(ids, torch.ones_like(ids))
            logits = model.answer_logits(states, torch.ones_like(ids), model.prepare_visual(tokens))
            outputs.append((vector, tokens[:, : model.cfg.grid_tokens], logits[:, :2]))
    for before, after in zip(*outputs, strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def with_answers(model: FusedModel, count: int) -> FusedModel:
    """Return a copy of a model that knows only the first answers."""
    smaller = build(model.cfg.model_copy(update={"answers": count}))
    weights = model.state_dict()
    smaller.load_state_dict(
        {name: x[:count] if name.startswith("answer_head.3.") else x for name, x in weights.items()}
    )
    return smaller
