"""ESC-10, FSDD and synthesized digits: layouts, shards, splits and malformed annotations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.corpus_files import tone, wav, write_tar
from training.data.corpus import CorpusError, EmptySplit
from training.data.example import Example
from training.data.instruments import INSTRUMENTS, instruments
from training.data.packed import EncodedMedia, Media, open_packed
from training.data.prepare import main
from training.data.recordings import esc10, fsdd
from training.data.scenes.description import DIGIT_WORDS
from training.data.spoken_digits import spoken_digits

COLUMNS = "filename,fold,target,category,esc10,src_file,take\n"
ROWS = """\
1-100032-A.wav,1,0,dog,True,100032,A
3-100038-A.wav,3,14,chirping_birds,False,100038,A
4-100210-A.wav,4,10,rain,True,100210,A
5-100263-A.wav,5,20,crying_baby,True,100263,A
"""
Reader = Callable[[Path, str], Iterator[tuple[Example, Media]]]


def write_table(folder: Path, rows: str = ROWS) -> Path:
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "esc50.csv").write_text(COLUMNS + rows)
    return folder


def write_fold(folder: Path, fold: int, *records: Any) -> Path:
    members: dict[str, bytes] = {}
    for i, record in enumerate(records):
        members |= {f"{fold}-{i}.ogg": wav(tone()), f"{fold}-{i}.json": json.dumps(record).encode()}
    return write_tar(folder / f"fold{fold}.tar", members)


def keys(read: Reader, folder: Path, split: str) -> list[str]:
    return [example.key for example, _ in read(folder, split)]


def test_the_table_of_esc_50_gives_the_ten_kinds_by_fold(tmp_path: Path) -> None:
    write_table(tmp_path)
    assert [keys(esc10, tmp_path, split) for split in ("train", "val", "test")] == [
        ["1-100032-A"],
        ["5-100263-A"],
        ["4-100210-A"],
    ]
    ((example, media),) = esc10(tmp_path, "train")
    assert media == tmp_path / "audio" / "1-100032-A.wav"
    assert example.captions[:3] == ("dog barking", "a dog is barking", "the sound of a barking dog")
    assert set(example.caption_needs) == {"sound"}
    assert [(q.answers, q.needs) for q in example.questions] == [(("dog",), "sound")] * 2
    assert example.attributes == {"label": "dog barking", "fold": 1}


def test_shards_of_folds_give_the_same_texts_and_name_the_author(tmp_path: Path) -> None:
    (official, _), *_ = esc10(write_table(tmp_path / "official"), "train")
    write_fold(tmp_path, 1, {"label": "dog barking", "fold": 1, "author": "nfrae", "licence": "CC0"})
    write_fold(tmp_path, 2)
    write_fold(tmp_path, 3, {"label": "rain", "fold": 3})
    (first, _), (second, _) = esc10(tmp_path, "train")
    assert (first.captions, first.questions) == (official.captions, official.questions)
    assert first.attributes == official.attributes | {"author": "nfrae", "licence": "CC0"}
    assert second.captions[1] == "it is raining"
    with pytest.raises(EmptySplit, match=r"no fold5\.tar"):
        keys(esc10, tmp_path, "val")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.wav,6,0,dog,True,1,A\n", r"esc50\.csv:2: fold: '6'; 1 to 5 was expected"),
        ("a.wav,1,0,cow,True,1,A\n", r"esc50\.csv:2: category: 'cow'; one of ESC-10's"),
        (ROWS + "a.wav,1,0,dog,yes,1,A\n", r"esc50\.csv:6: esc10: 'yes'; True or False"),
    ],
)
def test_a_malformed_row_is_an_error_with_line_and_field(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        keys(esc10, write_table(tmp_path, rows), "train")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"label": "cow", "fold": 1}, r"fold1\.tar: 1-0\.json: label: 'cow'; one of \('dog barking', "),
        ({"label": "rain", "fold": 4}, r"fold1\.tar: 1-0\.json: fold: 4; one of \(1, 2, 3\) was expected"),
        ({"fold": 1}, r"1-0\.json: label: None; a label of ESC-10 was expected"),
        ([], r"1-0\.json: \[\]; a JSON object was expected"),
    ],
)
def test_a_malformed_annotation_is_an_error_with_member_and_field(tmp_path: Path, record: Any, message: str) -> None:
    write_fold(tmp_path, 1, record)
    with pytest.raises(CorpusError, match=message):
        keys(esc10, tmp_path, "train")


def test_digits_are_split_by_speaker_in_either_layout(tmp_path: Path) -> None:
    (tmp_path / "official" / "recordings").mkdir(parents=True)
    members: dict[str, bytes] = {}
    for name in ("7_jackson_32", "3_theo_0", "0_yweweler_49"):
        (tmp_path / "official" / "recordings" / f"{name}.wav").write_bytes(wav(tone()))
        digit, speaker, _ = name.split("_")
        record = json.dumps({"digit": int(digit), "speaker": speaker}).encode()
        members |= {f"{name}.wav": wav(tone()), f"{name}.json": record}
    write_tar(tmp_path / "all-00000.tar", members)
    for folder in (tmp_path, tmp_path / "official"):
        ((example, _),) = fsdd(folder, "train")
        assert example.key == "7_jackson_32"
        assert example.captions[:3] == ("the spoken digit seven", "someone says seven", "a voice says the number 7")
        assert example.questions[0].answers == ("7",)
        assert sorted(keys(fsdd, folder, "test")) == ["0_yweweler_49", "3_theo_0"]
        with pytest.raises(EmptySplit):
            keys(fsdd, folder, "val")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.wav": b"", "a.json": b'{"digit": 10, "speaker": "x"}'}, r"a\.json: digit: 10; 0 to 9 was expected"),
        ({"a.wav": b"", "a.json": b'{"digit": 1}'}, r"a\.json: speaker: None; the name of a speaker"),
        ({"a.json": b"{}"}, r"all-00000\.tar: a\.wav: missing"),
    ],
)
def test_a_malformed_digit_is_an_error_with_member_and_field(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    write_tar(tmp_path / "all-00000.tar", members)
    with pytest.raises(CorpusError, match=message):
        keys(fsdd, tmp_path, "train")


@pytest.mark.parametrize("read", [esc10, fsdd])
def test_a_folder_without_recordings_is_an_error(tmp_path: Path, read: Reader) -> None:
    with pytest.raises(CorpusError, match=r"neither .* one of these was expected"):
        keys(read, tmp_path, "train")


def test_the_command_packs_sounds_without_frames_and_leaves_out_an_empty_split(tmp_path: Path) -> None:
    write_fold(tmp_path, 1, {"label": "rain", "fold": 1})
    write_fold(tmp_path, 2)
    write_fold(tmp_path, 3)
    write_fold(tmp_path, 4, {"label": "rain", "fold": 4})
    assert main(["esc10", "--source", str(tmp_path), "--out", str(tmp_path / "packed")]) == 0
    assert sorted(path.name for path in (tmp_path / "packed" / "esc10").iterdir()) == ["test", "train"]
    packed = open_packed(tmp_path / "packed" / "esc10" / "test")
    assert packed.streams == ()
    assert packed.audio is not None
    assert (packed.audio[0] == tone()).all()


def test_every_voice_of_espeak_ng_says_every_digit_at_both_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voices" / "!v").mkdir(parents=True)
    (tmp_path / "voices" / "!v" / "anna").touch()
    (tmp_path / "tone.wav").write_bytes(wav(tone()))
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec cat {tmp_path / 'tone.wav'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    command = ["spoken_digits", "--source", str(tmp_path), "--out", str(tmp_path / "packed")]
    assert main([*command, "--splits", "train"]) == 0
    packed = open_packed(tmp_path / "packed" / "spoken_digits" / "train")
    assert [e.attributes["digit"] for e in packed.examples] == [digit for digit in range(10) for _ in range(2)]
    assert packed.examples[14].captions[1] == f"someone says {DIGIT_WORDS[7]}"
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match=r"Debian's package espeak-ng was expected"):
        keys(spoken_digits, tmp_path, "train")
    with pytest.raises(CorpusError, match=r"voices/!v"):
        keys(spoken_digits, tmp_path / "bin", "train")


def test_every_instrument_of_general_midi_plays_melodies_of_its_own_in_every_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font, program = tmp_path / "font.sf2", tmp_path / "bin" / "fluidsynth"
    font.touch()
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec cp "$9" "$7"\n')  # the melody stands for its sound
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    contents = {
        split: {media.data for _, media in instruments(font, split) if isinstance(media, EncodedMedia)}
        for split in ("val", "test")
    }
    assert len(contents["val"]) == len(INSTRUMENTS) == 128
    assert len(contents["test"] - contents["val"]) == 256
    example, media = next(instruments(font, "val"))
    assert example.captions[1] == "the sound of acoustic grand piano"
    assert isinstance(media, EncodedMedia)
    assert media.data.startswith(b"MThd")
    with pytest.raises(CorpusError, match=r"a sound font \(.sf2\) was expected"):
        keys(instruments, tmp_path, "val")
