"""The 128 instruments of General MIDI, played by the synthesizer FluidSynth with a sound font.

Debian packages `fluidsynth` and `timgm6mb-soundfont` or `fluid-soundfont-gm`; the source is the sound font, such as
/usr/share/sounds/sf2/TimGM6mb.sf2. Every instrument plays short random melodies, different ones in every split.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.data.corpus import SPLITS, CorpusError, check_split
from training.data.example import Example, Needs, Question
from training.data.packed import EncodedMedia, Media, Origin

ORIGIN = Origin(
    source="General MIDI instruments, played by FluidSynth with the sound font of the source folder",
    licence="that of the sound font; timgm6mb-soundfont: GPL-2, fluid-soundfont-gm: MIT",
    split_rule="by melody: every split has all instruments and melodies of its own",
)
MELODIES = {"train": 8, "val": 1, "test": 2}
"""Melodies of each instrument by split."""
_NEEDS: tuple[Needs, ...] = ("sound",) * 4
"""`caption_needs` of an example."""
TICKS = 480
"""Ticks per quarter note, which lasts half a second at the default tempo of MIDI."""
INSTRUMENTS = tuple(
    """\
acoustic grand piano, bright piano, electric grand piano, honky-tonk piano, electric piano, chorused piano,
harpsichord, clavinet, celesta, glockenspiel, music box, vibraphone, marimba, xylophone, tubular bells,
dulcimer, drawbar organ, percussive organ, rock organ, church organ, reed organ, accordion, harmonica, tango
accordion, nylon guitar, steel guitar, jazz guitar, clean electric guitar, muted guitar, overdriven guitar,
distorted guitar, guitar harmonics, acoustic bass, fingered bass, picked bass, fretless bass, first slap bass,
second slap bass, first synth bass, second synth bass, violin, viola, cello, contrabass, tremolo strings,
pizzicato strings, harp, timpani, string ensemble, slow strings, synth strings, slow synth strings, choir aahs,
voice oohs, synth voice, orchestra hit, trumpet, trombone, tuba, muted trumpet, French horn, brass section,
synth brass, soft synth brass, soprano saxophone, alto saxophone, tenor saxophone, baritone saxophone, oboe,
English horn, bassoon, clarinet, piccolo, flute, recorder, pan flute, blown bottle, shakuhachi, whistle,
ocarina, square wave lead, sawtooth lead, calliope lead, chiff lead, charang lead, voice lead, fifths lead, bass
lead, new age pad, warm pad, polysynth pad, choir pad, bowed pad, metallic pad, halo pad, sweep pad, rain
effect, soundtrack effect, crystal effect, atmosphere effect, brightness effect, goblins effect, echoes effect,
sci-fi effect, sitar, banjo, shamisen, koto, kalimba, bagpipe, fiddle, shanai, tinkle bell, agogo, steel drums,
woodblock, taiko drum, melodic tom, synth drum, reverse cymbal, fret noise, breath noise, seashore, bird tweet,
telephone ring, helicopter, applause, gunshot""".replace("\n", " ").split(", ")
)
"""Names by program number."""


def instruments(sound_font: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield the melodies of every instrument of a split.

    Raises CorpusError if the sound font or the program fluidsynth is missing, or the program fails.
    """
    check_split(split)
    if not sound_font.is_file():
        raise CorpusError(f"{sound_font}: no such file; a sound font (.sf2) was expected")
    if shutil.which("fluidsynth") is None:
        raise CorpusError("fluidsynth: not on PATH; Debian's package fluidsynth was expected")
    with tempfile.TemporaryDirectory() as folder:
        for program, name in enumerate(INSTRUMENTS):
            for melody in range(MELODIES[split]):
                rng = np.random.default_rng([SPLITS.index(split), program, melody])
                midi, wav = Path(folder, "melody.mid"), Path(folder, "melody.wav")
                midi.write_bytes(melody_file(program, rng))
                command = ["fluidsynth", "-ni", "-g", "0.6", "-r", "16000", "-F", str(wav), str(sound_font), str(midi)]
                result = subprocess.run(command, capture_output=True, check=False)
                if result.returncode or not wav.is_file():
                    raise CorpusError(f"{' '.join(command)}: {result.stderr.decode(errors='replace').strip()[-300:]}")
                key = f"{program:03d}-{melody}"
                yield _example(key, name, program), EncodedMedia(f"{key}.wav", wav.read_bytes())
                wav.unlink()


def melody_file(program: int, rng: np.random.Generator) -> bytes:
    """Return a MIDI file (format 0) in which an instrument plays three to seven notes within an octave."""
    count = int(rng.integers(3, 8))
    lowest = int(rng.integers(45, 65))
    lengths = rng.choice([TICKS // 2, TICKS, 2 * TICKS], count, p=[0.5, 0.4, 0.1]).tolist()
    events = bytes([0, 0xC0, program])
    for pitch, length, velocity in zip(
        rng.integers(13, size=count), lengths, rng.integers(60, 120, count), strict=True
    ):
        note = lowest + int(pitch)
        events += bytes([0, 0x90, note, int(velocity)]) + _variable_length(length) + bytes([0x80, note, 0])
    events += _variable_length(TICKS) + bytes([0xFF, 0x2F, 0])
    return b"MThd" + bytes([0, 0, 0, 6, 0, 0, 0, 1]) + TICKS.to_bytes(2) + b"MTrk" + len(events).to_bytes(4) + events


def _variable_length(value: int) -> bytes:
    """Return a MIDI variable-length quantity: seven bits per byte, with the high bit set in all bytes but the last."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))


def _example(key: str, name: str, program: int) -> Example:
    captions = (name, f"the sound of {name}", f"a melody on {name}", f"music played on {name}")
    questions = tuple(
        Question(question, (name,), "sound", "sound") for question in ("which instrument plays?", "what can be heard?")
    )
    attributes = {"instrument": name, "program": program}
    return Example(key, captions, questions, attributes=attributes, caption_needs=_NEEDS)
