"""Photographs of COCO: captions (`coco`), and the questions of VQA v2 (`vqa`).

COCO captions: everyday scenes with five sentences each. Lin et al.: Microsoft COCO: common objects in context, ECCV
2014; Chen et al.: Microsoft COCO captions, 2015. VQA v2: questions of people, each answered by ten others. Goyal et
al.: Making the V in VQA matter, CVPR 2017. Annotations of both: CC-BY 4.0. The photographs belong to their authors on
Flickr.

Layout, as distributed; annotation files may lie in annotations/, folders of pictures in images/:
    captions_{train,val}{2014,2017}.json   {"images": [{"id", "file_name"}],
                                            "annotations": [{"image_id", "caption"}]}
    train2014/  val2014/ ...               the pictures; where both years are present, the first year with pictures
    dataset_coco.json                      optional: the split of Karpathy and Fei-Fei (CVPR 2015)
    v2_OpenEnded_mscoco_{train,val}2014_questions.json   {"questions": [{"image_id", "question", "question_id"}]}
    v2_mscoco_{train,val}2014_annotations.json           {"annotations": [{"question_id", "image_id", "answer_type",
                                                          "multiple_choice_answer"}]}

Captions: with dataset_coco.json its split and sentences are used, and captions_*.json are not needed: train and
restval (113,287 images), val (5,000), test (5,000). Without it, and for questions, the official train split is kept.
The official test splits have no public annotations, so the official val split is halved by image: test when the first
byte of the SHA-1 of the image's key (its file name without suffix) is below 128, otherwise val.

The train split of Karpathy and the official one of 2017 contain images of val2014, on which VQA is validated and
tested: train on one split of COCO only.

The file of a Karpathy split: {"images": [{"filename", "filepath" (COCO only: the folder), "split", "sentences":
[{"raw"}]}]}, where split is train, restval, val or test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.corpus import (
    CorpusError,
    check_split,
    first_byte,
    first_file,
    number_of,
    present_folders,
    read_object,
    records_of,
    text_of,
    unexpected,
)
from training.data.example import Example, Question
from training.data.packed import Media, Origin

YEARS = ("2014", "2017")
TEST_BYTES = 128
COCO_ORIGIN = Origin(
    source="COCO captions (Lin et al., ECCV 2014; Chen et al. 2015)",
    licence="annotations: CC-BY 4.0; the photographs belong to their authors on Flickr",
    split_rule="with dataset_coco.json: Karpathy and Fei-Fei, train and restval, val, test; without it: official "
    "train, and official val halved, test when the first byte of the SHA-1 of the image's key is below "
    f"{TEST_BYTES}",
)
KARPATHY_FILE = "dataset_coco.json"
_PARTS = ("train", "val")


def coco(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with its sentences. Packing lists missing images as skipped.

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
    """Return the path of an annotation file in `folder` or annotations/; if there is none, the path in annotations/."""
    return first_file(folder, (".", "annotations"), (name,)) or folder / "annotations" / name


def picture_folder(folder: Path, name: str) -> Path:
    """Return the folder of pictures `name`, such as train2014, in `folder` or its images/. Raises CorpusError."""
    return present_folders(folder, _picture_folders(name), "pictures")[0]


def in_test_half(key: str) -> bool:
    """Return whether an image of the official validation split belongs to the test split."""
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
            raise unexpected(image, "id", "a unique value")
        captions[number_of(image, "id")] = []
    for annotation in records_of(content, "annotations"):
        image_id = number_of(annotation, "image_id")
        if image_id not in captions:
            raise unexpected(annotation, "image_id", "the id of an entry of images")
        captions[image_id].append(text_of(annotation, "caption", "a sentence"))
    for image in records_of(content, "images"):
        name = text_of(image, "file_name", "the name of a picture")
        sentences = tuple(captions[number_of(image, "id")])
        if not sentences:
            raise unexpected(image, "id", "the image_id of an entry of annotations")
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


SPLIT_OF = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class SplitImage:
    """An image of a split. `folder` is "" if the file states none; `where` is the location for error messages."""

    where: str
    folder: str
    name: str
    captions: tuple[str, ...]


def split_images(path: Path, split: str) -> Iterator[SplitImage]:
    """Yield the images of train, val or test, in file order. Raises CorpusError."""
    names: set[str] = set()
    for image in records_of(read_object(path, without="tokens"), "images"):
        official_split = image.fields.get("split")
        if not isinstance(official_split, str) or official_split not in SPLIT_OF:
            raise unexpected(image, "split", f"one of {tuple(SPLIT_OF)}")
        name = text_of(image, "filename", "the name of a picture")
        if name in names:  # also in other splits, since training on test images must be excluded
            raise unexpected(image, "filename", "a unique value")
        names.add(name)
        if SPLIT_OF[official_split] != split:
            continue
        folder = text_of(image, "filepath", "the name of a folder") if "filepath" in image.fields else ""
        captions = tuple(text_of(sentence, "raw", "a sentence") for sentence in records_of(image, "sentences"))
        if not captions:
            raise unexpected(image, "sentences", "at least one sentence")
        yield SplitImage(image.where.removesuffix("."), folder, name, captions)


VQA_ORIGIN = Origin(
    source="VQA v2 (Goyal et al., CVPR 2017) on COCO 2014",
    licence="annotations: CC-BY 4.0; the photographs belong to their authors on Flickr",
    split_rule="official train; official val halved by image, test when the first byte of the SHA-1 of the image's "
    f"key is below {TEST_BYTES}; the official test splits have no public answers",
)
KINDS = {"yes/no": "yesno", "number": "count", "other": "other"}


@dataclass(frozen=True)
class _Answer:
    where: str
    image_id: int
    text: str
    kind: str


def vqa(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every image of a split with all its questions. A missing image is listed as skipped by packing.

    Raises CorpusError naming file, index and field, or the folder of pictures that is missing.
    """
    check_split(split)
    part = "train2014" if split == "train" else "val2014"
    pictures = picture_folder(folder, part)
    for image_id, questions in _questions(folder, part).items():
        key = f"COCO_{part}_{image_id:012d}"
        if split == "train" or in_test_half(key) == (split == "test"):
            yield Example(key, questions=tuple(questions), still=True), pictures / f"{key}.jpg"


def _questions(folder: Path, part: str) -> dict[int, list[Question]]:
    """Return the questions by image id, in the order of the question file."""
    path = annotation_file(folder, f"v2_mscoco_{part}_annotations.json")
    answers = _answers(path)
    questions_by_image: dict[int, list[Question]] = {}
    content = read_object(annotation_file(folder, f"v2_OpenEnded_mscoco_{part}_questions.json"))
    for record in records_of(content, "questions"):
        answer = answers.pop(number_of(record, "question_id"), None)
        if answer is None:
            raise unexpected(record, "question_id", f"a unique question_id that {path.name} answers")
        if number_of(record, "image_id") != answer.image_id:
            raise unexpected(record, "image_id", f"{answer.image_id}, as in {path.name},")
        question = Question(text_of(record, "question", "a question"), (answer.text,), answer.kind)
        questions_by_image.setdefault(answer.image_id, []).append(question)
    for question_id, answer in answers.items():
        raise CorpusError(
            f"{answer.where}question_id: {question_id}; the question_id of an entry of questions was expected"
        )
    return questions_by_image


def _answers(path: Path) -> dict[int, _Answer]:
    """Return the answers by question id."""
    answers: dict[int, _Answer] = {}
    for record in records_of(read_object(path, without="answers"), "annotations"):
        answer_type = record.fields.get("answer_type")
        if not isinstance(answer_type, str) or answer_type not in KINDS:
            raise unexpected(record, "answer_type", f"one of {tuple(KINDS)}")
        question_id = number_of(record, "question_id")
        if question_id in answers:
            raise unexpected(record, "question_id", "a unique value")
        text = text_of(record, "multiple_choice_answer", "an answer")
        answers[question_id] = _Answer(record.where, number_of(record, "image_id"), text, KINDS[answer_type])
    return answers
