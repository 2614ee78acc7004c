"""Fades and dissolves are one beginning of a shot each; pans, flashes and changes of light are none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.chaos import rounds
from tests.index.drawn_films import RATE, Film, found_of, shot
from vitascope.media.shots import shot_starts
from vitascope.media.transitions import fades


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_a_dissolve_is_one_beginning_halfway(tmp_path: Path, seconds: float) -> None:
    film, one, other = Film(), shot(1), shot(2)
    film.hold(one, 2)
    film.dissolve(one, other, seconds)
    film.hold(other, 2)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(2 + seconds / 2, abs=0.15)]


@pytest.mark.parametrize("colour", [0.0, 255.0])
@pytest.mark.parametrize("seconds", [0.6, 1.0, 3.0])
def test_a_fade_is_one_beginning_halfway(tmp_path: Path, seconds: float, colour: float) -> None:
    film, one, other = Film(), shot(3), shot(4)
    film.hold(one, 2)
    film.fade(one, other, seconds, colour)
    film.hold(other, 2)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(2 + seconds / 2, abs=0.05)]


def test_a_fade_within_a_scene_is_a_beginning_too(tmp_path: Path) -> None:
    film, camera = Film(), shot(3)
    film.hold(camera, 2)
    film.fade(camera, camera, 1)
    film.hold(camera, 2)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(2.5, abs=0.05)]


def test_a_fade_out_that_a_cut_ends_begins_at_the_cut(tmp_path: Path) -> None:
    film, one, other = Film(), shot(5), shot(6)
    film.hold(one, 2)
    film.fade(one, one, 1)
    del film.frames[-12:]  # it was to come back by then
    film.frames += [np.zeros_like(film.frames[0])] * 5
    film.cut()
    film.hold(other, 2)
    cut = film.transitions[-1][1]
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0, pytest.approx(cut, abs=1 / RATE)]


def test_a_film_that_fades_in_and_out_has_no_more_shots_for_that(tmp_path: Path) -> None:
    film, camera = Film(), shot(7, speed=0)
    film.fade(camera, camera, 2)
    film.frames = film.frames[25:] + film.frames[:25]  # from black, to black
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("speed", [0.0, 0.6])
def test_a_flash_is_no_beginning(tmp_path: Path, frames: int, speed: float) -> None:
    film, camera = Film(), shot(8, speed)
    for _ in range(3):
        film.hold(camera, 1)
        film.flash(camera, frames)
    film.hold(camera, 1)
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


@pytest.mark.parametrize("speed", [1.0, 3.0, 8.0])
def test_a_pan_from_rest_to_rest_is_one_shot(tmp_path: Path, speed: float) -> None:
    film = Film()
    panned = shot(9, speed)
    film.frames += [next(panned)] * 50
    film.hold(panned, 1)
    film.frames += [film.frames[-1]] * 50
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


def test_light_that_goes_down_and_up_without_going_out_is_one_shot(tmp_path: Path) -> None:
    film, camera = Film(), shot(10, speed=0.1)
    film.hold(camera, 6)
    film.frames = [frame * (0.6 + 0.4 * np.cos(n / 15)) for n, frame in enumerate(film.frames)]
    assert shot_starts(film.write(tmp_path / "a.mp4")) == [0.0]


def test_of_many_transitions_nearly_all_are_found_and_nothing_else(tmp_path: Path) -> None:
    found = wrong = expected = 0
    films = rounds(2, 4)
    for number in range(films):
        film = drawn_film(number)
        hits, others = found_of(film, shot_starts(film.write(tmp_path / f"{number}.mp4")))
        found, wrong, expected = found + hits, wrong + others, expected + len(film.transitions)
    assert expected == 10 * films
    assert found >= 9 * films  # a dissolve into a fast pan is no mixture of two pictures
    assert wrong == 0


def drawn_film(number: int) -> Film:
    """Two of each: cut, short, long and middling dissolve, and fade, between shots that move at many speeds."""
    film = Film()
    speeds = np.random.default_rng(number).permutation([0.0, 0.2, 0.4, 0.8, 4.0, 0.0, 0.2, 0.4, 0.8, 0.4, 0.0])
    cameras = [shot(100 * number + n, speed) for n, speed in enumerate(speeds)]
    for n, (one, other) in enumerate(pairwise(cameras)):
        film.hold(one, 1.2)
        if n % 5 == 2:
            film.flash(one, 2)
            film.hold(one, 0.8)
        if n % 5 == 0:
            film.cut()
        elif n % 5 == 4:
            film.fade(one, other, 1)
        else:
            film.dissolve(one, other, (0.6, 1.0, 1.6)[n % 5 - 1])
    film.hold(cameras[-1], 1.6)
    return film


def test_fades_by_their_contrast() -> None:
    def fade_of(*contrasts: float, step: float = 0.04) -> list[float]:
        return [one.at for one in fades([step * n for n in range(len(contrasts))], contrasts)]

    scene, down, up = [50.0] * 20, [40.0, 30.0, 20.0, 10.0], [10.0, 20.0, 30.0, 40.0]
    assert fade_of(*scene, *down, 0.0, 1.0, 0.0, *up, *scene) == [pytest.approx(25 * 0.04)]
    assert fade_of(*scene, 0.0, 0.0, *scene) == []  # two black frames
    assert fade_of(*scene, *down, 8.0, *up, *scene) == []  # never of one colour
    assert fade_of(*[12.0] * 20, 6.0, 3.0, 0.0, 0.0, 0.0, 3.0, 6.0, *[12.0] * 20) == []  # there was nothing to see
    assert fade_of(0.0, *up, *scene) == fade_of(*scene, *down, 0.0) == fade_of() == []
