"""TGIF-QA: questions about animated GIFs.

Jang, Song, Yu, Kim, Kim: TGIF-QA: Toward spatio-temporal reasoning in visual question answering, CVPR 2017.

FOLDER/ (files also in dataset/ or annotations/)
    {Train,Test}_{action,transition,frameqa}_question.csv, tab-separated, with a header:
        action, transition: gif_name question a1 a2 a3 a4 a5 answer vid_id key; answer is an index of the five, from 0
        frameqa: gif_name question answer type vid_id key description; type is 0 to 3: object, number, color, location
    gifs/: GIF_NAME.gif

The tasks have splits of their own, so each is a corpus. The five choices of a question become sentences, the question
and an answer: the right one is a caption for multiple choice alone, the others are its negatives of grade 3. Questions
of frameqa are open. The task count is not read: its answers are numbers, measured by their squared error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from training.data.corpus import (
    VALIDATION_BYTES,
    CorpusError,
    Record,
    check_split,
    csv_rows,
    first_byte,
    first_file,
    media_path,
    present_folders,
    text_of,
    unexpected,
)
from training.data.example import CHOICE_ONLY, Example, Negative, Question
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="TGIF-QA (Jang, Song, Yu, Kim, Kim, CVPR 2017) on TGIF",
    licence="research; the GIFs belong to their authors on Tumblr",
    split_rule="official train and test of each task; a train GIF is validation when the first byte of the SHA-1 of "
    f"its name is below {VALIDATION_BYTES}",
)
ANNOTATION_FOLDERS = (".", "dataset", "annotations")
GIF_FOLDERS = ("gifs", "gif", "GIFs")
KINDS = {"0": "object", "1": "count", "2": "colour", "3": "where"}
_CHOICES = ("a1", "a2", "a3", "a4", "a5")


def action(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every GIF of a split with the choices of what happens so many times in it. Raises CorpusError."""
    return _choices(folder, split, "action")


def transition(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every GIF of a split with the choices of what happens before or after something. Raises CorpusError."""
    return _choices(folder, split, "transition")


def frameqa(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every GIF of a split with its open questions. Raises CorpusError."""
    questions: dict[str, list[Question]] = defaultdict(list)
    for name, record in _records(folder, split, "frameqa", ("answer", "type")):
        kind = KINDS.get(record.fields["type"])
        if kind is None:
            raise unexpected(record, "type", f"one of {', '.join(KINDS)}")
        answer = text_of(record, "answer", "an answer")
        questions[name].append(Question(text_of(record, "question", "a question"), (answer,), kind))
    return _with_media(folder, (Example(name, questions=tuple(of_gif)) for name, of_gif in questions.items()))


def _choices(folder: Path, split: str, task: str) -> Iterator[tuple[Example, Media]]:
    sentences: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    for name, record in _records(folder, split, task, (*_CHOICES, "answer")):
        question = text_of(record, "question", "a question")
        choices = [f"{question} {text_of(record, column, 'an answer')}" for column in _CHOICES]
        if record.fields["answer"] not in map(str, range(len(choices))):
            raise unexpected(record, "answer", f"an index below {len(choices)}")
        sentences[name].append((choices.pop(int(record.fields["answer"])), choices))
    return _with_media(folder, (_with_choices(name, of_gif) for name, of_gif in sentences.items()))


def _with_choices(name: str, sentences: list[tuple[str, list[str]]]) -> Example:
    return Example(
        name,
        captions=tuple(right for right, _ in sentences),
        negatives=tuple(
            Negative(sentence, of, grade=3, kind="other")
            for of, (_, wrong) in enumerate(sentences)
            for sentence in wrong
        ),
        attributes={CHOICE_ONLY: list(range(len(sentences)))},
    )


def _records(folder: Path, split: str, task: str, columns: tuple[str, ...]) -> Iterator[tuple[str, Record]]:
    """Yield (name of the GIF, row) of every question of a split."""
    check_split(split)
    name = f"{'Test' if split == 'test' else 'Train'}_{task}_question.csv"
    path = first_file(folder, ANNOTATION_FOLDERS, (name,))
    if path is None:
        raise CorpusError(f"{folder}: no {name} in any of {ANNOTATION_FOLDERS}; the annotation of {split} was expected")
    for number, row in csv_rows(path, ("gif_name", "question", *columns), delimiter="\t"):
        record = Record(f"{path}:{number}: ", row)
        gif = text_of(record, "gif_name", "the name of a GIF")
        if split == "test" or (first_byte(gif) < VALIDATION_BYTES) == (split == "val"):
            yield gif, record


def _with_media(folder: Path, examples: Iterator[Example]) -> Iterator[tuple[Example, Media]]:
    folders = present_folders(folder, GIF_FOLDERS, "GIFs")
    for example in examples:
        yield example, media_path(folders, example.key, (".gif",))
