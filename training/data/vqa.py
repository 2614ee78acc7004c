"""VQA v2: questions of people about photographs of COCO, each answered by ten others.

Goyal et al.: Making the V in VQA matter, CVPR 2017. Annotations: CC-BY 4.0. The photographs belong to their
authors on Flickr.

The layout; annotation files may lie in annotations/, the folders of pictures in images/:
    v2_OpenEnded_mscoco_{train,val}2014_questions.json   {"questions": [{"image_id", "question", "question_id"}]}
    v2_mscoco_{train,val}2014_annotations.json           {"annotations": [{"question_id", "image_id", "answer_type",
                                                          "multiple_choice_answer", "answers": [..]}]}
    train2014/  val2014/                                 COCO_train2014_000000000042.jpg ...
The answer of a question is its multiple_choice_answer, what most people said; the ten answers are not read.
The official train split is kept. The official test splits have no public answers, so the official val split is
halved by image, as that of training.data.coco is: an image is in test when the first byte of the SHA-1 of its
key (COCO_val2014_000000000042) is below 128, otherwise in val.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.coco import TEST_BYTES, annotation_file, in_test_half, picture_folder
from training.data.errors import CorpusError
from training.data.example import Example, Question
from training.data.hash_split import check_split
from training.data.json_file import number_of, read_object, records_of, text_of, unexpected
from training.data.packed import Media, Origin

ORIGIN = Origin(
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
    """Every image of a split with all its questions. An image need not exist: packing names it as skipped.

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
    """{image id: its questions}, in the order of the file of questions."""
    path = annotation_file(folder, f"v2_mscoco_{part}_annotations.json")
    answers = _answers(path)
    questions_by_image: dict[int, list[Question]] = {}
    content = read_object(annotation_file(folder, f"v2_OpenEnded_mscoco_{part}_questions.json"))
    for record in records_of(content, "questions"):
        answer = answers.pop(number_of(record, "question_id"), None)
        if answer is None:
            raise unexpected(record, "question_id", f"a question, asked once, that {path.name} answers")
        if number_of(record, "image_id") != answer.image_id:
            raise unexpected(record, "image_id", f"{answer.image_id}, as in {path.name},")
        question = Question(text_of(record, "question", "a question"), (answer.text,), answer.kind)
        questions_by_image.setdefault(answer.image_id, []).append(question)
    for question_id, answer in answers.items():
        raise CorpusError(f"{answer.where}question_id: {question_id}; one that is asked was expected")
    return questions_by_image


def _answers(path: Path) -> dict[int, _Answer]:
    """{question id: its answer}."""
    answers: dict[int, _Answer] = {}
    for record in records_of(read_object(path, without="answers"), "annotations"):
        answer_type = record.fields.get("answer_type")
        if not isinstance(answer_type, str) or answer_type not in KINDS:
            raise unexpected(record, "answer_type", f"one of {tuple(KINDS)}")
        question_id = number_of(record, "question_id")
        if question_id in answers:
            raise unexpected(record, "question_id", "one that has not occurred before")
        text = text_of(record, "multiple_choice_answer", "an answer")
        answers[question_id] = _Answer(record.where, number_of(record, "image_id"), text, KINDS[answer_type])
    return answers
