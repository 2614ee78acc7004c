"""`vitascope distil` and `vitascope reduce`: a student, and variants with less computation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.optimize import distil as distillation
from model_export.optimize.distil import DistilOptions, distil_bundle
from tests.small_bundle import make_small_bundle
from tests.training.data.corpus_files import movie
from tests.training.distillation.small_student import VIDEO_FIELDS, small_recipe
from tests.training.small_run import COLOURS
from training.data.packed import open_packed
from training.distillation.loop import distil
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.model import Model

TOML = "\n".join(
    [
        'name = "mine"',
        *("steps = 60", "batch_size = 8", "anchors = 4", "learning_rate = 1e-2", "backbone_lr_mult = 1.0"),
        f"video_encoder = {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in VIDEO_FIELDS.items())} }}",
    ]
)


def write_videos(folder: Path) -> Path:
    """Write four videos of all colours, one second each."""
    folder.mkdir()
    names = list(COLOURS)
    for i in range(4):
        colours = [COLOURS[name] for name in names[i:] + names[:i]]
        movie(folder / f"{i}.mp4", colours, frames_each=10)
    return folder


def test_distillation_on_unlabelled_videos_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The teacher is a bundle whose weights cannot be restored."""
    teacher = make_small_bundle(tmp_path / "teacher")
    videos = write_videos(tmp_path / "films")
    (tmp_path / "mine.toml").write_text(TOML)
    command = ["distil", str(teacher), "--videos", str(videos), "--clip-seconds", "0.5", "--init-from", "scratch"]
    command += ["--student", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "student"), "--json"]
    command += ["--work", str(tmp_path / "work")]
    assert main([*command, "--max-skipped", "nan"]) == 2
    assert "max-skipped: nan; a fraction from 0 to 1 was expected" in capsys.readouterr().err
    assert main([*command, "--stop-after", "25"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 25
    assert not (tmp_path / "student").exists()
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "packed before" in captured.err
    result = json.loads(captured.out)
    assert result["measured"]["films"]["cosine"] > 0.6
    student, model = Bundle.open(tmp_path / "student"), Model.open(tmp_path / "student", threads=1)
    original = Bundle.open(teacher)
    assert student.manifest.extra["distilled_from"] == {
        "name": "small-colours",
        "version": "1",
        "fingerprint": original.fingerprint,
    }
    assert [(s.name, s.frames) for s in student.manifest.streams] == [("high", 1), ("low", 2)]
    texts = [f"a {name} square" for name in COLOURS]
    np.testing.assert_array_equal(model.embed_text(texts), Model(original, threads=1).embed_text(texts))
    held_out = open_packed(tmp_path / "work" / "data" / "films" / "val")
    assert all(not example.captions for example in held_out.examples)
    movie(tmp_path / "red.mp4", [COLOURS["red"]])
    video = model.embed_video_file(tmp_path / "red.mp4")
    assert int((model.embed_text(texts) @ video.vectors[0]).argmax()) == 0
    assert "a folder of videos" in (tmp_path / "student" / "NOTICE.md").read_text()


def test_a_student_starts_from_its_teachers_weights_if_they_can_be_restored(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    messages: list[str] = []
    options = DistilOptions(
        teacher=bundles["float32"],
        recipe=small_recipe(video_encoder={**VIDEO_FIELDS, "hybrid_width": 32}, steps=2, learning_rate=1e-6),
        out=tmp_path / "student",
        work=tmp_path / "work",
        name="student",
        data=folders[1],
    )
    result = distil_bundle(options, messages.append)
    assert result["init_from"] == "teacher"
    assert result["measured"]["squares"]["cosine"] > 0.99  # all weights are the teacher's
    assert any("initial weights: teacher" in line for line in messages)
    manifest = Bundle.open(tmp_path / "student").manifest
    assert manifest.training_data == Bundle.open(bundles["float32"]).manifest.training_data
    assert {"retrieval", "matching", "answering"} == set(manifest.tasks)


@pytest.mark.parametrize("options", [["--tokens", "3"], ["--size", "32"], ["--frames", "2", "--tokens", "2"]])
def test_a_reduced_variant_is_compared_with_its_bundle(
    options: list[str],
    bundles: dict[str, Path],
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "variant"
    command = ["reduce", str(bundles["int8-weights"]), *options, "--out", str(out), "--data", str(folders[1])]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0.5 < result["measured"]["squares"]["cosine"] <= 1.0001
    bundle = Bundle.open(out)
    original = Bundle.open(bundles["int8-weights"])
    assert bundle.manifest.extra["variant_of"]["fingerprint"] == original.fingerprint
    assert bundle.manifest.extra["reduced"] == {o[2:]: int(v) for o, v in zip(options[::2], options[1::2], strict=True)}
    report = json.loads((out / "parity.json").read_text())
    assert {o["inputs"] for o in report["outputs"]} == {"random", "real"}
    video = Model(bundle, threads=1).embed_video(
        {s.name: np.zeros((2, 3, s.frames, s.height, s.width, 3), np.uint8) for s in bundle.manifest.streams}
    )
    assert video.visual_tokens.shape == (2, original.manifest.visual_tokens, original.manifest.visual_width)


def test_an_interrupted_distillation_keeps_the_teachers_outputs(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DistilOptions(
        teacher=bundles["float32"],
        recipe=small_recipe(),
        out=tmp_path / "student",
        work=tmp_path / "work",
        name="student",
        data=folders[1],
        init_from="scratch",
    )

    def interrupt(*args: Any, **options: Any) -> Path:
        distil(*args, **options | {"stop_after": 2})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distillation, "distil", interrupt)
        with pytest.raises(KeyboardInterrupt):
            distil_bundle(options, lambda _: None)
    state = json.loads((tmp_path / "work" / "teacher" / "squares" / "train" / "done.json").read_text())
    assert state["done"] == state["count"]
    assert distil_bundle(options, lambda _: None)["steps"] == 4
    rows = [json.loads(line) for line in (tmp_path / "work" / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(4))
