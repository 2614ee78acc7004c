"""Frame streams are sampled from clips of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.media_files import (
    counter_frame,
    read_counter,
    write_color_video,
    write_counter_video,
    write_picture,
    write_tracks,
    write_video,
)
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput, MediaUnsupported
from vitascope.media.frame import Frame, tile_grid
from vitascope.media.sampling import clip_times, sample_span, sample_streams

Placement = Literal["middle", "uniform"]


def stream(name: str, frames: int, size: int, placement: Placement) -> FrameStream:
    return FrameStream(name=name, frames=frames, height=size, width=2 * size, placement=placement)


HIGH, LOW = stream("high", 1, 64, "middle"), stream("low", 6, 32, "uniform")


@given(
    frames=st.integers(1, 64),
    placement=st.sampled_from(["middle", "uniform"]),
    start=st.floats(0, 1e5),
    length=st.floats(0, 1e5),
)
def test_clip_times_are_inside_the_clip_ascending_and_symmetric(
    frames: int, placement: Placement, start: float, length: float
) -> None:
    end = start + length
    times = clip_times(stream("s", frames, 8, placement), start, end)
    assert len(times) == frames
    assert times == sorted(times)
    assert start - 1e-6 <= times[0]
    assert times[-1] <= end + 1e-6
    for early, late in zip(times, reversed(times), strict=True):
        assert early + late == pytest.approx(start + end, abs=1e-6)
    if length > 1e-3:
        assert len(set(times)) == frames
        assert start < times[0]
        assert times[-1] < end


def test_uniform_frames_are_centres_of_equal_parts_and_a_single_middle_frame_is_the_exact_middle() -> None:
    assert clip_times(HIGH, 10.0, 16.0) == [13.0]
    assert clip_times(LOW, 10.0, 16.0) == [10.5, 11.5, 12.5, 13.5, 14.5, 15.5]


def test_tiles_of_a_frame_are_in_reading_order(tmp_path: Path) -> None:
    colours = np.arange(2 * 4, dtype=np.uint8).reshape(2, 4)[..., None].repeat(3, 2) * 20 + 20
    path = write_picture(tmp_path / "grid.png", colours.repeat(8, 0).repeat(8, 1))
    fields: dict[str, Any] = {"frames": 1, "placement": "middle", "fit": "tiles", "resample": "bicubic", "multiple": 8}
    tiles = FrameStream(name="tiles", height=24, width=32, **fields)
    cover = FrameStream(name="cover", height=3, width=4, shows="cover", **fields)
    sampled = sample_streams(path, [tiles, cover], [(0.0, 0.0)])
    assert tile_grid(32, 16, 12, 8) == (4, 2)
    frame = sampled["tiles"][0, 0, ..., 0]
    np.testing.assert_array_equal(frame[4::8, 4::8], [[20, 40, 60, 80], [100, 120, 140, 160], [0, 0, 0, 0]])
    np.testing.assert_array_equal(
        sampled["cover"][0, 0, ..., 0], [[128, 128, 128, 255], [128, 128, 128, 255], [0, 0, 0, 0]]
    )


@pytest.mark.parametrize("clip", [(2.0, 1.0), (-1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_an_impossible_clip_is_rejected(clip: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput, match="clip"):
        clip_times(LOW, *clip)


def test_every_stream_of_every_clip_is_sampled(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 250)
    sampled = sample_streams(path, [HIGH, LOW], [(0.0, 4.0), (4.0, 10.0), (1.0, 2.0)])
    assert {name: array.shape for name, array in sampled.items()} == {
        "high": (3, 1, 64, 128, 3),
        "low": (3, 6, 32, 64, 3),
    }
    assert all(array.dtype == np.uint8 for array in sampled.values())
    assert [read_counter(clip[0]) for clip in sampled["high"]] == [50, 175, 37]
    expected = [[int(25 * time + 1e-6) for time in clip_times(LOW, *clip)] for clip in ((0, 4), (4, 10), (1, 2))]
    assert [[read_counter(frame) for frame in clip] for clip in sampled["low"]] == expected


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
@pytest.mark.parametrize(
    ("requested", "expected_span"),
    [((None, None), (0.0, 10.0)), ((4.0, None), (4.0, 10.0)), ((None, 2.0), (0.0, 2.0)), ((1.0, 99.0), (1.0, 10.0))],
)
def test_a_span_is_sampled_without_knowing_the_duration(
    requested: tuple[float | None, float | None], expected_span: tuple[float, float], suffix: str, tmp_path: Path
) -> None:
    path = write_counter_video(tmp_path / f"counter{suffix}", 250)
    span, sampled = sample_span(path, [HIGH, LOW], *requested)
    assert span == pytest.approx(expected_span, abs=0.05)
    expected = sample_streams(path, [HIGH, LOW], [span])
    assert all(np.array_equal(sampled[name], expected[name]) for name in ("high", "low"))


DEPTH = HIGH.model_copy(update={"name": "depth", "track": 1})


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_stream_of_another_track_shows_the_same_time(suffix: str, tmp_path: Path) -> None:
    main = write_counter_video(tmp_path / "main.mp4", 100)
    second = [counter_frame(500 + number) for number in range(40)]
    other = write_video(tmp_path / "other.mp4", second, rate=10, gop=7, options={"preset": "ultrafast"})
    path = write_tracks(tmp_path / f"both{suffix}", [main, other])
    middles: dict[int, int] = {}

    def add_middle(clip: int, frame: Frame) -> None:
        middles[clip] = read_counter(frame.rgb(frame.width, frame.height))

    clips = [(0.0, 4.0), (2.0, 3.1)]
    sampled = sample_streams(path, [DEPTH, HIGH, LOW], clips, on_middle_frame=add_middle)
    assert [read_counter(clip[0]) for clip in sampled["high"]] == [50, 63]
    assert [read_counter(clip[0]) for clip in sampled["depth"]] == [520, 525]
    assert middles == {0: 50, 1: 63}
    span, of_span = sample_span(path, [DEPTH, HIGH], 2.0, 3.1)
    assert span == (2.0, 3.1)
    assert (read_counter(of_span["high"][0, 0]), read_counter(of_span["depth"][0, 0])) == (63, 525)


def test_a_file_without_the_track_of_a_stream_is_unsupported(tmp_path: Path) -> None:
    video = write_color_video(tmp_path / "single.mp4", (200, 20, 20))
    picture = write_picture(tmp_path / "still.png", counter_frame(77))
    for path in (video, picture):
        message = f"{path.name}: 1 video track; 2 were expected, as the model reads track 1"
        with pytest.raises(MediaUnsupported, match=message):
            sample_streams(path, [HIGH, DEPTH], [(0.0, 0.0)])
        with pytest.raises(MediaUnsupported, match=message):
            sample_span(path, [HIGH, DEPTH])


def test_a_span_after_the_end_and_no_clip_are_rejected(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "counter.mp4", 50)
    with pytest.raises(InvalidInput, match="a span inside the file's 2 s was expected"):
        sample_span(path, [LOW], 2.5)
    with pytest.raises(InvalidInput, match="clips"):
        sample_streams(path, [LOW], [])


def test_the_span_of_a_picture_is_empty_and_all_its_frames_are_equal(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "still.png", counter_frame(77))
    span, sampled = sample_span(path, [LOW], 3.0, 5.0)
    assert span == (0.0, 0.0)
    assert [read_counter(frame) for frame in sampled["low"][0]] == [77] * 6


def test_a_clip_has_the_same_pixels_alone_and_with_others(tmp_path: Path) -> None:
    """Training samples one clip at a time, indexing many."""
    path = write_counter_video(tmp_path / "counter.mp4", 120, gop=30)
    alone = sample_streams(path, [LOW], [(2.0, 4.0)], threads=1)["low"][0]
    together = sample_streams(path, [HIGH, LOW], [(0.0, 1.0), (2.0, 4.0), (0.5, 4.8)], threads=4)["low"][1]
    assert np.array_equal(alone, together)
