"""Recordings of single sounds with their names: ESC-10 and the Free Spoken Digit Dataset (FSDD).

ESC-10 (Piczak, ACM MM 2015): 5-second recordings of ten kinds of sounds, in five folds. Training is on folds 1 to 3,
validation on fold 5, the test on fold 4. Two layouts are read:
- as its author distributes it: meta/esc50.csv, of which the rows with esc10 = True, and audio/FILENAME
- fold1.tar ... with KEY.ogg and KEY.json {"label", "fold"}, perhaps "title", "author", "licence" and "source"

FSDD: the digits 0 to 9, spoken by six speakers; theo and yweweler are the test split, the others the training split.
- as its authors distribute it: recordings/{digit}_{speaker}_{n}.wav
- shards all-00000.tar ... with KEY.wav and KEY.json {"digit", "speaker"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.corpus import (
    CorpusError,
    EmptySplit,
    Record,
    check_split,
    csv_rows,
    number_of,
    object_of,
    text_of,
    unexpected,
)
from training.data.example import Example, Needs, Question
from training.data.packed import EncodedMedia, Media, Origin
from training.data.scenes.description import DIGIT_WORDS
from training.data.webdataset import shard_entries

ESC10_ORIGIN = Origin(
    source="ESC-10 (Piczak, ACM Multimedia 2015), recordings of Freesound",
    licence="CC-BY 3.0; each recording is CC0 or CC-BY of its author",
    split_rule="by the official folds: train 1 to 3, validation 5, test 4",
)
FSDD_ORIGIN = Origin(
    source="Free Spoken Digit Dataset (Jackson et al.)",
    licence="CC-BY-SA 4.0",
    split_rule="by speaker: test theo and yweweler, train the others; no validation split",
)
FOLDS = {"train": (1, 2, 3), "val": (5,), "test": (4,)}
ESC10_SOUNDS = {
    "dog": ("dog barking", "a dog is barking", "a barking dog", "dog"),
    "rain": ("rain", "it is raining", "falling rain", "rain"),
    "sea_waves": ("sea waves", "waves are breaking on the shore", "waves of the sea", "waves"),
    "crying_baby": ("baby crying", "a baby is crying", "a crying baby", "baby"),
    "clock_tick": ("clock ticking", "a clock is ticking", "a ticking clock", "clock"),
    "sneezing": ("person sneezing", "a person is sneezing", "a sneezing person", "person"),
    "helicopter": ("helicopter", "a helicopter is flying", "a flying helicopter", "helicopter"),
    "chainsaw": ("chainsaw", "a chainsaw is running", "a running chainsaw", "chainsaw"),
    "rooster": ("rooster crowing", "a rooster is crowing", "a crowing rooster", "rooster"),
    "crackling_fire": ("crackling fire", "a fire is crackling", "a fire that crackles", "fire"),
}
"""By category of esc50.csv: label, sentence, noun phrase and the source of the sound."""
_BY_LABEL = {label: texts for texts in ESC10_SOUNDS.values() for label in texts[:1]}
TEST_SPEAKERS = ("theo", "yweweler")
_RECORDING = re.compile(r"(\d)_([^_]+)_\d+")


def esc10(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every recording of a split, from either layout. Raises CorpusError, and EmptySplit for a missing shard."""
    check_split(split)
    table = folder / "meta" / "esc50.csv"
    if table.is_file():
        yield from _official_esc10(table, split)
        return
    shards = [folder / f"fold{fold}.tar" for fold in FOLDS[split]]
    if not any(folder.glob("fold*.tar")):
        raise CorpusError(f"{folder}: neither meta/esc50.csv nor fold1.tar; one of these was expected")
    if not any(shard.is_file() for shard in shards):
        raise EmptySplit(f"{folder}: no {shards[0].name}")
    for key, media, record in _annotated(shards, "ogg"):
        label, fold = text_of(record, "label", "a label of ESC-10"), number_of(record, "fold")
        if label not in _BY_LABEL:
            raise unexpected(record, "label", f"one of {tuple(_BY_LABEL)}")
        if fold not in FOLDS[split]:
            raise unexpected(record, "fold", f"one of {FOLDS[split]}")
        more = {name: record.fields[name] for name in ("title", "author", "licence", "source") if name in record.fields}
        yield _named_sound(key, _BY_LABEL[label], {"label": label, "fold": fold, **more}), media


def _official_esc10(table: Path, split: str) -> Iterator[tuple[Example, Media]]:
    for number, row in csv_rows(table, ("filename", "fold", "category", "esc10")):
        if row["esc10"] not in ("True", "False"):
            raise CorpusError(f"{table}:{number}: esc10: {row['esc10']!r}; True or False was expected")
        if row["esc10"] == "False":
            continue
        if row["category"] not in ESC10_SOUNDS:
            raise CorpusError(f"{table}:{number}: category: {row['category']!r}; one of ESC-10's was expected")
        if row["fold"] not in ("1", "2", "3", "4", "5"):
            raise CorpusError(f"{table}:{number}: fold: {row['fold']!r}; 1 to 5 was expected")
        texts, fold = ESC10_SOUNDS[row["category"]], int(row["fold"])
        if fold in FOLDS[split]:
            path = table.parent.parent / "audio" / row["filename"]
            yield _named_sound(path.stem, texts, {"label": texts[0], "fold": fold}), path


def _named_sound(key: str, texts: tuple[str, str, str, str], attributes: dict[str, Any]) -> Example:
    label, sentence, phrase, thing = texts
    captions = (label, sentence, f"the sound of {phrase}", f"you can hear {phrase}", f"a recording of {phrase}")
    questions = ("what makes this sound?", "what can be heard?")
    return _example(key, captions, [(question, thing) for question in questions], attributes)


def fsdd(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every recording of a split, from either layout. Raises CorpusError, and EmptySplit for val."""
    check_split(split)
    if split == "val":
        raise EmptySplit(f"{folder}: {FSDD_ORIGIN.split_rule}")
    for key, media, digit, speaker in _digits(folder):
        if (speaker in TEST_SPEAKERS) == (split == "test"):
            yield digit_example(key, digit, speaker), media


def digit_example(key: str, digit: int, speaker: str) -> Example:
    """Return the example of a spoken digit."""
    word = DIGIT_WORDS[digit]
    captions = (
        f"the spoken digit {word}",
        f"someone says {word}",
        f"a voice says the number {digit}",
        f"the word {word} is spoken",
    )
    questions = [(q, str(digit)) for q in ("which digit is spoken?", "what number can be heard?")]
    return _example(key, captions, questions, {"digit": digit, "speaker": speaker})


def _digits(folder: Path) -> Iterator[tuple[str, Media, int, str]]:
    """Yield key, sound, digit and speaker of every recording."""
    recordings = folder / "recordings"
    if recordings.is_dir():
        for path in sorted(recordings.glob("*.wav")):
            match = _RECORDING.fullmatch(path.stem)
            if match is None:
                raise CorpusError(f"{path}: name: DIGIT_SPEAKER_NUMBER.wav was expected")
            yield path.stem, path, int(match[1]), match[2]
        return
    shards = sorted(folder.glob("all-[0-9]*.tar"))
    if not shards:
        raise CorpusError(f"{folder}: neither recordings/ nor all-00000.tar; one of these was expected")
    for key, media, record in _annotated(shards, "wav"):
        if (digit := number_of(record, "digit")) not in range(10):
            raise unexpected(record, "digit", "0 to 9")
        yield key, media, digit, text_of(record, "speaker", "the name of a speaker")


def _annotated(shards: Sequence[Path], extension: str) -> Iterator[tuple[str, EncodedMedia, Record]]:
    """Yield key, sound and annotation of every key of the shards. Raises CorpusError if a key lacks one of them."""
    for shard in shards:
        for key, parts in shard_entries(shard):
            for part in (extension, "json"):
                if part not in parts:
                    raise CorpusError(f"{shard}: {key}.{part}: missing; every sound and its annotation were expected")
            record = object_of(f"{shard}: {key}.json: ", parts["json"])
            yield key, EncodedMedia(f"{key}.{extension}", parts[extension]), record


def _example(
    key: str, captions: tuple[str, ...], questions: Sequence[tuple[str, str]], attributes: dict[str, Any]
) -> Example:
    needs: Needs = "sound"
    return Example(
        key,
        captions,
        tuple(Question(question, (answer,), "sound", needs) for question, answer in questions),
        attributes=attributes,
        caption_needs=(needs,) * len(captions),
    )
