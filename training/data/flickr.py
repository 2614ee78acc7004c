"""Flickr8k and Flickr30k: photographs with five sentences each, and the expert judgements of Flickr8k.

Flickr8k (8,000 photographs): Hodosh, Young, Hockenmaier: Framing image description as a ranking task, JAIR 47 (2013).
Two layouts:
- WebDataset shards: train-00000.tar ... with KEY.jpg and KEY.json {"captions": [..]}, expert_judgements.tsv
- as distributed: Images/ or Flicker8k_Dataset/, Flickr8k.token.txt, Flickr_8k.{train,dev,test}Images.txt,
  ExpertAnnotations.txt
The official split is kept: 6,000 train, 1,000 validation ("dev"), 1,000 test.

Flickr30k (31,783 photographs of people): Young, Lai, Hodosh, Hockenmaier: From image descriptions to visual
denotations, TACL 2 (2014). It contains most photographs of Flickr8k: a model trained on one of the two has seen test
images of the other. Layout:
    flickr30k-images/ or flickr30k_images/   the pictures
    dataset_flickr30k.json                   the split of Karpathy and Fei-Fei: 29,000 train, 1,014 validation, 1,000
                                             test; required, since there is no official split
    results_20130124.token                   IMAGE.jpg#N, a tab, the sentence; or
    results.csv                              image_name| comment_number| comment
Sentences are read from the first file that exists: token, CSV, dataset_flickr30k.json.

Both are for research and education; the photographs belong to their authors on Flickr.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.caption_questions import caption_questions
from training.data.coco import split_images
from training.data.corpus import CorpusError, check_split, first_file, numbered_lines, present_folders
from training.data.example import Example, ExampleError, text_list
from training.data.packed import Media, Origin
from training.data.webdataset import read_shard, shard_paths

FLICKR8K_ORIGIN = Origin(
    source="Flickr8k (Hodosh, Young, Hockenmaier, JAIR 2013)",
    licence="research and education; the photographs belong to their authors on Flickr",
    split_rule="official lists: Flickr_8k.trainImages.txt, devImages (validation), testImages",
)
OFFICIAL_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
FLICKR8K_FOLDERS = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
FLICKR8K_TOKEN_FILE = "Flickr8k.token.txt"


@dataclass(frozen=True)
class Judgement:
    """Scores of three experts for an image-caption pair, from 1 (unrelated) to 4 (describes the image)."""

    image: str
    caption_id: str
    caption: str
    scores: tuple[int, int, int]

    @property
    def is_own_caption(self) -> bool:
        """Return whether the caption was written for this image; the literature drops these pairs."""
        return self.caption_id.partition("#")[0] == self.image


def flickr8k(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with its sentences, from either layout. Raises CorpusError."""
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
                yield _example(sample.key, captions), sample.media
    elif (folder / FLICKR8K_TOKEN_FILE).is_file():
        yield from _official(folder, split)
    else:
        raise CorpusError(f"{folder}: neither {split}-*.tar nor {FLICKR8K_TOKEN_FILE}; one of these was expected")


def _example(key: str, captions: tuple[str, ...]) -> Example:
    return Example(key, captions, questions=caption_questions(key, captions), still=True)


def expert_judgements(folder: Path) -> list[Judgement]:
    """Return all judged pairs (5,822) of expert_judgements.tsv or ExpertAnnotations.txt. Raises CorpusError."""
    if (folder / "expert_judgements.tsv").is_file():
        return _judgements_tsv(folder / "expert_judgements.tsv")
    if (folder / "ExpertAnnotations.txt").is_file():
        return _judgements_official(folder / "ExpertAnnotations.txt", captions_by_id(folder / FLICKR8K_TOKEN_FILE))
    raise CorpusError(f"{folder}: neither expert_judgements.tsv nor ExpertAnnotations.txt")


def _official(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    images = present_folders(folder, FLICKR8K_FOLDERS, "pictures")[0]
    captions = captions_by_image(captions_by_id(folder / FLICKR8K_TOKEN_FILE))
    listing = folder / OFFICIAL_LISTS[split]
    for number, line in numbered_lines(listing):
        key = Path(line.strip()).stem
        if key not in captions:
            raise CorpusError(f"{listing}:{number}: image {line.strip()!r} has no sentence in {FLICKR8K_TOKEN_FILE}")
        path = images / line.strip()
        if not path.is_file():
            raise CorpusError(f"{listing}:{number}: image {path} is missing")
        yield _example(key, captions[key]), path


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
            raise CorpusError(f"{path}:{number}: caption id: {fields[1]!r} is not in {FLICKR8K_TOKEN_FILE}")
        scores = _scores(path, number, fields[2:])
        judgements.append(Judgement(image_key(fields[0]), caption_id, captions[caption_id], scores))
    return judgements


def _scores(path: Path, number: int, fields: list[str]) -> tuple[int, int, int]:
    for position, field in enumerate(fields, 1):
        if field.strip() not in {"1", "2", "3", "4"}:
            raise CorpusError(f"{path}:{number}: judgement {position}: {field!r}; 1, 2, 3 or 4 was expected")
    first, second, third = (int(field) for field in fields)
    return first, second, third


FLICKR30K_ORIGIN = Origin(
    source="Flickr30k (Young, Lai, Hodosh, Hockenmaier, TACL 2014)",
    licence="research and education; the photographs belong to their authors on Flickr",
    split_rule="Karpathy and Fei-Fei, dataset_flickr30k.json: 29,000 train, 1,014 validation, 1,000 test",
)
KARPATHY_FILE = "dataset_flickr30k.json"
FLICKR30K_TOKEN_FILE = "results_20130124.token"
FLICKR30K_TABLE_FILE = "results.csv"
FLICKR30K_FOLDERS = ("flickr30k-images", "flickr30k_images")
# One row of the published table lacks its second bar: "2199200615.jpg| 4   A dog runs across the grass ."
_ROW = re.compile(r"(?P<image>[^|]+?)\s*\|\s*(?P<number>\d+)\s*[|\s]\s*(?P<comment>[^|\s].*)")


def flickr30k(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with its sentences. A missing image is listed as skipped by packing.

    Raises CorpusError naming file, line or index, and field.
    """
    check_split(split)
    listing = folder / KARPATHY_FILE
    if not listing.is_file():
        raise CorpusError(f"{listing}: missing; Flickr30k has no official split, so this file is needed")
    pictures = present_folders(folder, FLICKR30K_FOLDERS, "pictures")[0]
    sentences = first_file(folder, (".",), (FLICKR30K_TOKEN_FILE, FLICKR30K_TABLE_FILE))
    captions = {} if sentences is None else captions_by_image(_captions(sentences))
    for image in split_images(listing, split):
        key = image_key(image.name)
        if sentences is not None and key not in captions:
            raise CorpusError(f"{image.where}.filename: {image.name!r} has no sentence in {sentences.name}")
        yield _example(key, captions.get(key, image.captions)), pictures / image.name


def _captions(path: Path) -> dict[str, str]:
    return _captions_of_table(path) if path.name == FLICKR30K_TABLE_FILE else captions_by_id(path)


def _captions_of_table(path: Path) -> dict[str, str]:
    """Return {"KEY#0": sentence, ...} of a table IMAGE.jpg| NUMBER| SENTENCE with a header."""
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


def captions_by_id(path: Path) -> dict[str, str]:
    """Return {"KEY#0": sentence, ...} of a token file: IMAGE.jpg#NUMBER, a tab, the sentence. Raises CorpusError."""
    captions: dict[str, str] = {}
    for number, line in numbered_lines(path):
        identifier, tab, caption = line.partition("\t")
        image, mark, index = identifier.partition("#")
        if not (tab and caption.strip()):
            raise CorpusError(
                f"{path}:{number}: sentence: none in {line[:60]!r}; IMAGE.jpg#N, a tab, a sentence expected"
            )
        if not (mark and index.isdigit()):
            raise CorpusError(f"{path}:{number}: image: {identifier[:60]!r}; IMAGE.jpg#N was expected")
        add_caption(captions, f"{image_key(image)}#{index}", caption.strip(), f"{path}:{number}")
    return captions


def add_caption(captions: dict[str, str], caption_id: str, caption: str, where: str) -> None:
    """Add a caption. where: Prefix of the error. Raises CorpusError if the id already has another caption."""
    if captions.setdefault(caption_id, caption) != caption:
        raise CorpusError(f"{where}: image: {caption_id!r} has another sentence before; one per id was expected")


def captions_by_image(captions: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return {"KEY": sentences in order} of {"KEY#0": sentence, ...}."""
    sentences: dict[str, list[str]] = {}
    for caption_id, caption in captions.items():
        sentences.setdefault(caption_id.partition("#")[0], []).append(caption)
    return {key: tuple(of_image) for key, of_image in sentences.items()}


def image_key(image: str) -> str:
    """Return the name of an image file without .jpg and what follows it."""
    # One image of Flickr8k's token file is called 2258277193_586949ec62.jpg.1.
    return image.partition(".jpg")[0]
