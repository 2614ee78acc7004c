"""The splits of Karpathy and Fei-Fei (CVPR 2015) for photographs with sentences: dataset_coco.json and its like.

{"images": [{"filename", "filepath" (COCO alone: the folder), "split", "sentences": [{"raw"}]}]}, where split is
train, restval, val or test. restval, what is left of COCO's official validation split, is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.json_file import read_object, records_of, text_of, unexpected

SPLIT_OF = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class SplitImage:
    """One image of a split; `folder` is "" where the file names none. `where` names it in errors."""

    where: str
    folder: str
    name: str
    captions: tuple[str, ...]


def split_images(path: Path, split: str) -> Iterator[SplitImage]:
    """The images of train, val or test, in the order of the file. Raises CorpusError."""
    names: set[str] = set()
    for image in records_of(read_object(path, without="tokens"), "images"):
        official_split = image.fields.get("split")
        if not isinstance(official_split, str) or official_split not in SPLIT_OF:
            raise unexpected(image, "split", f"one of {tuple(SPLIT_OF)}")
        name = text_of(image, "filename", "the name of a picture")
        if name in names:  # of any split: what is tested on must not be learned from
            raise unexpected(image, "filename", "one that has not occurred before")
        names.add(name)
        if SPLIT_OF[official_split] != split:
            continue
        folder = text_of(image, "filepath", "the name of a folder") if "filepath" in image.fields else ""
        captions = tuple(text_of(sentence, "raw", "a sentence") for sentence in records_of(image, "sentences"))
        if not captions:
            raise unexpected(image, "sentences", "at least one sentence")
        yield SplitImage(image.where.removesuffix("."), folder, name, captions)
