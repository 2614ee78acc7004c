"""Readers of Flickr30k Entities and RefCOCO."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.corpus_files import picture
from training.data.corpus import CorpusError
from training.data.example import Region
from training.data.referring import flickr30k_entities, refcoco

XML = """<annotation><filename>36979.jpg</filename><size><width>100</width><height>50</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object>
<object><name>1</name><name>2</name><bndbox><xmin>31</xmin><ymin>1</ymin><xmax>40</xmax><ymax>50</ymax></bndbox></object>
<object><name>4</name><nobndbox>1</nobndbox><scene>1</scene></object></annotation>"""
SENTENCE = (
    "[/EN#1/people Two young guys] with [/EN#2/bodyparts/other shaggy hair] hang out in [/EN#4/scene the yard] ; "
    "[/EN#0/notvisual that] is it ."
)


def entities(folder: Path, sentence: str = SENTENCE, xml: str = XML) -> Path:
    for name in ("Sentences", "Annotations", "flickr30k-images"):
        (folder / name).mkdir()
    (folder / "val.txt").write_text("36979\n")
    (folder / "Sentences" / "36979.txt").write_text(sentence + "\n")
    (folder / "Annotations" / "36979.xml").write_text(xml)
    (folder / "flickr30k-images" / "36979.jpg").write_bytes(picture())
    return folder


def test_phrases_of_flickr30k_entities_have_the_box_around_all_theirs(tmp_path: Path) -> None:
    sentences = f"{SENTENCE}\n[/EN#2/bodyparts shaggy hair]"
    ((example, media),) = flickr30k_entities(entities(tmp_path, sentences), "val")
    assert (example.key, media) == ("36979", tmp_path / "flickr30k-images" / "36979.jpg")
    assert example.captions == ("Two young guys with shaggy hair hang out in the yard ; that is it .", "shaggy hair")
    assert example.regions == (
        Region("Two young guys", (0.1, 0.0, 0.4, 1.0)),
        Region("shaggy hair", (0.3, 0.0, 0.4, 1.0)),
        Region("shaggy hair", (0.3, 0.0, 0.4, 1.0)),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentence": "[/EN#1 Two guys] run"}, r"36979\.txt:1: phrase: .* \[/EN#NUMBER/TYPE WORDS\] was expected"),
        ({"xml": XML.replace("<xmax>20", "<xmax>2x")}, r"36979\.xml: bndbox/xmax: '2x'; a number of pixels"),
        ({"xml": XML.replace("<xmax>20", "<xmax>5")}, r"36979\.xml: object/bndbox: \(10, 5, 5, 25\)"),
        (
            {"xml": XML.replace("<width>100", "<width>0")},
            r"36979\.xml: object/bndbox: a picture of 0 x 50 pixels",
        ),
        ({"xml": XML.replace("<width>100", "<width>\u00b2")}, r"36979\.xml: size/width: '\u00b2'; a number of pixels"),
        ({"xml": XML.replace("</annotation>", "")}, r"36979\.xml:4: .*XML was expected"),
    ],
)
def test_a_malformed_file_of_flickr30k_entities_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(flickr30k_entities(entities(tmp_path, **changes), "val"))


def expressions(folder: Path, change: Callable[[list[Any]], Any] = lambda refs: refs) -> Path:
    (folder / "train2014").mkdir()
    name = "COCO_train2014_000000000009.jpg"
    (folder / "train2014" / name).write_bytes(picture())
    image = {"id": 9, "file_name": name, "width": 200, "height": 100}
    annotations = [{"id": 3, "image_id": 9, "bbox": [20.0, 10.0, 60.0, 80.0], "segmentation": [[1, 2]]}]
    (folder / "instances.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    sentences = [{"sent": "lady in blue", "raw": "Lady in blue", "sent_id": 0, "tokens": ["lady"]}]
    reference = {"ann_id": 3, "image_id": 9, "ref_id": 0, "split": "testB", "sentences": sentences}
    (folder / "refs(unc).p").write_bytes(pickle.dumps(change([reference]), protocol=2))
    return folder


def test_expressions_of_refcoco_are_regions_of_their_image(tmp_path: Path) -> None:
    ((example, media),) = refcoco(expressions(tmp_path, lambda refs: [*refs, *refs]), "test")
    assert media == tmp_path / "train2014" / "COCO_train2014_000000000009.jpg"
    assert example.regions == (Region("lady in blue", (0.1, 0.1, 0.4, 0.9)),) * 2
    assert list(refcoco(tmp_path, "train")) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda refs: [refs[0] | {"ann_id": 4}], r"refs\[0\]\.ann_id: 4; the id of an entry of annotations"),
        (lambda refs: [refs[0] | {"split": ["val"]}], r"refs\[0\]\.split: \['val'\]; one of"),
        (lambda refs: [refs[0] | {"split": "dev"}], r"refs\[0\]\.split: 'dev'; one of"),
        (lambda refs: [refs[0] | {"sentences": [{"sent": " "}]}], r"refs\[0\]\.sentences\[0\]\.sent: ' '"),
        (lambda refs: Path("/"), r"refs\(unc\)\.p: not a pickle of plain values: it names pathlib"),
    ],
)
def test_a_malformed_reference_is_named_and_no_code_of_a_pickle_runs(
    tmp_path: Path, change: Callable[[list[Any]], Any], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        list(refcoco(expressions(tmp_path, change), "test"))
