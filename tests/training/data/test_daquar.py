from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.corpus_files import picture, write_shard
from training.data.corpus import CorpusError
from training.data.daquar import daquar, is_validation, question_kind

TRAIN_FILE = """\
what is on the right side of the black telephone in the image3 ?
desk
what is on the desk in the image3 ?
book, scissor, papers, tape_dispenser
how many doors are in the image4 ?
2
what is the largest brown objects in this image3 ?
carton
"""


def official(folder: Path, questions: str = TRAIN_FILE, suffix: str = "png") -> Path:
    """The question files of the authors and a folder of photographs."""
    (folder / "nyu_depth_images").mkdir(exist_ok=True)
    for number in (3, 4):
        path = folder / "nyu_depth_images" / f"image{number}.{suffix}"
        path.write_bytes(picture(image_format="PNG" if suffix == "png" else "JPEG"))
    (folder / "qa.894.raw.train.txt").write_text(questions)
    (folder / "qa.894.raw.test.txt").write_text("what color is the chair in the image3 ?\nred\n")
    return folder


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_official_question_file_gives_one_example_per_image(tmp_path: Path, suffix: str) -> None:
    actual = list(daquar(official(tmp_path, suffix=suffix), "train"))
    assert [example.key for example, _ in actual] == ["image3", "image4"]
    assert [media for _, media in actual] == [
        tmp_path / "nyu_depth_images" / f"image{number}.{suffix}" for number in (3, 4)
    ]
    assert [(q.question, q.answers) for q in actual[0][0].questions] == [
        ("what is on the right side of the black telephone?", ("desk",)),
        ("what is on the desk?", ("book", "scissor", "papers", "tape dispenser")),
        ("what is the largest brown objects?", ("carton",)),
    ]
    assert [(q.question, q.answers) for q in actual[1][0].questions] == [("how many doors are?", ("2",))]
    assert all(example.still for example, _ in actual)


def test_the_official_test_split_is_kept(tmp_path: Path) -> None:
    ((example, _),) = daquar(official(tmp_path), "test")
    assert [(q.question, q.answers) for q in example.questions] == [("what color is the chair?", ("red",))]


def test_shards_give_the_same_examples_as_the_official_layout(tmp_path: Path) -> None:
    expected = [example for example, _ in daquar(official(tmp_path), "train")]
    samples = {
        example.key: (
            picture(),
            {"questions": [{"question": q.question, "answers": list(q.answers)} for q in example.questions]},
        )
        for example in expected
    }
    write_shard(tmp_path / "shards" / "train-00000.tar", samples)
    assert [example for example, _ in daquar(tmp_path / "shards", "train")] == expected


def test_about_a_tenth_of_the_training_images_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    record = {"questions": [{"question": "what is it?", "answers": ["a chair"]}]}
    keys = [f"image{number}" for number in range(1, 257)]
    write_shard(tmp_path / "train-00000.tar", dict.fromkeys(keys, (b"", record)))
    train, val = ({example.key for example, _ in daquar(tmp_path, split)} for split in ("train", "val"))
    assert train | val == set(keys)
    assert not train & val
    assert 16 <= len(val) <= 36


def test_the_validation_rule_does_not_change() -> None:
    assert [n for n in range(1, 31) if is_validation(f"image{n}")] == [6, 16, 18, 20, 21, 27, 30]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ("what is on the desk ?\nbook\n", r"train\.txt:1: image: none in 'what is on the desk \?'"),
        ("what is it in the image3 ?\nbook\nwhat is it in the image3 ?\n", r"train\.txt:4: answers: ''"),
        (
            "what is it in the image3 ?\nwhat is it in the image4 ?\nbook\n",
            r"train\.txt:2: answers: 'what is it in the image4 \?'; answers to line 1",
        ),
        ("what is it in the image77 ?\nbook\n", r"image77 has questions, but .* no image77\.jpg"),
    ],
)
def test_a_malformed_question_file_names_line_and_field(tmp_path: Path, questions: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(daquar(official(tmp_path, questions), "train"))


def test_a_malformed_shard_names_member_and_field(tmp_path: Path) -> None:
    record = {"questions": [{"question": "what is it?", "answers": "chair"}]}
    write_shard(tmp_path / "test-00000.tar", {"image1": (picture(), record)})
    with pytest.raises(CorpusError, match=r"test-00000\.tar: image1\.json: questions\[0\]\.answers: 'chair'"):
        list(daquar(tmp_path, "test"))


def test_a_folder_of_neither_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"neither test-\*\.tar nor one of .*qa\.894\.raw\.test\.txt"):
        list(daquar(tmp_path, "test"))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("how many chairs are there?", "count"),
        ("what is the colour of the sofa?", "colour"),
        ("is the door open?", "yesno"),
        ("what is on the desk?", "object"),
    ],
)
def test_reports_can_tell_questions_apart_by_type(question: str, kind: str) -> None:
    assert question_kind(question) == kind
