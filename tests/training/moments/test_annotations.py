"""Readers of annotated moments: small files in the official layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data.corpus import CorpusError
from training.moments.annotations import READERS, MomentVideo

QVHIGHLIGHTS = {
    "qid": 8737,
    "query": "A family is playing basketball together on a green court outside.",
    "duration": 126,
    "vid": "bP5KfdFJzC4_660.0_810.0",
    "relevant_windows": [[8, 12], [0, 2]],
    "relevant_clip_ids": [0, 4, 5],
    "saliency_scores": [[4, 1, 1], [2, 4, 4], [3, 3, 3]],
}
DIDEMO = {
    "annotation_id": 29,
    "description": "the dog stops and looks up",
    "video": "12090392@N02_13482799053_87ef417396.mov",
    "dl_link": "https://example.org",
    "num_segments": 6,
    "times": [[0, 0], [2, 3], [2, 3], [1, 1]],
}
ACTIVITYNET = {
    "v_QOlSCBRmfWY": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [50.0, 50.0], [60.81, 82.73]],
        "sentences": ["A young woman is seen standing.", "Nothing lasts.", " She ends by bowing. "],
    }
}


def write(folder: Path, name: str, content: Any) -> None:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def read(corpus: str, folder: Path, split: str) -> list[MomentVideo]:
    return list(READERS[corpus].read(folder, split))


def test_qvhighlights_gives_all_windows_of_a_sentence_and_its_highlights(
    tmp_path: Path,
) -> None:
    nothing = {"qid": 1, "query": "A cat", "duration": 126, "vid": QVHIGHLIGHTS["vid"], "relevant_windows": []}
    write(tmp_path, "highlight_val_release.jsonl", f"{json.dumps(QVHIGHLIGHTS)}\n{json.dumps(nothing)}\n")
    (tmp_path / "videos" / "bP5KfdFJzC4_660.0_810.0.mp4").touch()
    (video,) = read("qvhighlights", tmp_path, "val")
    assert video.path == tmp_path / "videos" / "bP5KfdFJzC4_660.0_810.0.mp4"
    first, second = video.queries
    assert first.spans == ((0, 2), (8, 12))
    assert first.highlights == ((0, 2), (8, 10))
    assert (second.spans, second.highlights) == ((), None)


def test_charades_sta_leaves_out_moments_without_length_and_divides_its_training_videos(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"VIDEO{i} 24.3 30.4##person turn a light on." for i in range(40)]
    write(tmp_path, "charades_sta_train.txt", "\n".join([*lines, "VIDEO3 7.0 6.5##a person sits down."]) + "\n")
    parts = {split: {video.key for video in read("charades_sta", tmp_path, split)} for split in ("train", "val")}
    assert parts["train"] | parts["val"] == {f"VIDEO{i}" for i in range(40)}
    assert not parts["train"] & parts["val"]
    assert len(parts["train"]) > len(parts["val"]) > 0
    assert "charades_sta_train.txt:41" in caplog.text
    write(tmp_path, "charades_sta_test.txt", lines[0])
    (query,) = read("charades_sta", tmp_path, "test")[0].queries
    assert (query.text, query.spans) == ("person turn a light on.", ((24.3, 30.4),))


def test_didemo_takes_the_segments_of_5_s_that_most_annotators_chose(tmp_path: Path) -> None:
    write(tmp_path, "train_data.json", [DIDEMO])
    (tmp_path / "videos" / "12090392@N02_13482799053_87ef417396.mp4").touch()  # downloaded in another format
    (video,) = read("didemo", tmp_path, "train")
    assert video.queries[0].spans == ((10.0, 20.0),)
    assert video.path.name == "12090392@N02_13482799053_87ef417396.mp4"


def test_activitynet_captions_pairs_sentences_with_timestamps(tmp_path: Path) -> None:
    write(tmp_path, "val_2.json", ACTIVITYNET)
    (tmp_path / "videos" / "v_QOlSCBRmfWY.mkv").touch()
    (video,) = read("activitynet_captions", tmp_path, "test")
    assert [(query.text, query.spans) for query in video.queries] == [
        ("A young woman is seen standing.", ((0.83, 19.86),)),
        ("She ends by bowing.", ((60.81, 82.73),)),
    ]
    assert video.path.suffix == ".mkv"


SPAN = "[start, end] in seconds with 0 <= start < end"


@pytest.mark.parametrize(
    ("corpus", "split", "name", "content", "message"),
    [
        (
            "qvhighlights",
            "val",
            "highlight_val_release.jsonl",
            json.dumps(QVHIGHLIGHTS | {"relevant_windows": [[0, 2], [9, 4]]}),
            f":1: relevant_windows[1]: [9, 4]; {SPAN} was expected",
        ),
        (
            "qvhighlights",
            "val",
            "highlight_val_release.jsonl",
            json.dumps(QVHIGHLIGHTS | {"saliency_scores": [[4, 1, 1]]}),
            ":1: saliency_scores: [[4, 1, 1]]; 3 lists of marks from 0 to 4, one per clip, was expected",
        ),
        (
            "qvhighlights",
            "test",
            "highlight_test_release.jsonl",
            json.dumps({key: QVHIGHLIGHTS[key] for key in ("qid", "query", "duration", "vid")}),
            f":1: relevant_windows: None; a list of {SPAN} (the released test split has none: use val) was expected",
        ),
        (
            "charades_sta",
            "test",
            "charades_sta_test.txt",
            "3MSZA 24.3 30.4##person turn a light on.\n3MSZA 24.3##person leaves.\n",
            ":2: '3MSZA 24.3##person leaves.'; VIDEO START END##SENTENCE was expected",
        ),
        (
            "didemo",
            "val",
            "val_data.json",
            [DIDEMO | {"times": [[3, 2]]}],
            ": [0].times: [[3, 2]]; a list of [first, last] segments with 0 <= first <= last was expected",
        ),
        (
            "activitynet_captions",
            "train",
            "train.json",
            {"v_a": {"duration": 9, "timestamps": [[0, 4]], "sentences": ["one", "two"]}},
            f": v_a.timestamps: [[0, 4]]; a list of 2 {SPAN}, one per sentence, was expected",
        ),
    ],
)
def test_errors_name_file_line_and_field(
    tmp_path: Path, corpus: str, split: str, name: str, content: Any, message: str
) -> None:
    write(tmp_path, name, content)
    with pytest.raises(CorpusError) as error:
        read(corpus, tmp_path, split)
    assert str(error.value) == f"{tmp_path / name}{message}"
