"""Cuts, fades and dissolves each begin one shot; pans, flashes and changes of light do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.chaos import rounds
from tests.media_files import moving_shot, solid, write_animation, write_picture, write_video
from vitascope.media import shots
from vitascope.media.shots import shot_starts

RATE = 25
WIDTH, HEIGHT = 128, 72
Floats = NDArray[np.float32]


def scene(seed: int, width: int = 4 * WIDTH) -> Floats:
    """A picture (HEIGHT, width, 3) with coarse and fine shapes, as photographs have, in its own colours."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, width, 3), np.float32)
    for cell, strength in ((36, 50.0), (18, 35.0), (9, 25.0), (4, 15.0)):
        grid = rng.normal(0, strength, (3, HEIGHT // cell + 1, width // cell + 1)).astype(np.float32)
        layers = [Image.fromarray(layer).resize((width, HEIGHT), Image.Resampling.BICUBIC) for layer in grid]
        picture += np.stack([np.asarray(layer) for layer in layers], axis=2)
    picture += rng.uniform(70, 180, 3).astype(np.float32)
    return np.clip(picture, 0, 255)


def shot(seed: int, speed: float = 0.3) -> Iterator[Floats]:
    """An endless pan back and forth over a scene, by ``speed`` pixels per frame."""
    picture = scene(seed)
    max_left = picture.shape[1] - WIDTH
    number = 0
    while True:
        left = round(number * speed) % (2 * max_left)
        left = min(left, 2 * max_left - left)
        yield picture[:, left : left + WIDTH]
        number += 1


@dataclass
class Film:
    """Frames so far, and the transitions between them as (kind, first and last second)."""

    frames: list[Floats] = field(default_factory=list)
    transitions: list[tuple[str, float, float]] = field(default_factory=list)

    def hold(self, camera: Iterator[Floats], seconds: float) -> None:
        """Append ``seconds`` of a shot."""
        self.frames += [next(camera) for _ in range(round(seconds * RATE))]

    def cut(self) -> None:
        self._note("cut", len(self.frames))

    def dissolve(self, first: Iterator[Floats], second: Iterator[Floats], seconds: float) -> None:
        start, count = len(self.frames), round(seconds * RATE)
        for number in range(1, count + 1):
            weight = number / (count + 1)
            self.frames.append((1 - weight) * next(first) + weight * next(second))
        self._note("dissolve", start)

    def fade(self, first: Iterator[Floats], second: Iterator[Floats], seconds: float, colour: float = 0.0) -> None:
        """Through one colour (0 black, 255 white) and back."""
        start, count = len(self.frames), round(seconds * RATE / 2)
        for camera, steps in ((first, range(1, count + 1)), (second, range(count, 0, -1))):
            self.frames += [next(camera) * (1 - n / count) + colour * n / count for n in steps]
        self._note("fade", start)

    def flash(self, camera: Iterator[Floats], frames: int) -> None:
        self.frames += [next(camera) * 0.2 + 204.0 for _ in range(frames)]

    def write(self, path: Path) -> Path:
        return write_video(path, [np.clip(frame, 0, 255).astype(np.uint8) for frame in self.frames], rate=RATE)

    def _note(self, kind: str, start: int) -> None:
        self.transitions.append((kind, start / RATE, len(self.frames) / RATE))


def count_hits(film: Film, starts: list[float]) -> tuple[int, int]:
    """Count the transitions with exactly one of ``starts`` (s) in them, and the other starts.

    A transition is extended by one frame on either side.
    """
    slack = 1.5 / RATE
    hits = [[s for s in starts[1:] if begin - slack <= s <= end + slack] for _, begin, end in film.transitions]
    return sum(len(hit) == 1 for hit in hits), len(starts) - 1 - sum(bool(hit) for hit in hits)


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


@pytest.mark.parametrize(
    ("lengths", "is_edited"),
    [
        ([40, 30, 50], True),
        ([15], False),
        ([150], False),
        ([500], False),
        ([200, 200], False),  # a cut in 80 s
        ([100, 15, 100, 20, 100], True),
    ],
)
@pytest.mark.parametrize("gop", [12, 250])
def test_shots_of_edited_videos_only(tmp_path: Path, lengths: list[int], is_edited: bool, gop: int) -> None:
    frames = [frame for seed, count in enumerate(lengths) for frame in moving_shot(seed, count, speed=1)]
    path = write_video(tmp_path / "a.mp4", frames, rate=5, gop=gop)
    starts = shot_starts(path)
    assert shot_starts(path, only_if_edited=True) == (starts if is_edited else [0.0])
    assert len(starts) == len(lengths)


def test_only_key_frames_are_decoded_if_the_camera_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0
    features = shots._frame_features

    def count(second: float, pixels: NDArray[np.uint8]) -> object:
        nonlocal decoded
        decoded += 1
        return features(second, pixels)

    monkeypatch.setattr(shots, "_frame_features", count)
    still = moving_shot(1, 1)[0]
    path = write_video(tmp_path / "a.mp4", [still] * 200, rate=5, gop=10)
    assert shot_starts(path, only_if_edited=True) == [0.0]
    assert decoded == 10  # one in 4 s


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
