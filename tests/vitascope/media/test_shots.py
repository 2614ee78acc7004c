"""Cuts, fades and dissolves each begin one shot; pans, flashes and changes of light do not."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.chaos import rounds
from tests.media_files import moving_shot, solid, write_animation, write_picture, write_video
from tests.vitascope.media.drawn_films import RATE, Film, count_hits, shot
from vitascope.media.shots import cut_indices, fades, shot_starts


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 250, "b_frames": 3}),
        ("a.mkv", {"gop": 12, "b_frames": 2, "sound_seconds": 1.0}),
        ("a.avi", {"codec": "mpeg4", "b_frames": 0}),
    ],
)
def test_cuts_begin_shots(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    frames = [*moving_shot(1, 37), *moving_shot(2, 61), *moving_shot(3, 30)]
    path = write_video(tmp_path / name, frames, rate=RATE, **options)  # type: ignore[arg-type]
    assert shot_starts(path) == pytest.approx([0.0, 37 / RATE, 98 / RATE], abs=1 / RATE)


def test_shot_starts_are_times_also_at_a_variable_frame_rate(tmp_path: Path) -> None:
    frames = [*moving_shot(1, 10), *moving_shot(2, 10)]
    starts = [0.2 * n for n in range(10)] + [2.0 + 0.04 * n for n in range(10)]
    path = write_video(tmp_path / "a.mp4", frames, starts=starts)
    assert shot_starts(path) == pytest.approx([0.0, 2.0], abs=0.04)


def test_rotation_and_pixel_aspect_do_not_matter(tmp_path: Path) -> None:
    frames = [*moving_shot(1, 20), *moving_shot(2, 20)]
    path = write_video(tmp_path / "a.mp4", frames, rate=RATE, rotation=90, pixel_aspect=Fraction(4, 3))
    assert shot_starts(path) == pytest.approx([0.0, 20 / RATE], abs=1 / RATE)


def test_an_animation_has_shots_and_a_picture_is_one(tmp_path: Path) -> None:
    frames = [solid((200, 10, 10)), solid((200, 20, 10)), solid((10, 10, 200))]
    assert shot_starts(write_animation(tmp_path / "a.webp", frames, [300, 700, 500])) == pytest.approx([0.0, 1.0])
    assert shot_starts(write_picture(tmp_path / "a.png", frames[0])) == [0.0]


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_a_dissolve_is_one_boundary_halfway(tmp_path: Path, seconds: float) -> None:
    film, first, second = Film(), shot(1), shot(2)
    film.hold(first, 2)
    film.dissolve(first, second, seconds)
    film.hold(second, 2)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(2 + seconds / 2, abs=0.15)]


@pytest.mark.parametrize("colour", [0.0, 255.0])
@pytest.mark.parametrize("seconds", [0.6, 1.0, 3.0])
def test_a_fade_is_one_boundary_halfway(tmp_path: Path, seconds: float, colour: float) -> None:
    film, first, second = Film(), shot(3), shot(4)
    film.hold(first, 2)
    film.fade(first, second, seconds, colour)
    film.hold(second, 2)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(2 + seconds / 2, abs=0.05)]


def test_a_fade_within_a_scene_is_a_boundary(tmp_path: Path) -> None:
    film, camera = Film(), shot(3)
    film.hold(camera, 2)
    film.fade(camera, camera, 1)
    film.hold(camera, 2)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(2.5, abs=0.05)]


def test_a_fade_out_followed_by_a_cut_has_its_boundary_at_the_cut(tmp_path: Path) -> None:
    film, first, second = Film(), shot(5), shot(6)
    film.hold(first, 2)
    film.fade(first, first, 1)
    del film.frames[-12:]  # the fade in
    film.frames += [np.zeros_like(film.frames[0])] * 5
    film.cut()
    film.hold(second, 2)
    cut = film.transitions[-1][1]
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(cut, abs=1 / RATE)]


def test_a_fade_in_and_a_fade_out_of_the_film_are_no_boundaries(tmp_path: Path) -> None:
    film, camera = Film(), shot(7, speed=0)
    film.fade(camera, camera, 2)
    film.frames = film.frames[25:] + film.frames[:25]  # from black, to black
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("speed", [0.0, 0.6])
def test_a_flash_is_no_boundary(tmp_path: Path, frames: int, speed: float) -> None:
    film, camera = Film(), shot(8, speed)
    for _ in range(3):
        film.hold(camera, 1)
        film.flash(camera, frames)
    film.hold(camera, 1)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


def test_a_fast_pan_is_one_shot(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_shot(1, 60, speed=24), rate=RATE)
    assert shot_starts(path) == [0.0]


@pytest.mark.parametrize("speed", [1.0, 3.0, 8.0])
def test_a_pan_between_still_views_is_one_shot(tmp_path: Path, speed: float) -> None:
    film = Film()
    camera = shot(9, speed)
    film.frames += [next(camera)] * 50
    film.hold(camera, 1)
    film.frames += [film.frames[-1]] * 50
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


def test_a_slow_change_of_light_is_one_shot(tmp_path: Path) -> None:
    frames = [solid((4 * n, 4 * n, 4 * n)) for n in range(60)]
    assert shot_starts(write_video(tmp_path / "a.mp4", frames, rate=RATE)) == [0.0]
    film, camera = Film(), shot(10, speed=0.1)
    film.hold(camera, 6)
    film.frames = [frame * (0.6 + 0.4 * np.cos(n / 15)) for n, frame in enumerate(film.frames)]
    assert shot_starts(film.write(tmp_path / "b.mp4")) == [0.0]


def test_nearly_all_transitions_are_detected_and_nothing_else(tmp_path: Path) -> None:
    detected = wrong = expected = 0
    films = rounds(2, 4)
    for seed in range(films):
        film = drawn_film(seed)
        hits, false_positives = count_hits(film, shot_starts(film.write(tmp_path / f"{seed}.mp4")))
        detected, wrong, expected = detected + hits, wrong + false_positives, expected + len(film.transitions)
    assert expected == 10 * films
    assert detected >= 9 * films  # a dissolve into a fast pan is not a mixture of two frames
    assert wrong == 0


def drawn_film(seed: int) -> Film:
    """Two each of cuts, dissolves of three lengths, and fades, between shots that move at different speeds."""
    film = Film()
    speeds = np.random.default_rng(seed).permutation([0.0, 0.2, 0.4, 0.8, 4.0, 0.0, 0.2, 0.4, 0.8, 0.4, 0.0])
    cameras = [shot(100 * seed + n, speed) for n, speed in enumerate(speeds)]
    for n, (first, second) in enumerate(pairwise(cameras)):
        film.hold(first, 1.2)
        if n % 5 == 2:
            film.flash(first, 2)
            film.hold(first, 0.8)
        if n % 5 == 0:
            film.cut()
        elif n % 5 == 4:
            film.fade(first, second, 1)
        else:
            film.dissolve(first, second, (0.6, 1.0, 1.6)[n % 5 - 1])
    film.hold(cameras[-1], 1.6)
    return film


def test_a_cut_changes_more_than_the_frames_around_it() -> None:
    assert cut_indices([0.0, 1.0, 1.0, 1.0, 40.0, 1.0, 1.0]) == [4]
    assert cut_indices([0.0, 30.0, 35.0, 28.0, 40.0, 33.0, 31.0]) == []
    assert cut_indices([0.0, 0.1, 0.0, 5.0, 0.0]) == []  # too little, though much more than around it
    assert cut_indices([0.0, 90.0]) == [1]
    assert cut_indices([]) == cut_indices([0.0]) == []


def test_a_fade_goes_from_a_scene_to_one_colour_and_back() -> None:
    def boundaries(*contrasts: float, step: float = 0.04) -> list[float]:
        return [fade.boundary for fade in fades([step * n for n in range(len(contrasts))], contrasts)]

    scene, down, up = [50.0] * 20, [40.0, 30.0, 20.0, 10.0], [10.0, 20.0, 30.0, 40.0]
    assert boundaries(*scene, *down, 0.0, 1.0, 0.0, *up, *scene) == [pytest.approx(25 * 0.04)]
    assert boundaries(*scene, 0.0, 0.0, *scene) == []  # two black frames
    assert boundaries(*scene, *down, 8.0, *up, *scene) == []  # never of one colour
    assert boundaries(*[12.0] * 20, 6.0, 3.0, 0.0, 0.0, 0.0, 3.0, 6.0, *[12.0] * 20) == []  # no scene
    assert boundaries(0.0, *up, *scene) == boundaries(*scene, *down, 0.0) == boundaries() == []
