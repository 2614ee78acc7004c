"""Training runs: learning, resuming, freezing, initialization and recipes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import test_hd_vila, test_soho, test_visual_parsing
from tests.training.data.corpus_files import picture, tone, wav
from tests.training.small_run import MODEL, STREAMS, recipe, write_corpus, write_tokenizer
from training import checkpoint, stage_run
from training.adaptation import adaptation_recipe, chosen_steps
from training.curves import plot
from training.data.corpus import CorpusError
from training.data.example import CHOICE_ONLY, Example
from training.data.packed import EncodedMedia, Media, Origin, open_packed, write_packed
from training.evaluation.answers import exact_answers
from training.evaluation.encoder import embed_corpus
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import load_or_initialize
from training.models import hd_vila, soho, visual_parsing
from training.models.config import FusedConfig
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVila
from training.models.soho import Soho
from training.models.visual_parsing import VisualParsing
from training.recipe import Recipe, read_recipe
from training.stage_run import schedule_factor
from training.trainer import train, validator
from vitascope.cli.main import main
from vitascope.errors import InvalidInput, TrainingDiverged
from vitascope.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data folder, tokenizer file)"""
    folder = tmp_path_factory.mktemp("squares")
    write_corpus(folder / "data", folder)
    return folder / "data", write_tokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def trained(corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(recipe(corpus[1]), corpus[0], tmp_path_factory.mktemp("whole"))


def test_an_interrupted_run_ends_like_an_uninterrupted_one_with_any_number_of_workers(
    corpus: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    made = recipe(corpus[1])
    # 5 is in the middle of stage 1, 12 in the middle of stage 2; both lie between two periodic checkpoints.
    for steps, workers in ((5, 0), (7, 2), (None, 1)):
        ended = train(made, corpus[0], tmp_path, stop_after=steps, workers=workers)
    whole, pieces = checkpoint.load(trained), checkpoint.load(ended)
    assert pieces.step == whole.step == made.total_steps
    for (name, a), b in zip(whole.model.state_dict().items(), pieces.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    logs = [[json.loads(line) for line in (f.parent / "log.jsonl").open()] for f in (trained, ended)]
    for row in [row for log in logs for row in log]:
        del row["seconds"], row["data_wait"]
    assert logs[0] == logs[1]


def test_a_run_learns_to_answer_questions_about_colors(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    ended = checkpoint.load(train(recipe(corpus[1], steps=25), corpus[0], tmp_path))
    packed = open_packed(corpus[0] / "squares" / "val")
    encoder = TorchEncoder(ended.model, Tokenizer.open(ended.tokenizer, max_length=16), ended.answers)
    _, tokens = embed_corpus(encoder, packed)
    assert exact_answers(encoder, packed, tokens)["exact"] > 60.0  # chance is 25


def test_answers_of_examples_that_no_stage_uses_are_not_in_the_vocabulary(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1], steps=1).model_dump()
    for stage in plain["stages"]:
        stage["datasets"][0] |= {"limit": 2, "batch_size": 2}
    limited = checkpoint.load(train(Recipe.model_validate(plain), corpus[0], tmp_path))
    assert limited.answers == ["green", "red"]  # the first two of red, green, blue, yellow


def test_the_fusion_stage_does_not_change_the_encoders(
    corpus: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    made = recipe(corpus[1])
    before = checkpoint.load(train(made, corpus[0], tmp_path, stop_after=made.stages[0].steps)).model
    after = checkpoint.load(trained).model
    frozen = set(before.encoder_parameters())
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert all(torch.equal(old[name], new[name]) for name in frozen)
    assert any(not torch.equal(old[name], new[name]) for name in set(old) - frozen)


def test_text_layers_at_a_learning_rate_of_zero_do_not_change_and_fused_layers_learn(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1], steps=2).model_dump()
    plain["stages"] = [stage | {"frozen": "none", "text_lr_mult": 0.0} for stage in plain["stages"]]
    made = Recipe.model_validate(plain)
    before = load_or_initialize(made, corpus[0], tmp_path / "none" / "checkpoint", None).model
    after = checkpoint.load(train(made, corpus[0], tmp_path / "run")).model.state_dict()
    moved = {name for name, p in before.named_parameters() if not torch.equal(p, after[name])}
    text = {name for name, _ in before.named_parameters() if name.startswith("text.")}
    assert {name.split(".")[4] for name in moved & text} == {"1"}  # layer 0 is of the text, layer 1 is fused
    assert {"text_project.weight", "video_project.weight"} <= moved


def test_a_run_may_start_with_public_text_layers_and_a_random_video_encoder(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1]).model_dump() | {"tokenizer": None, "model": {"dropout": 0.0}}
    models = {
        start: load_or_initialize(Recipe.model_validate(plain | {"init": start}), corpus[0], tmp_path / start, None)
        for start in ("pretrained", "text", "scratch")
    }
    weights = {start: held.model.state_dict() for start, held in models.items()}
    for name, same in (
        ("text.bert.embeddings.word_embeddings.weight", ("pretrained", "text")),
        ("video.high.stages.0.0.weight", ("text", "scratch")),  # random, from the one seed
    ):
        assert torch.equal(*(weights[start][name] for start in same))
    assert not torch.equal(*(weights[s]["video.high.stages.0.0.weight"] for s in ("pretrained", "text")))
    assert not torch.equal(*(weights[s]["text.bert.embeddings.word_embeddings.weight"] for s in ("text", "scratch")))
    assert {start: held.sources for start, held in models.items()} == {
        "pretrained": ("squares", "EfficientNet-Lite0", "all-MiniLM-L6-v2"),
        "text": ("squares", "all-MiniLM-L6-v2"),
        "scratch": ("squares",),
    }


def test_a_video_is_encoded_once_by_frozen_encoders_and_a_resumed_run_uses_the_same_features(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1]).model_dump()
    for stage in plain["stages"][1:]:
        stage["datasets"][0] |= {"min_crop": 1.0, "jitter": 0.0}
    made = Recipe.model_validate(plain)
    whole = checkpoint.load(train(made, corpus[0], tmp_path / "whole")).model
    train(made, corpus[0], tmp_path / "pieces", stop_after=made.stages[0].steps + 3)
    kept = tmp_path / "pieces" / "visual" / "0-squares-train" / "visual.npy"
    written = kept.stat().st_mtime_ns
    pieces = checkpoint.load(train(made, corpus[0], tmp_path / "pieces")).model
    assert kept.stat().st_mtime_ns == written
    for (name, a), b in zip(whole.state_dict().items(), pieces.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    packed = open_packed(corpus[0] / "squares" / "train")
    high, low = (torch.from_numpy(np.array(packed.arrays[n]))[:, None] for n in ("high", "low"))
    with torch.no_grad():
        expected = whole.eval().encode_video({"high": high, "low": low.expand(-1, -1, 2, -1, -1, -1)})[1]
    assert torch.allclose(torch.from_numpy(np.load(kept)[0]).float(), expected, atol=0.05)  # bfloat16 and float16


def test_a_backbone_at_a_learning_rate_of_zero_keeps_its_weights_and_statistics(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1], steps=2).model_dump()
    plain["model"] |= {"frozen_norm": False}
    plain["stages"] = [plain["stages"][0] | {"backbone_lr_mult": 0.0}]
    made = Recipe.model_validate(plain)
    before = load_or_initialize(made, corpus[0], tmp_path / "none" / "checkpoint", None).model.state_dict()
    after = checkpoint.load(train(made, corpus[0], tmp_path / "run")).model.state_dict()
    backbone = [name for name in before if name.startswith(("video.high.", "video.low."))]
    assert any(name.endswith("running_mean") for name in backbone)
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert not torch.equal(before["video_project.weight"], after["video_project.weight"])


def test_a_corpus_packed_for_another_frame_size_is_refused(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    sizes = {
        "high_height": 128,
        "high_width": 128,
        "low_height": 64,
        "low_width": 64,
        "grid_height": 4,
        "grid_width": 4,
    }
    made = recipe(corpus[1], model=MODEL | sizes)
    with pytest.raises(InvalidInput, match=r"high: 1 frame of 64x64 pixels .* packed, 1 frame of 128x128 .* expected"):
        train(made, corpus[0], tmp_path)


def test_a_run_does_not_continue_on_a_corpus_that_was_packed_again(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_corpus(data, tmp_path)
    train(recipe(corpus[1]), data, tmp_path / "run", stop_after=2)
    write_corpus(data, tmp_path, copies=5)
    with pytest.raises(InvalidInput, match=r"squares/train has fingerprint .* now at step 2, began with"):
        train(recipe(corpus[1]), data, tmp_path / "run")


def test_a_run_folder_of_another_recipe_is_refused_with_the_setting_that_differs(
    corpus: tuple[Path, Path], trained: Path
) -> None:
    with pytest.raises(InvalidInput, match="another recipe, with seed = 0 instead of 5; the same was expected"):
        train(recipe(corpus[1], seed=5), corpus[0], trained.parent)
    plain = recipe(corpus[1]).model_dump()
    plain["stages"][1]["datasets"][0]["objectives"] = {"itm": 1.0, "vqa": 1.0}
    with pytest.raises(InvalidInput, match=r"with stages.1.datasets.0.objectives.mlm = 0.5 instead of None; the same"):
        train(Recipe.model_validate(plain), corpus[0], trained.parent)


def test_a_run_that_began_with_another_model_is_refused(
    corpus: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    made, (data, tokenizer) = recipe(corpus[1]), corpus
    tuned = train(made, data, tmp_path / "tuned", start_from=trained.parent, stop_after=1)
    train(made, data, tuned.parent, start_from=trained, stop_after=1)  # the run and its checkpoint are the same
    other = train(recipe(tokenizer, seed=1), data, tmp_path / "other", stop_after=1)
    with pytest.raises(InvalidInput, match=r"start_from: .*tuned holds a run that .* another model, not .*other"):
        train(made, data, tuned.parent, start_from=other)
    with pytest.raises(InvalidInput, match="began with another model, not as the recipe says"):
        train(made, data, tuned.parent)
    with pytest.raises(InvalidInput, match="began with no other model, not "):
        train(made, data, trained.parent, start_from=other)
    with pytest.raises(InvalidInput, match="start-from: nowhere is neither a bundle nor a checkpoint"):
        train(made, data, tmp_path / "none", start_from=Path("nowhere"))
    state = tuned / "state.json"
    older = json.loads(state.read_text())
    del older["start"]
    state.write_text(json.dumps(older))
    assert checkpoint.load(train(made, data, tuned.parent, start_from=other, stop_after=1)).step == 3


def test_a_checkpoint_is_never_missing_however_often_saving_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while a checkpoint is renamed leaves it under another name; the next kill must not lose it."""

    def save(content: str) -> None:
        with checkpoint.replaced_whole(tmp_path / "checkpoint") as part:
            (part / "state.json").write_text(content)

    def kill(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    save("1")
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    monkeypatch.setattr(Path, "rename", kill)
    with pytest.raises(KeyboardInterrupt):
        save("2")
    stored = checkpoint.find(tmp_path / "checkpoint")
    assert stored
    assert (stored / "state.json").read_text() == "1"


def test_a_loss_that_is_not_finite_ends_a_run_with_an_error(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    made = recipe(corpus[1])
    too_fast = made.stages[0].model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(
        TrainingDiverged, match=r"loss: .*nan.* at step 1 of stage 'contrast' on squares; finite values"
    ):
        train(made.model_copy(update={"stages": [too_fast]}), corpus[0], tmp_path)


def test_a_gradient_that_is_not_finite_ends_a_run_before_it_changes_the_weights(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of a loss that is finite may be infinite, such as that of a square root at 0."""

    def steep(model: FusedModel, *args: Any) -> dict[str, torch.Tensor]:
        return {"itc": (model.text_project.weight.sum() * 0.0).sqrt()}

    monkeypatch.setattr(stage_run, "compute_losses", steep)
    with pytest.raises(TrainingDiverged, match=r"gradient: .*nan.* at step 0 of stage 'contrast' on squares; finite"):
        train(recipe(corpus[1]), corpus[0], tmp_path, stop_after=1)
    assert not (tmp_path / "checkpoint").exists()


def test_a_corpus_of_a_later_stage_that_is_missing_is_named_before_the_first_step(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1]).model_dump()
    last = plain["stages"][-1] | {"name": "last"}
    plain["stages"].append(
        last | {"datasets": [last["datasets"][0] | {"corpus": "nowhere", "objectives": {"mlm": 1.0}}]}
    )
    with pytest.raises(CorpusError, match=r"nowhere/train: missing; stage 'last' needs it"):
        train(Recipe.model_validate(plain), corpus[0], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "recipe.json", "answers.json", "state.json"])
@pytest.mark.parametrize("content", [None, b"{"])
def test_an_incomplete_or_damaged_checkpoint_is_named(
    trained: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(trained, folder)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=r"^checkpoint: .*checkpoint"):
        checkpoint.load(folder)


def test_the_log_contains_the_time_of_a_step_and_its_wait_for_data(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained.parent / "log.jsonl").open()]
    assert all(0.0 <= row["data_wait"] <= row["seconds"] for row in rows)


def test_numbers_out_of_range_are_refused(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="workers: -1; 0 or more was expected"):
        train(recipe(corpus[1]), corpus[0], tmp_path, workers=-1)
    with pytest.raises(InvalidInput, match="stop_after: 0; 1 or more was expected"):
        train(recipe(corpus[1]), corpus[0], tmp_path, stop_after=0)
    with pytest.raises(InvalidInput, match="seed: -1; 0 or more was expected"):
        train(recipe(corpus[1]).model_copy(update={"seed": -1}), corpus[0], tmp_path)


@pytest.mark.parametrize(
    ("changes", "of_dataset", "reason"),
    [
        ({"model": MODEL | {"text_size": 3}}, {}, "model: text_size: 3; Extra inputs are not permitted"),
        ({"model": MODEL | {"text_width": 47}}, {}, "text_width: 47; a multiple of text_heads, 12, was expected"),
        ({"model": MODEL | {"vocabulary": 3}}, {}, r"vocabulary: 3 .* has 16 tokens; 16 or more was expected"),
        ({}, {"group_by": "size"}, "group_by: 'size' of .*: example 'train-red-0' has no attribute 'size'"),
        ({}, {"objectives": {"objects": 1.0}, "min_crop": 1.0}, "'objects' of .* has no attribute 'scene'"),
    ],
)
def test_a_recipe_that_fits_neither_model_nor_corpus_is_refused(
    changes: dict[str, object], of_dataset: dict[str, object], reason: str, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = recipe(corpus[1]).model_dump()
    plain["stages"][0]["datasets"][0] |= of_dataset
    with pytest.raises(InvalidInput, match=reason):
        train(Recipe.model_validate(plain | changes), corpus[0], tmp_path / "run")


def test_a_corpus_of_choices_alone_has_no_queries_to_validate_with_and_one_of_sounds_is_refused(
    corpus: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    origin = Origin("a test", "CC0-1.0", "all")
    item: tuple[Example, Media] = (
        Example("a", ("a red square",), still=True, attributes={CHOICE_ONLY: [0]}),
        EncodedMedia("a.png", picture(size=(64, 64), image_format="PNG")),
    )
    write_packed(tmp_path / "choices" / "val", STREAMS, [item], origin)
    (tmp_path / "a.wav").write_bytes(wav(tone()))
    write_packed(tmp_path / "sounds" / "val", (), [(Example("a", ("a dog",)), tmp_path / "a.wav")], origin, audio=True)
    stored = checkpoint.load(trained)
    validate = validator(recipe(corpus[1], validate_on=["choices"]), tmp_path)
    assert validate(stored.model, stored.answers, stored.tokenizer) == {}
    with pytest.raises(InvalidInput, match="validate_on: 'sounds' has no frames"):
        validator(recipe(corpus[1], validate_on=["sounds"]), tmp_path)


def test_a_run_draws_its_curves(trained: Path, tmp_path: Path) -> None:
    assert (trained.parent / "curves.png").exists()
    plot(trained.parent / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_warmup_and_decay() -> None:
    stage = recipe(Path("t.json"), steps=100).stages[0]
    assert schedule_factor(0, stage) == pytest.approx(0.1)
    assert schedule_factor(9, stage) == pytest.approx(1.0)
    assert schedule_factor(99, stage) < 0.05


def test_a_stage_that_ends_before_its_schedule_follows_the_schedule() -> None:
    short = recipe(Path("t.json"), steps=40).stages[0].model_copy(update={"schedule_steps": 100})
    long = recipe(Path("t.json"), steps=100).stages[0]
    assert [schedule_factor(i, short) for i in range(40)] == [schedule_factor(i, long) for i in range(40)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("schedule_steps = 2", "schedule_steps: 2 in stage 'one'; 3, its steps, or more was expected"),
        ("text_lr_mult = -1.0", "stages.0.text_lr_mult: -1.0; Input should be greater than or equal to 0"),
    ],
)
def test_no_learning_rate_is_negative(value: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        f'name = "bad"\nsize = "tiny"\n[[stages]]\nname = "one"\nsteps = 3\nlearning_rate = 0.1\n{value}\n'
        'datasets = [{corpus = "squares", weight = 1, batch_size = 2, objectives = {itc = 1}}]'
    )
    with pytest.raises(InvalidInput, match=re.escape(reason)):
        read_recipe(path)


def test_answers_from_must_name_every_corpus_of_questions() -> None:
    with pytest.raises(ValueError, match=r"answers_from: lacks \['squares'\]"):
        recipe(Path("t.json"), answers_from=[])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "bad.toml cannot be read (No such file or directory)"),
        ("stages = ", "bad.toml is not TOML"),
        ('name = "bad"\nsize = "tiny"\n[stages]\nname = "one"', "stages: Input should be a valid list"),
        (
            'name = "bad"\nsize = "tiny"\nstages = [{name = "one", steps = 1, learning_rate = 0.1, stepz = 3, '
            'datasets = [{corpus = "squares", weight = 1, batch_size = 2, objectives = {itc = 1}}]}]',
            "stages.0.stepz: 3; Extra inputs are not permitted",
        ),
    ],
)
def test_bad_recipes_are_reported_without_a_traceback(
    text: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vitascope: recipe: {path}")
    assert reason in error


def test_shipped_recipes_are_valid() -> None:
    from training.recipe import RECIPES, read_recipe

    actual = [read_recipe(path) for path in RECIPES.glob("*.toml")]
    assert all(isinstance(r, Recipe) and r.total_steps > 0 for r in actual)
    assert "hd-vila-tiny" in {r.name for r in actual}


def test_seed_and_precision_of_the_command_replace_those_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Recipe] = []

    def start(recipe: Recipe, data: Path, out: Path, **options: object) -> Path:
        started.append(recipe)
        return out

    monkeypatch.setattr("training.trainer.train", start)
    for options in (["--seed", "7"], ["--precision", "float32"]):
        assert main(["train", "pictograms", "--out", str(tmp_path), *options]) == 0
    assert [(recipe.seed, recipe.precision) for recipe in started] == [(7, "bf16"), (0, "float32")]


LIVELY = {"dropout": 0.5, "attention_dropout": 0.5}
Make = Callable[[], tuple[FusedModel, dict[str, torch.Tensor]]]


def small_hd_vila() -> tuple[FusedModel, dict[str, torch.Tensor]]:
    made = HdVila(test_hd_vila.small_config(drop_path=0.5, frozen_stages=0, frozen_norm=False, **LIVELY))
    return made, test_hd_vila.frames(3, 1)


def small_soho() -> tuple[FusedModel, dict[str, torch.Tensor]]:
    return Soho(test_soho.small_config(frozen_norm=False, **LIVELY)), test_soho.frames(3)


def small_visual_parsing() -> tuple[FusedModel, dict[str, torch.Tensor]]:
    return VisualParsing(test_visual_parsing.small_config(drop_path=0.5, **LIVELY)), test_visual_parsing.frames(3)


def encoded(model: FusedModel, streams: dict[str, torch.Tensor], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return visual tokens and text states, computed with this random seed."""
    torch.manual_seed(seed)
    ids = torch.arange(5, 15).reshape(2, 5)
    with torch.no_grad():
        return model.encode_video(streams)[1], model.text.encode(ids, torch.ones_like(ids))


@pytest.mark.parametrize("make", [small_hd_vila, small_soho, small_visual_parsing])
def test_frozen_encoders_stay_in_evaluation_mode_in_training_and_after_an_evaluation(
    make: Make, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, streams = make()
    model.train()
    lively = [encoded(model, streams, seed) for seed in (1, 2)]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(*lively, strict=True))

    model.encoders_frozen = True
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    still = encoded(model, streams, 1)
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path / "tokenizer.json"), max_length=16)
    TorchEncoder(model, tokenizer, []).embed_text(["a red square"])
    again = encoded(model, streams, 2)
    assert all(torch.equal(a, b) for a, b in zip(still, again, strict=True))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # What still learns keeps its dropout; in a single-stream model all text layers belong to the text encoder.
    assert model.text.bert.encoder.layer[-1].training != model.cfg.vector_from_fused
    assert model.visual_embeddings.training

    model.encoders_frozen = False
    model.train()
    lively = [encoded(model, streams, seed) for seed in (1, 2)]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(*lively, strict=True))


def test_a_frozen_stage_that_encodes_at_every_step_changes_no_dictionary_and_no_statistics(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    plain = test_soho.soho_recipe(write_tokenizer(tmp_path / "tokenizer.json")).model_dump()
    (first,) = plain["stages"]
    first["steps"] = 3
    source = first["datasets"][0] | {"jitter": 0.2, "objectives": {"itm": 1.0, "mlm": 0.5, "vqa": 1.0}}
    plain["stages"] = [first, first | {"name": "frozen", "frozen": "encoders", "steps": 5, "datasets": [source]}]
    made = Recipe.model_validate(plain | {"validate_every": 2, "validate_on": ["squares"]})
    data, validate = tmp_path / "data", validator(made, tmp_path / "data")

    before = checkpoint.load(train(made, data, tmp_path / "pieces", validate=validate, stop_after=3)).model
    for steps in (2, None):
        pieces = checkpoint.load(train(made, data, tmp_path / "pieces", validate=validate, stop_after=steps)).model
    whole = checkpoint.load(train(made, data, tmp_path / "whole", validate=validate)).model
    still = set(before.encoder_parameters()) | {name for name, _ in before.named_buffers()}
    assert {"video.dictionary.entries", "video.gate.1.running_mean", "video.neck.1.running_var"} <= still
    old, new, resumed = before.state_dict(), whole.state_dict(), pieces.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in still & set(old))
    assert any(not torch.equal(old[name], new[name]) for name in set(old) - still)
    assert all(torch.equal(new[name], resumed[name]) for name in new)

    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("whole", "pieces")]
    for row in [row for log in logs for row in log]:
        del row["seconds"], row["data_wait"]
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0] if any(name.startswith("val/") for name in row)] == [1, 3, 5, 7]
    assert [row["step"] for row in logs[0] if "perplexity" in row] == [0, 1, 2]  # of a dictionary that moves


def test_a_frozen_stage_of_a_single_stream_model_keeps_its_text_embeddings(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    tokenizer_file = write_tokenizer(tmp_path / "tokenizer.json")
    plain = test_soho.soho_recipe(tokenizer_file).model_dump()
    (first,) = plain["stages"]
    source = first["datasets"][0] | {"objectives": {"itm": 1.0, "mlm": 0.5, "vqa": 1.0}}
    frozen = first | {"name": "frozen", "frozen": "encoders", "steps": 3, "datasets": [source]}
    made = Recipe.model_validate(plain | {"stages": [first | {"steps": 2}, frozen]})
    tokenizer = Tokenizer.open(tokenizer_file, max_length=16)
    embeddings = []
    for steps in (2, None):
        trained = checkpoint.load(train(made, tmp_path / "data", tmp_path / "run", stop_after=steps)).model
        embeddings.append(TorchEncoder(trained, tokenizer, []).embed_text(["a red square", "a blue square"]))
    assert np.array_equal(*embeddings)


@pytest.mark.parametrize(
    ("clips", "steps"),
    [(16, 60), (192, 60), (358, 111), (1000, 312), (6400, 2000), (1_000_000, 2000)],
)
def test_steps_follow_the_number_of_clips(clips: int, steps: int) -> None:
    assert chosen_steps(clips) == steps


@pytest.mark.parametrize(
    ("cfg", "masks_visual"),
    [(hd_vila.tiny(0), False), (soho.tiny(3), True), (visual_parsing.tiny(3), True)],
    ids=lambda x: getattr(x, "system", None),
)
def test_each_system_learns_with_its_own_objectives(cfg: FusedConfig, masks_visual: bool) -> None:
    made = adaptation_recipe(cfg, 20, steps=7, seed=3)
    assert (made.architecture, made.size, made.seed, made.total_steps) == (cfg.system, "tiny", 3, 7)
    (source,) = made.stages[0].datasets
    assert (source.corpus, source.batch_size) == ("own", 20)
    objectives = {"itc", "itm", "mlm"} | ({"mvm"} if masks_visual else set())
    assert set(source.objectives) == objectives
