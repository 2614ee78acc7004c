"""Speech recognition: files of any length and kind of sound, models in folders, transcripts."""

from __future__ import annotations

import hashlib
import json
import shutil
import wave
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.media_files import ONE_TO_FIVE, write_audio, write_color_video
from tests.vitascope.speech_models import KINDS, make_speech_model
from vitascope.cli.main import main
from vitascope.errors import InvalidInput, MediaCorrupt, MediaUnsupported
from vitascope.media.subtitles import parse_subtitles
from vitascope.speech import interface
from vitascope.speech.interface import SpeechSegment, SpokenWord, open_recognizer, transcribe_file
from vitascope.speech.phrases import split_phrases
from vitascope.speech.sherpa_onnx_recognizer import SherpaOnnxRecognizer
from vitascope.speech.transcript_formats import format_srt, format_text, format_vtt

RATE = 16_000
DIGITS = "one two three four five"


class BlockRecognizer:
    """Recogniser that writes down the length of each block, and how loud it is."""

    name = "blocks"

    def __init__(self) -> None:
        self.blocks: list[NDArray[np.float32]] = []

    def transcribe(self, samples: NDArray[np.float32], language: str | None = None) -> list[SpeechSegment]:
        self.blocks.append(samples)
        seconds = len(samples) / RATE
        word = SpokenWord("sound", 0.0, seconds)
        return [SpeechSegment(0.0, seconds, f"{np.abs(samples).max():.1f}", language, words=(word,))]


def noise(seconds: float, rate: int = RATE, channels: int = 1) -> NDArray[np.float32]:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(seconds * rate))).astype(np.float32)
    return np.repeat(sound, channels, axis=0)


def test_a_long_file_is_read_in_bounded_blocks_without_its_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "_READ_SECONDS", 5.0)
    monkeypatch.setattr(interface, "BLOCK_SECONDS", 2.0)
    sound = np.concatenate([noise(7), np.zeros((1, 8 * RATE), np.float32), noise(3.5)], axis=1)
    sound[:, round(1.7 * RATE) : round(1.8 * RATE)] *= 0.01  # the quietest place near the end of the first block
    recognizer = BlockRecognizer()
    segments = list(
        transcribe_file(recognizer, write_audio(tmp_path / "long.flac", sound, RATE, "flac"), language="de")
    )
    assert max(len(block) for block in recognizer.blocks) <= 2 * RATE
    assert segments[0].end == pytest.approx(1.75, abs=0.1)
    assert [a.end for a in segments[:-1] if a.end < 7] == [b.start for b in segments[1:] if b.start < 7]
    assert segments[-1].end == pytest.approx(18.5, abs=0.01)
    loud = np.concatenate([np.arange(round(s.start * RATE), round(s.end * RATE)) for s in segments])
    assert set(np.flatnonzero(sound[0])) <= set(loud)
    assert all(s.words[0].start == s.start and s.language == "de" for s in segments)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (192_000, 8)])
def test_any_sample_rate_and_number_of_channels_is_heard(tmp_path: Path, rate: int, channels: int) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes((noise(1, rate, channels).T * 32767).astype("<i2").tobytes())
    [segment] = transcribe_file(BlockRecognizer(), tmp_path / "sound.wav")
    assert segment.end == pytest.approx(1.0, abs=0.01)
    assert 0.2 < float(segment.text) < 0.9


def test_files_without_speech_give_a_reason_or_nothing(tmp_path: Path) -> None:
    recognizer = BlockRecognizer()
    with pytest.raises(MediaUnsupported, match=r"mute\.mp4: no audio track"):
        list(transcribe_file(recognizer, write_color_video(tmp_path / "mute.mp4", [(9, 9, 9)])))
    silent = write_audio(tmp_path / "silent.wav", np.zeros((1, RATE), np.float32), RATE, "pcm_s16le")
    assert list(transcribe_file(recognizer, silent)) == []
    whole = write_audio(tmp_path / "whole.flac", noise(4), RATE, "flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert 1.5 < list(transcribe_file(recognizer, tmp_path / "cut.flac"))[-1].end < 2.5
    (tmp_path / "head.flac").write_bytes(whole[:100])
    with pytest.raises(MediaCorrupt):
        list(transcribe_file(recognizer, tmp_path / "head.flac"))


def test_pocketsphinx_writes_down_words_with_their_times() -> None:
    recognizer = open_recognizer("pocketsphinx")
    [segment] = transcribe_file(recognizer, ONE_TO_FIVE)
    assert (recognizer.name, segment.text, segment.language) == ("pocketsphinx/en-us", DIGITS, "en")
    times = [time for word in segment.words for time in (word.start, word.end)]
    assert len(segment.words) == 5
    assert times == sorted(times)
    assert 0 < (segment.confidence or 0) < 1
    with pytest.raises(InvalidInput, match="language: 'de'; 'en' was expected"):
        recognizer.transcribe(noise(1)[0], "de")


@pytest.mark.parametrize("kind", KINDS)
def test_sherpa_onnx_runs_the_model_of_a_folder(tmp_path: Path, kind: str) -> None:
    recognizer = open_recognizer(str(make_speech_model(tmp_path / "model", kind)), threads=1)
    segments = list(transcribe_file(recognizer, ONE_TO_FIVE, language="en" if kind != "sense_voice" else None))
    assert recognizer.name == "sherpa-onnx/model"
    assert segments[0].language == "en"
    assert segments[0].text.startswith("HELLO WORLD")
    assert segments[0].words[0].text == "HELLO"
    assert 0 <= segments[0].words[0].start < segments[0].words[0].end <= 1.8
    if kind == "sense_voice":
        with pytest.raises(InvalidInput, match="language: 'de'; one of zh, en, ja, ko, yue was expected"):
            recognizer.transcribe(noise(1)[0], "de")


@pytest.mark.filterwarnings("ignore")
def test_random_models_of_other_architectures_run(tmp_path: Path) -> None:
    """Their transcripts are meaningless, as their weights are random."""
    from tests.vitascope.speech_architectures import make_moonshine, make_parakeet, make_sense_voice

    models = {
        "moonshine": partial(make_moonshine, is_merged=False),
        "moonshine_v2": make_moonshine,
        "nemo_transducer": make_parakeet,
        "sense_voice": make_sense_voice,
    }
    for kind, make in models.items():
        recognizer = SherpaOnnxRecognizer(make(tmp_path / kind), threads=1)
        segments = list(transcribe_file(recognizer, ONE_TO_FIVE))
        times = [time for s in segments for word in s.words for time in (word.start, word.end)]
        assert recognizer.model.kind == kind
        assert all(0 <= s.start < s.end <= 2.1 and s.text for s in segments)
        assert segments
        assert times == sorted(times)
        assert bool(times) == (not kind.startswith("moonshine"))


def test_a_random_whisper_model_runs_and_checks_languages(tmp_path: Path) -> None:
    """The architecture is Whisper's; what it writes down means nothing."""
    from tests.vitascope.whisper_graphs import make_random

    recognizer = open_recognizer(str(make_random(tmp_path / "whisper")), threads=1)
    segments = list(transcribe_file(recognizer, ONE_TO_FIVE, language="de"))
    assert segments
    assert all(0 <= s.start <= s.end <= 2.1 and s.text and s.language == "de" for s in segments)
    with pytest.raises(InvalidInput, match="language: 'fr'; one of en, de was expected"):
        recognizer.transcribe(noise(1)[0], "fr")


def test_a_folder_may_be_named_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_speech_model(tmp_path / "model")
    assert open_recognizer("~/model", threads=1).name == "sherpa-onnx/model"


def test_models_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path) -> None:
    def refuse(folder: Path, reason: str) -> None:
        with pytest.raises(InvalidInput, match=reason):
            open_recognizer(str(folder))

    model = make_speech_model(tmp_path / "model")
    refuse(tmp_path / "absent", "no such folder; 'pocketsphinx' or a folder was expected")
    sums = model / "SHA256SUMS"
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(model.iterdir())]
    sums.write_text("\n".join(lines))
    assert open_recognizer(str(model)).name == "sherpa-onnx/model"
    sums.write_text("\n".join(lines).replace("a", "b"))
    refuse(model, r"model\.onnx: SHA-256 .* was expected, as in .*SHA256SUMS")
    sums.unlink()
    graph = onnx.load(str(model / "model.onnx"))
    onnx.helper.set_model_props(graph, {"model_type": "EncDecCTCModel"})
    onnx.save(graph, str(model / "model.onnx"))
    refuse(model, "its metadata has no 'vocab_size', which sherpa-onnx needs")
    (model / "model.onnx").write_bytes(b"not a graph")
    refuse(model, r"model\.onnx': not a graph that can be run")
    (model / "model.onnx").rename(model / "model.ckpt")
    refuse(model, r"model\.ckpt is a checkpoint, which is not loaded; files of a Whisper")
    (tmp_path / "other").mkdir()
    refuse(tmp_path / "other", "no speech model of a known kind among 0 files")


def words(*spans: tuple[str, float, float]) -> tuple[SpokenWord, ...]:
    return tuple(SpokenWord(*span) for span in spans)


def test_segments_are_divided_at_pauses_and_ends_of_sentences() -> None:
    spoken = words(("I", 0.0, 0.2), ("go.", 0.2, 0.5), ("You", 0.5, 0.7), ("stay", 1.5, 1.9))
    texts = [(s.start, s.end, s.text) for s in split_phrases(SpeechSegment(0.0, 2.0, "I go. You stay", words=spoken))]
    assert texts == [(0.0, 0.5, "I go."), (0.5, 0.7, "You"), (1.5, 1.9, "stay")]


@pytest.mark.parametrize("vtt", [False, True])
def test_subtitles_are_read_back_as_they_were_written(vtt: bool) -> None:
    texts: Sequence[str] = ["<b>1 < 2 & 3</b> ---> x", "אבג\u200f abc", "", "two\nlines\x07"]
    segments = [SpeechSegment(3600 * i + 0.001, 3600 * i + 59.9996, text) for i, text in enumerate(texts)]
    cues = parse_subtitles(format_vtt(segments) if vtt else format_srt(segments), "name", vtt=vtt)
    assert [(c.start, c.end) for c in cues] == [(0.001, 60.0), (3600.001, 3660.0), (10800.001, 10860.0)]
    assert [c.text for c in cues][1:] == ["אבג\u200f abc", "two lines"]
    if vtt:
        assert cues[0].text == "<b>1 < 2 & 3</b> -> x"
    assert format_text(segments[1:]) == "אבג\u200f abc two lines"


def test_the_command_prints_or_writes_a_transcript(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transcribe", str(ONE_TO_FIVE), "--model"]
    model = str(make_speech_model(tmp_path / "model"))
    assert main([*command, model, "--format", "verbose_json"]) == 0
    transcript = json.loads(capsys.readouterr().out)
    assert transcript["model"] == "sherpa-onnx/model"
    assert transcript["duration"] == pytest.approx(2.17, abs=0.01)
    assert transcript["words"][0]["word"] == "HELLO"
    out = tmp_path / "out.srt"
    assert main([*command, model, "--format", "srt", "--out", str(out)]) == 0
    assert out.read_text().startswith("1\n00:00:00,0")
    sound = tmp_path / "sound.wav"
    shutil.copy(ONE_TO_FIVE, sound)
    assert main(["transcribe", str(sound), "--out", str(sound)]) == 2
    assert f"--out: {sound}: the input file; another file was expected" in capsys.readouterr().err
    assert sound.read_bytes() == ONE_TO_FIVE.read_bytes()
    assert main([*command, str(tmp_path)]) == 2
