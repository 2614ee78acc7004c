"""Which frame is returned for which second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media_files import counter_frame, read_counter, write_animation, write_counter_video
from vitascope.errors import InvalidInput, MediaTooLarge
from vitascope.media.decode import frames_at, read_frames
from vitascope.media.limits import MediaLimits
from vitascope.media.probe import probe

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
    wanted = np.random.default_rng(0).permutation(COUNT)[:30]
    times = [(number + 0.4) / RATE for number in wanted]
    assert [read_counter(frame) for frame in read_frames(path, times)] == wanted.tolist()
    for number in wanted[:4]:  # one at a time takes another way through the file
        assert read_counter(read_frames(path, [(number + 0.4) / RATE])[0]) == number


@pytest.mark.parametrize("name", ["mp4, key frame every 30", "mp4, open groups", "mov, HEVC", "mkv", "mpegts"])
def test_frames_far_apart_are_the_same_frames(name: str, tmp_path: Path) -> None:
    suffix, options = FORMATS[name]
    path = write_counter_video(tmp_path / f"counter{suffix}", COUNT, **options)
    for first in range(0, 50, 7):
        wanted = [first, first + 55, first + 110]
        times = [(number + 0.4) / RATE for number in wanted]
        assert [read_counter(frame) for frame in read_frames(path, times)] == wanted


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_the_very_start_of_a_frame_belongs_to_it(suffix: str, tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / f"counter{suffix}", 60, gop=20, rate=30)
    exact = [number / 30 for number in range(60)]
    assert [read_counter(frame) for frame in read_frames(path, exact)] == list(range(60))


def test_times_outside_are_clamped_and_order_is_kept(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_clock_that_does_not_begin_at_zero(suffix: str, tmp_path: Path) -> None:
    starts = [5 + number / RATE for number in range(100)]
    path = write_counter_video(tmp_path / f"late{suffix}", 100, starts=starts)
    frames = read_frames(path, [0.0, 1.02, 3.9])
    assert [read_counter(frame) for frame in frames] == [0, 25, 97]
    assert probe(path).duration == pytest.approx(4.0, abs=0.1)


def test_sound_that_begins_first_sets_the_clock(tmp_path: Path) -> None:
    starts = [1 + number / RATE for number in range(100)]
    path = write_counter_video(tmp_path / "sound.mp4", 100, starts=starts, sound_seconds=5.0)
    frames = read_frames(path, [0.0, 0.9, 1.02, 3.02])
    assert [read_counter(frame) for frame in frames] == [0, 0, 0, 50]
    info = probe(path)
    assert info.has_audio
    assert info.duration == pytest.approx(5.0, abs=0.1)


def test_frames_hold_until_the_next(tmp_path: Path) -> None:
    """A slide show: the last slide stays for most of the video."""
    path = write_counter_video(tmp_path / "slides.mp4", 3, starts=[0.0, 1.0, 30.0], b_frames=0)
    frames = read_frames(path, [0.5, 1.0, 29.9, 30.0])
    assert [read_counter(frame) for frame in frames] == [0, 1, 1, 2]
    assert probe(path).duration == pytest.approx(30.0, abs=1.1)


def test_each_frame_is_decoded_once(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 50)
    times = [0.1, 0.11, 1.0, 0.1, 1.01]
    answers = [(positions, frame.width) for positions, frame in frames_at(path, times)]
    assert answers == [([0, 3, 1], 160), ([2, 4], 160)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_long_video_is_not_decoded_to_look_at_a_part(suffix: str, tmp_path: Path) -> None:
    """Two far-apart looks into 20 seconds cost a few groups of 25 frames, not 450 frames."""
    # A fragmented MP4 does not state its number of frames, which would count against the limit too.
    fragmented = {"movflags": "frag_keyframe+empty_moov"} if suffix == ".mp4" else {}
    path = write_counter_video(tmp_path / f"long{suffix}", 500, gop=25, muxer_options=fragmented)
    reader = frames_at(path, [4.01, 4.2, 18.01], MediaLimits(max_frames=120), threads=1)
    assert [read_counter(frame.rgb(160, 64)) for _, frame in reader] == [100, 105, 450]


def test_nothing_is_decoded_for_frames_that_nobody_wants(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mkv", COUNT, gop=40, b_frames=0)
    wanted = [2, 42, 82, 122, 162]  # the third of each group
    times = [(number + 0.4) / RATE for number in wanted]
    frames = read_frames(path, times, MediaLimits(max_frames=3 * len(wanted)), threads=2)
    assert [read_counter(frame) for frame in frames] == wanted


def test_frames_of_a_call_are_limited(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "long.mkv", 120, b_frames=0)
    with pytest.raises(MediaTooLarge, match="50 frames"):
        read_frames(path, [4.0], MediaLimits(max_frames=50))


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_a_time_must_be_a_number(time: float, tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 3)
    with pytest.raises(InvalidInput, match="times"):
        read_frames(path, [time])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_follow_their_own_durations(suffix: str, tmp_path: Path) -> None:
    frames = [counter_frame(number) for number in range(4)]
    path = write_animation(tmp_path / f"moving{suffix}", frames, [100, 500, 200, 300])
    info = probe(path)
    assert (info.kind, info.frame_count) == ("animation", 4)
    assert info.duration == pytest.approx(1.1)
    shown = read_frames(path, [0.05, 0.1, 0.59, 0.6, 0.79, 0.8, 5.0, 0.0])
    assert [read_counter(frame) for frame in shown] == [0, 1, 1, 2, 2, 3, 3, 0]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_no_duration_means_a_tenth_of_a_second(suffix: str, tmp_path: Path) -> None:
    frames = [counter_frame(number) for number in range(5)]
    path = write_animation(tmp_path / f"hasty{suffix}", frames, [0] * 5)
    assert probe(path).duration == pytest.approx(0.5)
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
