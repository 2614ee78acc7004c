"""COCO captions: photographs of everyday scenes with five sentences each.

Lin et al.: Microsoft COCO: common objects in context, ECCV 2014; Chen et al.: Microsoft COCO captions, 2015.
Annotations: CC-BY 4.0. The photographs belong to their authors on Flickr.

The layout, as it is distributed, of 2014 or 2017; the folders of pictures may lie in images/:
    annotations/captions_train2014.json   {"images": [{"id", "file_name"}],
    annotations/captions_val2014.json      "annotations": [{"image_id", "caption"}]}
    train2014/  val2014/                  the pictures
    dataset_coco.json                     the split of Karpathy and Fei-Fei (optional, also in annotations/)
Where both years are, the first one with a folder of pictures is read.

With dataset_coco.json that split is used, and its sentences: train and restval (113,287 images), val (5,000),
test (5,000); captions_*.json are not needed. Without it the official train split is kept. The official test
split has no public sentences, so the official val split is halved: an image is in test when the first byte of
the SHA-1 of its key (the name of its file without suffix) is below 128, otherwise in val.

The train split of Karpathy and the official one of 2017 hold images of val2014, on which training.data.vqa
validates and tests: train on one split of COCO only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Example
from training.data.hash_split import check_split
from training.data.json_file import number_of, read_object, records_of, text_of, unexpected
from training.data.karpathy import split_images
from training.data.key_hash import first_byte
from training.data.media_files import first_file, present_folders
from training.data.packed import Media, Origin

YEARS = ("2014", "2017")
TEST_BYTES = 128
ORIGIN = Origin(
    source="COCO captions (Lin et al., ECCV 2014; Chen et al. 2015)",
    licence="annotations: CC-BY 4.0; the photographs belong to their authors on Flickr",
    split_rule="with dataset_coco.json: Karpathy and Fei-Fei, train and restval, val, test; without it: official "
    "train, and official val halved, test when the first byte of the SHA-1 of the image's key is below "
    f"{TEST_BYTES}",
)
KARPATHY_FILE = "dataset_coco.json"
_PARTS = ("train", "val")


def coco(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every image of a split with its sentences. An image need not exist: packing names it as skipped.

    Raises CorpusError naming file, index and field, or the folder of pictures that is missing.
    """
    check_split(split)
    if (listing := annotation_file(folder, KARPATHY_FILE)).is_file():
        for image in split_images(listing, split):
            if not image.folder:
                raise CorpusError(f"{image.where}.filepath: missing; the name of a folder was expected")
            key = Path(image.name).stem
            yield Example(key, image.captions, still=True), picture_folder(folder, image.folder) / image.name
    else:
        yield from _official(folder, split)


def annotation_file(folder: Path, name: str) -> Path:
    """Where an annotation file is, below `folder` or its annotations/; in the latter when there is none."""
    return first_file(folder, (".", "annotations"), (name,)) or folder / "annotations" / name


def picture_folder(folder: Path, name: str) -> Path:
    """Where the pictures of train2014 or another part are, below `folder` or its images/. Raises CorpusError."""
    return present_folders(folder, _picture_folders(name), "pictures")[0]


def in_test_half(key: str) -> bool:
    """True for the images of the official validation split that are tested on."""
    return first_byte(key) < TEST_BYTES


def _picture_folders(name: str) -> tuple[str, str]:
    return name, f"images/{name}"


def _official(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    part = ("train" if split == "train" else "val") + _year(folder)
    pictures = picture_folder(folder, part)
    content = read_object(annotation_file(folder, f"captions_{part}.json"))
    captions: dict[int, list[str]] = {}
    for image in records_of(content, "images"):
        if number_of(image, "id") in captions:
            raise unexpected(image, "id", "one that has not occurred before")
        captions[number_of(image, "id")] = []
    for annotation in records_of(content, "annotations"):
        image_id = number_of(annotation, "image_id")
        if image_id not in captions:
            raise unexpected(annotation, "image_id", "the id of one of images")
        captions[image_id].append(text_of(annotation, "caption", "a sentence"))
    for image in records_of(content, "images"):
        name = text_of(image, "file_name", "the name of a picture")
        sentences = tuple(captions[number_of(image, "id")])
        if not sentences:
            raise unexpected(image, "id", "the image_id of one of annotations")
        key = Path(name).stem
        if split == "train" or in_test_half(key) == (split == "test"):
            yield Example(key, sentences, still=True), pictures / name


def _year(folder: Path) -> str:
    annotated = [
        year for year in YEARS if any(annotation_file(folder, f"captions_{p}{year}.json").is_file() for p in _PARTS)
    ]
    if not annotated:
        raise CorpusError(
            f"{folder}: neither {KARPATHY_FILE} nor annotations/captions_{{train,val}}{{2014,2017}}.json; "
            "one of these was expected"
        )
    for year in annotated:
        if any((folder / name).is_dir() for part in _PARTS for name in _picture_folders(part + year)):
            return year
    return annotated[0]
