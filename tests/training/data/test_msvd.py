from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from training.data.corpus import CorpusError
from training.data.example import Question
from training.data.msvd import msvd

KEYS = {"train": "-4wsuPCjDBc_5_15", "val": "mv89psg6zh4_33_46", "test": "R2DvpPTfl-E_20_25"}
NUMBERS = {"train": 1200, "val": 1201, "test": 1301}
CSV_HEADER = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"


def corpus(folder: Path, lists: bool = True) -> Path:
    """Sentences, split lists or the mapping, and videos, as they are distributed."""
    lines = ["# Descriptions of all videos", ""]
    for split, key in KEYS.items():
        lines += [f"{key} a first sentence of {split}", f"{key} a second one"]
    (folder / "AllVideoDescriptions.txt").write_text("\n".join(lines) + "\n")
    (folder / "YouTubeClips").mkdir()
    for split, key in KEYS.items():
        (folder / "YouTubeClips" / f"{key}.avi").touch()
        if lists:
            (folder / f"{split}_list.txt").write_text(f"{key}\n")
    if not lists:
        write_mapping(folder)
    return folder


def write_mapping(folder: Path) -> None:
    mapping = "".join(f"{key} vid{NUMBERS[split]}\n" for split, key in KEYS.items())
    (folder / "youtube_mapping.txt").write_text(mapping)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("lists", [True, False])
def test_the_usual_split_is_read_from_lists_or_from_the_mapping(tmp_path: Path, split: str, lists: bool) -> None:
    ((example, media),) = msvd(corpus(tmp_path, lists), split)
    assert example.key == KEYS[split]
    assert example.captions == (f"a first sentence of {split}", "a second one")
    assert media == tmp_path / "YouTubeClips" / f"{KEYS[split]}.avi"


def test_the_table_gives_its_english_sentences_clean_or_unverified(tmp_path: Path) -> None:
    (corpus(tmp_path) / "AllVideoDescriptions.txt").unlink()
    rows = [
        'mv89psg6zh4,33,46,588702,unverified,55,English,"A bird, in a sink."',
        "mv89psg6zh4,33,46,588702,clean,55,English,A parrot bathes.",
        "mv89psg6zh4,33,46,588702,clean,55,Slovene,Papiga se umiva.",
        "mv89psg6zh4,33,46,588702,machine,55,English,Bird bird.",
        "mv89psg6zh4,33,46,588702,clean,55,English,",
    ]
    (tmp_path / "MSR Video Description Corpus.csv").write_text(CSV_HEADER + "\n".join(rows) + "\n")
    ((example, _),) = msvd(tmp_path, "val")
    assert example.captions == ("A bird, in a sink.", "A parrot bathes.")


def test_questions_come_by_the_mapping_and_of_their_own_split_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_mapping(corpus(tmp_path))
    requested = [(1200, "what swims?", "fish"), (1301, "who runs?", "man"), (1200, "how many fish?", "two")]
    for split in KEYS:
        (tmp_path / f"{split}_qa.json").write_text(
            json.dumps(
                [
                    {"answer": answer, "id": i, "question": question, "video_id": number}
                    for i, (number, question, answer) in enumerate(requested)
                    if split != "test"
                ]
            )
        )
    with caplog.at_level(logging.WARNING):
        ((train, _),) = msvd(tmp_path, "train")
    assert train.questions == (Question("what swims?", ("fish",), "what"), Question("how many fish?", ("two",), "how"))
    assert "questions about 1 videos of other splits are left out" in caplog.text
    ((test, _),) = msvd(tmp_path, "test")
    assert test.questions == ()


def test_a_missing_video_is_given_as_the_path_where_it_belongs(tmp_path: Path) -> None:
    path = corpus(tmp_path) / "YouTubeClips" / f"{KEYS['val']}.avi"
    path.rename(path.with_suffix(".mp4"))
    assert [media for _, media in msvd(tmp_path, "val")] == [path.with_suffix(".mp4")]
    path.with_suffix(".mp4").unlink()
    assert [media for _, media in msvd(tmp_path, "val")] == [path]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("AllVideoDescriptions.txt", "# remark\nabc_1_2\n", r"Descriptions\.txt:2: sentence: none in 'abc_1_2'"),
        ("val_list.txt", "\nabc_1_2\n", r"val_list\.txt:2: video 'abc_1_2' has no sentence"),
        ("val_list.txt", "mv89psg6zh4_33_46\nmv89psg6zh4_33_46\n", r"val_list\.txt:2: video '.*' occurs twice"),
        ("val_list.txt", "\n", r"split: 'val': no clip of it is listed"),
        ("youtube_mapping.txt", "a_1_2 vid7\nb_1_2 vid7\n", r"mapping\.txt:2: 'vid7' occurs twice"),
        ("val_list.txt", None, r"neither val_list\.txt nor"),
        ("youtube_mapping.txt", "abc_1_2 video7\n", r"mapping\.txt:1: 'abc_1_2 video7'; VIDEO_START_END vidNUMBER"),
        (
            "val_qa.json",
            '[{"video_id": 7, "question": "what?", "answer": "cat"}]',
            r"val_qa\.json: \[0\]\.video_id: 7; a number of youtube_mapping\.txt, which names its video, was expected",
        ),
        (
            "val_qa.json",
            '[{"video_id": 1201, "question": "", "answer": "cat"}]',
            r"val_qa\.json: \[0\]\.question: ''; a question",
        ),
    ],
)
def test_a_malformed_annotation_names_file_line_and_field(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    corpus(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(msvd(tmp_path, "val"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CSV_HEADER + "abc,x,2,1,clean,5,English,A cat.\n", r"corpus\.csv:2: Start: 'x'; whole seconds"),
        ("VideoID,Start\nabc,1\n", r"corpus\.csv:1: column 'End' is not in"),
    ],
)
def test_a_malformed_table_names_line_and_column(tmp_path: Path, content: str, message: str) -> None:
    (corpus(tmp_path) / "AllVideoDescriptions.txt").unlink()
    (tmp_path / "video_corpus.csv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(msvd(tmp_path, "val"))


def test_a_folder_without_sentences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"neither AllVideoDescriptions\.txt nor one of"):
        list(msvd(tmp_path, "val"))
