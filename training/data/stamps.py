"""Tux Paint's stamps: photographs and drawings of single things, each with its name.

Debian package `tuxpaint-stamps-default`, in which the folder is /usr/share/tuxpaint/stamps. Pictures are PNG with a
transparent background; the first line of NAME.txt names the thing of NAME.png in English, translations follow. About a
hundred things have their sound in NAME.ogg or NAME.wav (NAME_desc.ogg is a voice that says the name).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from training.data.corpus import CorpusError, check_split, first_byte, split_of, split_rule
from training.data.example import Example, Question
from training.data.packed import Media, Origin, PictureWithSound

ORIGIN = Origin(
    source="Debian tuxpaint-stamps-default (Tux Paint)",
    licence="GPL-2; parts in the public domain",
    split_rule=split_rule("the name of the thing"),
)
SOUND_TEST_BYTES, SOUND_VALIDATION_BYTES = 64, 90
SOUNDS_ORIGIN = Origin(
    source=ORIGIN.source,
    licence=ORIGIN.licence,
    split_rule=(
        f"by the name of the thing: test when the first byte of its SHA-1 is below {SOUND_TEST_BYTES}, validation "
        f"when it is below {SOUND_VALIDATION_BYTES}, else train; `stamps` of training has pictures of this test split"
    ),
)
LEFT_OUT = ("alphabets", "math", "money")
"""Folders of symbols, whose names do not describe them."""
ARTICLES = ("a ", "an ", "the ", "some ")


def stamps(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every named stamp of a split. Raises CorpusError if the folder has no named stamps."""
    check_split(split)
    for path, name, category in _named(folder):
        if split_of(name) == split:
            yield Example(_key(folder, path), (name,), questions=_questions(name, category), still=True), path


def stamp_sounds(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every named stamp of a split that has a sound, with the sound.

    Since there are few sounds, a quarter of the names is in the test split (`SOUNDS_ORIGIN`). Raises CorpusError if the
    folder has no named stamps.
    """
    check_split(split)
    for path, name, category in _named(folder):
        sound = next((s for suffix in (".ogg", ".wav") if (s := path.with_suffix(suffix)).is_file()), None)
        first = first_byte(name)
        part = "test" if first < SOUND_TEST_BYTES else "val" if first < SOUND_VALIDATION_BYTES else "train"
        if sound and part == split:
            captions = (name, f"the sound of {name[0].lower()}{name[1:]}")
            example = Example(_key(folder, path), captions, _questions(name, category), still=True)
            yield replace(example, caption_needs=("sight", "sound")), PictureWithSound(path, sound)


def _named(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the picture, name and category of every stamp. Raises CorpusError where there is none."""
    pictures = [path for path in sorted(folder.rglob("*.png")) if path.with_suffix(".txt").is_file()]
    if not pictures:
        raise CorpusError(f"{folder}: no NAME.png with NAME.txt; the folder of tuxpaint-stamps-default was expected")
    for path in pictures:
        place = path.relative_to(folder).parts
        lines = path.with_suffix(".txt").read_text("utf-8").splitlines()
        name = lines[0].strip().rstrip(".!") if lines else ""
        if name and not set(LEFT_OUT) & set(place):
            yield path, name, place[0]


def _key(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix().removesuffix(".png")


def thing_of(name: str) -> str:
    """Return the noun of a name such as "A head of red lettuce"."""
    phrase = name.lower().split(",")[0].split(".")[0].split(" with ")[0].strip()
    for article in ARTICLES:
        phrase = phrase.removeprefix(article)
    return phrase.rpartition(" of ")[2].split(" ")[-1]


def _questions(name: str, category: str) -> tuple[Question, ...]:
    texts = ["what is this?", "what does this show?"] + ["what animal is it?"] * (category == "animals")
    return tuple(Question(text, (thing_of(name),), "what") for text in texts)
