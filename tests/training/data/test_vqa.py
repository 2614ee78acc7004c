from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.corpus_files import GREEN, picture
from training.data.coco import coco
from training.data.errors import CorpusError
from training.data.example import Question
from training.data.packed import STILL_STREAMS, open_packed, write_packed
from training.data.vqa import ORIGIN, vqa

ASKED = (
    # image, question, answer, its type
    (9, "Is this a meal?", "yes", "yes/no"),
    (25, "How many giraffes are there?", "2", "number"),
    (9, "What is in the box?", "broccoli", "other"),
)
VALIDATION_IMAGES = (42, 73, 74, 133, 136, 139, 143, 164)


def asked(folder: Path, part: str, questions: list[tuple[int, str, str, str]]) -> None:
    """The two files of a part as they are distributed."""
    asked, answered = [], []
    for number, (image, question, answer, answer_type) in enumerate(questions):
        identifiers = {"image_id": image, "question_id": 1000 * image + number}
        asked.append({**identifiers, "question": question})
        people = [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
        answered.append(
            {
                "question_type": "none of the above",
                "multiple_choice_answer": answer,
                "answers": people,
                "answer_type": answer_type,
                **identifiers,
            }
        )
    files = {f"v2_OpenEnded_mscoco_{part}_questions": asked, f"v2_mscoco_{part}_annotations": answered}
    for (name, records), field in zip(files.items(), ("questions", "annotations"), strict=True):
        (folder / f"{name}.json").write_text(json.dumps({"info": {}, "license": {}, field: records}))


def distributed(folder: Path, images: str = ".", annotations: str = ".") -> Path:
    """Three questions about two images of train2014, one about each of eight of val2014."""
    (folder / annotations).mkdir(exist_ok=True)
    asked(folder / annotations, "train2014", list(ASKED))
    asked(folder / annotations, "val2014", [(n, "What is it?", f"thing {n}", "other") for n in VALIDATION_IMAGES])
    for part, numbers in (("train2014", (9, 25)), ("val2014", VALIDATION_IMAGES)):
        (folder / images / part).mkdir(parents=True)
        for number in numbers:
            (folder / images / part / f"COCO_{part}_{number:012d}.jpg").write_bytes(picture())
    return folder


def changed(path: Path, field: str, index: int, change: Mapping[str, Any]) -> None:
    content = json.loads(path.read_text())
    content[field][index].update(change)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("images", "annotations"), [(".", "."), ("images", "annotations")])
def test_an_image_comes_with_all_its_questions(tmp_path: Path, images: str, annotations: str) -> None:
    found = list(vqa(distributed(tmp_path, images, annotations), "train"))
    assert [(example.key, media) for example, media in found] == [
        (f"COCO_train2014_{number:012d}", tmp_path / images / "train2014" / f"COCO_train2014_{number:012d}.jpg")
        for number in (9, 25)
    ]
    assert found[0][0].questions == (
        Question("Is this a meal?", ("yes",), "yesno"),
        Question("What is in the box?", ("broccoli",), "other"),
    )
    assert found[1][0].questions == (Question("How many giraffes are there?", ("2",), "count"),)
    assert all(example.still for example, _ in found)


def test_the_official_validation_split_is_halved_like_that_of_coco(tmp_path: Path) -> None:
    distributed(tmp_path)
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in VALIDATION_IMAGES]
    sentences = [{"image_id": number, "caption": "a thing"} for number in VALIDATION_IMAGES]
    captions = {"images": images, "annotations": sentences}
    (tmp_path / "captions_val2014.json").write_text(json.dumps(captions))
    keys = {split: [example.key for example, _ in vqa(tmp_path, split)] for split in ("val", "test")}
    # By rule, so this must not change from one version to the next.
    assert keys["test"] == ["COCO_val2014_000000000133", "COCO_val2014_000000000164"]
    assert len(keys["val"]) == 6
    assert not set(keys["val"]) & set(keys["test"])
    for split in ("val", "test"):
        assert [example.key for example, _ in coco(tmp_path, split)] == keys[split]


def test_a_packed_split_names_the_image_that_is_missing(tmp_path: Path) -> None:
    distributed(tmp_path)
    (tmp_path / "train2014" / "COCO_train2014_000000000009.jpg").write_bytes(picture(GREEN))
    (tmp_path / "train2014" / "COCO_train2014_000000000025.jpg").unlink()
    out = tmp_path / "packed" / "train"
    info = write_packed(out, STILL_STREAMS, vqa(tmp_path, "train"), ORIGIN, max_skipped=0.5)
    assert [skipped["key"] for skipped in info["skipped"]] == ["COCO_train2014_000000000025"]
    assert "no such file" in info["skipped"][0]["reason"]
    packed = open_packed(out)
    assert [[q.answers for q in example.questions] for example in packed.examples] == [[("yes",), ("broccoli",)]]
    np.testing.assert_allclose(packed.arrays["high"][0, 0].mean(axis=(0, 1)), GREEN, atol=6)
    assert "no public answers" in packed.info["split_rule"]


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (2, {"multiple_choice_answer": ""}, r"annotations\[2\]\.multiple_choice_answer: ''; an answer"),
        (
            1,
            {"answer_type": "count"},
            r"annotations\[1\]\.answer_type: 'count'; one of \('yes/no', 'number', ",
        ),
        (1, {"image_id": None}, r"annotations\[1\]\.image_id: None; a whole number"),
        (1, {"question_id": 9000}, r"annotations\[1\]\.question_id: 9000; one that has not occurred before"),
    ],
)
def test_a_malformed_answer_names_file_index_and_field(
    tmp_path: Path, index: int, change: dict[str, Any], message: str
) -> None:
    distributed(tmp_path)
    changed(tmp_path / "v2_mscoco_train2014_annotations.json", "annotations", index, change)
    with pytest.raises(CorpusError, match=rf"v2_mscoco_train2014_annotations\.json: {message}"):
        list(vqa(tmp_path, "train"))


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, {"question": None}, r"questions\[0\]\.question: None; a question was expected"),
        (1, {"question_id": True}, r"questions\[1\]\.question_id: True; a whole number"),
        (1, {"question_id": 77}, r"questions\[1\]\.question_id: 77; .*train2014_annotations\.json answers"),
        (2, {"question_id": 9000}, r"questions\[2\]\.question_id: 9000; a question, asked once"),
        (1, {"image_id": 9}, r"questions\[1\]\.image_id: 9; 25, as in v2_mscoco_train2014_annotations\.json"),
    ],
)
def test_a_malformed_question_names_file_index_and_field(
    tmp_path: Path, index: int, change: dict[str, Any], message: str
) -> None:
    distributed(tmp_path)
    changed(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", "questions", index, change)
    with pytest.raises(CorpusError, match=rf"train2014_questions\.json: {message}"):
        list(vqa(tmp_path, "train"))


def test_an_answer_to_no_question_is_named(tmp_path: Path) -> None:
    distributed(tmp_path)
    path = tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"questions": content["questions"][:2]}))
    with pytest.raises(CorpusError, match=r"annotations\.json: annotations\[2\]\.question_id: 9002; one that is asked"):
        list(vqa(tmp_path, "train"))


@pytest.mark.parametrize("name", ["v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (distributed(tmp_path) / name).unlink()
    with pytest.raises(CorpusError, match=rf"{name}: missing"):
        list(vqa(tmp_path, "test"))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no folder of pictures; one of \('val2014', 'images/val2014'\)"):
        list(vqa(tmp_path, "val"))
    with pytest.raises(CorpusError, match=r"split: 'test-dev'; one of"):
        list(vqa(tmp_path, "test-dev"))
