from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_animation
from training.data import tgif_qa
from training.data.corpus import CorpusError, first_byte
from training.data.example import CHOICE_ONLY, Negative, Question
from training.data.packed import open_packed
from training.data.prepare import prepare
from training.evaluation.retrieval import queries_of

HEADERS = {
    "action": "gif_name question a1 a2 a3 a4 a5 answer vid_id key",
    "transition": "gif_name question a1 a2 a3 a4 a5 answer vid_id key",
    "frameqa": "gif_name question answer type vid_id key description",
}
RED, GREEN = (220, 30, 30), (30, 200, 30)
QUESTION = "What does the man do before point ?"
TRANSITION = [
    ("tumblr_a_250", QUESTION, "yawn", "tilt head", "tip hat", "wave", "sing", "4", "TRANS23", "23"),
    ("tumblr_a_250", "What does the man do after sing ?", "point", "dance", "run", "turn", "lie", "0", "TRANS24", "23"),
    ("tumblr_b_400", 'Who says "no" ?', "a", "b", "c", "d", "e", "1", "TRANS25", "24"),
]
FRAMEQA = [
    ("tumblr_a_250", "what is the color of the hat ?", "black", "2", "FRAMEQA1", "19", "a man in a black hat moves ."),
    ("tumblr_b_400", "how many cats run ?", "two", "1", "FRAMEQA2", "20", "two cats run ."),
    ("tumblr_a_250", "where does he move ?", "room", "3", "FRAMEQA3", "19", "a man moves in a room ."),
]


def write(folder: Path, split: str, task: str, rows: list[tuple[str, ...]]) -> Path:
    """Write an annotation as the authors' spreadsheets are written: with tabs, and quotes where a field has some."""
    quoted = [['"' + field.replace('"', '""') + '"' if '"' in field else field for field in row] for row in rows]
    lines = ["\t".join(row) for row in ([*HEADERS[task].split()], *quoted)]
    (folder / "gifs").mkdir(exist_ok=True)
    (folder / f"{split}_{task}_question.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_choices_become_a_right_sentence_and_its_negatives(tmp_path: Path) -> None:
    write(tmp_path, "Test", "transition", TRANSITION)
    (example, media), (second, _) = tgif_qa.transition(tmp_path, "test")
    assert (example.key, media) == ("tumblr_a_250", tmp_path / "gifs" / "tumblr_a_250.gif")
    assert example.captions == (f"{QUESTION} sing", "What does the man do after sing ? point")
    wrong = tuple(
        Negative(f"{QUESTION} {a}", of=0, grade=3, kind="other") for a in ("yawn", "tilt head", "tip hat", "wave")
    )
    assert example.negatives[:4] == wrong
    assert [negative.of for negative in example.negatives] == [0] * 4 + [1] * 4
    assert example.attributes == {CHOICE_ONLY: [0, 1]}
    assert queries_of(example) == ()
    assert second.captions == ('Who says "no" ? b',)


def test_open_questions_have_the_kind_that_the_authors_state(tmp_path: Path) -> None:
    write(tmp_path, "Test", "frameqa", FRAMEQA)
    (example, _), (second, _) = tgif_qa.frameqa(tmp_path, "test")
    assert example.questions == (
        Question("what is the color of the hat ?", ("black",), "colour"),
        Question("where does he move ?", ("room",), "where"),
    )
    assert [question.kind for question in second.questions] == ["count"]


def test_gifs_of_the_training_split_are_held_out_for_validation(tmp_path: Path) -> None:
    names = [f"tumblr_{n}" for n in range(40)]
    row = TRANSITION[0][1:]
    write(tmp_path, "Train", "action", [(name, *row) for name in names])
    held_out = [name for name in names if first_byte(name) < 26]
    assert 0 < len(held_out) < 20
    assert [example.key for example, _ in tgif_qa.action(tmp_path, "val")] == held_out
    assert [example.key for example, _ in tgif_qa.action(tmp_path, "train")] == [n for n in names if n not in held_out]


def test_animated_gifs_are_packed_and_missing_ones_are_listed(tmp_path: Path) -> None:
    source = write(tmp_path, "Test", "frameqa", FRAMEQA)
    frames = [solid(color) for color in (RED, RED, RED, GREEN, GREEN, GREEN)]
    write_animation(source / "gifs" / "tumblr_a_250.gif", frames, [100] * len(frames))
    done = prepare("tgif_frameqa", source, tmp_path / "packed", ["test"], max_skipped=0.5)
    assert done["tgif_frameqa/test"]["count"] == 1
    packed = open_packed(tmp_path / "packed" / "tgif_frameqa" / "test")
    assert [example.key for example in packed.examples] == ["tumblr_a_250"]
    first, last = packed.arrays["low"][0, [0, -1]].mean(axis=(1, 2))
    np.testing.assert_allclose([first, last], [RED, GREEN], atol=12)
    assert "tumblr_b_400" in str(packed.info["skipped"])


@pytest.mark.parametrize(
    ("task", "column", "value", "message"),
    [
        ("transition", 7, "5", r"Test_transition_question\.csv:2: answer: '5'; an index below 5 was expected"),
        ("transition", 3, "", r"Test_transition_question\.csv:2: a2: ''; an answer was expected"),
        ("transition", 0, " ", r"Test_transition_question\.csv:2: gif_name: ''; the name of a GIF was expected"),
        ("frameqa", 3, "4", r"Test_frameqa_question\.csv:2: type: '4'; one of 0, 1, 2, 3 was expected"),
        ("frameqa", 2, "", r"Test_frameqa_question\.csv:2: answer: ''; an answer was expected"),
        ("frameqa", 1, "", r"Test_frameqa_question\.csv:2: question: ''; a question was expected"),
    ],
)
def test_a_malformed_row_names_file_line_and_field(
    tmp_path: Path, task: str, column: int, value: str, message: str
) -> None:
    row = list({"transition": TRANSITION, "frameqa": FRAMEQA}[task][0])
    row[column] = value
    write(tmp_path, "Test", task, [tuple(row)])
    with pytest.raises(CorpusError, match=message):
        list(getattr(tgif_qa, task)(tmp_path, "test"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no Test_action_question\.csv in any of"):
        list(tgif_qa.action(tmp_path, "test"))
    (tmp_path / "Test_action_question.csv").write_text("gif_name\tquestion\n")
    with pytest.raises(CorpusError, match=r"Test_action_question\.csv:1: column 'a1' is not in"):
        list(tgif_qa.action(tmp_path, "test"))
