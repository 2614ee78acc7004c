"""Questions from captions of natural pictures, and Tux Paint's stamps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.corpus_files import tone, wav
from training.data.caption_questions import caption_questions
from training.data.corpus import CorpusError, split_of
from training.data.example import Example
from training.data.hypotheses import has_hypotheses, hypotheses_of
from training.data.packed import STILL_STREAMS, open_packed, write_packed
from training.data.stamps import SOUNDS_ORIGIN, stamp_sounds, stamps, thing_of
from vitascope.entailment import LABELS

DOGS = (
    "Two dogs run on the beach .",
    "two brown dogs playing in the sand",
    "A dog in a red hat chases another dog",
    "dogs playing near the water",
    "Two dogs are playing .",
)


def answers(captions: tuple[str, ...], key: str = "a") -> dict[str, str]:
    questions = caption_questions(key, captions)
    assert len({q.question for q in questions}) == len(questions)
    return {q.question: q.answers[0] for q in questions}


def test_captions_yield_questions_about_objects_numbers_actions_and_colours() -> None:
    by_question = answers(DOGS)
    assert by_question["what animal is it?"] == "dog"
    assert by_question["is there a dog?"] == "yes"
    assert by_question["how many dogs are there?"] == "2"
    assert by_question["what color is the hat?"] == by_question["what colour is the hat?"] == "red"
    assert by_question["what is the dog doing?"] == "playing"


@pytest.mark.parametrize(
    ("captions", "question"),
    [
        (("a kid on a swing", "the child swings"), "is there a boy?"),
        (("people at the beach", "a day at the beach"), "is there water?"),
        (("a man in a red hat", "a man with a blue hat"), "what color is the hat?"),
        (("a dog and a cat", "a cat beside a dog"), "what animal is it?"),
        (("a dog runs", "an animal runs"), "is there a dog?"),
    ],
    ids=["implied person", "implied water", "two colours", "two animals", "named once"],
)
def test_there_are_no_questions_that_captions_do_not_answer(captions: tuple[str, ...], question: str) -> None:
    assert question not in {q for key in "abcdefgh" for q in answers(captions, key)}


def test_captions_with_another_word_of_a_kind_are_contradicted_and_captions_about_something_else_neutral() -> None:
    texts = {
        "dogs": DOGS,
        "cat": ("a black cat sleeps on a couch", "One cat sleeping", "the cat sleeps", "a cat indoors", "a pet sleeps"),
        "girl": ("a girl in a blue coat rides", "three girls on horses", "girls", "a child riding", "horses and girls"),
    }
    examples = [Example(key, captions, still=True) for key, captions in texts.items()]
    known = hypotheses_of(examples)
    assert known == hypotheses_of(examples)
    of_dogs = {label: [h.text for h in known[0] if h.label == label] for label in LABELS}
    assert of_dogs["entailed"] == list(DOGS)
    assert set(of_dogs["neutral"]) <= {*texts["cat"], *texts["girl"]}
    of_words = [set(caption.lower().split()) for caption in DOGS]
    for text in of_dogs["contradicted"]:
        (added,) = min((set(text.lower().split()) - words for words in of_words), key=len)
        assert added in {"cat", "girl", "girls", "child", "horses", "black", "blue", "one", "three", "riding"}
    few = Example("few", DOGS[:4], still=True)
    assert hypotheses_of([few]) == [()]
    assert has_hypotheses(examples)
    assert not has_hypotheses([*examples, few])


def test_absent_things_are_chosen_by_the_key_and_answered_no() -> None:
    absent = [{q for q, a in answers(DOGS, key).items() if a == "no"} for key in ("a", "a", "b")]
    assert absent[0] == absent[1] != absent[2]
    assert all(len(questions) == 5 for questions in absent)


def write_stamp(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (8, 8), (200, 90, 30, 0)).save(path.with_suffix(".png"))
    path.with_suffix(".txt").write_text(text, "utf-8")


def test_stamps_are_named_by_their_first_line_and_symbols_are_left_out(tmp_path: Path) -> None:
    write_stamp(tmp_path, "animals/birds/heron", "A heron.\nde.utf8=Ein Reiher.\n")
    write_stamp(tmp_path, "food/lettuce", "A head of red lettuce.\n")
    write_stamp(tmp_path, "symbols/alphabets/a", "A letter.\n")
    Image.new("RGBA", (8, 8)).save(tmp_path / "unnamed.png")
    by_split = {split: [example for example, _ in stamps(tmp_path, split)] for split in ("train", "val", "test")}
    by_caption = {example.captions[0]: (split, example) for split, all_of in by_split.items() for example in all_of}
    assert set(by_caption) == {"A heron", "A head of red lettuce"}
    assert all(split == split_of(name) for name, (split, _) in by_caption.items())
    heron, lettuce = (by_caption[name][1] for name in ("A heron", "A head of red lettuce"))
    assert heron.key == "animals/birds/heron"
    assert {q.question: q.answers for q in heron.questions}["what animal is it?"] == ("heron",)
    assert {q.answers for q in lettuce.questions} == {("lettuce",)}
    assert thing_of("A box for trash, that can be recycled") == "trash"


def test_stamps_with_a_sound_are_packed_with_it_and_a_quarter_of_the_names_is_held_out(tmp_path: Path) -> None:
    names = [f"A bird of kind {number}" for number in range(60)]
    for number, name in enumerate(names):
        write_stamp(tmp_path, f"animals/{number}", f"{name}.\n")
        (tmp_path / "animals" / f"{number}.wav").write_bytes(wav(tone(300 + 10 * number, 0.05)))
    write_stamp(tmp_path, "food/lettuce", "A head of red lettuce.\n")
    (tmp_path / "food" / "lettuce_desc.ogg").write_bytes(wav(tone()))
    by_split = {split: list(stamp_sounds(tmp_path, split)) for split in ("train", "val", "test")}
    assert sorted(example.captions[0] for items in by_split.values() for example, _ in items) == sorted(names)
    assert 8 <= len(by_split["test"]) <= 22
    write_packed(tmp_path / "out", STILL_STREAMS, by_split["val"], SOUNDS_ORIGIN, audio=True)
    packed = open_packed(tmp_path / "out")
    assert packed.audio is not None
    assert packed.frames("low").shape[1:] == (1, 1, 112, 112, 3)
    for row, example in enumerate(packed.examples):
        number = int(example.key.removeprefix("animals/"))
        np.testing.assert_array_equal(packed.audio[row], tone(300 + 10 * number, 0.05))
        assert example.captions == (names[number], f"the sound of a bird of kind {number}")
        assert example.caption_needs == ("sight", "sound")


def test_a_folder_without_named_stamps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="tuxpaint-stamps-default"):
        list(stamps(tmp_path, "train"))
