"""MSVD, the Microsoft Research Video Description Corpus: 1,970 clips of web videos, about 40 sentences each.

Chen, Dolan: Collecting highly parallel data for paraphrase evaluation, ACL 2011. MSVD-QA and MSRVTT-QA: questions made
from captions, with answers of one word. Xu et al.: Video question answering via gradually refined attention over
appearance and motion, ACM MM 2017.

FOLDER/ (all but the videos also in msvd_data/, MSVD-QA/)
    AllVideoDescriptions.txt   KEY sentence; lines that begin with # are comments; a KEY is VIDEO_START_END
    or a CSV (CSV_NAMES)       VideoID,Start,End,...,Source,...,Language,Description: only English, of Source clean or
                               unverified; rows without a description are skipped
    YouTubeClips/ or videos/   KEY.avi or KEY.mp4, already clips: used whole
    train_list.txt, val_list.txt, test_list.txt   KEYs, 1,200, 100 and 670
    youtube_mapping.txt        KEY vidNUMBER
    {train,val,test}_qa.json   [{"id", "video_id": number in the mapping, "question", "answer", ...}, ...]
Without lists the numbers of the mapping give the same split: vid1 to vid1200 train, to vid1300 validation, the others
test.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from training.data.corpus import (
    SPLITS,
    CorpusError,
    check_split,
    csv_rows,
    first_file,
    media_path,
    number_of,
    numbered_lines,
    present_folders,
    read_objects,
    text_of,
    unexpected,
)
from training.data.example import Example, Question
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="MSVD, Microsoft Research Video Description Corpus (Chen, Dolan, ACL 2011)",
    licence="research; the videos belong to their authors on YouTube",
    split_rule="train_list.txt, val_list.txt, test_list.txt (1,200, 100, 670), or the same by youtube_mapping.txt",
)
ANNOTATION_FOLDERS = (".", "msvd_data", "MSVD-QA")
VIDEO_FOLDERS = ("YouTubeClips", "videos")
DESCRIPTIONS = "AllVideoDescriptions.txt"
CSV_NAMES = ("MSR Video Description Corpus.csv", "MSR_Video_Description_Corpus.csv", "video_corpus.csv")
CSV_COLUMNS = ("VideoID", "Start", "End", "Source", "Language", "Description")
SOURCES = ("clean", "unverified")
MAPPING = "youtube_mapping.txt"
LAST_TRAIN, LAST_VALIDATION = 1200, 1300
_NUMBER = re.compile(r"vid(\d+)")
_logger = logging.getLogger(__name__)


def msvd(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every clip of a split with its sentences and questions. Raises CorpusError naming file and line."""
    check_split(split)
    captions = _captions(folder)
    path = first_file(folder, ANNOTATION_FOLDERS, (MAPPING,))
    mapping = list(_mapping(path)) if path else None
    keys = {number: key for _, key, number in mapping or ()}
    listed = list(_listed(folder, split, mapping))
    if not listed:
        raise CorpusError(f"{folder}: split: {split!r}: no clip of it is listed")
    questions = _questions(folder, split, keys)
    if elsewhere := set(questions) - {key for _, key in listed}:
        _logger.warning("%s: questions about %d videos of other splits are left out", folder, len(elsewhere))
    folders = present_folders(folder, VIDEO_FOLDERS, "videos")
    seen_keys: set[str] = set()
    for where, key in listed:
        if key not in captions:
            raise CorpusError(f"{where}: video {key!r} has no sentence")
        if key in seen_keys:
            raise CorpusError(f"{where}: video {key!r} occurs twice; unique values were expected")
        seen_keys.add(key)
        example = Example(key, tuple(captions[key]), questions=tuple(questions.get(key, ())))
        yield example, media_path(folders, key, (".avi", ".mp4"))


def _captions(folder: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    if path := first_file(folder, ANNOTATION_FOLDERS, (DESCRIPTIONS,)):
        for number, line in numbered_lines(path):
            if line.startswith("#"):
                continue
            key, _, sentence = line.strip().partition(" ")
            if not sentence.strip():
                raise CorpusError(
                    f"{path}:{number}: sentence: none in {line[:60]!r}; VIDEO_START_END sentence expected"
                )
            captions.setdefault(key, []).append(sentence.strip())
        return captions
    path = first_file(folder, ANNOTATION_FOLDERS, CSV_NAMES)
    if path is None:
        raise CorpusError(f"{folder}: neither {DESCRIPTIONS} nor one of {CSV_NAMES}; one of these was expected")
    for number, row in csv_rows(path, CSV_COLUMNS):
        if row["Language"] != "English" or row["Source"] not in SOURCES or not row["Description"]:
            continue
        for column in ("Start", "End"):
            if not row[column].isdigit():
                raise CorpusError(f"{path}:{number}: {column}: {row[column]!r}; whole seconds were expected")
        key = f"{row['VideoID']}_{row['Start']}_{row['End']}"
        captions.setdefault(key, []).append(" ".join(row["Description"].split()))
    return captions


def _listed(folder: Path, split: str, mapping: Sequence[tuple[str, str, int]] | None) -> Iterator[tuple[str, str]]:
    """Yield (FILE:LINE, key) of every clip of a split."""
    lists = {name: first_file(folder, ANNOTATION_FOLDERS, (f"{name}_list.txt",)) for name in SPLITS}
    if listing := lists[split]:
        for number, line in numbered_lines(listing):
            yield f"{listing}:{number}", line.strip()
    elif any(lists.values()) or mapping is None:
        raise CorpusError(f"{folder}: neither {split}_list.txt nor, in place of all lists, {MAPPING}")
    else:
        for where, key, number in mapping:
            if split == ("train" if number <= LAST_TRAIN else "val" if number <= LAST_VALIDATION else "test"):
                yield where, key


def _mapping(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (FILE:LINE, key, number) of every line `KEY vidNUMBER`; keys and numbers are unique."""
    seen_keys: set[str] = set()
    for number, line in numbered_lines(path):
        fields = line.split()
        match = _NUMBER.fullmatch(fields[1]) if len(fields) == 2 else None
        if match is None:
            raise CorpusError(f"{path}:{number}: {line[:60]!r}; VIDEO_START_END vidNUMBER was expected")
        if repeated := seen_keys.intersection(fields):
            raise CorpusError(f"{path}:{number}: {min(repeated)!r} occurs twice; unique values were expected")
        seen_keys.update(fields)
        yield f"{path}:{number}", fields[0], int(match[1])


def _questions(folder: Path, split: str, keys: Mapping[int, str]) -> dict[str, list[Question]]:
    path = first_file(folder, ANNOTATION_FOLDERS, (f"{split}_qa.json",))
    return questions_by_video(path, keys.get, f"a number of {MAPPING}, which names its video,") if path else {}


KINDS = ("what", "who", "how", "when", "where")


def questions_by_video(path: Path, videos: Callable[[int], str | None], expected: str) -> dict[str, list[Question]]:
    """Return the questions by video, in file order. Raises CorpusError naming the entry and the field.

    videos: Maps a number to the key of the video, or to None, which is an error with the text `expected`.
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
    """Return the type of a question, its first word, or "other"; the authors use five types."""
    first = question.split()[0].lower()
    return first if first in KINDS else "other"
