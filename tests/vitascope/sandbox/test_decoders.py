"""Decoding in a worker gives the same results and errors as decoding in the calling process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.media_files import (
    click_train,
    counter_frame,
    solid,
    write_animation,
    write_audio,
    write_counter_video,
    write_picture,
    write_png_header,
    write_subtitled_video,
    write_tracks,
    write_truncated,
    write_video,
    write_without_frames,
)
from tests.media_formats import write_format
from vitascope.errors import InvalidInput, MediaError, MediaUnsupported
from vitascope.media.limits import MediaLimits
from vitascope.media.sampling import StreamSpec
from vitascope.model import Model
from vitascope.sandbox.decoder import IN_PROCESS
from vitascope.sandbox.pool import PooledDecoder

STREAMS = [
    StreamSpec("one", 1, 48, 96, "middle", "stretch"),
    StreamSpec("few", 3, 24, 24, "uniform", "crop"),
    StreamSpec("more", 5, 16, 40, "uniform", "pad"),
    StreamSpec("sharp", 2, 16, 24, "uniform", "crop", "bicubic", 28, "even"),
    StreamSpec("corner", 2, 36, 36, "uniform", "corner", "bicubic", 24, "down", 39, 4),
    StreamSpec("cover", 2, 9, 9, "uniform", "corner", "bicubic", 24, "down", 39, 4, "cover"),
    StreamSpec("tiles", 2, 24, 40, "uniform", "tiles", "bicubic", multiple=8),
]
COUNTERS = [counter_frame(number) for number in range(50)]
UNEVEN = [number * 0.04 if number % 3 else number * 0.04 + 0.013 for number in range(50)]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": lambda path: write_counter_video(path, 60, gop=20),
    "uneven.mp4": lambda path: write_video(path, COUNTERS, starts=UNEVEN),
    "turned.mp4": lambda path: write_video(path, COUNTERS, rotation=90),
    "h264.ts": lambda path: write_counter_video(path, 60, gop=20),
    "mpeg4.avi": lambda path: write_counter_video(path, 60, codec="mpeg4"),
    "vp9.webm": lambda path: write_counter_video(path, 40, codec="libvpx-vp9", options={"deadline": "realtime"}),
    "hevc.mkv": lambda path: write_counter_video(path, 40, codec="libx265", options={"preset": "ultrafast"}),
    "moving.gif": lambda path: write_animation(path, COUNTERS[:9], [100] * 9),
    "moving.webp": lambda path: write_animation(path, COUNTERS[:9], [100, 300, 50] * 3),
    "moving.png": lambda path: write_animation(path, COUNTERS[:9], [100] * 9),
    "still.jpg": lambda path: write_picture(path, COUNTERS[9]),
    "still.png": lambda path: write_picture(path, COUNTERS[9]),
}
ENCODERS = {"vp9.webm": "libvpx-vp9", "hevc.mkv": "libx265"}


@pytest.fixture(scope="module", params=MAKERS)
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = ENCODERS.get(request.param)
    if encoder and encoder not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {encoder}")
    return MAKERS[request.param](tmp_path_factory.mktemp("films") / request.param)


def assert_same_frames(frames: dict[str, NDArray[np.uint8]], expected: dict[str, NDArray[np.uint8]]) -> None:
    assert list(frames) == list(expected)
    for name, pixels in expected.items():
        assert frames[name].dtype == np.uint8
        np.testing.assert_array_equal(frames[name], pixels)


def test_every_operation_gives_the_same_result_in_a_worker(pooled: PooledDecoder, film: Path) -> None:
    info = IN_PROCESS.probe(film)
    assert pooled.probe(film) == info
    clips = [(0.0, info.duration), (info.duration / 4, info.duration / 2), (0.0, 0.0)]
    for thumbnails in (False, True):
        expected = IN_PROCESS.sample(film, STREAMS, clips, thumbnails=thumbnails)
        sampled = pooled.sample(film, STREAMS, clips, thumbnails=thumbnails)
        assert sampled.thumbnails == expected.thumbnails
        assert_same_frames(sampled.frames, expected.frames)
    for bounds in ((None, None), (info.duration / 4, None), (None, info.duration / 2)):
        span, frames = pooled.sample_span(film, STREAMS, *bounds)
        expected_span, expected_frames = IN_PROCESS.sample_span(film, STREAMS, *bounds)
        assert span == expected_span
        assert_same_frames(frames, expected_frames)
    assert pooled.thumbnail(film, 0.3, 64) == IN_PROCESS.thumbnail(film, 0.3, 64)
    assert pooled.shot_starts(film, info.duration) == IN_PROCESS.shot_starts(film, info.duration)
    assert pooled.subtitle_streams(film) == IN_PROCESS.subtitle_streams(film) == []


def test_previews_and_pictures_of_phones_are_made_in_a_worker(pooled: PooledDecoder, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.ts", [counter_frame(number) for number in range(50)], sound_seconds=2.0)
    (tmp_path / "preview.mp4").write_bytes(pooled.preview(video, 0.5, 1.5, 320))
    info = pooled.probe(tmp_path / "preview.mp4")
    assert (info.codec, info.duration) == ("h264", pytest.approx(1.0, abs=0.05))
    assert info.audio is not None
    for name in ("a.avif", "a.heic"):
        assert pooled.probe(write_format(tmp_path / name)).kind == "picture"
        assert pooled.thumbnail(tmp_path / name, 0.0).startswith(b"\xff\xd8")


def test_frames_of_another_track_are_the_same_in_a_worker(pooled: PooledDecoder, tmp_path: Path) -> None:
    films = [write_counter_video(tmp_path / f"{rate}.mp4", 40, rate=rate) for rate in (10, 20)]
    film = write_tracks(tmp_path / "both.mp4", films)
    streams = [STREAMS[1], dataclasses.replace(STREAMS[1], name="second", track=1)]
    clips = [(0.0, 2.0), (0.5, 1.0)]
    expected = IN_PROCESS.sample(film, streams, clips).frames
    assert not np.array_equal(expected["few"], expected["second"])
    assert_same_frames(pooled.sample(film, streams, clips).frames, expected)
    assert_same_frames(
        pooled.sample_span(film, streams, 0.5, 1.0)[1], IN_PROCESS.sample_span(film, streams, 0.5, 1.0)[1]
    )
    with pytest.raises(MediaUnsupported, match="2 were expected, as the model reads track 1"):
        pooled.sample(films[0], streams, clips)


def test_sound_is_the_same_in_a_worker(pooled: PooledDecoder, tmp_path: Path) -> None:
    clicks = click_train(48_000, 3, [0.5, 1.5, 2.5])[None]
    path = write_audio(tmp_path / "a.mkv", clicks, 48_000, "libopus", with_video=True)
    assert pooled.probe(path) == IN_PROCESS.probe(path)
    expected = IN_PROCESS.read_audio(path, 1.25, 9.0, 16_000)
    first, nothing, last = pooled.read_clips(path, [(1.25, 9.0), (3.5, 9.0), (2.25, 2.75)], 16_000)
    assert (expected is not None, first is not None, nothing, last is not None) == (True, True, None, True)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(last, expected[16_000:24_000])
    sound = write_audio(tmp_path / "a.wav", clicks, 48_000, "pcm_s16le")
    assert pooled.probe(sound) == IN_PROCESS.probe(sound)
    with pytest.raises(InvalidInput, match="start, end: 2, 2; 0 <= start < end was expected"):
        pooled.read_audio(path, 2.0, 2.0, 16_000)


def test_embedded_subtitles_are_the_same_in_a_worker(pooled: PooledDecoder, tmp_path: Path) -> None:
    subtitles = [
        ("subrip", "eng", [(0.0, 1.0, "A red thing."), (1.0, 1.5, "Früh.")]),
        ("ass", "ger", [(0.5, 1.0, "Rot.")]),
    ]
    film = write_subtitled_video(tmp_path / "film.mkv", [solid((220, 10, 10))] * 20, subtitles)
    streams = pooled.subtitle_streams(film)
    assert streams == IN_PROCESS.subtitle_streams(film)
    assert [stream.language for stream in streams] == ["eng", "ger"]
    for stream in streams:
        cues = pooled.stream_cues(film, stream.index)
        assert cues
        assert cues == IN_PROCESS.stream_cues(film, stream.index)


def _text(path: Path) -> None:
    path.write_text("no film at all\n" * 100)


BAD: dict[str, Callable[[Path], object]] = {
    "missing.mp4": lambda path: None,
    "a\udcffb.mp4": lambda path: None,
    "empty.mp4": lambda path: path.write_bytes(b""),
    "text.mp4": _text,
    "none.mp4": write_without_frames,
    "dot.png": lambda path: write_picture(path, solid((1, 2, 3), 1, 1)),
    "huge.png": lambda path: write_png_header(path, 14_000, 14_000),
    "cut.mp4": lambda path: write_truncated(write_counter_video(path.with_name("whole.mp4"), 100), path, 0.6),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_same_in_a_worker(pooled: PooledDecoder, tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    path = tmp_path / name
    for operation in (
        lambda decoder: decoder.probe(path),
        lambda decoder: decoder.sample(path, STREAMS, [(0.0, 4.0)]),
        lambda decoder: decoder.thumbnail(path, 3.9),
        lambda decoder: decoder.shot_starts(path, 4.0),
        lambda decoder: decoder.subtitle_streams(path),
    ):
        outcomes = []
        for decoder in (IN_PROCESS, pooled):
            try:
                outcomes.append(("", repr(operation(decoder))))
            except MediaError as error:
                outcomes.append((error.code, str(error)))
        assert outcomes[0] == outcomes[1]


def test_limits_and_impossible_clips_are_rejected(pooled: PooledDecoder, tmp_path: Path) -> None:
    film = write_counter_video(tmp_path / "film.mp4", 50)
    with pytest.raises(MediaError, match=r"film.mp4: 2.0 seconds; at most 1 seconds are read"):
        pooled.probe(film, MediaLimits(max_seconds=1.0))
    with pytest.raises(MediaError, match="codec is 'h264'; expected one of vp9"):
        pooled.probe(film, MediaLimits(codecs=frozenset({"vp9"})))
    for clips in ([], [(2.0, 1.0)], [(0.0, float("nan"))]):
        with pytest.raises(InvalidInput, match="clip"):
            pooled.sample(film, STREAMS, clips)


def test_a_model_computes_the_same_embeddings_with_worker_frames(
    pooled: PooledDecoder, small_model: Model, tmp_path: Path
) -> None:
    film = write_counter_video(tmp_path / "film.mp4", 50)
    pooled_model = small_model.with_overrides(decoder=pooled)
    np.testing.assert_array_equal(
        pooled_model.embed_video_file(film).vectors, small_model.embed_video_file(film).vectors
    )
    assert small_model.decoder is IN_PROCESS
