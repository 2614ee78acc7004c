"""What the sampled worlds promise: determinism, the compositional split, room for all, digits in view."""

from __future__ import annotations

from itertools import combinations

import pytest

from training.data.scenes.motion import frame_times, state_at
from training.data.scenes.sampling import sample_world
from training.data.scenes.splits import HELD_OUT_COLOUR_SHAPE, HELD_OUT_SHAPE_MOTION, is_held_out, motion_key
from training.data.scenes.vocabulary import COLOURS, HEIGHT, SHAPES, TURNING, WIDTH
from training.data.scenes.world import Thing, World

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


def test_one_held_out_pair_of_each_kind_for_every_shape() -> None:
    assert sorted(shape for _, shape in HELD_OUT_COLOUR_SHAPE) == sorted(SHAPES)
    assert sorted(shape for shape, _ in HELD_OUT_SHAPE_MOTION) == sorted(SHAPES)
    assert is_held_out("purple", "square", ())
    assert is_held_out("red", "star", (("moves", "down"),))
    assert not is_held_out("red", "star", (("moves", "up"),))


def _corners(thing: Thing, time: float) -> tuple[float, float, float]:
    state = state_at(thing, time)
    return state.x, state.y, 0.57 * thing.diameter * state.scale


def test_objects_stay_in_the_picture(train: list[World], test_split: list[World]) -> None:
    for world in train + test_split:
        for thing in world.things:
            for x, y, reach in (_corners(thing, time) for time in frame_times()):
                assert reach <= x <= WIDTH - reach, (world.kind, thing)
                assert reach <= y <= HEIGHT - reach, (world.kind, thing)


def test_objects_meet_only_where_the_scene_is_about_it(train: list[World]) -> None:
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


def test_one_way_of_being_named_for_every_object(train: list[World]) -> None:
    for world in train:
        assert len({(t.colour, t.shape) for t in world.things}) == len(world.things)


def test_only_shapes_that_can_be_seen_to_turn_rotate(train: list[World]) -> None:
    turning = {t.shape for w in train for t in w.things for e in t.events if e.motion == "rotates"}
    assert turning
    assert turning <= set(TURNING)


def test_ordered_events_do_not_overlap(train: list[World]) -> None:
    ordered = [world for world in train if world.kind in ("ordered", "sequence")]
    assert ordered
    for world in ordered:
        first, second = sorted((e for t in world.things for e in t.events), key=lambda e: e.start)
        assert first.end < MIDDLE < second.start, world
