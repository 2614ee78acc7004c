"""The scenes corpus: sampling, splits, rendering, targets, and its files."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.data.corpus import CorpusError
from training.data.example import Negative, Question, Utterance
from training.data.scenes.generate import main, make_corpus, read_scenes
from training.data.scenes.objects import ATTRIBUTES, UNKNOWN, object_targets
from training.data.scenes.outlines import outline
from training.data.scenes.render import LAYER, draw_background, draw_thing, encode, render
from training.data.scenes.sampling import REACH, sample_world
from training.data.scenes.world import (
    COLOURS,
    FADE,
    FRAMES,
    HEIGHT,
    HELD_OUT_COLOUR_SHAPE,
    HELD_OUT_SHAPE_MOTION,
    SHAPES,
    TURNING,
    WIDTH,
    Background,
    Event,
    Thing,
    World,
    frame_times,
    is_random,
    motion_key,
    rgb_of,
    state_at,
)
from vitascope.media.decode import frames_at, read_frames

MIDDLE = 1.5  # seconds: where the high-resolution frame is taken


@pytest.fixture(scope="module")
def train() -> list[World]:
    return [sample_world(0, "train", index) for index in range(300)]


@pytest.fixture(scope="module")
def test_split() -> list[World]:
    return [sample_world(0, "test", index) for index in range(300)]


def test_a_clip_depends_on_seed_split_and_index_alone(train: list[World]) -> None:
    assert sample_world(0, "train", 7) == train[7]
    others = (sample_world(1, "train", 7), sample_world(0, "val", 7), train[8])
    assert all(other != train[7] for other in others)


def test_varied_scenes_have_any_outline_and_colour_but_no_held_out_pair() -> None:
    worlds = [sample_world(3, "train", i, varied=True) for i in range(150)]
    things = [thing for world in worlds for thing in world.things]
    assert {t.shape for t in things} > set(SHAPES)
    assert {t.colour for t in things} > set(COLOURS)
    for thing in things:
        if is_random(thing.shape):
            corners = np.array(outline(thing.shape))
            assert np.linalg.norm(corners, axis=1).max() <= REACH
            assert np.ptp(corners, axis=0).min() > 0.15  # no outline is a mere line
        similar = min(COLOURS, key=lambda name: np.linalg.norm(np.subtract(COLOURS[name], rgb_of(thing.colour))))
        assert not replace(thing, colour=similar).held_out


def _pairs(world: World) -> set[tuple[str, str]]:
    colours = {(t.colour, t.shape) for t in world.things}
    return colours | {(t.shape, motion_key(e.motion, e.direction)) for t in world.things for e in t.events}


def test_held_out_pairs_are_never_seen_in_training_and_all_seen_in_test(
    train: list[World], test_split: list[World]
) -> None:
    held_out = HELD_OUT_COLOUR_SHAPE | HELD_OUT_SHAPE_MOTION
    assert not any(_pairs(world) & held_out for world in train)
    assert not any(world.held_out for world in train)
    assert set().union(*(_pairs(world) for world in test_split)) >= held_out


def test_about_half_of_the_test_clips_hold_a_held_out_pair_and_say_so(test_split: list[World]) -> None:
    marked = [world.held_out for world in test_split]
    assert marked == [bool(_pairs(w) & (HELD_OUT_COLOUR_SHAPE | HELD_OUT_SHAPE_MOTION)) for w in test_split]
    assert 0.4 < sum(marked) / len(marked) < 0.6


def test_every_word_that_is_held_out_somewhere_is_still_learned(train: list[World]) -> None:
    seen = set().union(*(_pairs(world) for world in train))
    assert {c for c, _ in seen} >= set(COLOURS)
    assert {s for _, s in seen} >= set(SHAPES)
    for _, motion in HELD_OUT_SHAPE_MOTION:
        assert len({shape for shape, other in seen if other == motion}) >= 4, motion


def _corners(thing: Thing, time: float) -> tuple[float, float, float]:
    state = state_at(thing, time)
    return state.x, state.y, 0.57 * thing.diameter * state.scale


def test_objects_stay_in_the_picture(train: list[World], test_split: list[World]) -> None:
    for world in train + test_split:
        for thing in world.things:
            for x, y, reach in (_corners(thing, time) for time in frame_times()):
                assert reach <= x <= WIDTH - reach, (world.kind, thing)
                assert reach <= y <= HEIGHT - reach, (world.kind, thing)


def test_objects_touch_only_in_collisions_and_passes(train: list[World]) -> None:
    for world in train:
        near = any(
            (ax - bx) ** 2 + (ay - by) ** 2 < (ar + br) ** 2
            for time in frame_times()
            for (ax, ay, ar), (bx, by, br) in combinations([_corners(t, time) for t in world.things], 2)
        )
        assert near == (world.kind in ("collision", "occlusion")), world.kind


def test_a_digit_is_visible_in_the_middle_of_the_clip(train: list[World]) -> None:
    digits = [(world, i, t) for world in train for i, t in enumerate(world.things) if t.digit is not None]
    assert len(digits) > 60
    for world, index, thing in digits:
        state = state_at(thing, MIDDLE)
        assert state.opacity == 1.0
        assert thing.size == "large"
        assert state.scale >= 1.0
        if world.kind == "occlusion":
            assert world.drawing_order[-1] == index  # the one in front


def test_colour_and_shape_identify_every_object(train: list[World]) -> None:
    for world in train:
        assert len({(t.colour, t.shape) for t in world.things}) == len(world.things)


def test_only_shapes_whose_rotation_is_visible_rotate(train: list[World]) -> None:
    turning = {t.shape for w in train for t in w.things for e in t.events if e.motion == "rotates"}
    assert turning
    assert turning <= set(TURNING)


def test_ordered_events_do_not_overlap(train: list[World]) -> None:
    ordered = [world for world in train if world.kind in ("ordered", "sequence")]
    assert ordered
    for world in ordered:
        first, second = sorted((e for t in world.things for e in t.events), key=lambda e: e.start)
        assert first.end < MIDDLE < second.start, world


GREY = Background("flat", (122, 132, 140), (130, 140, 148), 20, 0)


def make_thing(shape: str = "circle", colour: str = "red", x: float = 160, y: float = 90, **rest: object) -> Thing:
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
    with av.open(io.BytesIO(encode(world_of(make_thing()))), "r") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.pix_fmt) == (WIDTH, HEIGHT, "yuv420p")
        assert float(stream.average_rate or 0) == 12.0
        times = [frame.time for frame in container.decode(stream)]
    assert len(times) == FRAMES
    assert times[18] == pytest.approx(1.5)


def test_drawing_is_deterministic_and_encoded_frames_are_close_to_it() -> None:
    world = world_of(make_thing(digit=4, pattern="dotted"), shake=2)
    drawn = np.stack(frames_of(world))
    assert np.array_equal(drawn, np.stack(frames_of(world)))
    with av.open(io.BytesIO(encode(world)), "r") as container:
        coded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert coded.shape == drawn.shape
    errors = np.square(coded.astype(float) - drawn).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / errors.max()) > 30  # decibels


def test_colours_survive_the_encoder() -> None:
    for colour, expected in COLOURS.items():
        with av.open(io.BytesIO(encode(world_of(make_thing("square", colour)))), "r") as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert np.abs(frame[90, 160].astype(int) - expected).max() < 24, colour


@pytest.mark.parametrize(
    ("direction", "amount", "dx", "dy"),
    [("left", -80.0, -80, 0), ("right", 80.0, 80, 0), ("up", -40.0, 0, -40), ("down", 40.0, 0, 40)],
)
def test_a_moving_object_ends_where_it_should(direction: str, amount: float, dx: int, dy: int) -> None:
    frames = frames_of(world_of(make_thing(events=(Event("moves", 0.5, 2.5, amount, direction),))))
    start, end = centre_of(frames[0], "red"), centre_of(frames[-1], "red")
    assert end[0] - start[0] == pytest.approx(dx, abs=1.0)
    assert end[1] - start[1] == pytest.approx(dy, abs=1.0)


def test_growing_and_shrinking_change_the_area() -> None:
    def area(frame: NDArray[np.uint8]) -> int:
        return int((np.abs(frame.astype(int) - np.array(COLOURS["red"])).sum(axis=2) < 40).sum())

    grown = frames_of(world_of(make_thing(events=(Event("grows", 0.1, 2.9, 1.45),))))
    shrunk = frames_of(world_of(make_thing(events=(Event("shrinks", 0.1, 2.9, 0.5),))))
    assert area(grown[-1]) / area(grown[0]) == pytest.approx(1.45**2, rel=0.1)
    assert area(shrunk[-1]) / area(shrunk[0]) == pytest.approx(0.25, rel=0.15)


def test_appearing_and_disappearing() -> None:
    event = Event("appears", 1.4, 1.4 + FADE)
    frames = frames_of(world_of(make_thing(events=(event,))))
    assert tuple(frames[15][90, 160]) == GREY.first
    assert tuple(frames[20][90, 160]) == COLOURS["red"]
    gone = frames_of(world_of(make_thing(events=(Event("disappears", 1.4, 1.4 + FADE),))))
    assert tuple(gone[15][90, 160]) == COLOURS["red"]
    assert tuple(gone[20][90, 160]) == GREY.first


def test_the_object_in_front_hides_the_one_behind() -> None:
    pair = (make_thing(colour="red"), make_thing(colour="blue"))
    assert tuple(frames_of(world_of(*pair, order=(0, 1)))[0][90, 160]) == COLOURS["blue"]
    assert tuple(frames_of(world_of(*pair, order=(1, 0)))[0][90, 160]) == COLOURS["red"]


def test_a_depth_map_is_exact_in_the_second_track_of_a_file(tmp_path: Path) -> None:
    near, far = make_thing("heart", x=150), make_thing("ring", events=(Event("disappears", 1.4, 1.4 + FADE),))
    world = world_of(near, far, order=(1, 0))
    maps = [np.asarray(picture) for picture in render(world, depth=True)]
    assert [int(maps[0][y, x, 0]) for x, y in ((5, 5), (150, 90), (184, 90))] == [0, 2 * LAYER, LAYER]
    assert maps[20][90, 184, 0] == 0
    (tmp_path / "depth.mp4").write_bytes(encode(world, depth=True))
    (tmp_path / "plain.mp4").write_bytes(encode(world))
    times = frame_times()
    for positions, frame in frames_at(tmp_path / "depth.mp4", times, track=1):
        for position in positions:
            np.testing.assert_array_equal(frame.rgb(WIDTH, HEIGHT), maps[position])
    shown = [read_frames(tmp_path / name, times) for name in ("depth.mp4", "plain.mp4")]
    assert np.array_equal(*shown)


def test_clockwise_turns_the_top_of_a_heart_to_the_right() -> None:
    turned = np.asarray(draw_thing(make_thing("heart"), angle=90.0).getchannel("A")) > 128
    upright = np.asarray(draw_thing(make_thing("heart")).getchannel("A")) > 128
    assert np.mean(turned == np.rot90(upright, -1)) > 0.99
    assert np.mean(turned == np.rot90(upright, 1)) < 0.99


def test_shapes_differ_from_each_other_in_outline() -> None:
    masks = {s: np.asarray(draw_thing(make_thing(s)).getchannel("A")) > 128 for s in SHAPES}
    for i, single in enumerate(SHAPES):
        for other in SHAPES[i + 1 :]:
            either, both = (masks[single] | masks[other]).sum(), (masks[single] & masks[other]).sum()
            assert both / either < 0.87, (single, other)


@pytest.mark.parametrize("pattern", ["striped", "dotted"])
def test_patterns_show_on_every_colour_and_size(pattern: str) -> None:
    for colour in COLOURS:
        for diameter, size in ((34, "small"), (60, "large")):
            made = [
                np.asarray(
                    draw_thing(make_thing("square", colour, size=size, diameter=diameter, pattern=p)).convert("L")
                )
                for p in (pattern, "plain")
            ]
            differs = np.abs(made[0].astype(int) - made[1].astype(int)) > 25
            assert 0.05 < differs.mean() < 0.6, (colour, size)


def test_digits_can_be_told_apart_in_a_frame_stretched_to_224_pixels() -> None:
    def seen(digit: int) -> NDArray[np.float64]:
        frame = next(iter(render(world_of(make_thing(digit=digit)))))
        small = frame.convert("L").resize((224, 224), Image.Resampling.BILINEAR)
        return np.asarray(small.crop((106, 98, 118, 126)), dtype=np.float64)  # the plate of the digit

    views = [seen(digit) for digit in range(10)]
    plain = np.asarray(next(iter(render(world_of(make_thing())))).convert("L").resize((224, 224)))
    assert plain[98:126, 106:118].std() < 1  # without a digit there is nothing to see
    for i, single in enumerate(views):
        for j, other in enumerate(views[i + 1 :], start=i + 1):
            assert np.abs(single - other).mean() > 7, (i, j)
            assert np.abs(single - other).max() > 80, (i, j)


def test_the_camera_shakes_only_if_the_scene_says_so() -> None:
    still = frames_of(world_of(make_thing()))
    assert all(np.array_equal(frame, still[0]) for frame in still)
    shaken = [centre_of(frame, "red") for frame in frames_of(world_of(make_thing(), shake=3))]
    assert len(set(shaken)) > 3
    assert max(abs(x - 160) for x, _ in shaken) <= 4


@pytest.mark.parametrize("kind", ["flat", "gradient", "checker", "noise", "stripes"])
def test_backgrounds_are_muted_so_that_every_colour_stands_out(kind: str) -> None:
    pixels = np.asarray(draw_background(Background(kind, (122, 132, 140), (142, 152, 160), 16, 5))).astype(int)
    assert pixels.shape == (HEIGHT + 8, WIDTH + 8, 3)
    for rgb in COLOURS.values():
        assert np.abs(pixels - np.array(rgb)).sum(axis=2).min() > 90


def test_unknown_shapes_and_backgrounds_are_named() -> None:
    with pytest.raises(ValueError, match="'hexagon'"):
        outline("hexagon")
    with pytest.raises(ValueError, match="'plasma'"):
        draw_background(Background("plasma", (0, 0, 0), (0, 0, 0), 5, 0))


WORLDS = [sample_world(5, "train", i) for i in range(60)]
NAMES = list(ATTRIBUTES)


def named(classes: np.ndarray) -> dict[str, object]:
    """One object's class numbers as values by attribute."""
    return {name: ATTRIBUTES[name][c] for name, c in zip(NAMES, classes, strict=True)}


def test_the_colour_of_an_object_is_seen_at_its_place_in_the_middle_of_the_clip() -> None:
    positions, classes = object_targets([asdict(w) for w in WORLDS])
    seen = 0
    for world, where, what in zip(WORLDS, positions, classes, strict=True):
        if world.kind in ("collision", "occlusion") or world.shake:
            continue
        frame = np.asarray(list(render(world))[FRAMES // 2], dtype=int)
        for k, thing in enumerate(world.things):
            fades = any(e.motion in ("appears", "disappears") for e in thing.events)
            if thing.shape == "ring" or thing.pattern != "plain" or thing.digit is not None or fades:
                continue
            x, y = int(where[k, 0] * WIDTH), int(where[k, 1] * HEIGHT)
            assert np.abs(frame[y, x] - np.array(COLOURS[str(named(what[k])["colour"])])).max() < 12
            seen += 1
    assert seen > 10


def test_absent_objects_have_no_targets() -> None:
    _, classes = object_targets([asdict(w) for w in WORLDS])
    assert [int((c[:, 0] != UNKNOWN).sum()) for c in classes] == [len(w.things) for w in WORLDS]
    assert (classes[classes != UNKNOWN] >= 0).all()


def test_events_in_one_half_are_targets_of_that_half() -> None:
    first = Event("moves", 0.1, 1.3, 60.0, "right", "fast")
    second = Event("shrinks", 1.7, 2.9, 0.5)
    whole = Event("rotates", 0.1, 2.9, 180.0, "clockwise")
    things = (
        Thing("star", "red", "small", "striped", None, 33, 60.0, 60.0, (first, second)),
        Thing("heart", "blue", "large", "plain", 7, 60, 200.0, 100.0, (whole,)),
        Thing("ring", "white", "large", "plain", None, 60, 260.0, 60.0, ()),
    )
    world = World("trio", things, Background("flat", (120, 120, 120), (120, 120, 120), 12, 0), (0, 1, 2), 0, 0)
    (positions,), (classes,) = object_targets([asdict(world)])
    single, other, still = (named(c) for c in classes)
    assert single["motion in the first half"] == "moves"
    assert single["direction in the first half"] == "right"
    assert single["speed"] == "fast"
    assert single["motion in the second half"] == "shrinks"
    assert single["direction in the second half"] is None
    assert [other[f"motion in the {half} half"] for half in ("first", "second")] == ["rotates", "rotates"]
    assert other["direction in the second half"] == "clockwise"
    assert other["digit"] == 7
    assert still["motion in the first half"] == still["motion in the second half"] == "stays"
    assert np.allclose(positions[0], [120 / WIDTH, 60 / HEIGHT])  # it has moved, and stays there for the second half


COUNTS = {"train": 3, "val": 1, "test": 2}


@pytest.fixture(scope="module")
def generated_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    make_corpus(out, COUNTS, seed=5)
    return out


def test_layout(generated_corpus: Path) -> None:
    described = json.loads((generated_corpus / "corpus.json").read_text())
    assert described["counts"] == COUNTS
    assert (described["name"], described["seed"], described["licence"]) == ("scenes", 5, "CC0-1.0")
    assert len(json.loads((generated_corpus / "split.json").read_text())["held_out_colour_shape"]) == 8
    for split, count in COUNTS.items():
        records = [json.loads(line) for line in (generated_corpus / split / "examples.jsonl").read_text().splitlines()]
        assert [record["key"] for record in records] == [f"{index:06d}" for index in range(count)]
        for record in records:
            assert (generated_corpus / split / record["media"]).stat().st_size > 1000
            assert record["still"] is False
            assert len(record["scene"]["things"]) >= 1
            assert record["held_out"] is False or split == "test"
        assert sorted(p.name for p in (generated_corpus / split).iterdir()) == [
            *(record["media"] for record in records),
            "examples.jsonl",
        ]


def test_the_command_makes_the_same_files_with_other_workers(
    generated_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # the encoder must not read memory that it has not written
    main(["--out", str(tmp_path), "--train", "3", "--val", "1", "--test", "2", "--seed", "5", "--workers", "2"])
    files = sorted(p.relative_to(generated_corpus) for p in generated_corpus.rglob("*") if p.is_file())
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == files
    for file in files:
        assert (tmp_path / file).read_bytes() == (generated_corpus / file).read_bytes(), file


def test_an_interrupted_run_resumes_and_keeps_finished_clips(generated_corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path, {"train": 3}, seed=5)
    kept, lost = tmp_path / "train" / "000000.mp4", tmp_path / "train" / "000001.mp4"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "train" / "examples.jsonl").unlink()
    (tmp_path / "train" / ".000001.mp4.99.part").write_bytes(b"half a clip")
    make_corpus(tmp_path, {"train": 3}, seed=5)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == (generated_corpus / "train" / "000001.mp4").read_bytes()
    assert (tmp_path / "train" / "examples.jsonl").read_text() == (
        generated_corpus / "train" / "examples.jsonl"
    ).read_text()
    assert not list((tmp_path / "train").glob(".*"))


def test_a_corpus_is_not_continued_with_another_seed(generated_corpus: Path) -> None:
    with pytest.raises(SystemExit, match="'seed': 5"):
        make_corpus(generated_corpus, COUNTS, seed=6)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dev'"):
        make_corpus(tmp_path, {"dev": 1})


LINE: dict[str, Any] = {
    "key": "000000",
    "media": "000000.mp4",
    "still": False,
    "captions": ["a red square moves left"],
    "transcript": [{"start": 0.5, "end": 1.2, "text": "look at this"}],
    "negatives": [{"caption": "a blue square moves left", "of": 0, "grade": 1, "kind": "colour"}],
    "questions": [{"question": "how many?", "answers": ["1"], "kind": "count"}],
    "held_out": True,
    "scene": {"kind": "single"},
}


def generated(folder: Path, *lines: dict[str, Any]) -> Path:
    (folder / "test").mkdir()
    (folder / "test" / "000000.mp4").touch()
    (folder / "test" / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_reader_keeps_all_fields_of_the_generator(tmp_path: Path) -> None:
    ((example, media),) = read_scenes(generated(tmp_path, LINE), "test")
    assert media == tmp_path / "test" / "000000.mp4"
    assert example.captions == ("a red square moves left",)
    assert example.transcript == (Utterance(0.5, 1.2, "look at this"),)
    assert example.negatives == (Negative("a blue square moves left", 0, 1, "colour"),)
    assert example.questions == (Question("how many?", ("1",), "count"),)
    assert example.attributes == {"held_out": True, "scene": {"kind": "single"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"media": "000009.mp4"}, r"examples\.jsonl:2: media: .*000009\.mp4 is missing"),
        ({"media": None}, r"examples\.jsonl:2: media: None"),
        ({"captions": [7]}, r"examples\.jsonl:2: captions\[0\]: 7"),
        ({"speed": 3}, r"examples\.jsonl:2: unknown fields \['speed'\]"),
    ],
)
def test_a_malformed_line_names_file_line_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    generated(tmp_path, LINE, {**LINE, **change})
    with pytest.raises(CorpusError, match=message):
        list(read_scenes(tmp_path, "test"))


def test_a_split_that_was_not_generated_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train/examples\.jsonl: missing"):
        list(read_scenes(tmp_path, "train"))
