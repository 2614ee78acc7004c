"""Spoken digits of the speech synthesizer espeak-ng, which has many voices; recorded corpora have few speakers.

Debian package `espeak-ng`, whose data folder, with voices/!v, is the source. Every voice says every digit twice, each
time with a random English accent, speed and pitch; once at 8 kHz, as in FSDD, and once at espeak-ng's own rate.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from training.data.corpus import CorpusError, EmptySplit, check_split, split_of, split_rule
from training.data.example import Example
from training.data.packed import EncodedMedia, Media, Origin
from training.data.recordings import digit_example
from training.data.scenes.description import DIGIT_WORDS

ORIGIN = Origin(
    source="synthesized by espeak-ng",
    licence="of the program: GPL-3; of its speech: none",
    split_rule=f"{split_rule('the name of the voice')}; no test split",
)
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc", "en-029")
RATES = (8_000, 22_050)  # Hz; the second is that of espeak-ng
HEADER = 44
"""Size in bytes of the WAV header that espeak-ng writes."""
MIN_LEVEL = 33
"""Minimum magnitude of an int16 sample that counts as audible."""


def spoken_digits(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield the digits of every voice of a split.

    Args:
        folder: espeak-ng's data, such as /usr/lib/x86_64-linux-gnu/espeak-ng-data.
        split: train or val.

    Raises:
        CorpusError: The folder has no voices, or the program is missing or fails.
        EmptySplit: For test.
    """
    check_split(split)
    if split == "test":
        raise EmptySplit(f"{folder}: {ORIGIN.split_rule}")
    voices = sorted(path.name for path in (folder / "voices" / "!v").glob("*"))
    if not voices:
        raise CorpusError(f"{folder}: no voices/!v; the data folder of espeak-ng was expected")
    if shutil.which("espeak-ng") is None:
        raise CorpusError("espeak-ng: not on PATH; Debian's package espeak-ng was expected")
    for number, voice in enumerate(voices):
        if ("val" if split_of(voice) != "train" else "train") != split:
            continue
        rng = np.random.default_rng(number)
        for digit, word in enumerate(DIGIT_WORDS):
            for rate in RATES:
                accent = ACCENTS[rng.integers(len(ACCENTS))]
                words_per_minute, pitch = rng.integers((120, 20), (220, 80))
                options = ["-v", f"{accent}+{voice}", "-s", str(words_per_minute), "-p", str(pitch)]
                samples = _say(options, word)
                if len(samples):
                    key = f"{voice}/{digit}-{rate}"
                    content = _write_wav(_resample(samples, rate), rate)
                    yield digit_example(key, digit, voice), EncodedMedia(f"{key.replace('/', '-')}.wav", content)


def _say(options: list[str], word: str) -> NDArray[np.int16]:
    """Return the speech of espeak-ng, (n,) int16, without silence at the beginning and end."""
    result = subprocess.run(["espeak-ng", *options, "--stdout", word], capture_output=True, check=False)
    if result.returncode:
        raise CorpusError(f"espeak-ng {' '.join(options)}: {result.stderr.decode(errors='replace').strip()}")
    samples = np.frombuffer(result.stdout[HEADER:], np.int16)
    audible = np.flatnonzero(np.abs(samples.astype(np.int32)) >= MIN_LEVEL)
    return samples[audible[0] : audible[-1] + 1] if len(audible) else samples[:0]


def _resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    if rate == RATES[-1]:
        return samples
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = RATES[-1]
    return np.concatenate([part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))])


def _write_wav(samples: NDArray[np.int16], rate: int) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return content.getvalue()
