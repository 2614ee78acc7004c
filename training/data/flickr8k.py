"""Flickr8k: 8,000 photographs with five sentences each, and what experts think of other sentences for them.

Hodosh, Young, Hockenmaier: Framing image description as a ranking task, JAIR 47 (2013). For research and
education; the photographs belong to their authors on Flickr.

Two layouts are read:
- WebDataset shards: train-00000.tar ... with KEY.jpg and KEY.json {"captions": [..]}, expert_judgements.tsv
- as its authors distribute it: Images/ or Flicker8k_Dataset/, Flickr8k.token.txt,
  Flickr_8k.{train,dev,test}Images.txt, ExpertAnnotations.txt
The official split is kept: 6,000 train, 1,000 validation (their "dev"), 1,000 test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Example, ExampleError, text_list
from training.data.flickr_files import captions_by_id, captions_by_image, image_key
from training.data.hash_split import check_split
from training.data.media_files import present_folders
from training.data.packed import Media, Origin
from training.data.text_file import numbered_lines
from training.data.webdataset import read_shard, shard_paths

ORIGIN = Origin(
    source="Flickr8k (Hodosh, Young, Hockenmaier, JAIR 2013)",
    licence="research and education; the photographs belong to their authors on Flickr",
    split_rule="official lists: Flickr_8k.trainImages.txt, devImages (validation), testImages",
)
OFFICIAL_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
IMAGE_FOLDERS = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
TOKEN_FILE = "Flickr8k.token.txt"


@dataclass(frozen=True)
class Judgement:
    """Three experts on one image-caption pair, each from 1 (unrelated) to 4 (describes the image)."""

    image: str
    caption_id: str
    caption: str
    scores: tuple[int, int, int]

    @property
    def is_own_caption(self) -> bool:
        """True where the caption was written for this very image; the literature drops these pairs."""
        return self.caption_id.partition("#")[0] == self.image


def flickr8k(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every image of a split with its sentences, in whichever layout they are. Raises CorpusError."""
    check_split(split)
    if shards := shard_paths(folder, split):
        for shard in shards:
            for sample in read_shard(shard):
                try:
                    captions = text_list(sample.record, "captions")
                except ExampleError as error:
                    raise CorpusError(f"{shard}: {sample.key}.json: {error}") from None
                if not captions:
                    raise CorpusError(f"{shard}: {sample.key}.json: captions: none; sentences were expected")
                yield Example(sample.key, captions, still=True), sample.media
    elif (folder / TOKEN_FILE).is_file():
        yield from _official(folder, split)
    else:
        raise CorpusError(f"{folder}: neither {split}-*.tar nor {TOKEN_FILE}; one of these was expected")


def expert_judgements(folder: Path) -> list[Judgement]:
    """All judged pairs (5,822), from expert_judgements.tsv or ExpertAnnotations.txt. Raises CorpusError."""
    if (folder / "expert_judgements.tsv").is_file():
        return _judgements_tsv(folder / "expert_judgements.tsv")
    if (folder / "ExpertAnnotations.txt").is_file():
        return _judgements_official(folder / "ExpertAnnotations.txt", captions_by_id(folder / TOKEN_FILE))
    raise CorpusError(f"{folder}: neither expert_judgements.tsv nor ExpertAnnotations.txt")


def _official(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    images = present_folders(folder, IMAGE_FOLDERS, "pictures")[0]
    captions = captions_by_image(captions_by_id(folder / TOKEN_FILE))
    listing = folder / OFFICIAL_LISTS[split]
    for number, line in numbered_lines(listing):
        key = Path(line.strip()).stem
        if key not in captions:
            raise CorpusError(f"{listing}:{number}: image {line.strip()!r} has no sentence in {TOKEN_FILE}")
        path = images / line.strip()
        if not path.is_file():
            raise CorpusError(f"{listing}:{number}: image {path} is missing")
        yield Example(key, captions[key], still=True), path


def _judgements_tsv(path: Path) -> list[Judgement]:
    judgements = []
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if number == 1 and fields[0] == "image":
            continue
        if len(fields) != 6:
            raise CorpusError(
                f"{path}:{number}: {len(fields)} fields; image, caption_id, caption, 3 judgements expected"
            )
        judgements.append(Judgement(fields[0], fields[1], fields[2], _scores(path, number, fields[3:])))
    return judgements


def _judgements_official(path: Path, captions: dict[str, str]) -> list[Judgement]:
    judgements = []
    for number, line in numbered_lines(path):
        fields = line.split()
        if len(fields) != 5:
            raise CorpusError(f"{path}:{number}: {len(fields)} fields; image, caption id, 3 judgements were expected")
        name, _, index = fields[1].partition("#")
        caption_id = f"{image_key(name)}#{index}"
        if caption_id not in captions:
            raise CorpusError(f"{path}:{number}: caption id: {fields[1]!r} is not in {TOKEN_FILE}")
        scores = _scores(path, number, fields[2:])
        judgements.append(Judgement(image_key(fields[0]), caption_id, captions[caption_id], scores))
    return judgements


def _scores(path: Path, number: int, fields: list[str]) -> tuple[int, int, int]:
    for position, field in enumerate(fields, 1):
        if field.strip() not in {"1", "2", "3", "4"}:
            raise CorpusError(f"{path}:{number}: judgement {position}: {field!r}; 1, 2, 3 or 4 was expected")
    first, second, third = (int(field) for field in fields)
    return first, second, third
