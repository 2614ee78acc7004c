"""`vitascope adapt`: from a folder of videos with subtitles to a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export import adapt as adaptation
from model_export import export
from model_export.assemble import write_manifest
from model_export.graphs import export_graphs
from model_export.parity.checks import ParityError
from tests.media_files import solid, write_video
from tests.model_export.conftest import ANSWERS, Graphs, copy_bundle
from tests.training.small_run import COLOURS
from tests.training.test_soho import small_config, soho_recipe
from training import adaptation as recipes
from training import checkpoint
from training.checkpoint import Checkpoint
from training.data.packed import open_packed
from training.evaluation.retrieval import sentence_retrieval
from training.initialization import load_initial_model
from training.models.soho import Soho
from training.trainer import train
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Reranking
from vitascope.cli.main import main
from vitascope.model import Model

CAPTIONS = ["a {}", "a {} square", "is it a {} square ?", "what {} is it ?", "it is {}"]
"""By video: no two clips have the same caption."""
STEPS = 100
"""Enough to learn the colours from random weights, whatever the rounding of the CPU."""


def write_talk(path: Path, shade: int) -> None:
    """Write 20 s at 2 frames per second with subtitles: 5 s of each colour, darker with `shade`."""
    path.parent.mkdir(parents=True)
    frames, cues = [], []
    for number, (name, colour) in enumerate(COLOURS.items()):
        r, g, b = (np.array(colour) * (1 - 0.12 * shade)).astype(int).tolist()
        frames += [solid((r, g, b))] * 10
        start = 5 * number
        times = f"00:00:{start:02},000 --> 00:00:{start + 4:02},500"
        cues.append(f"{number + 1}\n{times}\n{CAPTIONS[shade].format(name)}\n")
    write_video(path, frames, rate=2)
    path.with_suffix(".srt").write_text("\n".join(cues))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talks")
    for shade in range(len(CAPTIONS)):
        write_talk(folder / f"week {shade}" / "talk.mp4", shade)
    return folder


def adapt_options(folder: Path, start: Path, root: Path, **changes: Any) -> adaptation.AdaptOptions:
    fields: dict[str, Any] = {"shortest": 4.0, "longest": 16.0, "steps": STEPS, "name": "mine"} | changes
    return adaptation.AdaptOptions(folder, start, root / "mine", root / "work", **fields)


@dataclass(frozen=True)
class Adapted:
    """An adaptation that was interrupted and resumed: its folders, messages of both runs, and the result."""

    talks: Path
    start: Path
    root: Path
    first: list[str]
    second: list[str]
    result: dict[str, Any]
    graphs: Graphs

    def copy_to(self, root: Path) -> Path:
        """Copy work and bundle; returns `root`."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return root


@pytest.fixture(scope="module")
def adapted(talks: Path, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    root = tmp_path_factory.mktemp("adapted")
    start = copy_bundle(bundles["float32"], tmp_path_factory.mktemp("initial") / "bundle")
    write_manifest(start, Bundle.open(start).manifest.model_dump() | {"reranking": Reranking(candidates=20)})
    torch.set_num_threads(1)
    first: list[str] = []
    second: list[str] = []
    graphs: Graphs = {}

    def interrupt(*args: Any, **options: Any) -> Path:
        train(*args, **options, stop_after=25)
        raise KeyboardInterrupt

    def record(model: Any) -> Graphs:
        graphs.update(export_graphs(model))
        return graphs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "LEARNING_RATE", 3e-3)  # an untrained model learns nothing at a careful rate
        patch.setattr(export, "export_graphs", record)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(adaptation, "train", interrupt)
            with pytest.raises(KeyboardInterrupt):
                adaptation.adapt(adapt_options(talks, start, root), first.append)
        result = adaptation.adapt(adapt_options(talks, start, root), second.append)
        yield Adapted(talks, start, root, first, second, result, graphs)


def test_the_bundle_finds_the_users_sentences_better_than_the_start(adapted: Adapted) -> None:
    held_out = open_packed(adapted.root / "work" / "data" / "own" / "val")
    after = sentence_retrieval(Model.open(adapted.root / "mine", threads=1), held_out)
    assert adapted.result["after"] == after
    assert adapted.result["before"] == sentence_retrieval(Model.open(adapted.start, threads=1), held_out)
    assert adapted.result["verdict"] == "better"
    assert after["mean rank"] < adapted.result["before"]["mean rank"]
    assert adapted.result["clips"] == {"train": 16, "held_out": 4, "unused": 0}


def test_an_interrupted_adaptation_resumes(adapted: Adapted) -> None:
    assert f"training: {STEPS} steps" in adapted.first
    assert "train: 16 clips, packed before" in adapted.second
    assert f"training: resuming at step 25 of {STEPS} steps" in adapted.second
    assert not any(line.startswith(("train: packed", "measuring the initial")) for line in adapted.second)
    rows = [json.loads(line) for line in (adapted.root / "work" / "run" / "log.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(STEPS))


def test_a_repeated_adaptation_changes_nothing(adapted: Adapted, tmp_path: Path) -> None:
    root, messages = adapted.copy_to(tmp_path), list[str]()
    before = (root / "mine" / "manifest.json").stat()
    result = adaptation.adapt(adapt_options(adapted.talks, adapted.start, root), messages.append)
    assert {f"training: finished before, {STEPS} steps", f"{root / 'mine'}: exported before"} < set(messages)
    after = (root / "mine" / "manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert result == adapted.result | {"bundle": str(root / "mine"), "work": str(root / "work")}


def test_the_adapted_model_still_answers(adapted: Adapted) -> None:
    runtime = Model.open(adapted.root / "mine", threads=1)
    assert runtime.bundle.answers == ANSWERS
    before = load_initial_model(adapted.start).model.state_dict()
    after = checkpoint.load(adapted.root / "work" / "run" / "checkpoint").model.state_dict()
    heads = [name for name in before if name.startswith("answer_head.")]
    assert len(heads) == 4
    for name in heads:
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["match_head.weight"], after["match_head.weight"])
    video = runtime.embed_video_file(adapted.talks / "week 0" / "talk.mp4")
    ((best, *_),) = runtime.answer(["what color is it ?"], video.visual_tokens)
    assert best.text in ANSWERS


def test_the_bundle_names_the_videos_as_data_without_local_paths(adapted: Adapted) -> None:
    bundle = adapted.root / "mine"
    manifest = Bundle.open(bundle).manifest
    assert "own: that of the videos and their subtitles" in manifest.training_data
    assert "squares: CC0-1.0" in manifest.training_data  # stated by the initial model only
    assert "own" in manifest.licence
    for name in ("manifest.json", "MODEL_CARD.md", "NOTICE.md", "parity.json"):
        text = (bundle / name).read_text()
        assert "pytest" not in text, name
        assert "week" not in text, name
    card = (bundle / "MODEL_CARD.md").read_text()
    assert f"vitascope adapt FOLDER --start-from START --steps {STEPS} --seed 0" in card
    first = 25 * adapted.result["after"]["first"]
    assert f"| t2v R@1 | {first:.4g} |" in card
    assert manifest.metrics["own (held-out clips) t2v R@1"] == first


def test_few_held_out_clips_keep_the_calibration_of_the_initial_model(adapted: Adapted) -> None:
    calibration = Bundle.open(adapted.root / "mine").manifest.calibration
    assert calibration == Bundle.open(adapted.start).manifest.calibration
    assert Bundle.open(adapted.root / "mine").manifest.reranking == Reranking(candidates=20)
    assert calibration.match_scale != 1.0
    assert (
        "the initial model's: 4 held-out clips are too few to fit it, 50 were expected" in adapted.result["calibration"]
    )
    card = (adapted.root / "mine" / "MODEL_CARD.md").read_text()
    assert "calibration of match and fused probabilities is that of the initial model" in card


def test_enough_held_out_clips_fit_the_calibration(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = adapted.copy_to(tmp_path)
    shutil.rmtree(root / "mine")
    monkeypatch.setattr(adaptation, "MIN_CAPTIONED", 4)
    monkeypatch.setattr(export, "export_graphs", lambda _: adapted.graphs)
    result = adaptation.adapt(adapt_options(adapted.talks, adapted.start, root), lambda _: None)
    assert result["calibration"] == "fitted on 4 held-out clips; answers keep the initial model's"
    fitted, start = (Bundle.open(folder).manifest.calibration for folder in (root / "mine", adapted.start))
    assert fitted.match_scale != start.match_scale
    assert fitted.answer_temperature == start.answer_temperature != 1.0
    assert "Expected calibration error of match" in (root / "mine" / "MODEL_CARD.md").read_text()


def test_precision_is_raised_if_smaller_weights_change_recall(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, messages = adapted.copy_to(tmp_path), list[str]()
    shutil.rmtree(root / "mine")
    state = json.loads((root / "work" / "adapt.json").read_text())
    state["facts"]["precision"] = "int8-weights"
    (root / "work" / "adapt.json").write_text(json.dumps(state))
    export_checkpoint = export.export_checkpoint

    def strict(*args: Any, precision: str, **options: Any) -> Path:
        if precision == "int8-weights":
            raise ParityError("own: t2v R@1 at int8-weights is 25.00 with the bundle and 50.00 with torch")
        return export_checkpoint(*args, precision=precision, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(adaptation, "export_checkpoint", strict)
    monkeypatch.setattr(export, "export_graphs", lambda _: adapted.graphs)
    result = adaptation.adapt(adapt_options(adapted.talks, adapted.start, root), messages.append)
    assert result["precision"] == Bundle.open(root / "mine").manifest.precision == "float16-weights"
    assert any(line.startswith("int8-weights fails the parity check") and "own: t2v R@1" in line for line in messages)


# The command.


def call(adapted: Adapted, root: Path, *more: str) -> int:
    return main(
        [
            "adapt",
            str(adapted.talks),
            *("--start-from", str(adapted.start), "--out", str(root / "mine"), "--work", str(root / "work")),
            *("--steps", str(STEPS), *more),
        ]
    )


def test_a_worse_model_is_reported_and_written(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = adapted.copy_to(tmp_path)
    for name in ("before.json", "after.json"):
        (root / "work" / name).unlink()
    counts = [
        {"sentences": 4.0, "first": first, "median rank": rank, "mean rank": rank}
        for first, rank in ((3.0, 1.25), (1.0, 2.5))
    ]
    measured = iter(counts)
    monkeypatch.setattr(adaptation, "sentence_retrieval", lambda *_: next(measured))
    assert call(adapted, root) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["retrieval", "of", "4", "held-out", "captions", "before", "after"] in lines
    assert ["first", "3", "1"] in lines
    assert ["mean", "rank", "1.25", "2.5"] in lines
    (verdict,) = [" ".join(line) for line in lines if line[0] == "WORSE:"]
    assert "3 captions found their clip first before, 1 after" in verdict
    assert "The bundle was written anyway" in verdict
    assert Bundle.open(root / "mine").manifest.name == "mine"
    assert call(adapted, root, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [printed["before"], printed["after"], printed["verdict"]] == [*counts, "worse"]


def test_standard_output_is_json_only(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = adapted.copy_to(tmp_path)
    shutil.rmtree(root / "work")
    monkeypatch.setattr(adaptation, "export_checkpoint", lambda *_, **__: None)  # the bundle exists
    assert call(adapted, root, "--json", "--steps", "1") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/nowhere"], "no such folder"),
        (["{start}"], "no video in it"),
        (["{talks}", "--shortest", "9"], "too few clips to train on: 6 with 6 different sentences; at least 16"),
        (["{talks}", "--out", "{talks}"], "is not a bundle; a new folder or a bundle was expected"),
        (["{talks}", "--out", "{start}"], "is the source itself"),
        (["{talks}", "--out", "{root}/My videos"], "name: 'My videos'"),
        (["{talks}", "--start-from", "{talks}"], "is neither a bundle nor a checkpoint"),
        (["{talks}", "--work", "{talks}"], "contains other files"),
        (["{talks}", "--max-skipped", "1.5"], "max-skipped: 1.5; a fraction from 0 to 1 was expected"),
        (["{talks}", "--steps", "0"], "steps: 0; at least 1 was expected"),
        (["{talks}", "--work", "{work}", "--seed", "1"], "belongs to an adaptation with different --steps, --seed"),
    ],
)
def test_mistakes_are_reported_and_nothing_is_written(
    arguments: list[str], message: str, adapted: Adapted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"root": tmp_path, "talks": adapted.talks, "start": adapted.start, "work": adapted.root / "work"}
    defaults = {"--start-from": "{start}", "--out": "{root}/mine", "--work": "{root}/work"}
    options = [part for option in defaults.items() if option[0] not in arguments for part in option]
    assert main(["adapt", *(part.format(**places) for part in [*arguments, *options])]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Other architectures.


def test_a_soho_checkpoint_is_trained_with_masked_visual_tokens(
    adapted: Adapted, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = folders[0] / "tokenizer.json"
    start = tmp_path / "start"
    checkpoint.save(
        start, Checkpoint(Soho(small_config(answers=len(ANSWERS))), ANSWERS, soho_recipe(tokenizer), tokenizer, step=7)
    )
    options = adapt_options(adapted.talks, start, tmp_path, steps=2, data=folders[1])

    def stop(*_: Any, **options: Any) -> Path:
        assert options["initial"].calibration is None
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "export_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        adaptation.adapt(options, lambda _: None)
    rows = [json.loads(line) for line in (tmp_path / "work" / "run" / "log.jsonl").open()]
    assert len(rows) == 2
    assert all("loss/mvm own" in row and "loss/mlm own" in row for row in rows)


def test_a_checkpoint_with_unknown_terms_is_rejected_before_training(
    adapted: Adapted, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(adapted, tmp_path, "--start-from", str(folders[0]), "--data", str(tmp_path)) == 2
    assert "'squares' was trained on, but its source and terms are not known" in capsys.readouterr().err
