from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, picture
from training.data.coco import ORIGIN, coco, in_test_half
from training.data.errors import CorpusError
from training.data.packed import STILL_STREAMS, open_packed, write_packed


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
    found = list(coco(official(tmp_path, images), "train"))
    assert [example.key for example, _ in found] == ["COCO_train2014_000000000009", "COCO_train2014_000000000025"]
    assert found[0][0].captions == ("sentence 0 of 9", "sentence 1 of 9")
    assert found[0][0].still
    assert found[0][1] == tmp_path / images / "train2014" / "COCO_train2014_000000000009.jpg"


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
    found = list(coco(karpathy(official(tmp_path)), split))
    assert [(example.key, media) for example, media in found] == [
        (key, tmp_path / folder / f"{key}.jpg") for folder, key in expected
    ]
    assert found[-1][0].captions == (f"A {'restval' if split == 'train' else split} sentence.",)


def test_a_packed_split_names_the_image_that_is_missing(tmp_path: Path) -> None:
    official(tmp_path)
    pictures = tmp_path / "train2014"
    (pictures / "COCO_train2014_000000000009.jpg").write_bytes(picture(GREEN))
    (pictures / "COCO_train2014_000000000025.jpg").unlink()
    items = list(coco(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"1 of 2 media .*COCO_train2014_000000000025 .*no such file"):
        write_packed(tmp_path / "packed" / "train", STILL_STREAMS, items, ORIGIN)
    info = write_packed(tmp_path / "packed" / "train", STILL_STREAMS, items, ORIGIN, max_skipped=0.5)
    assert [skipped["key"] for skipped in info["skipped"]] == ["COCO_train2014_000000000025"]
    assert "no such file" in info["skipped"][0]["reason"]
    packed = open_packed(tmp_path / "packed" / "train")
    assert packed.examples == [items[0][0]]
    np.testing.assert_allclose(packed.arrays["high"][0, 0].mean(axis=(0, 1)), GREEN, atol=6)
    assert packed.info["licence"].startswith("annotations: CC-BY 4.0")


def test_pictures_of_the_split_of_karpathy_are_packed(tmp_path: Path) -> None:
    karpathy(official(tmp_path))
    (tmp_path / "val2014" / "COCO_val2014_000000000074.jpg").write_bytes(picture(BLUE))
    write_packed(tmp_path / "packed" / "test", STILL_STREAMS, coco(tmp_path, "test"), ORIGIN)
    packed = open_packed(tmp_path / "packed" / "test")
    np.testing.assert_allclose(packed.arrays["low"][0, 0].mean(axis=(0, 1)), BLUE, atol=6)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            [{"image_id": 9, "caption": "fine"}, {"image_id": 9, "caption": None}],
            r"annotations\[1\]\.caption: None; a sentence was expected",
        ),
        ([{"image_id": 9, "caption": " \n"}], r"annotations\[0\]\.caption: ' \\n'; a sentence was expected"),
        ([{"image_id": "9", "caption": "a"}], r"annotations\[0\]\.image_id: '9'; a whole number was expected"),
        ([{"image_id": 8, "caption": "a"}], r"annotations\[0\]\.image_id: 8; the id of one of images was expected"),
        ([], r"images\[0\]\.id: 9; the image_id of one of annotations was expected"),
        (["a"], r"annotations\[0\]: 'a'; a JSON object was expected"),
        ([{"image_id": 9, "caption": "a \ud83d"}], r"annotations\[0\]\.caption: .*; '\\ud83d' is half a character"),
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
            r"images\[1\]\.id: 1; one that has not occurred before",
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
        ({"filename": "COCO_val2014_000000000074.jpg"}, r"images\[3\]\.filename: .*; one that has not occurred before"),
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
