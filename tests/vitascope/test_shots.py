"""Hard cuts are found where they are, and a movement or a light is not taken for one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.media_files import moving_shot, solid, write_animation, write_picture, write_video
from vitascope.media.shots import cuts, shot_starts

RATE = 25


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 250, "b_frames": 3}),
        ("a.mkv", {"gop": 12, "b_frames": 2, "sound_seconds": 1.0}),
        ("a.avi", {"codec": "mpeg4", "b_frames": 0}),
    ],
)
def test_three_shots_begin_where_they_do(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    frames = [*moving_shot(1, 37), *moving_shot(2, 61), *moving_shot(3, 30)]
    path = write_video(tmp_path / name, frames, rate=RATE, **options)  # type: ignore[arg-type]
    assert shot_starts(path) == pytest.approx([0.0, 37 / RATE, 98 / RATE], abs=1 / RATE)


def test_frames_that_stay_unequally_long_give_the_second_and_not_the_number(tmp_path: Path) -> None:
    frames = [*moving_shot(1, 10), *moving_shot(2, 10)]
    starts = [0.2 * n for n in range(10)] + [2.0 + 0.04 * n for n in range(10)]
    path = write_video(tmp_path / "a.mp4", frames, starts=starts)
    assert shot_starts(path) == pytest.approx([0.0, 2.0], abs=0.04)


def test_a_fast_pan_is_one_shot(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_shot(1, 60, speed=24), rate=RATE)
    assert shot_starts(path) == [0.0]


def test_a_light_that_changes_slowly_is_one_shot(tmp_path: Path) -> None:
    frames = [solid((4 * n, 4 * n, 4 * n)) for n in range(60)]
    assert shot_starts(write_video(tmp_path / "a.mp4", frames, rate=RATE)) == [0.0]


def test_a_stored_pixel_that_is_not_square_or_a_turn_change_nothing(tmp_path: Path) -> None:
    frames = [*moving_shot(1, 20), *moving_shot(2, 20)]
    path = write_video(tmp_path / "a.mp4", frames, rate=RATE, rotation=90, pixel_aspect=Fraction(4, 3))
    assert shot_starts(path) == pytest.approx([0.0, 20 / RATE], abs=1 / RATE)


def test_an_animation_has_shots_and_a_picture_is_one(tmp_path: Path) -> None:
    frames = [solid((200, 10, 10)), solid((200, 20, 10)), solid((10, 10, 200))]
    assert shot_starts(write_animation(tmp_path / "a.webp", frames, [300, 700, 500])) == pytest.approx([0.0, 1.0])
    assert shot_starts(write_picture(tmp_path / "a.png", frames[0])) == [0.0]


def test_a_change_counts_by_what_is_around_it() -> None:
    calm, wild = [0.0, 1.0, 1.0, 1.0, 40.0, 1.0, 1.0], [0.0, 30.0, 35.0, 28.0, 40.0, 33.0, 31.0]
    assert cuts(calm) == [4]
    assert cuts(wild) == []
    assert cuts([0.0, 0.1, 0.0, 5.0, 0.0]) == []  # a large share of nothing
    assert cuts([0.0, 90.0]) == [1]
    assert cuts([]) == cuts([0.0]) == []
