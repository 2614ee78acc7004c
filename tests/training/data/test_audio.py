"""Sound in packed corpora and batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.data.corpus_files import GREEN, RED, movie, picture, tone, wav
from tests.training.small_run import recipe, write_tokenizer
from training.data.audio import MAX_SECONDS, SAMPLE_RATE, read_samples
from training.data.audio_batch import read_audio
from training.data.batch import Batch
from training.data.batches import Batches
from training.data.corpus import CorpusError
from training.data.example import Example, ExampleError, Question
from training.data.packed import (
    STILL_STREAMS,
    VIDEO_STREAMS,
    EncodedMedia,
    Media,
    MediaSpan,
    Origin,
    open_packed,
    write_packed,
)
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

ORIGIN = Origin("a test", "none needed", "all in one")
SILENCE = np.zeros(4000, np.int16)


def write_sounds(folder: Path, sounds: list[np.ndarray], **options: Any) -> None:
    items = [
        (Example(f"sound {i}", (f"a tone {i}",)), EncodedMedia(f"{i}.wav", wav(samples)))
        for i, samples in enumerate(sounds)
    ]
    write_packed(folder, (), items, ORIGIN, audio=True, **options)


def movie_with_sound(path: Path, samples: np.ndarray) -> None:
    """A video of two seconds, RED and then GREEN, with lossless sound."""
    movie(path.with_suffix(".silent.mp4"), [RED, GREEN], frames_each=10)
    with av.open(path, "w") as out, av.open(path.with_suffix(".silent.mp4")) as pictures:
        video = out.add_stream_from_template(pictures.streams.video[0])
        sound = out.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for packet in pictures.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        out.mux(sound.encode(frame))
        out.mux(sound.encode())


@pytest.mark.parametrize("shards", [False, True])
def test_sounds_of_any_length_are_stored_exactly(tmp_path: Path, shards: bool) -> None:
    sounds = [tone(440, 0.3), tone(700, 1.1), tone(200, 0.05)]
    write_sounds(tmp_path / "out", sounds, shards=shards)
    packed = open_packed(tmp_path / "out")
    assert packed.audio is not None
    assert len(packed.audio) == len(packed) == 3
    for row, samples in enumerate(sounds):
        np.testing.assert_array_equal(packed.audio[row], samples)


@pytest.mark.parametrize("shards", [False, True])
def test_a_video_may_have_sound_or_none_in_one_corpus(tmp_path: Path, shards: bool) -> None:
    samples = np.concatenate([tone(440, 1.0), tone(880, 1.0)])
    movie_with_sound(tmp_path / "a.mkv", samples)
    movie_with_sound(tmp_path / "b.mkv", 0 * samples)
    movie(tmp_path / "c.mp4", [RED])
    items: list[tuple[Example, Media]] = [
        (Example("whole"), tmp_path / "a.mkv"),
        (Example("part"), MediaSpan(tmp_path / "a.mkv", 0.5, 1.5)),
        (Example("silent track"), tmp_path / "b.mkv"),
        (Example("no track"), tmp_path / "c.mp4"),
    ]
    write_packed(tmp_path / "out", VIDEO_STREAMS, items, ORIGIN, clips=2, audio=True, shards=shards)
    packed = open_packed(tmp_path / "out")
    assert packed.audio is not None
    np.testing.assert_array_equal(packed.audio[0], samples)
    np.testing.assert_array_equal(packed.audio[1], samples[8000:24000])
    assert [len(packed.audio[row]) for row in range(4)] == [32000, 16000, 0, 0]
    assert packed.frames("low").shape[:2] == (4, 2)


def test_of_a_long_sound_the_middle_is_stored_at_16_khz(tmp_path: Path) -> None:
    seconds = np.repeat(np.arange(1, 13, dtype=np.int16) * 1000, 8000)  # each second another level
    (tmp_path / "long.wav").write_bytes(wav(seconds, rate=8000))
    samples = read_samples(tmp_path / "long.wav", 0.0, 12.0)
    assert samples is not None
    assert len(samples) == MAX_SECONDS * SAMPLE_RATE
    np.testing.assert_allclose(samples[SAMPLE_RATE // 2 :: SAMPLE_RATE], np.arange(2, 12) * 1000, atol=2)


def test_silent_or_broken_files_are_left_out_of_a_corpus_of_sounds(tmp_path: Path) -> None:
    items: list[tuple[Example, Media]] = [
        (Example("tone"), EncodedMedia("a.wav", wav(tone()))),
        (Example("silent"), EncodedMedia("b.wav", wav(SILENCE))),
        (Example("broken"), EncodedMedia("c.wav", b"nothing")),
    ]
    info = write_packed(tmp_path / "out", (), items, ORIGIN, audio=True, max_skipped=0.7)
    assert [s["key"] for s in info["skipped"]] == ["silent", "broken"]
    assert info["skipped"][0]["reason"].startswith("media_error: b.wav: no sound")
    assert info["skipped"][1]["reason"].startswith("media_unsupported: c.wav: ")


def test_a_corpus_without_sound_has_the_files_and_keys_that_it_had(tmp_path: Path) -> None:
    item = (
        Example("a", questions=(Question("what?", ("red",), "what"),), still=True),
        EncodedMedia("a.jpg", picture()),
    )
    info = write_packed(tmp_path / "out", STILL_STREAMS, [item], ORIGIN)
    assert "audio" not in info
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "examples.jsonl",
        "high.npy",
        "low.npy",
        "pack.json",
    ]
    line = json.loads((tmp_path / "out" / "examples.jsonl").read_text())
    assert "caption_needs" not in line
    assert "needs" not in line["questions"][0]
    assert open_packed(tmp_path / "out").audio is None


@pytest.mark.parametrize("damage", ["short", "missing index", "other count"])
def test_damaged_sounds_are_refused_with_the_name_of_the_file(tmp_path: Path, damage: str) -> None:
    write_sounds(tmp_path, [tone(), tone(300)])
    if damage == "short":
        np.save(tmp_path / "audio.npy", tone())
    elif damage == "missing index":
        (tmp_path / "audio_index.npy").unlink()
    else:
        np.save(tmp_path / "audio_index.npy", np.zeros((3, 2), np.int64))
    with pytest.raises(CorpusError, match=r"audio\.npy: |audio_index\.npy"):
        open_packed(tmp_path)


def test_texts_state_whether_they_need_sight_or_sound() -> None:
    question = Question("how many beeps?", ("3",), "count", "sound")
    example = Example("a", ("a red square", "three beeps"), questions=(question,), caption_needs=("sight", "sound"))
    assert Example.from_json(example.to_json()) == example
    with pytest.raises(ExampleError, match=r"caption_needs: 1; one for each of the 2 captions"):
        Example.from_json(json.dumps({"key": "a", "captions": ["a", "b"], "caption_needs": ["sight"]}))
    with pytest.raises(ExampleError, match=r"questions\[0\]\.needs: 'smell'; one of \('sight', 'sound', 'both'\)"):
        Example.from_json(example.to_json().replace('"needs": "sound"', '"needs": "smell"'))


def batches_of(data: Path, dataset: dict[str, Any] | None = None, **options: Any) -> Batches:
    tokenizer = write_tokenizer(data / "tokenizer.json")
    plain = recipe(tokenizer).model_dump()["stages"][0]
    plain["datasets"] = plain["datasets"][:1]
    plain["datasets"][0] |= {"corpus": "c", "group_by": None, "batch_size": 3, "objectives": {"itc": 1.0}}
    plain["datasets"][0] |= dataset or {}
    stage = recipe(tokenizer, stages=[plain]).stages[0]
    return Batches(stage, data, Tokenizer.open(tokenizer, max_length=16), [], 7, VIDEO_STREAMS, **options)


def test_a_batch_of_sounds_has_samples_lengths_and_no_frames(tmp_path: Path) -> None:
    write_sounds(tmp_path / "c" / "train", [tone(440, 0.1), tone(700, 0.3), tone(200, 0.5)])
    batch: Batch = batches_of(tmp_path, audio_seconds=0.3)[0].to(torch.device("cpu"))
    assert batch.streams is None
    assert batch.captions is not None
    assert batch.audio is not None
    assert (batch.audio.samples.dtype, batch.audio.samples.shape) == (torch.float32, (3, 4800))
    assert batch.audio.lengths.tolist() == [1600, 4800, 4800]
    assert batch.audio.present.all()
    assert not batch.audio.samples[0, 1600:].any()
    assert batch.audio.samples.abs().max().item() == pytest.approx(8000 / 32768, rel=0.01)


def test_sounds_change_nothing_else_in_a_batch_and_silent_examples_are_masked(tmp_path: Path) -> None:
    movie_with_sound(tmp_path / "a.mkv", tone(440, 2.0))
    movie(tmp_path / "b.mp4", [RED, GREEN])
    items = [
        (Example(k, (f"clip {k}",)), tmp_path / name)
        for k, name in zip("xyz", ("a.mkv", "b.mp4", "b.mp4"), strict=True)
    ]
    write_packed(tmp_path / "c" / "train", VIDEO_STREAMS, items, ORIGIN, audio=True)
    with_sound, without = (batches_of(tmp_path, audio_seconds=s)[1] for s in (1.0, None))
    assert without.audio is None
    assert with_sound.audio is not None
    assert with_sound.audio.present.tolist() == [True, False, False]
    assert with_sound.audio.lengths.tolist() == [16000, 0, 0]
    assert with_sound.streams is not None
    assert without.streams is not None
    assert torch.equal(with_sound.streams["high"], without.streams["high"])
    assert with_sound.captions is not None
    assert without.captions is not None
    assert torch.equal(with_sound.captions.ids, without.captions.ids)


def test_half_of_the_pictures_without_sound_are_accompanied_by_those_of_another_corpus(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    items = [(Example(f"{i}", (f"picture {i}",), still=True), tmp_path / "red.png") for i in range(32)]
    write_packed(tmp_path / "c" / "train", STILL_STREAMS, items, ORIGIN)
    write_sounds(tmp_path / "tones" / "train", [tone(440, 0.1), tone(700, 0.2)])
    options = {"batch_size": 32, "sounds_of": "tones"}
    batch, again = (batches_of(tmp_path, options, audio_seconds=0.3)[0] for _ in range(2))
    assert batch.audio is not None
    assert again.audio is not None
    assert torch.equal(batch.audio.samples, again.audio.samples)
    assert set(batch.audio.lengths.tolist()) == {0, 1600, 3200}
    assert 8 <= int(batch.audio.present.sum()) <= 24
    assert not batch.audio.samples[~batch.audio.present].any()
    with pytest.raises(InvalidInput, match="is packed without sound"):
        batches_of(tmp_path, {"sounds_of": "c"}, audio_seconds=0.3)
    write_sounds(tmp_path / "c" / "train", [tone(440, 0.1)] * 3)
    with pytest.raises(InvalidInput, match="is packed with sound"):
        batches_of(tmp_path, {"sounds_of": "tones"}, audio_seconds=0.3)


def test_of_a_sound_longer_than_the_window_the_middle_is_measured(tmp_path: Path) -> None:
    samples = np.arange(16000, dtype=np.int16)
    write_sounds(tmp_path / "out", [samples])
    audio = read_audio(open_packed(tmp_path / "out"), np.array([0]), 0.5)
    np.testing.assert_array_equal(audio.samples[0] * 32768, samples[4000:12000])
