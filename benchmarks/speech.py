"""Accuracy and speed of speech recognisers.

    python -m benchmarks.speech --model pocketsphinx --model ~/models/sherpa-onnx-whisper-base

Three sets, of which every n-th item is used unless ``--all`` is given:

- prompts: English, spoken by a person, 8 kHz: Debian's packages asterisk-core-sounds-en and asterisk-core-sounds-en-wav
- digits: single English digits, spoken by six people, 8 kHz: the Free Spoken Digit Dataset, packed in a tar file
- sentences: drawn from the lists below, spoken by espeak-ng, in MP4 files with AAC sound; one row for each language

The word error rate ignores case, punctuation and the spelling of numbers (Whisper's normalisation). The real-time
factor is the time of decoding and recognition divided by the duration of the sound; processor time, which depends less
on other programs, is reported as well.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console

from benchmarks import run_main
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput
from vitascope.sandbox.decoder import IN_PROCESS
from vitascope.speech.interface import SpeechRecognizer, open_recognizer, transcribe_file

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLES = {"prompts": 60, "digits": 100, "sentences": 10}
"""Items that are used without ``--all``; sentences for each language."""

SENTENCES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "en": (
        ("The old captain", "My neighbour", "A young doctor", "The teacher", "Our guide"),
        (
            "opened the window before breakfast",
            "bought three loaves of bread",
            "walked along the river in the rain",
            "forgot the name of the village",
            "painted the garden gate green",
            "waited an hour for the train",
            "told the children a long story",
            "found the keys under the table",
        ),
    ),
    "de": (
        ("Der alte Kapitän", "Meine Nachbarin", "Ein junger Arzt", "Die Lehrerin", "Unser Führer"),
        (
            "öffnete vor dem Frühstück das Fenster",
            "kaufte drei Laibe Brot",
            "ging im Regen den Fluss entlang",
            "vergaß den Namen des Dorfes",
            "strich das Gartentor grün",
            "wartete eine Stunde auf den Zug",
            "erzählte den Kindern eine lange Geschichte",
            "fand die Schlüssel unter dem Tisch",
        ),
    ),
    "fr": (
        ("Le vieux capitaine", "Ma voisine", "Un jeune médecin", "La maîtresse", "Notre guide"),
        (
            "a ouvert la fenêtre avant le petit déjeuner",
            "a acheté trois pains",
            "marchait le long de la rivière sous la pluie",
            "avait oublié le nom du village",
            "peignait la porte du jardin en vert",
            "attendait le train depuis une heure",
            "racontait une longue histoire aux enfants",
            "a trouvé les clés sous la table",
        ),
    ),
    "es": (
        ("El viejo capitán", "Mi vecina", "Un joven médico", "La maestra", "Nuestro guía"),
        (
            "abrió la ventana antes del desayuno",
            "compró tres barras de pan",
            "caminó junto al río bajo la lluvia",
            "olvidó el nombre del pueblo",
            "pintó de verde la puerta del jardín",
            "esperó el tren durante una hora",
            "contó a los niños una larga historia",
            "encontró las llaves debajo de la mesa",
        ),
    ),
    "it": (
        ("Il vecchio capitano", "La mia vicina", "Un giovane medico", "La maestra", "La nostra guida"),
        (
            "aprì la finestra prima di colazione",
            "comprò tre filoni di pane",
            "camminò lungo il fiume sotto la pioggia",
            "dimenticò il nome del paese",
            "dipinse di verde il cancello del giardino",
            "aspettò il treno per un'ora",
            "raccontò ai bambini una lunga storia",
            "trovò le chiavi sotto il tavolo",
        ),
    ),
}
"""Beginnings and ends of 40 sentences by language."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A file and its transcript."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """Accuracy and speed of a recogniser on a set."""

    model: str
    corpus: str
    files: int
    words: int
    word_error_rate: float
    sound_seconds: float
    real_time_factor: float
    processor_factor: float
    """Seconds of processor time for each second of sound."""


def read_prompts(folder: Path, texts: Path) -> list[Utterance]:
    """Return the prompts with a transcript, without those whose text describes a tone."""
    lines = gzip.decompress(texts.read_bytes()).decode("utf-8", "replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if re.match(r"[\w/-]+:", line))
    return [
        Utterance(path, text.strip())
        for name, text in pairs
        if "[" not in text and text.strip() and (path := folder / f"{name}.wav").is_file()
    ]


def unpack_digits(archive: Path, folder: Path) -> list[Utterance]:
    """Unpack a tar file with pairs of NAME.wav and NAME.json ({"digit": 0, ...})."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return [
        Utterance(path.with_suffix(".wav"), DIGITS[json.loads(path.read_text())["digit"]])
        for path in sorted(folder.glob("*.json"))
    ]


def speak_sentences(language: str, count: int, folder: Path) -> list[Utterance]:
    """Synthesize ``count`` sentences, evenly spread over all, with espeak-ng, and write them to MP4 files."""
    beginnings, ends = SENTENCES[language]
    sentences = every_nth([f"{beginning} {end}." for end in ends for beginning in beginnings], count)
    folder.mkdir()
    utterances = []
    for number, sentence in enumerate(sentences):
        command = ["espeak-ng", "-v", language, "-s", "150", "--stdout", sentence]
        sound = subprocess.run(command, capture_output=True, check=True).stdout
        utterances.append(Utterance(write_mp4(folder / f"{number}.mp4", sound), sentence))
    return utterances


def write_mp4(path: Path, sound: bytes) -> Path:
    """Write an MP4 file with the sound of a WAV file as AAC and grey pictures."""
    with av.open(io.BytesIO(sound), "r") as source, av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("libx264", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 160, 96, "yuv420p"
        track: Any = container.add_stream("aac", rate=44_100, layout="mono")
        resampler = av.AudioResampler("fltp", "mono", 44_100)
        samples = 0
        for frame in [*source.decode(audio=0), None]:
            for part in resampler.resample(frame):
                samples += part.samples
                container.mux(track.encode(part))
        container.mux(track.encode())
        for _ in range(samples * 5 // 44_100 + 1):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 99, np.uint8), "rgb24")))
        container.mux(pictures.encode())
    return path


def every_nth(items: Sequence[Any], count: int | None) -> list[Any]:
    """Return ``count`` evenly spread items; None: all items."""
    if count is None or count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def measure(recognizer: SpeechRecognizer, corpus: str, utterances: Sequence[Utterance], language: str) -> Measurement:
    """Recognise each file and compare the text with the transcript."""
    from torchmetrics.functional.text import word_error_rate

    spoken, expected = [], []
    sound = elapsed = processor = 0.0
    for utterance in utterances:
        sound += IN_PROCESS.probe(utterance.path).duration
        start, processor_start = time.perf_counter(), time.process_time()
        segments = list(transcribe_file(recognizer, utterance.path, language=language))
        elapsed += time.perf_counter() - start
        processor += time.process_time() - processor_start
        spoken.append(normalize(" ".join(segment.text for segment in segments), language))
        expected.append(normalize(utterance.text, language))
    return Measurement(
        recognizer.name,
        corpus,
        len(utterances),
        sum(len(text.split()) for text in expected),
        float(word_error_rate(spoken, expected)),
        sound,
        elapsed / sound,
        processor / sound,
    )


def normalize(text: str, language: str) -> str:
    """Return a text with Whisper's normalisation, which for English also writes numbers as digits."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalizer: Any = EnglishTextNormalizer({}) if language == "en" else BasicTextNormalizer()  # type: ignore[no-untyped-call]
    return str(normalizer(text)).strip()


def corpora(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str, list[Utterance]]]:
    """Yield the name, language and files of each set that is available."""
    counts: Mapping[str, int | None] = dict.fromkeys(SAMPLES) if args.all else SAMPLES
    if PROMPTS.is_dir() and PROMPT_TEXTS.is_file():
        yield "prompts", "en", every_nth(read_prompts(PROMPTS, PROMPT_TEXTS), counts["prompts"])
    if args.digits is not None:
        yield "digits", "en", every_nth(unpack_digits(args.digits, folder / "digits"), counts["digits"])
    if shutil.which("espeak-ng"):
        for language in SENTENCES:
            count = counts["sentences"] or 40
            yield f"sentences ({language})", language, speak_sentences(language, count, folder / language)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="as in `vitascope transcribe` (default: pocketsphinx)")
    parser.add_argument("--digits", type=Path, metavar="TAR", help="the Free Spoken Digit Dataset")
    parser.add_argument("--all", action="store_true", help="use all files")
    parser.add_argument("--threads", type=int, default=0, help="threads of each model (default: one per core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the numbers")
    args = parser.parse_args()
    if args.digits is not None and not (args.digits.is_file() and tarfile.is_tarfile(args.digits)):
        parser.error(f"--digits: {args.digits}; a tar file was expected")
    if args.json is not None and not args.json.parent.is_dir():
        parser.error(f"--json: {args.json}; a file in an existing folder was expected")
    try:
        recognizers = [
            open_recognizer(os.path.expanduser(model), threads=args.threads) for model in args.model or ["pocketsphinx"]
        ]
    except InvalidInput as error:
        parser.error(f"--model: {error}")
    table = plain_table("model", "set", ">files", ">words", ">WER", ">seconds", ">real-time factor", ">processor")
    measurements = []
    with tempfile.TemporaryDirectory() as folder:
        sets = list(corpora(args, Path(folder)))
        for recognizer in recognizers:
            for corpus, language, utterances in sets:
                try:
                    result = measure(recognizer, corpus, utterances, language)
                except InvalidInput as error:  # the model does not support the language
                    print(f"{corpus}: {error}")
                    continue
                measurements.append(result)
                print(result, flush=True)
                table.add_row(
                    *(result.model, corpus, str(result.files), str(result.words), f"{result.word_error_rate:.3f}"),
                    *(f"{result.sound_seconds:.0f}", f"{result.real_time_factor:.2f}"),
                    f"{result.processor_factor:.2f}",
                )
    Console(width=140).print(table)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(each) for each in measurements], indent=2))


if __name__ == "__main__":
    run_main(main)
