"""MSRVTT-QA and MSVD-QA: questions made from the captions of a video, each with an answer of one word.

Xu et al.: Video question answering via gradually refined attention over appearance and motion, ACM MM 2017.
{train,val,test}_qa.json: [{"id", "video_id": a number, "question", "answer", ...}, ...]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from training.data.example import Question
from training.data.json_file import number_of, read_objects, text_of, unexpected

KINDS = ("what", "who", "how", "when", "where")


def questions_by_video(path: Path, videos: Callable[[int], str | None], expected: str) -> dict[str, list[Question]]:
    """{video: its questions} in file order. Raises CorpusError naming the entry and the field.

    videos: from a number to the key of the video, None where there is none; `expected` says what was expected then.
    """
    questions: dict[str, list[Question]] = {}
    for record in read_objects(path):
        question = text_of(record, "question", "a question")
        answer = text_of(record, "answer", "an answer")
        parsed = Question(question, (answer,), question_kind(question))
        video = videos(number_of(record, "video_id"))
        if video is None:
            raise unexpected(record, "video_id", expected)
        questions.setdefault(video, []).append(parsed)
    return questions


def question_kind(question: str) -> str:
    """The authors' five types, told from the first word; other for the rest."""
    first = question.split()[0].lower()
    return first if first in KINDS else "other"
