"""Flickr30k: 31,783 photographs of people and what they do, with five sentences each.

Young, Lai, Hodosh, Hockenmaier: From image descriptions to visual denotations, TACL 2 (2014). For research and
education; the photographs belong to their authors on Flickr. Most photographs of Flickr8k are among them: a model
that was trained on one of the two has seen images that the other tests on.

The layout:
    flickr30k-images/ or flickr30k_images/   the pictures
    dataset_flickr30k.json                   the split of Karpathy and Fei-Fei
    results_20130124.token                   IMAGE.jpg#N, a tab, the sentence; or
    results.csv                              image_name| comment_number| comment
There is no official split, so dataset_flickr30k.json is needed: 29,000 train, 1,014 validation, 1,000 test; the
rest is in no split. The sentences are those of the first file that exists: token, CSV, dataset_flickr30k.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Example
from training.data.flickr_files import add_caption, captions_by_id, captions_by_image, image_key
from training.data.hash_split import check_split
from training.data.karpathy import split_images
from training.data.media_files import first_file, present_folders
from training.data.packed import Media, Origin
from training.data.text_file import numbered_lines

ORIGIN = Origin(
    source="Flickr30k (Young, Lai, Hodosh, Hockenmaier, TACL 2014)",
    licence="research and education; the photographs belong to their authors on Flickr",
    split_rule="Karpathy and Fei-Fei, dataset_flickr30k.json: 29,000 train, 1,014 validation, 1,000 test",
)
KARPATHY_FILE = "dataset_flickr30k.json"
TOKEN_FILE = "results_20130124.token"
TABLE_FILE = "results.csv"
IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images")
# One row of the table that is in circulation lacks its second bar: "2199200615.jpg| 4   A dog runs across the grass ."
_ROW = re.compile(r"(?P<image>[^|]+?)\s*\|\s*(?P<number>\d+)\s*[|\s]\s*(?P<comment>[^|\s].*)")


def flickr30k(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every image of a split with its sentences. An image need not exist: packing names it as skipped.

    Raises CorpusError naming file, line or index, and field.
    """
    check_split(split)
    listing = folder / KARPATHY_FILE
    if not listing.is_file():
        raise CorpusError(f"{listing}: missing; Flickr30k has no official split, so this file is needed")
    pictures = present_folders(folder, IMAGE_FOLDERS, "pictures")[0]
    sentences = first_file(folder, (".",), (TOKEN_FILE, TABLE_FILE))
    captions = {} if sentences is None else captions_by_image(_captions(sentences))
    for image in split_images(listing, split):
        key = image_key(image.name)
        if sentences is not None and key not in captions:
            raise CorpusError(f"{image.where}.filename: {image.name!r} has no sentence in {sentences.name}")
        yield Example(key, captions.get(key, image.captions), still=True), pictures / image.name


def _captions(path: Path) -> dict[str, str]:
    return _captions_of_table(path) if path.name == TABLE_FILE else captions_by_id(path)


def _captions_of_table(path: Path) -> dict[str, str]:
    """{"KEY#0": sentence, ...} of the table: IMAGE.jpg| NUMBER| the sentence, below a line of names."""
    captions: dict[str, str] = {}
    for number, line in numbered_lines(path):
        if number == 1 and line.startswith("image_name"):
            continue
        row = _ROW.fullmatch(line)
        if row is None:
            raise CorpusError(
                f"{path}:{number}: comment: none in {line[:60]!r}; IMAGE.jpg| NUMBER| SENTENCE was expected"
            )
        caption_id = f"{image_key(row['image'])}#{row['number']}"
        add_caption(captions, caption_id, row["comment"].strip(), f"{path}:{number}")
    return captions
