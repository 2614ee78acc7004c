"""Sound is decoded at exact times, whatever the container, codec, rate and layout, from damaged files too."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media_files import (
    click_times,
    click_train,
    solid,
    write_audio,
    write_audio_only,
    write_color_video,
    write_picture,
    write_truncated,
)
from vitascope.errors import InvalidInput, MediaCorrupt, MediaError, MediaTooLarge, MediaUnsupported
from vitascope.media.audio import read_audio, read_clips
from vitascope.media.decode import probe, read_frames
from vitascope.media.file import MediaFile
from vitascope.media.formats import sniff
from vitascope.media.limits import AUDIO_CODECS, CODECS, DEFAULT_LIMITS, MediaLimits

RATE = 16_000
TIMES = [0.3 + 0.37 * number for number in range(10)]
SECONDS = 4.0
FILES = [
    ("a.wav", "pcm_s16le", 44_100, 1),
    ("a8.wav", "pcm_u8", 8000, 2),
    ("a.aiff", "pcm_s24be", 48_000, 1),
    ("a.flac", "flac", 96_000, 2),
    ("a.mp3", "libmp3lame", 44_100, 2),
    ("a.m4a", "aac", 44_100, 6),
    ("a8.m4a", "aac", 48_000, 8),
    ("a.opus", "libopus", 48_000, 2),
    ("aac.mka", "aac", 44_100, 1),
    ("opus.mka", "libopus", 8000, 1),
    ("video.mp4", "aac", 48_000, 2),
    ("video.mkv", "libopus", 48_000, 6),
]


def write_clicks(path: Path, codec: str, rate: int, channels: int, *, with_video: bool = False) -> Path:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    noise = 0.001 * np.random.default_rng(0).standard_normal(round(rate * SECONDS))  # encoders of silence are lazy
    sound = (click_train(rate, SECONDS, TIMES) + noise).astype(np.float32)
    return write_audio(path, np.tile(sound, (channels, 1)), rate, codec, with_video=with_video)


@pytest.mark.parametrize(("name", "codec", "rate", "channels"), FILES, ids=[file[0] for file in FILES])
def test_sound_is_described_and_clicks_are_at_their_times_to_the_sample(
    name: str, codec: str, rate: int, channels: int, tmp_path: Path
) -> None:
    path = write_clicks(tmp_path / name, codec, rate, channels, with_video=name.startswith("video"))
    info = probe(path)
    assert info.audio is not None
    assert info.audio.codec == {"libmp3lame": "mp3", "libopus": "opus"}.get(codec, codec)
    assert (info.audio.sample_rate, info.audio.channels) == (48_000 if codec == "libopus" else rate, channels)
    assert info.audio.seconds == pytest.approx(SECONDS, abs=0.1)
    assert info.duration == pytest.approx(SECONDS, abs=0.1)
    assert (info.kind == "video") == name.startswith("video") == (info.width > 0)
    whole = read_audio(path, 0, 60, RATE)
    assert whole is not None
    assert len(whole) == pytest.approx(SECONDS * RATE, abs=0.1 * RATE)  # encoders fill the last frame
    tolerance = 0.5 / RATE
    assert click_times(whole, RATE) == pytest.approx(TIMES, abs=tolerance)
    for start, end in ((1.617, 2.5), (2.25, 60.0)):
        part = read_audio(path, start, end, RATE)
        assert part is not None
        first = round(start * RATE)
        assert len(part) == min(round(end * RATE), len(whole)) - first
        expected = [time - first / RATE for time in TIMES if start + 0.01 < time < end - 0.01]
        assert click_times(part, RATE) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", ["a.mp4", "a.mka", "a.aac"])
def test_a_file_with_sound_alone_is_reported_to_have_no_pictures(name: str, tmp_path: Path) -> None:
    path = write_audio_only(tmp_path / name, 2.0)
    info = probe(path)
    assert (info.kind, info.codec, info.width, info.height) == ("audio", "aac", 0, 0)
    assert info.duration == pytest.approx(2.0, abs=0.15)
    for operation in (lambda: read_frames(path, [0.0]), lambda: info.require_pictures(path.name)):
        with pytest.raises(MediaUnsupported, match=f"{name}: audio only, without pictures; a file with a video"):
            operation()


def test_reads_of_several_clips_equal_reads_of_single_clips(tmp_path: Path) -> None:
    path = write_clicks(tmp_path / "a.wav", "pcm_s16le", 44_100, 1)
    clips = [(3.3, 9.0), (0.0, 0.5), (0.5, 1.0), (0.25, 0.75), (8.0, 9.0)]
    *sounds, nothing = read_clips(path, clips, RATE)
    assert nothing is None
    for (start, end), sound in zip(clips, sounds, strict=False):
        single = read_audio(path, start, end, RATE)
        assert sound is not None
        assert single is not None
        np.testing.assert_allclose(sound, single, atol=1e-5)


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.aac", "aac"), ("a.flac", "flac")])
def test_raw_streams_are_recognised_with_and_without_a_tag(name: str, codec: str, tmp_path: Path) -> None:
    tag = b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)
    path = write_clicks(tmp_path / name, codec, 44_100, 1)
    plain = read_audio(path, 0, 2, RATE)
    path.write_bytes(tag + path.read_bytes())
    with MediaFile.open(path) as file:
        assert sniff(file, DEFAULT_LIMITS).container == name.removeprefix("a.")
    tagged = read_audio(path, 0, 2, RATE)
    assert plain is not None
    assert tagged is not None
    np.testing.assert_allclose(tagged, plain, atol=1e-3)


def test_allowed_codecs_have_the_canonical_names_of_ffmpeg() -> None:
    assert {av.Codec(name, "r").canonical_name for name in CODECS | AUDIO_CODECS} == CODECS | AUDIO_CODECS


def test_channels_are_averaged(tmp_path: Path) -> None:
    tone = np.sin(np.arange(RATE, dtype=np.float32) / 10)
    for channels in (1, 2, 6):
        path = write_audio(tmp_path / f"{channels}.wav", np.tile(tone, (channels, 1)), RATE, "pcm_f32le")
        np.testing.assert_allclose(read_audio(path, 0, 1, RATE), tone, atol=1e-6)
    left = write_audio(tmp_path / "left.wav", np.stack([tone, 0 * tone]), RATE, "pcm_s32le")
    np.testing.assert_allclose(read_audio(left, 0, 1, RATE), tone / 2, atol=1e-6)


def test_sound_that_begins_after_the_pictures_is_preceded_by_silence(tmp_path: Path) -> None:
    path = write_color_video(tmp_path / "late.mp4", (9, 9, 9), 3.0, sound_seconds=1.0, sound_start=1.5)
    sound = read_audio(path, 0, 3, RATE)
    assert sound is not None
    assert np.flatnonzero(np.abs(sound) > 0.01)[0] / RATE == pytest.approx(1.5, abs=0.001)
    assert read_audio(path, 0, 1, RATE) is None


@pytest.mark.parametrize("name", ["gap.m4a", "gap.mka"])
def test_gaps_are_silent(name: str, tmp_path: Path) -> None:
    clicks = click_train(RATE, 4.096, [0.5, 1.5, 2.5, 3.5])[None]
    path = write_audio(tmp_path / name, clicks, RATE, "aac", gap=(2.048, 3.0))
    sound = read_audio(path, 0, 60, RATE)
    assert sound is not None
    assert click_times(sound, RATE) == pytest.approx([0.5, 1.5, 5.5, 6.5], abs=1 / RATE)
    part = read_audio(path, 4.0, 6.0, RATE)
    assert part is not None
    assert click_times(part, RATE) == pytest.approx([1.5], abs=1 / RATE)
    assert read_audio(path, 3.0, 4.5, RATE) is None


def test_rate_and_layout_may_change_within_a_stream(tmp_path: Path) -> None:
    slow, fast = (
        write_audio(tmp_path / f"{rate}.aac", np.tile(click_train(rate, 3, [1.0, 2.0]), (channels, 1)), rate, "aac")
        for rate, channels in ((16_000, 1), (44_100, 2))
    )
    (tmp_path / "both.aac").write_bytes(slow.read_bytes() + fast.read_bytes())
    sound = read_audio(tmp_path / "both.aac", 0, 10, RATE)
    assert sound is not None
    first, second, third, fourth = (time for time in click_times(sound, RATE) if abs(time - 3.06) > 0.1)
    assert (second - first, fourth - third) == pytest.approx((1, 1), abs=1 / RATE)
    assert 1.9 < third - second < 2.2


def test_timestamps_that_begin_anew_continue(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.ts", click_train(RATE, 3, [1.0, 2.0])[None], RATE, "aac")
    path.write_bytes(2 * path.read_bytes())
    sound = read_audio(path, 0, 10, RATE)
    assert sound is not None
    assert len(click_times(sound, RATE)) == 4


def test_samples_that_are_no_numbers_are_0_and_loud_ones_are_clipped(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", np.full((1, 1000), 0.25, np.float32), RATE, "pcm_f32le")
    values = np.full(1000, 0.25, "<f4")
    values[[10, 20, 30, 40]] = [np.nan, np.inf, -np.inf, -3e38]
    data = path.read_bytes()
    start = data.index(b"data") + 8
    path.write_bytes(data[:start] + values.tobytes() + data[start + values.nbytes :])
    sound = read_audio(path, 0, 1, RATE)
    assert sound is not None
    assert sound[[9, 10, 20, 30, 40, 41]].tolist() == [0.25, 0, 0, 0, -1, 0.25]


def test_clipped_sound_stays_as_it_is(tmp_path: Path) -> None:
    tone = np.clip(5 * np.sin(np.arange(RATE) / 10), -1, 1).astype(np.float32)
    path = write_audio(tmp_path / "a.wav", tone[None], RATE, "pcm_s16le")
    np.testing.assert_allclose(read_audio(path, 0, 1, RATE), tone, atol=1e-4)
    resampled = read_audio(path, 0, 1, 11_025)
    assert resampled is not None
    assert np.abs(resampled).max() == 1


@pytest.mark.parametrize(("name", "codec"), [("s.wav", "pcm_s16le"), ("s.m4a", "aac"), ("s.opus", "libopus")])
def test_silence_is_none(name: str, codec: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / name, np.zeros((2, 48_000), np.float32), 48_000, codec)
    assert read_audio(path, 0, 1, RATE) is None


def test_files_and_spans_without_sound_are_none(tmp_path: Path) -> None:
    assert read_audio(write_color_video(tmp_path / "video.mp4", (9, 9, 9)), 0, 2, RATE) is None
    assert read_audio(write_picture(tmp_path / "p.png", solid((9, 9, 9))), 0, 2, RATE) is None
    assert read_audio(write_audio_only(tmp_path / "a.m4a", 1.0), 2.0, 3.0, RATE) is None


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.mp3", "libmp3lame"), ("a.mka", "libopus")])
def test_truncated_sound_is_read_up_to_its_end(name: str, codec: str, tmp_path: Path) -> None:
    path = write_clicks(tmp_path / name, codec, 48_000, 1)
    whole, cut = (
        read_audio(path, 0, 9, RATE),
        read_audio(write_truncated(path, tmp_path / f"cut{name}", 0.6), 0, 9, RATE),
    )
    assert whole is not None
    assert cut is not None
    assert len(cut) == pytest.approx(0.6 * len(whole), rel=0.2)
    np.testing.assert_allclose(cut[:-1000], whole[: len(cut) - 1000], atol=1e-4)


def test_damaged_sound_keeps_its_place(tmp_path: Path) -> None:
    path = write_clicks(tmp_path / "a.m4a", "aac", 44_100, 1)
    data = bytearray(path.read_bytes())
    middle = slice(round(0.45 * len(data)), round(0.55 * len(data)))
    data[middle] = np.random.default_rng(0).integers(0, 256, middle.stop - middle.start, np.uint8).tobytes()
    path.write_bytes(data)
    sound = read_audio(path, 0, 9, RATE)
    assert sound is not None
    clicks = click_times(sound, RATE)
    assert [time for time in clicks if time < 1.5] == pytest.approx([t for t in TIMES if t < 1.5], abs=1 / RATE)
    assert [time for time in clicks if time > 2.6] == pytest.approx([t for t in TIMES if t > 2.6], abs=1 / RATE)
    assert len(clicks) < len(TIMES)


def test_sound_that_cannot_be_decoded_is_an_error_with_a_reason(tmp_path: Path) -> None:
    cut = write_truncated(write_clicks(tmp_path / "a.m4a", "aac", 44_100, 1), tmp_path / "cut.m4a", 0.5)
    with pytest.raises(MediaCorrupt, match=r"cut\.m4a: .* truncated by \d+ bytes"):
        read_audio(cut, 0, 1, RATE)
    sound = click_train(RATE, 1, [0.5])[None]
    with pytest.raises(MediaUnsupported, match="the audio codec is 'adpcm_yamaha'; expected one of aac"):
        read_audio(write_audio(tmp_path / "y.wav", sound, RATE, "adpcm_yamaha"), 0, 1, RATE)
    video = write_audio(tmp_path / "video.avi", sound, RATE, "adpcm_yamaha", with_video=True)
    assert read_audio(video, 0, 1, RATE) is None, "its pictures stay usable"
    wav = write_audio(tmp_path / "a.wav", sound, RATE, "pcm_s16le").read_bytes()
    (tmp_path / "rate.wav").write_bytes(wav[:24] + struct.pack("<I", 2**31 - 1) + wav[28:])
    with pytest.raises(MediaError, match="768000 Hz were expected"):
        read_audio(tmp_path / "rate.wav", 0, 1, RATE)


def test_spans_and_files_are_limited(tmp_path: Path) -> None:
    path = write_audio_only(tmp_path / "a.m4a", 2.0)
    for start, end in ((-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(InvalidInput, match="0 <= start < end was expected"):
            read_audio(path, start, end, RATE)
    with pytest.raises(InvalidInput, match="at most 67108864 were expected"):
        read_audio(path, 0, 4000, 48_000)
    with pytest.raises(MediaTooLarge, match="VITASCOPE_MAX_VIDEO_SECONDS"):
        read_audio(path, 0, 1, RATE, MediaLimits(max_seconds=1.0))
