"""MSR-VTT: 10,000 clips of web videos with twenty sentences each.

Xu, Mei, Yao, Rui: MSR-VTT: A large video description dataset for bridging video and language, CVPR 2016.

FOLDER/
    MSRVTT_data.json, or train_val_videodatainfo.json and test_videodatainfo.json:
        {"videos": [{"video_id": "video0", "split": "train" | "validate" | "test", "category": 9, ...}, ...],
         "sentences": [{"video_id": "video0", "caption": "...", "sen_id": 0}, ...]}
    TrainValVideo/, TestVideo/, videos/all/, videos/ or MSRVTT_Videos/: video0.mp4 ...
and optionally (also in annotation/, msrvtt_data/, MSRVTT-QA/, MSRVTT-MC/):
    MSRVTT_JSFUSION_test.csv   key,vid_key,video_id,sentence: the 1,000 pairs that split 1k-A tests with
    MSRVTT_train.9k.csv        video_id: what split 1k-A trains with; without it, all videos but those 1,000
    {train,val,test}_qa.json   MSRVTT-QA, see training.data.msvd
    msrvtt_mc_test.jsonl or mc_test.jsonl, MSRVTT-MC: one object per line, {"clip_name": "video7010",
        "options": [5 sentences], "answer": index of the right one}; or msrvtt_mc_test.json, a list of objects
        {"video": "video7010.mp4", "caption": [5 sentences], "answer": index}. The four wrong sentences, each
        of another video, become negatives of grade 3.

Every file is used whole: "start time" and "end time" refer to the YouTube video that the clip was cut from.

`msrvtt` uses split 1k-A where its lists exist, `msrvtt_official` never: questions and MSRVTT-MC belong to the official
split, and 1k-A trains on some of its test videos. Either way a video has only the questions of the requested split, so
that no test question is trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.data.corpus import (
    CorpusError,
    Record,
    check_split,
    csv_rows,
    first_file,
    media_path,
    number_of,
    present_folders,
    read_json_lines,
    read_object,
    read_objects,
    records_of,
    text_of,
    texts_of,
    unexpected,
)
from training.data.example import CHOICE_ONLY, Example, Negative, Question
from training.data.msvd import questions_by_video
from training.data.packed import Media, Origin

_SOURCE = "MSR-VTT (Xu, Mei, Yao, Rui, CVPR 2016)"
_LICENCE = "research; the videos belong to their authors on YouTube"
ORIGIN = Origin(
    source=_SOURCE,
    licence=_LICENCE,
    split_rule="1k-A where MSRVTT_JSFUSION_test.csv is there: its 1,000 pairs test; of MSRVTT_train.9k.csv the "
    "official validation videos (497) validate and the others train; else the official split",
)
OFFICIAL_ORIGIN = Origin(
    source=_SOURCE, licence=_LICENCE, split_rule="official: 6,513 train, 497 validation, 2,990 test videos"
)
OFFICIAL_SPLITS = {"train": "train", "validate": "val", "test": "test"}
ANNOTATION_FOLDERS = (
    *(".", "annotation", "annotations", "train_val_annotation", "test_annotation", "msrvtt_data"),
    *("MSRVTT-QA", "MSRVTT-MC"),
)
WHOLE_ANNOTATION = "MSRVTT_data.json"
ANNOTATION_PARTS = ("train_val_videodatainfo.json", "test_videodatainfo.json")
VIDEO_FOLDERS = ("TrainValVideo", "TestVideo", "videos/all", "videos", "MSRVTT_Videos")
TEST_PAIRS, TRAIN_LIST = "MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv"
CHOICES = ("msrvtt_mc_test.jsonl", "mc_test.jsonl", "msrvtt_mc_test.json")
_CHOICE_VIDEO = ("clip_name", "video_id", "video", "image")
_CHOICE_SENTENCES = ("options", "captions", "caption")


@dataclass
class _Video:
    record: Record
    split: str
    attributes: dict[str, Any]
    captions: list[str] = field(default_factory=list)


def msrvtt(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every video of a split: 1k-A where its test pairs are in the folder, else official. Raises CorpusError."""
    check_split(split)
    pairs = first_file(folder, ANNOTATION_FOLDERS, (TEST_PAIRS,))
    if pairs is None:
        return msrvtt_official(folder, split)
    videos = _videos(folder)
    return _examples(folder, split, _captions_1k_a(folder, split, pairs, videos), videos)


def msrvtt_official(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every video of an official split. Raises CorpusError."""
    check_split(split)
    videos = _videos(folder)
    return _examples(folder, split, {name: video for name, video in videos.items() if video.split == split}, videos)


def _examples(
    folder: Path, split: str, videos: Mapping[str, _Video], known: Collection[str]
) -> Iterator[tuple[Example, Media]]:
    """Yield the examples of `videos`. known: Names of all annotated videos."""
    if not videos:
        raise CorpusError(f"{folder}: split: {split!r}: its annotation names no such video")
    folders = present_folders(folder, VIDEO_FOLDERS, "videos")
    questions = _questions(folder, split, known)
    choices = _choices(folder, known) if split == "test" else {}
    for name, video in videos.items():
        if not video.captions:
            raise unexpected(video.record, "video_id", "the video_id of an entry of sentences")
        example = Example(
            key=name,
            captions=tuple(video.captions),
            questions=tuple(questions.get(name, ())),
            attributes=video.attributes,
        )
        if name in choices:
            example = _with_negatives(example, *choices[name])
        yield example, media_path(folders, name, (".mp4",))


def _videos(folder: Path) -> dict[str, _Video]:
    """Return the annotated videos by id, with their sentences in file order."""
    whole = first_file(folder, ANNOTATION_FOLDERS, (WHOLE_ANNOTATION,))
    parts = [first_file(folder, ANNOTATION_FOLDERS, (name,)) for name in ANNOTATION_PARTS]
    paths = [whole] if whole else [path for path in parts if path]
    if not paths:
        raise CorpusError(f"{folder}: neither {WHOLE_ANNOTATION} nor {ANNOTATION_PARTS}; one of these was expected")
    videos: dict[str, _Video] = {}
    for path in paths:
        content = read_object(path)
        for record in records_of(content, "videos"):
            split = record.fields.get("split")
            if not isinstance(split, str) or split not in OFFICIAL_SPLITS:
                raise unexpected(record, "split", f"one of {tuple(OFFICIAL_SPLITS)}")
            attributes = {name: record.fields[name] for name in ("category",) if name in record.fields}
            name = text_of(record, "video_id", "the name of a video")
            if name in videos:
                raise unexpected(record, "video_id", "a unique value")
            videos[name] = _Video(record, OFFICIAL_SPLITS[split], attributes)
        for record in records_of(content, "sentences"):
            name = text_of(record, "video_id", "the name of a video")
            if name not in videos:
                raise unexpected(record, "video_id", "the video_id of an entry of videos")
            videos[name].captions.append(text_of(record, "caption", "a sentence"))
    return videos


def _captions_1k_a(folder: Path, split: str, pairs: Path, videos: Mapping[str, _Video]) -> dict[str, _Video]:
    tested: dict[str, _Video] = {}
    for number, row in csv_rows(pairs, ("video_id", "sentence")):
        name = _known(row["video_id"], pairs, number, videos)
        if not row["sentence"]:
            raise CorpusError(f"{pairs}:{number}: sentence: ''; a sentence was expected")
        tested.setdefault(name, replace(videos[name], captions=[])).captions.append(row["sentence"])
    if split == "test":
        return tested
    names = [name for name in videos if name not in tested]
    if listing := first_file(folder, ANNOTATION_FOLDERS, (TRAIN_LIST,)):
        names = []
        for number, row in csv_rows(listing, ("video_id",)):
            names.append(_known(row["video_id"], listing, number, videos))
            if names[-1] in tested:
                raise CorpusError(f"{listing}:{number}: video_id: {names[-1]!r} is also in {TEST_PAIRS}")
    return {name: videos[name] for name in names if (videos[name].split == "val") == (split == "val")}


def _known(name: str, path: Path, number: int, videos: Mapping[str, _Video]) -> str:
    if name not in videos:
        raise CorpusError(f"{path}:{number}: video_id: {name!r} is not a video of the annotation")
    return name


def _questions(folder: Path, split: str, known: Collection[str]) -> dict[str, list[Question]]:
    path = first_file(folder, ANNOTATION_FOLDERS, (f"{split}_qa.json",))
    if path is None:
        return {}

    def video(number: int) -> str | None:
        return name if (name := f"video{number}") in known else None

    return questions_by_video(path, video, "the number of a video of the annotation")


def _choices(folder: Path, known: Collection[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """{video id: (right sentence, the wrong ones)} of MSRVTT-MC, where it is there."""
    path = first_file(folder, ANNOTATION_FOLDERS, CHOICES)
    if path is None:
        return {}
    choices: dict[str, tuple[str, tuple[str, ...]]] = {}
    for record in read_json_lines(path) if path.suffix == ".jsonl" else read_objects(path):
        video_field = next((name for name in _CHOICE_VIDEO if name in record.fields), _CHOICE_VIDEO[0])
        field_name = next((name for name in _CHOICE_SENTENCES if name in record.fields), _CHOICE_SENTENCES[0])
        sentences = texts_of(record, field_name, "a sentence")
        if len(sentences) < 2:
            raise unexpected(record, field_name, "a list of several sentences")
        answer = number_of(record, "answer")
        if not 0 <= answer < len(sentences):
            raise unexpected(record, "answer", f"an index below {len(sentences)}")
        wrong = tuple(sentence for index, sentence in enumerate(sentences) if index != answer)
        name = Path(text_of(record, video_field, "the name of a video")).stem
        if name not in known or name in choices:
            raise unexpected(record, video_field, "a video of the annotation, once,")
        choices[name] = (sentences[answer], wrong)
    return choices


def _with_negatives(example: Example, right: str, wrong: tuple[str, ...]) -> Example:
    """The right sentence of a choice is among the captions or becomes the last of them, which searches leave out.

    1k-A searches with one sentence per video, whatever else is known of it.
    """
    captions, attributes = example.captions, example.attributes
    if right not in captions:
        captions, attributes = (*captions, right), attributes | {CHOICE_ONLY: len(captions)}
    of = captions.index(right)
    negatives = tuple(Negative(sentence, of, grade=3, kind="other") for sentence in wrong)
    return replace(example, captions=captions, negatives=negatives, attributes=attributes)
