"""Distillation: teacher outputs, losses, training and exact resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.small_bundle import make_small_bundle
from tests.training.distillation.small_student import VIDEO_FIELDS, small_recipe, space_of
from tests.training.small_run import write_corpus
from training.curves import read_log
from training.data.packed import Packed, open_packed
from training.distillation import losses
from training.distillation.loop import DistillData, distil, load_student
from training.distillation.recipe import student_recipe
from training.distillation.student import Space, initial_projection, new_student
from training.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from training.models.hd_vila import HdVila
from vitascope.errors import InvalidInput
from vitascope.model import Model


@dataclass(frozen=True)
class Class:
    """A teacher and its outputs."""

    teacher: Model
    packed: dict[str, Packed]
    lessons: DistillData


@pytest.fixture(scope="module")
def class_(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Class:
    root = tmp_path_factory.mktemp("class")
    (root / "pictures").mkdir()
    write_corpus(root / "data", root / "pictures", copies=4)
    packed = {split: open_packed(root / "data" / "squares" / split) for split in ("train", "val")}
    output = {split: compute_teacher_outputs(small_model, p, root / "teacher" / split) for split, p in packed.items()}
    lessons = DistillData(
        small_model.bundle.fingerprint, {"squares": output["train"]}, {"squares": output["val"]}, 0.05
    )
    return Class(small_model, packed, lessons)


# What the teacher says


def test_teacher_outputs_are_computed_once_and_cached(
    class_: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = class_.packed["train"]
    first = compute_teacher_outputs(class_.teacher, packed, tmp_path)
    assert first.vectors.shape == (16, 16)
    assert first.tokens is not None
    assert first.tokens.shape == (16, 2, 16)
    assert first.texts.shape == (16, 16)
    expected = class_.teacher.embed_text([packed.examples[3].captions[0]])[0]
    np.testing.assert_allclose(first.texts[3], expected, atol=1e-6)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("the teacher ran again")

    monkeypatch.setattr(Model, "embed_video", forbidden)
    monkeypatch.setattr(Model, "embed_text", forbidden)
    again = compute_teacher_outputs(class_.teacher, packed, tmp_path)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    np.testing.assert_array_equal(again.texts, first.texts)


def test_an_interrupted_teacher_run_repeats_only_a_few_batches(
    class_: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.distillation.teacher.BATCH", 2)
    monkeypatch.setattr("training.distillation.teacher.SAVE_EVERY", 2)
    requested: list[int] = []
    embed = Model.embed_video

    def stopping(self: Model, streams: Any) -> Any:
        if len(requested) == 5:
            requested.append(0)
            raise KeyboardInterrupt
        requested.append(len(streams["high"]))
        return embed(self, streams)

    monkeypatch.setattr(Model, "embed_video", stopping)
    with pytest.raises(KeyboardInterrupt):
        compute_teacher_outputs(class_.teacher, class_.packed["train"], tmp_path)
    requested[:] = [0] * 6
    whole = compute_teacher_outputs(class_.teacher, class_.packed["train"], tmp_path)
    assert sum(requested) == 8  # of 16 the first 8 were kept
    np.testing.assert_allclose(whole.vectors, class_.lessons.training["squares"].vectors, atol=1e-6)


def test_another_teacher_computes_all_outputs_again(class_: Class, tmp_path: Path) -> None:
    packed = class_.packed["val"]
    before = np.array(compute_teacher_outputs(class_.teacher, packed, tmp_path).vectors)
    other = Model.open(make_small_bundle(tmp_path / "other", seed=5), threads=1)
    actual = compute_teacher_outputs(other, packed, tmp_path)
    assert np.abs(actual.vectors - before).max() > 0.1
    np.testing.assert_allclose(actual.vectors, compute_teacher_outputs(other, packed, tmp_path / "apart").vectors)


def test_visual_tokens_are_cached_only_if_a_graph_reads_them(class_: Class, tmp_path: Path) -> None:
    finder = Model.open(make_small_bundle(tmp_path / "finder", tasks=("retrieval",)), threads=1)
    assert compute_teacher_outputs(finder, class_.packed["val"], tmp_path / "said").tokens is None


# Losses


def test_losses_are_zero_for_a_student_whose_outputs_equal_the_teachers() -> None:
    torch.manual_seed(0)
    vectors, anchors = (torch.nn.functional.normalize(torch.randn(n, 8), dim=-1) for n in (6, 20))
    tokens = torch.randn(6, 3, 4)
    assert float(losses.cosine(vectors, vectors)) == pytest.approx(0, abs=1e-6)
    assert float(losses.relation(vectors, vectors, anchors, 0.05)) == pytest.approx(0, abs=1e-6)
    assert float(losses.tokens(tokens, tokens)) == 0


def test_relation_penalizes_another_ranking_more_than_a_common_rotation() -> None:
    """Two students with the same cosine loss: one keeps the nearest anchors, the other swaps them."""
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    anchors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    away = torch.tensor([[0.8, 0.0, 0.6], [0.0, 0.8, 0.6]])
    swapped = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0]])
    assert float(losses.cosine(away, teacher)) == pytest.approx(float(losses.cosine(swapped, teacher)))
    kept, lost = (float(losses.relation(student, teacher, anchors, 0.1)) for student in (away, swapped))
    assert kept < 0.01 < lost


def test_the_token_loss_is_relative_to_the_variance() -> None:
    """Predicting the mean gives a loss of 1 at any scale of the teacher's tokens."""
    torch.manual_seed(0)
    for scale in (1.0, 100.0):
        teacher = scale * torch.randn(50, 4, 3)
        mean = teacher.mean(dim=(0, 1)).expand_as(teacher)
        assert float(losses.tokens(mean, teacher)) == pytest.approx(1.0, abs=1e-4)


# The student


def test_a_student_of_its_teachers_shape_starts_equal_to_the_teacher() -> None:
    eyes = small_recipe(video_encoder=VIDEO_FIELDS | {"hybrid_width": 32, "low_frames": 4}).video_config()
    torch.manual_seed(1)
    teacher = HdVila(eyes.model_copy(update={"vector_width": 24, "vocabulary": 50})).eval()
    student = new_student(eyes, Space(24, 1, 32), "teacher", teacher).eval()
    high = torch.randint(0, 256, (2, 1, 1, 32, 32, 3), dtype=torch.uint8)
    low = torch.randint(0, 256, (2, 1, 4, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = teacher.encode_video({"high": high, "low": low})
        torch.testing.assert_close(student(high, low), expected, atol=1e-5, rtol=1e-4)


def test_the_initial_projection_of_tokens_keeps_positions() -> None:
    """From a 2 x 2 to a 4 x 4 grid, corners stay corners; if no grid fits, all weights are equal."""
    corners = initial_projection((2, 2), 16)
    assert corners.sum(dim=1).tolist() == pytest.approx([1.0] * 16)
    assert [int(corners[i].argmax()) for i in (0, 3, 12, 15)] == [0, 1, 2, 3]
    assert initial_projection((2, 2), 7).unique().tolist() == [0.25]
    assert torch.equal(initial_projection((3, 3), 9), torch.eye(9))


def test_a_student_learns_its_teachers_embeddings(class_: Class, tmp_path: Path) -> None:
    """Without the teacher's weights. The teacher's texts find the student's clips as often as its own clips."""
    recipe = small_recipe(steps=16, validate_every=16, checkpoint_every=16)
    actual = distil(recipe, class_.lessons, space_of(class_.teacher), "scratch", tmp_path)
    rows = read_log(tmp_path / "log.jsonl")
    assert rows[-1]["loss/cosine squares"] < 0.5 * rows[0]["loss/cosine squares"]
    assert rows[-1]["loss/relation squares"] < 0.05
    assert rows[-1]["loss/tokens squares"] < 0.8
    assert rows[-1]["val/squares t2v R@1"] == rows[-1]["val/squares teacher t2v R@1"]
    assert not load_student(actual).training


def test_a_resumed_run_ends_with_equal_weights(class_: Class, tmp_path: Path) -> None:
    def go(folder: str, stop_after: int | None = None) -> Path:
        space = space_of(class_.teacher)
        return distil(small_recipe(), class_.lessons, space, "scratch", tmp_path / folder, stop_after=stop_after)

    whole = load_file(go("whole") / "model.safetensors")
    state = json.loads((go("parts", stop_after=2) / "state.json").read_text())
    assert state["data"]["teacher"] == class_.teacher.bundle.fingerprint
    assert state["step"] == 2
    of_0_3 = {"video_encoder": "eyes", "data": "lessons", "init_from": "begin"}
    state["data"]["learned"] = state["data"].pop("corpora")
    state = {of_0_3.get(key, key): value for key, value in state.items()}
    (tmp_path / "parts" / "checkpoint" / "state.json").write_text(json.dumps(state))
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "rate": 9}\n{"step"')  # what a kill leaves behind
    shutil.move(tmp_path / "parts" / "checkpoint", tmp_path / "parts" / "checkpoint.old")
    parts = load_file(go("parts") / "model.safetensors")
    assert all(torch.equal(values, parts[name]) for name, values in whole.items())
    rows = read_log(tmp_path / "parts" / "log.jsonl")
    assert [row["step"] for row in rows] == list(range(4))
    assert "val/squares cosine" in rows[1]
    for recipe, lessons, what in (
        (small_recipe(seed=1), class_.lessons, "recipe"),
        (small_recipe(), replace(class_.lessons, teacher="another"), "data"),
    ):
        with pytest.raises(InvalidInput, match=f"holds a run with another {what}"):
            distil(recipe, lessons, space_of(class_.teacher), "scratch", tmp_path / "parts")


def test_without_captions_clips_are_distinguished_by_clip_embeddings(class_: Class, tmp_path: Path) -> None:
    def silent(output: TeacherOutputs) -> TeacherOutputs:
        examples = [replace(example, captions=()) for example in output.packed.examples]
        texts, of = np.zeros((0, output.vectors.shape[1]), np.float32), np.zeros(0, np.int64)
        return replace(output, packed=replace(output.packed, examples=examples), texts=texts, of=of)

    quiet = {name: silent(output) for name, output in class_.lessons.training.items()}
    held = {name: silent(output) for name, output in class_.lessons.held_out.items()}
    lessons = replace(class_.lessons, training=quiet, held_out=held)
    distil(small_recipe(steps=2), lessons, space_of(class_.teacher), "scratch", tmp_path)
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert last["loss/relation squares"] > 0
    assert {name for name in last if name.startswith("val/")} == {"val/squares cosine", "val/squares same clip"}


def test_a_batch_larger_than_the_corpus_is_refused(class_: Class, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="batch_size: 17 of squares, which has 16 clips"):
        distil(small_recipe(batch_size=17), class_.lessons, space_of(class_.teacher), "scratch", tmp_path)


# Recipes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'name = "s"\nsteps = 1\nvideo_encoder = { text_layers = 3 }',
            r"unknown fields \['text_layers'\]",
        ),
        ('name = "s"\nsteps = 1\nvideo_encoder = { low_height = 80 }', "grid_height: 7 given"),
        ('name = "s"\nsteps = 1\nweights = { cosine = 0, relation = 0 }', "embeddings are not trained"),
        ('name = "s"\nsteps = 0', "steps: 0; Input should be greater than or equal to 1"),
        ("name = ", "is not TOML"),
    ],
)
def test_an_invalid_student_recipe_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        student_recipe(str(tmp_path / "s.toml"))


def test_an_unknown_student_name_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"student: 'huge'; a .toml file or one of \['small', 'smallest'\]"):
        student_recipe("huge")
    with pytest.raises(InvalidInput, match="cannot be read"):
        student_recipe(str(tmp_path / "missing.toml"))
