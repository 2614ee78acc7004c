"""DAQUAR: questions of people about 1,449 photographs of rooms (NYU Depth v2).

Malinowski, Fritz: A multi-world approach to question answering about real-world scenes based on uncertain
input, NIPS 2014. For research.

Two layouts are read:
- WebDataset shards: train-00000.tar, test-00000.tar with KEY.jpg and KEY.json {"questions": [..]}
- as its authors distribute it: qa.894.raw.{train,test}.txt (a question that ends in the name of an image,
  then a line of answers separated by commas) and a folder with image123.png or .jpg.
The official test split is kept. There is no official validation split: a training image is held out for
validation when the first byte of the SHA-1 of its key is below 26 (26/256, about a tenth of the images).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.corpus import (
    VALIDATION_BYTES,
    CorpusError,
    check_split,
    first_byte,
    first_file,
    media_path,
    numbered_lines,
    present_folders,
)
from training.data.example import Example, ExampleError, Question, example_of
from training.data.packed import Media, Origin
from training.data.webdataset import read_shard, shard_paths

ORIGIN = Origin(
    source="DAQUAR (Malinowski, Fritz, NIPS 2014) on NYU Depth v2",
    licence="research",
    split_rule="official train and test; a train image is validation when the first byte of the SHA-1 of its "
    f"key is below {VALIDATION_BYTES}",
)
QUESTION_FILES = ("qa.894.raw.{}.txt", "qa.37.raw.{}.txt")
IMAGE_FOLDERS = ("nyu_depth_images", "images", "Images", ".")
IMAGE_SUFFIXES = (".jpg", ".png")
_IMAGE_NAME = re.compile(r"(?:\s+(?:in|on|of|at|from)\b)?(?:\s+(?:the|this)\b)?\s+(image\d+)\s*\??\s*$")
_KINDS = (
    ("count", re.compile(r"\bhow many\b|\bnumber of\b")),
    ("colour", re.compile(r"\bcolou?rs?\b")),
    ("yesno", re.compile(r"^(is|are|does|do|was|were|has|have|can)\b")),
    ("where", re.compile(r"\bwhere\b")),
)


def daquar(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with all its questions, from either layout. Raises CorpusError."""
    check_split(split)
    official = "test" if split == "test" else "train"
    for example, media in _examples(folder, official):
        if split == "test" or is_validation(example.key) == (split == "val"):
            yield example, media


def is_validation(key: str) -> bool:
    """Return whether an image of the official training split is held out for validation."""
    return first_byte(key) < VALIDATION_BYTES


def question_kind(question: str) -> str:
    """Return count, colour, yesno, where or object by the wording; used only for reports by type."""
    for kind, pattern in _KINDS:
        if pattern.search(question):
            return kind
    return "object"


def _examples(folder: Path, official: str) -> Iterator[tuple[Example, Media]]:
    if shards := shard_paths(folder, official):
        for shard in shards:
            for sample in read_shard(shard):
                try:
                    read = example_of({"key": sample.key, "questions": sample.record.get("questions")})
                except ExampleError as error:
                    raise CorpusError(f"{shard}: {sample.key}.json: {error}") from None
                yield _example(sample.key, [(q.question, q.answers) for q in read.questions]), sample.media
        return
    names = [pattern.format(official) for pattern in QUESTION_FILES]
    path = first_file(folder, (".",), names)
    if path is None:
        raise CorpusError(f"{folder}: neither {official}-*.tar nor one of {names}; one of these was expected")
    yield from _official(folder, path)


def _official(folder: Path, path: Path) -> Iterator[tuple[Example, Media]]:
    questions_by_image: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    lines = numbered_lines(path)
    for number, line in lines:
        match = _IMAGE_NAME.search(line)
        if match is None:
            raise CorpusError(f"{path}:{number}: image: none in {line[-60:]!r}; '... in the image123 ?' was expected")
        answer_number, answer_line = next(lines, (number + 1, ""))
        answers = tuple(part for part in (_words(a) for a in answer_line.split(",")) if part)
        if not answers or _IMAGE_NAME.search(answer_line):
            raise CorpusError(
                f"{path}:{answer_number}: answers: {answer_line[:60]!r}; answers to line {number} were expected"
            )
        questions_by_image.setdefault(match[1], []).append((_words(line[: match.start()]) + "?", answers))
    folders = present_folders(folder, IMAGE_FOLDERS, "pictures")
    for key, questions in questions_by_image.items():
        image = media_path(folders, key, IMAGE_SUFFIXES)
        if not image.is_file():
            raise CorpusError(
                f"{path}: {key} has questions, but {folder} has no {key}.jpg or .png in any of {IMAGE_FOLDERS}"
            )
        yield _example(key, questions), image


def _words(text: str) -> str:
    # The authors join the words of an object's name: tape_dispenser.
    return text.replace("_", " ").strip()


def _example(key: str, questions_by_image: list[tuple[str, tuple[str, ...]]]) -> Example:
    questions = tuple(Question(question, answers, question_kind(question)) for question, answers in questions_by_image)
    return Example(key, questions=questions, still=True)
