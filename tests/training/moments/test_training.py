"""Training of moment heads on annotated films: metrics, determinism, resuming and invalid input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small_bundle import make_small_bundle
from tests.training.moments.colour_films import write_films
from training.curves import read_log
from training.moments.evaluation import baselines, evaluate, evaluate_head
from training.moments.loop import load_head, train
from training.moments.recipe import MomentRecipe
from training.moments.windows import open_split
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.cli.options import default_bundle
from vitascope.errors import InvalidInput

HEAD = {"width": 32, "layers": 3, "dropout": 0.0}
RECIPE = {"name": "small", "batch_size": 24, "steps": 100, "learning_rate": 5e-3, "validate_every": 100, "head": HEAD}


def recipe(**changes: object) -> MomentRecipe:
    return MomentRecipe.model_validate(RECIPE | changes)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture(scope="module")
def data(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of colours, embedded by the command."""
    root = tmp_path_factory.mktemp("moments")
    for split, count in (("train", 16), ("val", 6)):
        write_films(root / "films", split, count, seed=count)
    options = ["--source", str(root / "films"), "--out", str(root / "data")]
    assert (
        main(["prepare-moments", "moment_scenes", "--bundle", str(bundle), *options, "--splits", "train", "val"]) == 0
    )
    return root / "data"


def test_windows_have_the_length_that_the_included_bundle_expects(data: Path) -> None:
    moments = Bundle.open(default_bundle()).manifest.moments
    assert moments is not None
    assert open_split(data, (), "train")[0].info.window_seconds == moments.window_seconds


def test_a_head_learns_to_find_moments_and_to_detect_their_absence(data: Path, tmp_path: Path) -> None:
    training, held_out = (open_split(data, (), split) for split in ("train", "val"))
    checkpoint = train(recipe(), training, held_out, tmp_path)
    trained = load_head(tmp_path)
    metrics = evaluate_head(trained.head, held_out[0], recipe().max_windows)
    assert metrics["R1@0.7"] > 80
    assert metrics["AUROC"] > 80
    logged = read_log(tmp_path / "log.jsonl")[-1]
    assert logged["val/moment_scenes mAP"] == pytest.approx(metrics["mAP"], abs=0.01)
    assert load_head(checkpoint).config == trained.config


def test_training_is_deterministic(data: Path, tmp_path: Path) -> None:
    training = open_split(data, (), "train")
    short = recipe(steps=4, negative_ratio=0.3, max_windows=8)
    first, second, other = (
        load_head(train(chosen, training, [], tmp_path / name)).head.state_dict()
        for name, chosen in (("1", short), ("2", short), ("3", short.model_copy(update={"seed": 1})))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["project.weight"], other["project.weight"])


def test_an_interrupted_run_resumes_and_ends_with_equal_weights(data: Path, tmp_path: Path) -> None:
    training = open_split(data, (), "train")
    chosen = recipe(steps=6, validate_every=2, head=HEAD | {"dropout": 0.3})
    whole = load_head(train(chosen, training, [], tmp_path / "whole")).head.state_dict()

    def interrupt(done: int, total: int, losses: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, training, [], tmp_path / "resumed", interrupt)
    torch.manual_seed(99)
    resumed = load_head(train(chosen, training, [], tmp_path / "resumed")).head.state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    steps = [[row["step"] for row in read_log(tmp_path / run / "log.jsonl")] for run in ("whole", "resumed")]
    assert steps == [list(range(6))] * 2
    with pytest.raises(InvalidInput, match=r"resumed holds a run of another recipe"):
        train(recipe(steps=7), training, [], tmp_path / "resumed")
    info = training[0].info.model_copy(update={"annotation": "of other sentences"})
    with pytest.raises(InvalidInput, match="or of other sentences"):
        train(chosen, [replace(training[0], info=info)], [], tmp_path / "resumed")
    config = tmp_path / "resumed" / "checkpoint" / "config.json"
    older = json.loads(config.read_text())
    del older["annotations"]
    config.write_text(json.dumps(older))
    train(chosen, training, [], tmp_path / "resumed")


def test_a_corpus_that_is_named_twice_is_used_once(data: Path) -> None:
    assert [store.info.corpus for store in open_split(data, ["moment_scenes"] * 2, "train")] == ["moment_scenes"]


def test_baselines_find_moments_by_similarity(data: Path) -> None:
    """The films are pieces of one colour, so that a threshold suffices and windows of another length miss."""
    store = open_split(data, ["moment_scenes"], "val")[0]
    metrics = {name: evaluate(localizer, store) for name, localizer in baselines().items()}
    assert metrics["similarity above 50%"]["R1@0.7"] > 95
    assert metrics["fixed windows of 8 s"]["R1@0.7"] < 20 < metrics["fixed windows of 2 s"]["R1@0.5"]
    assert all(values["HIT@1"] == 100 for values in metrics.values())


def test_the_commands_train_and_evaluate(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(
        'name = "small"\nsteps = 900\nbatch_size = 8\nhead = { width = 16, layers = 1 }\n'
    )
    assert main(["train-moments", "small.toml", "--data", str(data), "--steps", "2"]) == 0
    assert len(read_log(Path("runs/moments-small/log.jsonl"))) == 2
    options = ["--data", str(data), "--split", "val"]
    capsys.readouterr()
    assert main(["evaluate-moments", "runs/moments-small", *options]) == 0
    table = capsys.readouterr().out
    assert "moment_scenes/val" in table
    assert "similarity above 50%" in table
    written = json.loads(Path("runs/moments-small/metrics.json").read_text())
    assert {"head", "fixed windows of 2 s"} <= set(written["moment_scenes/val"])
    assert main(["evaluate-moments", str(bundle), *options, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["metrics"]["moment_scenes/val"]
    assert "head" not in alone
    assert alone["similarity above 50%"] == written["moment_scenes/val"]["similarity above 50%"]
    other = make_small_bundle(tmp_path / "other", seed=3)
    assert main(["evaluate-moments", str(other), *options]) == 2
    assert "windows of 0.5 s by small-colours 1" in capsys.readouterr().err


def test_too_few_sentences_and_missing_corpora_are_errors(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="batch_size: 500, but there are 64 sentences"):
        train(recipe(batch_size=500), open_split(data, (), "train"), [], tmp_path)
    with pytest.raises(InvalidInput, match="has no split 'test'; `vitascope prepare-moments` writes"):
        open_split(data, (), "test")
    with pytest.raises(InvalidInput, match="no moment head; a run of `vitascope train-moments` was expected"):
        load_head(tmp_path / "nothing")
