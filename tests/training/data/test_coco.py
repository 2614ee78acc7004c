"""Readers of COCO captions and VQA v2."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.corpus_files import picture
from training.data.coco import coco, in_test_half, vqa
from training.data.corpus import CorpusError
from training.data.example import Question


def captions_file(path: Path, names: Mapping[int, str], annotations: Sequence[Any] | None = None) -> None:
    """An annotation file as distributed, with two sentences per image unless others are given."""
    if annotations is None:
        sentences = [(image, f"sentence {n} of {image}") for n in range(2) for image in names]
        annotations = [
            {"image_id": image, "id": 100 + n, "caption": caption} for n, (image, caption) in enumerate(sentences)
        ]
    images = [{"license": 5, "file_name": name, "height": 36, "width": 48, "id": i} for i, name in names.items()]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "licenses": [], "annotations": annotations}))


def official(folder: Path, images: str = ".") -> Path:
    """Two images of train2014 and eight of val2014."""
    for part, numbers in (("train", (9, 25)), ("val", (42, 73, 74, 133, 136, 139, 143, 164))):
        names = {number: f"COCO_{part}2014_{number:012d}.jpg" for number in numbers}
        captions_file(folder / "annotations" / f"captions_{part}2014.json", names)
        (folder / images / f"{part}2014").mkdir(parents=True)
        for name in names.values():
            (folder / images / f"{part}2014" / name).write_bytes(picture())
    return folder


def karpathy(folder: Path, *changes: Mapping[str, Any]) -> Path:
    """dataset_coco.json with one image in each of its four splits, and changes to these."""
    parts = (("train", "train", 9), ("restval", "val", 42), ("val", "val", 73), ("test", "val", 74))
    images = [
        {
            "filepath": f"{part}2014",
            "sentids": [1],
            "filename": f"COCO_{part}2014_{number:012d}.jpg",
            "imgid": 0,
            "split": split,
            "sentences": [{"tokens": ["a", split], "raw": f"A {split} sentence. ", "imgid": 0, "sentid": 1}],
            "cocoid": number,
        }
        for split, part, number in parts
    ]
    for image, change in zip(images, changes, strict=False):
        image.update(change)
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return folder


@pytest.mark.parametrize("images", [".", "images"])
def test_the_official_train_split_is_kept(tmp_path: Path, images: str) -> None:
    actual = list(coco(official(tmp_path, images), "train"))
    assert [example.key for example, _ in actual] == ["COCO_train2014_000000000009", "COCO_train2014_000000000025"]
    assert actual[0][0].captions == ("sentence 0 of 9", "sentence 1 of 9")
    assert actual[0][0].still
    assert actual[0][1] == tmp_path / images / "train2014" / "COCO_train2014_000000000009.jpg"


def test_the_official_validation_split_is_halved_into_val_and_test(tmp_path: Path) -> None:
    official(tmp_path)
    val, test = ([example.key for example, _ in coco(tmp_path, split)] for split in ("val", "test"))
    # By rule, so this must not change from one version to the next.
    assert test == [f"COCO_val2014_{number:012d}" for number in (133, 164)]
    assert len(val) + len(test) == 8
    assert not set(val) & set(test)
    halves = [in_test_half(f"COCO_val2014_{number:012d}") for number in range(1000)]
    assert 450 < sum(halves) < 550


def test_the_year_whose_pictures_are_there_is_read(tmp_path: Path) -> None:
    for year, name in (("2014", "COCO_train2014_000000000009.jpg"), ("2017", "000000000009.jpg")):
        captions_file(tmp_path / "annotations" / f"captions_train{year}.json", {9: name})
    (tmp_path / "train2017").mkdir()
    ((example, media),) = coco(tmp_path, "train")
    assert example.key == "000000000009"
    assert media == tmp_path / "train2017" / "000000000009.jpg"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [("train2014", "COCO_train2014_000000000009"), ("val2014", "COCO_val2014_000000000042")]),
        ("val", [("val2014", "COCO_val2014_000000000073")]),
        ("test", [("val2014", "COCO_val2014_000000000074")]),
    ],
)
def test_the_split_of_karpathy_is_used_where_it_is(tmp_path: Path, split: str, expected: list[tuple[str, str]]) -> None:
    actual = list(coco(karpathy(official(tmp_path)), split))
    assert [(example.key, media) for example, media in actual] == [
        (key, tmp_path / folder / f"{key}.jpg") for folder, key in expected
    ]
    assert actual[-1][0].captions == (f"A {'restval' if split == 'train' else split} sentence.",)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            [{"image_id": 9, "caption": "fine"}, {"image_id": 9, "caption": None}],
            r"annotations\[1\]\.caption: None; a sentence was expected",
        ),
        ([{"image_id": 9, "caption": " \n"}], r"annotations\[0\]\.caption: ' \\n'; a sentence was expected"),
        ([{"image_id": "9", "caption": "a"}], r"annotations\[0\]\.image_id: '9'; a whole number was expected"),
        ([{"image_id": 8, "caption": "a"}], r"annotations\[0\]\.image_id: 8; the id of an entry of images"),
        ([], r"images\[0\]\.id: 9; the image_id of an entry of annotations was expected"),
        (["a"], r"annotations\[0\]: 'a'; a JSON object was expected"),
        (
            [{"image_id": 9, "caption": "a \ud83d"}],
            r"annotations\[0\]\.caption: .*'\\ud83d' is an unpaired surrogate",
        ),
    ],
)
def test_a_malformed_annotation_names_file_index_and_field(
    tmp_path: Path, annotations: list[Any], message: str
) -> None:
    captions_file(tmp_path / "annotations" / "captions_train2014.json", {9: "9.jpg"}, annotations)
    (tmp_path / "train2014").mkdir()
    with pytest.raises(CorpusError, match=rf"captions_train2014\.json: {message}"):
        list(coco(tmp_path, "train"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"not JSON \("),
        ("[]", r"\[\]; a JSON object was expected"),
        ('{"images": []}', r"annotations: None; a list was expected"),
        (
            '{"images": [{"id": 1}, {"id": 1}], "annotations": []}',
            r"images\[1\]\.id: 1; a unique value",
        ),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a"}]}', r"images\[0\]\.file_name: None"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (official(tmp_path) / "annotations" / "captions_val2014.json").write_text(content)
    with pytest.raises(CorpusError, match=rf"captions_val2014\.json: {message}"):
        list(coco(tmp_path, "val"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, r"images\[0\]\.split: 'dev'; one of \('train', 'restval', 'val', 'test'\)"),
        ({"split": ["train"]}, r"images\[0\]\.split: \['train'\]; one of"),
        ({"filename": ""}, r"images\[0\]\.filename: ''; the name of a picture"),
        ({"filename": "COCO_val2014_000000000074.jpg"}, r"images\[3\]\.filename: .*; a unique value"),
        ({"sentences": []}, r"images\[0\]\.sentences: \[\]; at least one sentence"),
        ({"sentences": [{"tokens": ["a"]}]}, r"images\[0\]\.sentences\[0\]\.raw: None; a sentence"),
        ({"filepath": None}, r"images\[0\]\.filepath: None; the name of a folder"),
    ],
)
def test_a_malformed_split_of_karpathy_names_file_index_and_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    karpathy(official(tmp_path), change)
    with pytest.raises(CorpusError, match=rf"dataset_coco\.json: {message}"):
        list(coco(tmp_path, "train"))


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(CorpusError, match=r"captions_val2014\.json: missing"):
        list(coco(tmp_path, "val"))


def test_a_missing_folder_of_pictures_is_named(tmp_path: Path) -> None:
    captions_file(tmp_path / "annotations" / "captions_train2014.json", {9: "9.jpg"})
    with pytest.raises(CorpusError, match=r"no folder of pictures; one of \('train2014', 'images/train2014'\)"):
        list(coco(tmp_path, "train"))


def test_a_folder_that_is_not_coco_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"neither dataset_coco\.json nor annotations/captions_"):
        list(coco(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"split: 'restval'; one of"):
        list(coco(tmp_path, "restval"))


ASKED = (
    # image, question, answer, its type
    (9, "Is this a meal?", "yes", "yes/no"),
    (25, "How many giraffes are there?", "2", "number"),
    (9, "What is in the box?", "broccoli", "other"),
)
VALIDATION_IMAGES = (42, 73, 74, 133, 136, 139, 143, 164)


def requested(folder: Path, part: str, questions: list[tuple[int, str, str, str]]) -> None:
    """The two files of a part as they are distributed."""
    requested, answered = [], []
    for number, (image, question, answer, answer_type) in enumerate(questions):
        identifiers = {"image_id": image, "question_id": 1000 * image + number}
        requested.append({**identifiers, "question": question})
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
    files = {f"v2_OpenEnded_mscoco_{part}_questions": requested, f"v2_mscoco_{part}_annotations": answered}
    for (name, records), field in zip(files.items(), ("questions", "annotations"), strict=True):
        (folder / f"{name}.json").write_text(json.dumps({"info": {}, "license": {}, field: records}))


def distributed(folder: Path, images: str = ".", annotations: str = ".") -> Path:
    """Three questions about two images of train2014, one about each of eight of val2014."""
    (folder / annotations).mkdir(exist_ok=True)
    requested(folder / annotations, "train2014", list(ASKED))
    requested(folder / annotations, "val2014", [(n, "What is it?", f"thing {n}", "other") for n in VALIDATION_IMAGES])
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
    actual = list(vqa(distributed(tmp_path, images, annotations), "train"))
    assert [(example.key, media) for example, media in actual] == [
        (f"COCO_train2014_{number:012d}", tmp_path / images / "train2014" / f"COCO_train2014_{number:012d}.jpg")
        for number in (9, 25)
    ]
    assert actual[0][0].questions == (
        Question("Is this a meal?", ("yes",), "yesno"),
        Question("What is in the box?", ("broccoli",), "other"),
    )
    assert actual[1][0].questions == (Question("How many giraffes are there?", ("2",), "count"),)
    assert all(example.still for example, _ in actual)


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
        (1, {"question_id": 9000}, r"annotations\[1\]\.question_id: 9000; a unique value"),
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
        (2, {"question_id": 9000}, r"questions\[2\]\.question_id: 9000; a unique question_id"),
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
    with pytest.raises(
        CorpusError,
        match=r"annotations\.json: annotations\[2\]\.question_id: 9002; the question_id of an entry of questions",
    ):
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
