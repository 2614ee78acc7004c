"""What the drawn and encoded clips show: the container, colours, motion, occlusion, digits at 224 pixels."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.data.scenes.motion import FADE
from training.data.scenes.render import draw_background, draw_thing, encode, outline, render
from training.data.scenes.vocabulary import COLOURS, FRAMES, HEIGHT, SHAPES, WIDTH
from training.data.scenes.world import Background, Event, Thing, World

GREY = Background("flat", (122, 132, 140), (130, 140, 148), 20, 0)


def thing(shape: str = "circle", colour: str = "red", x: float = 160, y: float = 90, **rest: object) -> Thing:
    known: dict[str, object] = {
        "size": "large",
        "pattern": "plain",
        "digit": None,
        "diameter": 60,
        "events": (),
    }
    return Thing(shape=shape, colour=colour, x=x, y=y, **{**known, **rest})  # type: ignore[arg-type]


def world_of(*things: Thing, order: tuple[int, ...] | None = None, shake: int = 0) -> World:
    return World("single", things, GREY, order or tuple(range(len(things))), shake, 1)


def frames_of(world: World) -> list[NDArray[np.uint8]]:
    return [np.asarray(frame) for frame in render(world)]


def centre_of(frame: NDArray[np.uint8], colour: str) -> tuple[float, float]:
    """The mean place (x, y) of the pixels of the colour."""
    distance = np.abs(frame.astype(int) - np.array(COLOURS[colour])).sum(axis=2)
    ys, xs = np.nonzero(distance < 40)
    return float(xs.mean()), float(ys.mean())


def test_a_clip_is_three_seconds_of_h264() -> None:
    with av.open(io.BytesIO(encode(world_of(thing()))), "r") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.pix_fmt) == (WIDTH, HEIGHT, "yuv420p")
        assert float(stream.average_rate or 0) == 12.0
        times = [frame.time for frame in container.decode(stream)]
    assert len(times) == FRAMES
    assert times[18] == pytest.approx(1.5)


def test_drawing_is_repeatable_and_coding_keeps_close_to_it() -> None:
    world = world_of(thing(digit=4, pattern="dotted"), shake=2)
    drawn = np.stack(frames_of(world))
    assert np.array_equal(drawn, np.stack(frames_of(world)))
    with av.open(io.BytesIO(encode(world)), "r") as container:
        coded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert coded.shape == drawn.shape
    errors = np.square(coded.astype(float) - drawn).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / errors.max()) > 30  # decibels


def test_colours_survive_the_encoder() -> None:
    for colour, expected in COLOURS.items():
        with av.open(io.BytesIO(encode(world_of(thing("square", colour)))), "r") as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert np.abs(frame[90, 160].astype(int) - expected).max() < 24, colour


@pytest.mark.parametrize(
    ("direction", "amount", "dx", "dy"),
    [("left", -80.0, -80, 0), ("right", 80.0, 80, 0), ("up", -40.0, 0, -40), ("down", 40.0, 0, 40)],
)
def test_a_moving_object_ends_where_it_should(direction: str, amount: float, dx: int, dy: int) -> None:
    frames = frames_of(world_of(thing(events=(Event("moves", 0.5, 2.5, amount, direction),))))
    start, end = centre_of(frames[0], "red"), centre_of(frames[-1], "red")
    assert end[0] - start[0] == pytest.approx(dx, abs=1.0)
    assert end[1] - start[1] == pytest.approx(dy, abs=1.0)


def test_growing_and_shrinking_change_the_area() -> None:
    def area(frame: NDArray[np.uint8]) -> int:
        return int((np.abs(frame.astype(int) - np.array(COLOURS["red"])).sum(axis=2) < 40).sum())

    grown = frames_of(world_of(thing(events=(Event("grows", 0.1, 2.9, 1.45),))))
    shrunk = frames_of(world_of(thing(events=(Event("shrinks", 0.1, 2.9, 0.5),))))
    assert area(grown[-1]) / area(grown[0]) == pytest.approx(1.45**2, rel=0.1)
    assert area(shrunk[-1]) / area(shrunk[0]) == pytest.approx(0.25, rel=0.15)


def test_appearing_and_disappearing() -> None:
    event = Event("appears", 1.4, 1.4 + FADE)
    frames = frames_of(world_of(thing(events=(event,))))
    assert tuple(frames[15][90, 160]) == GREY.first
    assert tuple(frames[20][90, 160]) == COLOURS["red"]
    gone = frames_of(world_of(thing(events=(Event("disappears", 1.4, 1.4 + FADE),))))
    assert tuple(gone[15][90, 160]) == COLOURS["red"]
    assert tuple(gone[20][90, 160]) == GREY.first


def test_the_object_in_front_hides_the_one_behind() -> None:
    pair = (thing(colour="red"), thing(colour="blue"))
    assert tuple(frames_of(world_of(*pair, order=(0, 1)))[0][90, 160]) == COLOURS["blue"]
    assert tuple(frames_of(world_of(*pair, order=(1, 0)))[0][90, 160]) == COLOURS["red"]


def test_clockwise_turns_the_top_of_a_heart_to_the_right() -> None:
    turned = np.asarray(draw_thing(thing("heart"), angle=90.0).getchannel("A")) > 128
    upright = np.asarray(draw_thing(thing("heart")).getchannel("A")) > 128
    assert np.mean(turned == np.rot90(upright, -1)) > 0.99
    assert np.mean(turned == np.rot90(upright, 1)) < 0.99


def test_shapes_differ_from_each_other_in_outline() -> None:
    masks = {s: np.asarray(draw_thing(thing(s)).getchannel("A")) > 128 for s in SHAPES}
    for i, one in enumerate(SHAPES):
        for other in SHAPES[i + 1 :]:
            either, both = (masks[one] | masks[other]).sum(), (masks[one] & masks[other]).sum()
            assert both / either < 0.87, (one, other)


@pytest.mark.parametrize("pattern", ["striped", "dotted"])
def test_patterns_show_on_every_colour_and_size(pattern: str) -> None:
    for colour in COLOURS:
        for diameter, size in ((34, "small"), (60, "large")):
            made = [
                np.asarray(draw_thing(thing("square", colour, size=size, diameter=diameter, pattern=p)).convert("L"))
                for p in (pattern, "plain")
            ]
            differs = np.abs(made[0].astype(int) - made[1].astype(int)) > 25
            assert 0.05 < differs.mean() < 0.6, (colour, size)


def test_digits_can_be_told_apart_in_a_frame_stretched_to_224_pixels() -> None:
    def seen(digit: int) -> NDArray[np.float64]:
        frame = next(iter(render(world_of(thing(digit=digit)))))
        small = frame.convert("L").resize((224, 224), Image.Resampling.BILINEAR)
        return np.asarray(small.crop((106, 98, 118, 126)), dtype=np.float64)  # the plate of the digit

    views = [seen(digit) for digit in range(10)]
    plain = np.asarray(next(iter(render(world_of(thing())))).convert("L").resize((224, 224)))
    assert plain[98:126, 106:118].std() < 1  # without a digit there is nothing to see
    for i, one in enumerate(views):
        for j, other in enumerate(views[i + 1 :], start=i + 1):
            assert np.abs(one - other).mean() > 7, (i, j)
            assert np.abs(one - other).max() > 80, (i, j)


def test_the_camera_shakes_only_when_told_to() -> None:
    still = frames_of(world_of(thing()))
    assert all(np.array_equal(frame, still[0]) for frame in still)
    shaken = [centre_of(frame, "red") for frame in frames_of(world_of(thing(), shake=3))]
    assert len(set(shaken)) > 3
    assert max(abs(x - 160) for x, _ in shaken) <= 4


@pytest.mark.parametrize("kind", ["flat", "gradient", "checker", "noise", "stripes"])
def test_backgrounds_are_muted_so_that_every_colour_stands_out(kind: str) -> None:
    pixels = np.asarray(draw_background(Background(kind, (122, 132, 140), (142, 152, 160), 16, 5))).astype(int)
    assert pixels.shape == (HEIGHT + 8, WIDTH + 8, 3)
    for rgb in COLOURS.values():
        assert np.abs(pixels - np.array(rgb)).sum(axis=2).min() > 90


def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(ValueError, match="'hexagon'"):
        outline("hexagon")
    with pytest.raises(ValueError, match="'plasma'"):
        draw_background(Background("plasma", (0, 0, 0), (0, 0, 0), 5, 0))
