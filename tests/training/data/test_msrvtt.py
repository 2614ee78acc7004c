from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data.corpus import CorpusError
from training.data.example import Negative, Question
from training.data.msrvtt import msrvtt, msrvtt_official
from training.evaluation.retrieval import queries_of

SPLITS = {"video0": "train", "video1": "validate", "video2": "test", "video3": "test"}
SENTENCES = [
    ("video0", "a car drives"),
    ("video1", "a dog barks"),
    ("video2", "a man cooks"),
    ("video2", "someone fries"),
]
SENTENCES += [("video3", "a band plays"), ("video0", "a red car")]


def annotation(names: list[str]) -> dict[str, Any]:
    return {
        "info": {"version": "1.0"},
        "videos": [
            {
                "category": 9,
                "url": "https://www.youtube.com/watch?v=9lZi22qLlEo",
                "video_id": name,
                "start time": 137.72,
                "end time": 149.44,
                "split": SPLITS[name],
                "id": i,
            }
            for i, name in enumerate(names)
        ],
        "sentences": [
            {"caption": text, "video_id": name, "sen_id": i}
            for i, (name, text) in enumerate(SENTENCES)
            if name in names
        ],
    }


def corpus(folder: Path) -> Path:
    """The annotation and videos as the authors distribute them."""
    for name, names in (("train_val", ["video0", "video1"]), ("test", ["video2", "video3"])):
        (folder / f"{name}_videodatainfo.json").write_text(json.dumps(annotation(names)))
    for name in SPLITS:
        path = folder / ("TestVideo" if SPLITS[name] == "test" else "TrainValVideo") / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return folder


def add_1k_a(folder: Path, trained: tuple[str, ...] | None = ("video0", "video1", "video2")) -> None:
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(
        'key,vid_key,video_id,sentence\nret0,msr3,video3,"a band, on a stage"\n'
    )
    if trained is not None:
        (folder / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"{name}\n" for name in trained))


def add_questions(folder: Path) -> None:
    (folder / "MSRVTT-QA").mkdir()
    requested = {
        "train": [(0, "what drives?", "car")],
        "val": [],
        "test": [(2, "who cooks?", "man"), (3, "is it?", "yes")],
    }
    for split, questions in requested.items():
        (folder / "MSRVTT-QA" / f"{split}_qa.json").write_text(
            json.dumps(
                [
                    {"answer": answer, "category_id": 14, "id": i, "question": question, "video_id": video}
                    for i, (video, question, answer) in enumerate(questions)
                ]
            )
        )


def captions(folder: Path, split: str) -> dict[str, tuple[str, ...]]:
    return {example.key: example.captions for example, _ in msrvtt(folder, split)}


def test_the_official_split_is_kept_and_clips_are_used_whole(tmp_path: Path) -> None:
    corpus(tmp_path)
    ((example, media),) = msrvtt(tmp_path, "train")
    assert (example.key, example.captions) == ("video0", ("a car drives", "a red car"))
    assert example.attributes == {"category": 9}
    assert media == tmp_path / "TrainValVideo" / "video0.mp4"
    assert captions(tmp_path, "val") == {"video1": ("a dog barks",)}
    assert captions(tmp_path, "test") == {"video2": ("a man cooks", "someone fries"), "video3": ("a band plays",)}


def test_one_file_of_all_videos_gives_the_same(tmp_path: Path) -> None:
    for name in ("parts", "whole"):
        (tmp_path / name).mkdir()
    corpus(tmp_path / "parts")
    (tmp_path / "whole" / "MSRVTT_data.json").write_text(json.dumps(annotation(list(SPLITS))))
    (tmp_path / "whole" / "videos" / "all").mkdir(parents=True)
    (tmp_path / "whole" / "videos" / "all" / "video3.mp4").touch()
    read = list(msrvtt(tmp_path / "whole", "test"))
    assert [example for example, _ in read] == [example for example, _ in msrvtt(tmp_path / "parts", "test")]
    assert read[1][1] == tmp_path / "whole" / "videos" / "all" / "video3.mp4"


@pytest.mark.parametrize("trained", [("video0", "video1", "video2"), None])
def test_split_1k_a_tests_with_its_pairs_and_trains_with_the_rest(
    tmp_path: Path, trained: tuple[str, ...] | None
) -> None:
    add_1k_a(corpus(tmp_path), trained)
    assert captions(tmp_path, "test") == {"video3": ("a band, on a stage",)}
    assert list(captions(tmp_path, "train")) == ["video0", "video2"]
    assert list(captions(tmp_path, "val")) == ["video1"]
    assert [example.key for example, _ in msrvtt_official(tmp_path, "test")] == ["video2", "video3"]


def test_no_question_of_the_test_split_gets_into_training(tmp_path: Path) -> None:
    add_questions(corpus(tmp_path))
    official = {example.key: example.questions for example, _ in msrvtt(tmp_path, "test")}
    assert official == {
        "video2": (Question("who cooks?", ("man",), "who"),),
        "video3": (Question("is it?", ("yes",), "other"),),
    }
    add_1k_a(tmp_path)
    trained = {example.key: example.questions for example, _ in msrvtt(tmp_path, "train")}
    assert trained == {"video0": (Question("what drives?", ("car",), "what"),), "video2": ()}


@pytest.mark.parametrize("lines", [True, False])
def test_wrong_choices_become_negatives_of_the_right_sentence(tmp_path: Path, lines: bool) -> None:
    corpus(tmp_path)
    options = ["w1", "someone fries", "w2", "w3", "w4"]
    if lines:
        (tmp_path / "msrvtt_mc_test.jsonl").write_text(
            json.dumps({"qid": 0, "clip_name": "video2", "options": options, "answer": 1}) + "\n"
        )
    else:
        (tmp_path / "msrvtt_mc_test.json").write_text(
            json.dumps([{"video": "video2.mp4", "caption": options, "answer": 1}])
        )
    example = next(example for example, _ in msrvtt(tmp_path, "test") if example.key == "video2")
    assert example.captions == ("a man cooks", "someone fries")
    assert example.negatives == tuple(Negative(f"w{n}", of=1, grade=3, kind="other") for n in range(1, 5))


def test_a_right_choice_that_is_no_caption_becomes_the_last_one(tmp_path: Path) -> None:
    add_1k_a(corpus(tmp_path))
    choice = {"clip_name": "video3", "options": ["a band plays", "w1", "w2", "w3", "w4"], "answer": 0}
    (tmp_path / "mc_test.jsonl").write_text(json.dumps(choice) + "\n")
    ((example, _),) = msrvtt(tmp_path, "test")
    assert example.captions == ("a band, on a stage", "a band plays")
    assert queries_of(example) == ("a band, on a stage",)  # 1k-A searches with one sentence per video
    assert {negative.of for negative in example.negatives} == {1}


def test_a_missing_video_is_given_as_the_path_where_it_belongs(tmp_path: Path) -> None:
    (corpus(tmp_path) / "TrainValVideo" / "video0.mp4").unlink()
    ((example, media),) = msrvtt(tmp_path, "train")
    assert (example.key, media) == ("video0", tmp_path / "TrainValVideo" / "video0.mp4")


def broken(part: str, index: int, field: str, value: object) -> str:
    content = annotation(["video0", "video1"])
    content[part][index][field] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "train_val_videodatainfo.json",
            broken("sentences", 1, "caption", None),
            r"videodatainfo\.json: sentences\[1\]\.caption: None; a sentence was expected",
        ),
        (
            "train_val_videodatainfo.json",
            broken("sentences", 0, "video_id", "video77"),
            r"sentences\[0\]\.video_id: 'video77'; the video_id of an entry of videos",
        ),
        (
            "train_val_videodatainfo.json",
            '{"videos": [{"video_id": "video0", "split": "train"}], "sentences": []}',
            r"videos\[0\]\.video_id: 'video0'; the video_id of an entry of sentences",
        ),
        ("train_val_videodatainfo.json", broken("videos", 0, "split", "dev"), r"videos\[0\]\.split: 'dev'"),
        ("train_val_videodatainfo.json", broken("videos", 0, "video_id", "x"), r"sentences\[0\]\.video_id: 'video0'"),
        (
            "train_val_videodatainfo.json",
            broken("videos", 0, "video_id", "video1"),
            r"train_val_videodatainfo\.json: videos\[1\]\.video_id: 'video1'; a unique value",
        ),
        (
            "test_videodatainfo.json",
            broken("videos", 0, "video_id", "video0"),
            r"test_videodatainfo\.json: videos\[0\]\.video_id: 'video0'; a unique value",
        ),
        (
            "train_qa.json",
            '[{"video_id": 7777, "question": "what?", "answer": "car"}]',
            r"train_qa\.json: \[0\]\.video_id: 7777; the number of a video of the annotation was expected",
        ),
        ("train_val_videodatainfo.json", "{", r"train_val_videodatainfo\.json: not JSON"),
        ("train_val_videodatainfo.json", "[]", r"train_val_videodatainfo\.json: \[\]; a JSON object was expected"),
        ("train_val_videodatainfo.json", '{"videos": 3}', r"json: videos: 3; a list was expected"),
        ("train_qa.json", "{}", r"train_qa\.json: \{\}; a list of JSON objects was expected"),
        ("train_qa.json", '[{"video_id": 0, "question": "what?"}]', r"train_qa\.json: \[0\]\.answer: None; an answer"),
        (
            "train_qa.json",
            '[{"video_id": "video0", "question": "what?", "answer": "car"}]',
            r"train_qa\.json: \[0\]\.video_id: 'video0'; a whole number",
        ),
        ("MSRVTT_JSFUSION_test.csv", "key,sentence\nret0,a band\n", r"test\.csv:1: column 'video_id' is not in"),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo9,a\n", r"test\.csv:2: video_id: 'video9' is not"),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo3,\n", r"test\.csv:2: sentence: ''"),
    ],
)
def test_a_malformed_annotation_names_file_place_and_field(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    (corpus(tmp_path) / file).write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(msrvtt(tmp_path, "train"))


def test_a_training_list_that_holds_a_test_video_is_refused(tmp_path: Path) -> None:
    add_1k_a(corpus(tmp_path), ("video0", "video3"))
    with pytest.raises(CorpusError, match=r"train\.9k\.csv:3: video_id: 'video3' is also in MSRVTT_JSFUSION_test\.csv"):
        list(msrvtt(tmp_path, "train"))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"clip_name": "video2", "options": ["a", "b"], "answer": 2}, r"mc_test\.jsonl:1: answer: 2; an index below 2"),
        ({"clip_name": "video2", "options": ["a", ""], "answer": 0}, r"mc_test\.jsonl:1: options\[1\]: ''; a sentence"),
        (
            {"clip_name": "video2", "options": ["a"], "answer": 0},
            r"jsonl:1: options: \['a'\]; a list of several sentences",
        ),
        ({"clip_name": "video2", "answer": 0}, r"mc_test\.jsonl:1: options: None; a list was expected"),
        ({"options": ["a", "b"], "answer": 0}, r"mc_test\.jsonl:1: clip_name: None"),
        ({"clip_name": "video9", "options": ["a", "b"], "answer": 0}, r"jsonl:1: clip_name: 'video9'; a video of the"),
    ],
)
def test_a_malformed_choice_names_line_and_field(tmp_path: Path, choice: dict[str, Any], message: str) -> None:
    (corpus(tmp_path) / "mc_test.jsonl").write_text(json.dumps(choice) + "\n")
    with pytest.raises(CorpusError, match=message):
        list(msrvtt(tmp_path, "test"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"neither MSRVTT_data\.json nor"):
        list(msrvtt(tmp_path, "train"))
    (tmp_path / "train_val_videodatainfo.json").write_text(json.dumps(annotation(["video0"])))
    with pytest.raises(CorpusError, match=r"no folder of videos; one of \('TrainValVideo'"):
        list(msrvtt(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"split: 'test': its annotation names no such video"):
        list(msrvtt(tmp_path, "test"))
