"""Decoding returns the frame that is on screen at the requested time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media_files import counter_frame, read_counter, write_animation, write_counter_video
from vitascope.errors import InvalidInput, MediaTooLarge
from vitascope.media.decode import frames_at, probe, read_frames
from vitascope.media.limits import MediaLimits

COUNT, RATE = 200, 25
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "mp4, one key frame, B-frames": (".mp4", {"gop": 250}),
    "mp4, key frame every 30": (".mp4", {"gop": 30}),
    "mp4, fragmented": (".mp4", {"gop": 40, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "mp4, open groups": (
        ".mp4",
        {"gop": 40, "options": {"preset": "veryfast", "x264-params": "open-gop=1:bframes=3"}},
    ),
    "mov, HEVC": (".mov", {"codec": "libx265", "gop": 50}),
    "mkv": (".mkv", {"gop": 40}),
    "webm, VP9": (".webm", {"codec": "libvpx-vp9", "gop": 60}),
    "avi, MPEG-4 with B-frames": (".avi", {"codec": "mpeg4", "b_frames": 2, "gop": 50}),
    "avi, Motion JPEG": (".avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "mpegts": (".ts", {"gop": 50}),
    "flv": (".flv", {"gop": 50}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_frame_on_screen_is_returned(name: str, tmp_path: Path) -> None:
    suffix, options = FORMATS[name]
    path = write_counter_video(tmp_path / f"counter{suffix}", COUNT, **options)
    numbers = np.random.default_rng(0).permutation(COUNT)[:30]
    times = [(number + 0.4) / RATE for number in numbers]
    assert [read_counter(frame) for frame in read_frames(path, times)] == numbers.tolist()
    for number in numbers[:4]:  # a single time is read by another path
        assert read_counter(read_frames(path, [(number + 0.4) / RATE])[0]) == number


@pytest.mark.parametrize("name", ["mp4, key frame every 30", "mp4, open groups", "mov, HEVC", "mkv", "mpegts"])
def test_seeking_gives_the_same_frames(name: str, tmp_path: Path) -> None:
    suffix, options = FORMATS[name]
    path = write_counter_video(tmp_path / f"counter{suffix}", COUNT, **options)
    for first in (0, 21, 42):
        numbers = [first, first + 55, first + 110]
        times = [(number + 0.4) / RATE for number in numbers]
        assert [read_counter(frame) for frame in read_frames(path, times)] == numbers


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_frame_is_on_screen_from_its_exact_start(suffix: str, tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / f"counter{suffix}", 60, gop=20, rate=30)
    exact = [number / 30 for number in range(60)]
    assert [read_counter(frame) for frame in read_frames(path, exact)] == list(range(60))


def test_times_are_clamped_and_their_order_is_kept(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 50)
    frames = read_frames(path, [99.0, -5.0, 1.0, 1e12, 0.0])
    assert [read_counter(frame) for frame in frames] == [49, 0, 25, 49, 0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_variable_frame_rate(suffix: str, tmp_path: Path) -> None:
    gaps = np.random.default_rng(1).choice([0.02, 0.04, 0.5, 2.0], 60)
    starts = [0.0, *np.cumsum(gaps).tolist()]
    path = write_counter_video(tmp_path / f"vfr{suffix}", len(starts), starts=starts, gop=20)
    middles = [start + 0.4 * gap for start, gap in zip(starts, gaps, strict=False)]
    assert [read_counter(frame) for frame in read_frames(path, middles)] == list(range(60))


def test_a_repeated_timestamp_does_not_delay_the_frames_after_it(tmp_path: Path) -> None:
    starts = [(number if number < 10 else number - 1) / RATE for number in range(60)]
    path = write_counter_video(tmp_path / "repeated.mkv", 60, starts=starts, codec="ffv1")
    frames = read_frames(path, [start + 0.4 / RATE for start in starts[12:]])
    assert [read_counter(frame) for frame in frames] == list(range(12, 60))


def test_the_palette_of_a_video_is_known_after_seeks(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "palette.mov", 100, codec="qtrle", pix_fmt="gray")
    assert [read_counter(frame) for frame in read_frames(path, [0.5, 3.98])] == [12, 99]
    assert read_counter(read_frames(path, [2.0])[0]) == 50


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_timestamps_may_start_after_zero(suffix: str, tmp_path: Path) -> None:
    starts = [5 + number / RATE for number in range(100)]
    path = write_counter_video(tmp_path / f"late{suffix}", 100, starts=starts)
    frames = read_frames(path, [0.0, 1.02, 3.9])
    assert [read_counter(frame) for frame in frames] == [0, 25, 97]
    assert probe(path).duration == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("count", [1, 20, 100])
@pytest.mark.parametrize(("format", "codec"), [("matroska", "libx264"), ("avi", "mpeg4")])
def test_the_duration_of_a_recording_that_was_written_to_a_pipe_is_measured(
    format: str, codec: str, count: int, tmp_path: Path
) -> None:
    """Its header cannot be completed: the duration is missing, and AVI files state 2**30 frames."""
    path = tmp_path / "recording"
    with path.open("wb") as file:
        write_counter_video(Path(f"pipe:{file.fileno()}"), count, format=format, codec=codec, b_frames=0)
    info = probe(path)
    assert (info.kind, info.frame_count) == ("video", None)
    assert info.duration == pytest.approx(count / RATE, abs=0.01)
    assert read_counter(read_frames(path, [info.duration])[0]) == count - 1


def test_audio_that_begins_first_sets_time_zero(tmp_path: Path) -> None:
    starts = [1 + number / RATE for number in range(100)]
    path = write_counter_video(tmp_path / "sound.mp4", 100, starts=starts, sound_seconds=5.0)
    frames = read_frames(path, [0.0, 0.9, 1.02, 3.02])
    assert [read_counter(frame) for frame in frames] == [0, 0, 0, 50]
    info = probe(path)
    assert info.audio is not None
    assert info.duration == pytest.approx(5.0, abs=0.1)


def test_a_frame_is_on_screen_until_the_next(tmp_path: Path) -> None:
    """In a slide show, one slide lasts for most of the video."""
    path = write_counter_video(tmp_path / "slides.mp4", 3, starts=[0.0, 1.0, 30.0], b_frames=0)
    frames = read_frames(path, [0.5, 1.0, 29.9, 30.0])
    assert [read_counter(frame) for frame in frames] == [0, 1, 1, 2]
    assert probe(path).duration == pytest.approx(30.0, abs=1.1)


def test_each_frame_is_decoded_once(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 50)
    times = [0.1, 0.11, 1.0, 0.1, 1.01]
    frames = [(positions, frame.width) for positions, frame in frames_at(path, times)]
    assert frames == [([0, 3, 1], 160), ([2, 4], 160)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_only_the_groups_of_requested_frames_are_decoded(suffix: str, tmp_path: Path) -> None:
    """Two distant times in 20 seconds cost a few groups of 25 frames, not 450 frames."""
    # A fragmented MP4 does not state its number of frames, which would count against the limit too.
    fragmented = {"movflags": "frag_keyframe+empty_moov"} if suffix == ".mp4" else {}
    path = write_counter_video(tmp_path / f"long{suffix}", 500, gop=25, muxer_options=fragmented)
    reader = frames_at(path, [4.01, 4.2, 18.01], MediaLimits(max_frames=120), threads=1)
    assert [read_counter(frame.rgb(160, 64)) for _, frame in reader] == [100, 105, 450]


def test_frames_after_the_requested_ones_are_not_decoded(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mkv", COUNT, gop=40, b_frames=0)
    numbers = [2, 42, 82, 122, 162]  # the third of each group
    times = [(number + 0.4) / RATE for number in numbers]
    frames = read_frames(path, times, MediaLimits(max_frames=3 * len(numbers)), threads=2)
    assert [read_counter(frame) for frame in frames] == numbers
    with pytest.raises(MediaTooLarge, match="15 frames"):
        read_frames(path, [1.5], MediaLimits(max_frames=15))


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_a_time_must_be_finite(time: float, tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 3)
    with pytest.raises(InvalidInput, match="times"):
        read_frames(path, [time])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_frames_of_an_animation_have_their_own_durations(suffix: str, tmp_path: Path) -> None:
    frames = [counter_frame(number) for number in range(4)]
    path = write_animation(tmp_path / f"moving{suffix}", frames, [100, 500, 200, 300])
    info = probe(path)
    assert (info.kind, info.frame_count) == ("animation", 4)
    assert info.duration == pytest.approx(1.1)
    shown = read_frames(path, [0.05, 0.1, 0.59, 0.6, 0.79, 0.8, 5.0, 0.0])
    assert [read_counter(frame) for frame in shown] == [0, 1, 1, 2, 2, 3, 3, 0]
    path = write_animation(tmp_path / f"zero{suffix}", frames, [0] * 4)  # a tenth of a second each
    assert probe(path).duration == pytest.approx(0.4)
    assert read_counter(read_frames(path, [0.25])[0]) == 2


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_of_one_frame_is_a_picture(suffix: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / f"still{suffix}", [counter_frame(7)], [400])
    info = probe(path)
    assert (info.kind, info.duration, info.frame_count) == ("picture", 0.0, 1)
    assert [read_counter(frame) for frame in read_frames(path, [0.0, 9.0])] == [7, 7]


def test_a_default_image_is_not_part_of_the_animation(tmp_path: Path) -> None:
    frames = [counter_frame(number) for number in (9, 1, 2)]
    path = write_animation(tmp_path / "cover.png", frames, [100, 200, 200], default_image=True)
    assert probe(path).frame_count == 2
    assert [read_counter(frame) for frame in read_frames(path, [0.0, 0.25])] == [1, 2]
