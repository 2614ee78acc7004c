from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data.errors import CorpusError
from training.data.example import Negative, Question, Utterance
from training.data.scene_files import scenes

LINE: dict[str, Any] = {
    "key": "000000",
    "media": "000000.mp4",
    "still": False,
    "captions": ["a red square moves left"],
    "transcript": [{"start": 0.5, "end": 1.2, "text": "look at this"}],
    "negatives": [{"caption": "a blue square moves left", "of": 0, "grade": 1, "kind": "colour"}],
    "questions": [{"question": "how many?", "answers": ["1"], "kind": "count"}],
    "held_out": True,
    "scene": {"kind": "single"},
}


def generated(folder: Path, *lines: dict[str, Any]) -> Path:
    (folder / "test").mkdir()
    (folder / "test" / "000000.mp4").touch()
    (folder / "test" / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_everything_the_generator_says_is_kept(tmp_path: Path) -> None:
    ((example, media),) = scenes(generated(tmp_path, LINE), "test")
    assert media == tmp_path / "test" / "000000.mp4"
    assert example.captions == ("a red square moves left",)
    assert example.transcript == (Utterance(0.5, 1.2, "look at this"),)
    assert example.negatives == (Negative("a blue square moves left", 0, 1, "colour"),)
    assert example.questions == (Question("how many?", ("1",), "count"),)
    assert example.attributes == {"held_out": True, "scene": {"kind": "single"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"media": "000009.mp4"}, r"examples\.jsonl:2: media: .*000009\.mp4 is missing"),
        ({"media": None}, r"examples\.jsonl:2: media: None"),
        ({"captions": [7]}, r"examples\.jsonl:2: captions\[0\]: 7"),
        ({"speed": 3}, r"examples\.jsonl:2: unknown fields \['speed'\]"),
    ],
)
def test_a_malformed_line_names_file_line_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    generated(tmp_path, LINE, {**LINE, **change})
    with pytest.raises(CorpusError, match=message):
        list(scenes(tmp_path, "test"))


def test_a_split_that_was_not_generated_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train/examples\.jsonl: missing"):
        list(scenes(tmp_path, "train"))
