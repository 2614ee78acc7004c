"""Tux Paint's stamps: photographs and drawings of single things, each with its name.

Debian package `tuxpaint-stamps-default`, in which the folder is /usr/share/tuxpaint/stamps. Pictures are PNG with a
transparent background; the first line of NAME.txt names the thing of NAME.png in English, translations follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.corpus import CorpusError, check_split, split_of, split_rule
from training.data.example import Example, Question
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="Debian tuxpaint-stamps-default (Tux Paint)",
    licence="GPL-2; parts in the public domain",
    split_rule=split_rule("the name of the thing"),
)
LEFT_OUT = ("alphabets", "math", "money")
"""Folders of symbols, whose names do not describe them."""
ARTICLES = ("a ", "an ", "the ", "some ")


def stamps(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every named stamp of a split. Raises CorpusError where the folder has none."""
    check_split(split)
    pictures = [path for path in sorted(folder.rglob("*.png")) if path.with_suffix(".txt").is_file()]
    if not pictures:
        raise CorpusError(f"{folder}: no NAME.png with NAME.txt; the folder of tuxpaint-stamps-default was expected")
    for path in pictures:
        place = path.relative_to(folder).parts
        lines = path.with_suffix(".txt").read_text("utf-8").splitlines()
        name = lines[0].strip().rstrip(".!") if lines else ""
        if name and not set(LEFT_OUT) & set(place) and split_of(name) == split:
            key = "/".join(place).removesuffix(".png")
            yield Example(key, (name,), questions=_questions(name, place[0]), still=True), path


def thing_of(name: str) -> str:
    """Return the noun of a name such as "A head of red lettuce"."""
    phrase = name.lower().split(",")[0].split(".")[0].split(" with ")[0].strip()
    for article in ARTICLES:
        phrase = phrase.removeprefix(article)
    return phrase.rpartition(" of ")[2].split(" ")[-1]


def _questions(name: str, category: str) -> tuple[Question, ...]:
    texts = ["what is this?", "what does this show?"] + ["what animal is it?"] * (category == "animals")
    return tuple(Question(text, (thing_of(name),), "what") for text in texts)
