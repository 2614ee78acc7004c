"""Phrases with boxes: Flickr30k Entities (`flickr30k_entities`) and RefCOCO (`refcoco`).

Flickr30k Entities: the phrases of the sentences of Flickr30k, with the boxes of what they name. Plummer et al.:
Flickr30k Entities: collecting region-to-phrase correspondences for richer image-to-sentence models, ICCV 2015. Layout:
    Sentences/KEY.txt       five sentences with phrases in brackets: [/EN#1/people Two young guys] with ...; 0: none
    Annotations/KEY.xml     the boxes of each number, in pixels from 1, the last included
    train.txt val.txt test.txt   the official split, one KEY a line
    flickr30k-images/ or flickr30k_images/
A phrase that has several boxes gets the smallest box around them (Kamath et al., "MDETR", ICCV 2021: merged boxes);
one without a box (a scene, or not visible) is left out.

RefCOCO, RefCOCO+ and RefCOCOg: expressions that tell one object of a photograph of COCO from the others. Yu et al.:
Modeling context in referring expressions, ECCV 2016; Mao et al., CVPR 2016. Layout:
    refs(unc).p or refs(umd).p   expressions: [{"ann_id", "image_id", "split", "sentences": [{"sent"}]}]
    instances.json               {"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id", "bbox"}]}
    train2014/ or images/train2014/
The official split is kept; test is testA and testB together. The pickle is read without any class or function, which
could run code: it holds lists, dictionaries, texts and numbers.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from training.data.coco import picture_folder
from training.data.corpus import (
    CorpusError,
    Record,
    check_split,
    first_file,
    number_of,
    numbered_lines,
    present_folders,
    read_object,
    records_of,
    text_of,
    unexpected,
)
from training.data.example import Box, Example, Region
from training.data.flickr import FLICKR30K_FOLDERS
from training.data.packed import Media, Origin

ENTITIES_ORIGIN = Origin(
    source="Flickr30k Entities (Plummer et al., ICCV 2015)",
    licence="annotations: research; the photographs belong to their authors on Flickr",
    split_rule="official lists: train.txt, val.txt, test.txt",
)
REFCOCO_ORIGIN = Origin(
    source="RefCOCO (Yu et al., ECCV 2016; Mao et al., CVPR 2016) on COCO 2014",
    licence="annotations: see their authors; the photographs belong to their authors on Flickr",
    split_rule="official; test: testA and testB",
)
REFCOCO_FILES = ("refs(unc).p", "refs(umd).p")
_PHRASE = re.compile(r"\[/EN#(?P<number>\d+)(?P<types>(?:/[a-z]+)+) (?P<words>[^\[\]]+)\]")
_NOT_SHOWN = "0"
_SPLITS = {"train": "train", "val": "val", "test": "test", "testA": "test", "testB": "test"}


def flickr30k_entities(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with its sentences and phrases. Raises CorpusError naming file, line and field."""
    check_split(split)
    pictures = present_folders(folder, FLICKR30K_FOLDERS, "pictures")[0]
    for _, key in numbered_lines(folder / f"{split}.txt"):
        boxes = _entity_boxes(folder / "Annotations" / f"{key.strip()}.xml")
        captions, regions = _entity_sentences(folder / "Sentences" / f"{key.strip()}.txt", boxes)
        example = Example(key.strip(), captions, regions=regions, still=True)
        yield example, pictures / f"{key.strip()}.jpg"


def _entity_sentences(path: Path, boxes: dict[str, Box]) -> tuple[tuple[str, ...], tuple[Region, ...]]:
    """Return the sentences without brackets, and their phrases with boxes. A phrase may occur more than once."""
    captions, regions = [], []
    for number, line in numbered_lines(path):
        caption = _PHRASE.sub(lambda match: match["words"], line).strip()
        if "[" in caption or "]" in caption:
            raise CorpusError(f"{path}:{number}: phrase: {line[:60]!r}; [/EN#NUMBER/TYPE WORDS] was expected")
        captions.append(caption)
        named = ((match["words"].strip(), boxes.get(match["number"])) for match in _PHRASE.finditer(line))
        regions += [Region(words, box) for words, box in named if box is not None]
    if not captions:
        raise CorpusError(f"{path}: sentences: none; at least one was expected")
    return tuple(captions), tuple(regions)


def _entity_boxes(path: Path) -> dict[str, Box]:
    """Return the smallest box around all boxes of each number."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing") from None
    except ElementTree.ParseError as error:
        raise CorpusError(f"{path}:{error.position[0]}: {error}; XML was expected") from None
    width, height = (_pixels(path, root, f"size/{name}") for name in ("width", "height"))
    boxes: dict[str, Box] = {}
    for entry in root.iter("object"):
        if entry.find("bndbox") is None:
            continue
        left, top, right, bottom = (_pixels(path, entry, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
        box = _box(f"{path}: object/bndbox", (left - 1, top - 1, right, bottom), width, height)
        for name in entry.iter("name"):
            other = boxes.get(name.text or "", box)
            boxes[name.text or ""] = (*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:]))  # type: ignore[assignment]
    boxes.pop(_NOT_SHOWN, None)
    return boxes


def _pixels(path: Path, element: ElementTree.Element, name: str) -> int:
    text = element.findtext(name)
    if text is None or not re.fullmatch(r"\s*[0-9]+\s*", text):
        raise CorpusError(f"{path}: {name}: {text!r}; a number of pixels was expected")
    return int(text)


def _box(where: str, edges: tuple[float, float, float, float], width: float, height: float) -> Box:
    """Convert edges from pixels to fractions, and clip them to the picture. Raises CorpusError for an empty box."""
    left, top, right, bottom = edges
    if min(width, height) < 1:
        raise CorpusError(f"{where}: a picture of {width} x {height} pixels; 1 or more were expected")
    box = (max(left / width, 0.0), max(top / height, 0.0), min(right / width, 1.0), min(bottom / height, 1.0))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise CorpusError(f"{where}: {edges} in a picture of {width} x {height} pixels; an area of it was expected")
    return box


def refcoco(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with its expressions. Raises CorpusError naming file, index and field."""
    check_split(split)
    path = first_file(folder, (".",), REFCOCO_FILES)
    if path is None:
        raise CorpusError(f"{folder}: no {' or '.join(REFCOCO_FILES)}; one of them was expected")
    pictures, content = picture_folder(folder, "train2014"), read_object(folder / "instances.json", "segmentation")
    images = {number_of(image, "id"): image for image in records_of(content, "images")}
    annotations = {number_of(record, "id"): record for record in records_of(content, "annotations")}
    regions: dict[int, list[Region]] = {}
    for record in _references(path):
        official = record.fields.get("split")
        if not isinstance(official, str) or official not in _SPLITS:
            raise unexpected(record, "split", f"one of {tuple(_SPLITS)}")
        if _SPLITS[official] != split:
            continue
        image, annotation = images.get(number_of(record, "image_id")), annotations.get(number_of(record, "ann_id"))
        if image is None:
            raise unexpected(record, "image_id", "the id of an entry of images of instances.json")
        if annotation is None:
            raise unexpected(record, "ann_id", "the id of an entry of annotations of instances.json")
        box = _box_of_annotation(annotation, image)
        phrases = [text_of(sentence, "sent", "an expression") for sentence in records_of(record, "sentences")]
        regions.setdefault(number_of(image, "id"), []).extend(Region(phrase, box) for phrase in phrases)
    for image_id, of_image in regions.items():
        name = text_of(images[image_id], "file_name", "the name of a picture")
        yield Example(Path(name).stem, regions=tuple(of_image), still=True), pictures / name


def _box_of_annotation(annotation: Record, image: Record) -> Box:
    values = annotation.fields.get("bbox")
    if not (isinstance(values, list) and len(values) == 4 and all(isinstance(x, int | float) for x in values)):
        raise unexpected(annotation, "bbox", "left, top, width and height in pixels")
    left, top, width, height = values
    edges = (left, top, left + width, top + height)
    return _box(f"{annotation.where}bbox", edges, number_of(image, "width"), number_of(image, "height"))


class _PlainUnpickler(pickle.Unpickler):
    """Reads only lists, dictionaries, texts and numbers, since a pickle of classes could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not read")


def _references(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        try:
            values = _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
            raise CorpusError(f"{path}: not a pickle of plain values: {error}") from None
    if not isinstance(values, list):
        raise CorpusError(f"{path}: {type(values).__name__}; a list of expressions was expected")
    yield from records_of(Record(f"{path}: ", {"refs": values}), "refs")
