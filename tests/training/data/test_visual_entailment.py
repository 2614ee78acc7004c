"""The official files of SNLI-VE and NLVR2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, RED, picture
from training.data.corpus import CorpusError
from training.data.nlvr2 import consistency, nlvr2
from training.data.packed import open_packed
from training.data.prepare import prepare
from training.data.snli_ve import snli_ve

SNLI_VE = {
    "annotator_labels": ["neutral", "entailment", "neutral", "neutral", "neutral"],
    "captionID": "4705552913.jpg#2",
    "gold_label": "neutral",
    "pairID": "4705552913.jpg#2r1n",
    "sentence1": "Two women are embracing while holding to go packages.",
    "sentence2": "The sisters are hugging goodbye while holding to go packages after just eating lunch.",
    "Flickr30K_ID": "4705552913",
}
NLVR2 = {
    "validation": {"20": "True", "188": "True"},
    "sentence": "An image shows one leather pencil case, displayed open with writing implements tucked inside.",
    "left_url": "https://example.com/left.png",
    "writer": "20",
    "label": "True",
    "right_url": "https://example.com/right.png",
    "synset": "pencil case, pencil box",
    "query": "pencil case, pencil box49",
    "identifier": "train-10171-0-0",
    "directory": 75,
}


def write_lines(path: Path, *records: Mapping[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    (tmp_path / "flickr30k-images").mkdir()
    (tmp_path / "flickr30k-images" / "4705552913.jpg").write_bytes(picture())
    return tmp_path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "train" / "75"
    folder.mkdir(parents=True)
    for name, color in (("img0", RED), ("img1", BLUE)):
        (folder / f"train-10171-0-{name}.png").write_bytes(picture(color, "PNG"))
    return tmp_path


def test_sentences_of_a_photograph_are_one_example_and_those_without_a_consensus_are_left_out(
    photographs: Path,
) -> None:
    others = [
        SNLI_VE | {"gold_label": label, "sentence2": sentence}
        for label, sentence in (("entailment", "Two women hug."), ("-", "They met."), ("contradiction", "Men fight."))
    ]
    write_lines(photographs / "snli_ve_dev.jsonl", SNLI_VE, *others)
    ((example, media),) = snli_ve(photographs, "val")
    assert (example.key, example.still) == ("4705552913", True)
    assert media == photographs / "flickr30k-images" / "4705552913.jpg"
    assert [(h.text, h.label) for h in example.hypotheses] == [
        (SNLI_VE["sentence2"], "neutral"),
        ("Two women hug.", "entailed"),
        ("Men fight.", "contradicted"),
    ]


def test_both_pictures_of_a_sentence_are_packed_as_clips(pairs: Path) -> None:
    write_lines(pairs / "train.json", NLVR2)
    assert prepare("nlvr2", pairs, pairs / "packed", ["train"])["nlvr2/train"]["count"] == 1
    packed = open_packed(pairs / "packed" / "nlvr2" / "train")
    assert packed.frames("high").shape == (1, 2, 1, 224, 224, 3)
    np.testing.assert_allclose(packed.frames("high")[0, :, 0].mean(axis=(1, 2)), [RED, BLUE], atol=2)
    (example,) = packed.examples
    assert (example.key, [h.label for h in example.hypotheses]) == ("train-10171-0-0", ["true"])


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("gold_label", "maybe", "gold_label: 'maybe'; one of"),
        ("gold_label", ["neutral"], r"gold_label: \['neutral'\]; one of"),
        ("sentence2", " ", "sentence2: ' '; a sentence was expected"),
        ("Flickr30K_ID", None, "Flickr30K_ID: None"),
    ],
)
def test_an_invalid_line_of_snli_ve_is_named(photographs: Path, field: str, value: object, reason: str) -> None:
    write_lines(photographs / "snli_ve_train.jsonl", SNLI_VE, SNLI_VE | {field: value})
    with pytest.raises(CorpusError, match=f"snli_ve_train.jsonl:2: {reason}"):
        list(snli_ve(photographs, "train"))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("identifier", "train-10171", "identifier: 'train-10171'; SPLIT-SET-PAIR-SENTENCE"),
        ("label", "Maybe", "label: 'Maybe'; 'True' or 'False'"),
        ("sentence", "", "sentence: ''"),
    ],
)
def test_an_invalid_line_of_nlvr2_is_named(pairs: Path, field: str, value: object, reason: str) -> None:
    write_lines(pairs / "train.json", NLVR2, NLVR2 | {field: value})
    with pytest.raises(CorpusError, match=f"train.json:2: {reason}"):
        list(nlvr2(pairs, "train"))


def test_a_sentence_is_consistent_if_it_is_right_of_all_its_pairs() -> None:
    identifiers = ["dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-1-1-1", "dev-2-0-0"]
    assert consistency(identifiers, [True, True, True, False, True]) == pytest.approx(200 / 3)
