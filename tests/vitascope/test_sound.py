"""Sound in `Model`: windows and their means, and files with pictures, sound or both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_audio, write_color_video, write_picture
from tests.small_bundle import AUDIO, TONES, make_small_bundle
from vitascope import audio_windows
from vitascope.audio_windows import Samples, cut_windows
from vitascope.bundle.manifest import AudioStream
from vitascope.errors import InvalidInput, MediaCorrupt, TaskMissing
from vitascope.media.file import MediaSource
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model
from vitascope.sandbox.decoder import InProcessDecoder

RATE, WINDOW = 8000, 4000
"""Hz, and samples of a window of the small bundle."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = make_small_bundle(tmp_path_factory.mktemp("sound"), tasks=("retrieval", "audio_retrieval"))
    return Model.open(folder, threads=1)


def tone(colour: str, seconds: float = 0.5) -> Samples:
    return (0.5 * np.sin(2 * np.pi * TONES[colour] * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def nearest(model: Model, vectors: np.ndarray, colours: Sequence[str] = tuple(TONES)) -> list[str]:
    """The colours whose sentences are nearest to the embeddings (B, D)."""
    texts = model.embed_text([f"a {colour} thing" for colour in colours])
    return [colours[index] for index in (vectors @ texts.T).argmax(axis=1)]


def test_texts_are_nearest_to_the_sounds_they_describe(model: Model) -> None:
    embedding = model.embed_audio([tone("red"), tone("blue", 0.3), tone("green", 1.7)])
    assert nearest(model, embedding.vectors) == ["red", "blue", "green"]
    assert np.linalg.norm(embedding.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert embedding.tokens is not None
    assert (embedding.vectors.dtype, embedding.tokens.shape, embedding.tokens.dtype) == (
        "float32",
        (3, 2, 16),
        "float32",
    )
    assert model.embed_audio([]).vectors.shape == (0, 16)


def test_a_long_sound_is_the_normalized_mean_of_equal_windows_that_are_not_silent(model: Model) -> None:
    parts = [tone("red", 0.4), tone("blue", 0.4), tone("blue", 0.4), np.zeros(3200, np.float32)]
    long = model.embed_audio([np.concatenate(parts)])
    single = model.embed_audio(parts[:3])
    assert single.tokens is not None
    mean = single.vectors.mean(axis=0)
    np.testing.assert_allclose(long.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(long.tokens, single.tokens.mean(axis=0)[None], atol=1e-5)
    one_by_one = model.with_overrides(batch_size=1).embed_audio([np.concatenate(parts)])
    np.testing.assert_allclose(one_by_one.vectors, long.vectors, atol=1e-5)


@pytest.mark.parametrize(("fill", "copies"), [("silence", 1), ("repeat", 2)])
def test_a_short_sound_is_followed_by_its_fill(fill: str, copies: int) -> None:
    stream = AudioStream.model_validate({**AUDIO, "width": 16, "fill": fill})
    [window] = cut_windows(stream, [(7, tone("red", 0.2))])
    assert (window.position, window.length) == (7, 1600)
    expected = np.zeros(WINDOW, np.float32)
    expected[: copies * 1600] = np.tile(tone("red", 0.2), copies)
    np.testing.assert_array_equal(window.samples, expected)


@pytest.mark.parametrize("count", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 1, 10 * WINDOW + 3])
def test_the_number_of_windows_is_the_smallest(count: int) -> None:
    stream = AudioStream.model_validate({**AUDIO, "width": 16})
    lengths = [window.length for window in cut_windows(stream, [(0, np.ones(count, np.float32))])]
    assert (sum(lengths), len(lengths)) == (count, -(-count // WINDOW))
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (np.zeros(100, np.float32), "100 samples of digital silence"),
        (np.zeros(0, np.float32), "0 samples of digital silence"),
        (np.ones((2, 10), np.float32), r"float32 of shape \(2, 10\)"),
        (np.ones(10, np.int16), "int16 of shape"),
        (np.full(10, 1.5, np.float32), "from -1 to 1 were expected"),
        (np.full(10, np.nan, np.float32), "from -1 to 1 were expected"),
        (0.5, "float; floats of shape"),
    ],
)
def test_invalid_sounds_are_rejected(sound: Samples, reason: str, model: Model) -> None:
    with pytest.raises(InvalidInput, match=rf"sounds\[1\]: .*{reason}"):
        model.embed_audio([tone("red"), sound])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures; the tone of red for 1 s, silence for 1 s, then the tone of blue for 1 s."""
    parts = [tone("red", 1), np.zeros(RATE, np.float32), tone("blue", 1)]
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    return write_audio(path, np.concatenate(parts)[None], RATE, "flac", with_video=True)


def test_a_file_has_pictures_and_sound(model: Model, film: Path) -> None:
    embedding = model.embed_file(film, [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (0.5, 0.5)])
    assert embedding.video is not None
    assert embedding.audio is not None
    assert embedding.video.vectors.shape == (4, 16)
    assert embedding.clips_with_sound.tolist() == [0, 2]
    assert nearest(model, embedding.audio.vectors) == ["red", "blue"]
    assert model.embed_file(film).clips_with_sound.tolist() == [0]
    with pytest.raises(InvalidInput, match=r"clip: 3\.0 to 4\.0 seconds; a span inside the file's 2.96 s was expected"):
        model.embed_file(film, [(0.0, 1.0), (3.0, 4.0)])
    for embed in (model.embed_file, model.embed_audio_file):
        for span in ((float("nan"), 1.0), (0.0, float("inf")), (2.0, 1.0)):
            with pytest.raises(InvalidInput, match=r"clip: .* seconds; 0 <= start <= end was expected"):
                embed(film, [span])


def test_a_long_file_is_read_in_parts(model: Model, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.embed_file(film, [(0.0, 2.0), (1.0, 3.0)])
    monkeypatch.setattr(audio_windows, "_WINDOWS_PER_READ", 2)
    parts = model.embed_file(film, [(0.0, 2.0), (1.0, 3.0)])
    assert whole.audio is not None
    assert parts.audio is not None
    np.testing.assert_allclose(parts.audio.vectors, whole.audio.vectors, atol=1e-4)


def test_a_file_may_have_sound_or_pictures_alone(model: Model, tmp_path: Path) -> None:
    sound = model.embed_file(write_audio(tmp_path / "a.wav", tone("cyan", 2)[None], RATE, "pcm_s16le"))
    assert sound.video is None
    assert sound.audio is not None
    assert nearest(model, sound.audio.vectors) == ["cyan"]
    silence = model.embed_file(write_audio(tmp_path / "s.wav", np.zeros((1, 9000), np.float32), RATE, "pcm_s16le"))
    assert (silence.video, silence.audio, silence.clips_with_sound.tolist()) == (None, None, [])
    picture = model.embed_file(write_picture(tmp_path / "p.png", solid((250, 0, 0))))
    assert picture.video is not None
    assert (nearest(model, picture.video.vectors), picture.audio) == (["red"], None)


def test_a_bundle_embeds_what_it_has_graphs_for(small_model: Model, film: Path, tmp_path: Path) -> None:
    pictures = small_model.embed_file(film)
    assert pictures.video is not None
    assert pictures.audio is None
    wav = write_audio(tmp_path / "a.wav", tone("cyan", 2)[None], RATE, "pcm_s16le")
    missing = "small-colours: no graph 'audio', so no audio_retrieval"
    for call in (lambda: small_model.embed_file(wav), lambda: small_model.embed_audio([tone("red")])):
        with pytest.raises(TaskMissing, match=missing):
            call()
    only_sound = Model.open(make_small_bundle(tmp_path / "sound", tasks=["audio_retrieval"]), threads=1)
    sound = only_sound.embed_file(film, [(0.0, 1.0)])
    assert sound.video is None
    assert sound.audio is not None
    assert nearest(only_sound, sound.audio.vectors) == ["red"]
    with pytest.raises(TaskMissing, match="no graph 'video'"):
        only_sound.embed_file(write_color_video(tmp_path / "mute.mp4", (9, 9, 9)))


class DeafDecoder(InProcessDecoder):
    def read_clips(
        self,
        source: MediaSource,
        clips: Sequence[tuple[float, float]],
        sample_rate: int,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> list[Samples | None]:
        raise MediaCorrupt("no sound can be decoded")


def test_sound_that_cannot_be_decoded_is_left_out_of_a_file_with_pictures(
    model: Model, film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = model.with_overrides(decoder=DeafDecoder())
    embedding = deaf.embed_file(film)
    assert embedding.video is not None
    assert embedding.audio is None
    assert "the sound is left out: no sound can be decoded" in caplog.text
    wav = write_audio(tmp_path / "a.wav", tone("cyan", 2)[None], RATE, "pcm_s16le")
    with pytest.raises(MediaCorrupt):
        deaf.embed_file(wav)
