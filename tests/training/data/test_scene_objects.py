"""What the `objects` objective is told of a scene is what the scene shows."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from training.data.scenes.objects import ATTRIBUTES, UNKNOWN, object_targets
from training.data.scenes.render import render
from training.data.scenes.sampling import sample_world
from training.data.scenes.vocabulary import COLOURS, FRAMES, HEIGHT, WIDTH
from training.data.scenes.world import Background, Event, Thing, World

WORLDS = [sample_world(5, "train", i) for i in range(60)]
NAMES = list(ATTRIBUTES)


def named(classes: np.ndarray) -> dict[str, object]:
    """One object's class numbers as values by attribute."""
    return {name: ATTRIBUTES[name][c] for name, c in zip(NAMES, classes, strict=True)}


def test_the_colour_of_an_object_is_seen_at_its_place_in_the_middle_of_the_clip() -> None:
    places, classes = object_targets([asdict(w) for w in WORLDS])
    seen = 0
    for world, where, what in zip(WORLDS, places, classes, strict=True):
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


def test_places_without_an_object_are_unknown() -> None:
    _, classes = object_targets([asdict(w) for w in WORLDS])
    assert [int((c[:, 0] != UNKNOWN).sum()) for c in classes] == [len(w.things) for w in WORLDS]
    assert (classes[classes != UNKNOWN] >= 0).all()


def test_what_happens_in_one_half_is_told_of_that_half() -> None:
    first = Event("moves", 0.1, 1.3, 60.0, "right", "fast")
    second = Event("shrinks", 1.7, 2.9, 0.5)
    whole = Event("rotates", 0.1, 2.9, 180.0, "clockwise")
    things = (
        Thing("star", "red", "small", "striped", None, 33, 60.0, 60.0, (first, second)),
        Thing("heart", "blue", "large", "plain", 7, 60, 200.0, 100.0, (whole,)),
        Thing("ring", "white", "large", "plain", None, 60, 260.0, 60.0, ()),
    )
    world = World("trio", things, Background("flat", (120, 120, 120), (120, 120, 120), 12, 0), (0, 1, 2), 0, 0)
    (places,), (classes,) = object_targets([asdict(world)])
    one, other, still = (named(c) for c in classes)
    assert one["motion in the first half"] == "moves"
    assert one["direction in the first half"] == "right"
    assert one["speed"] == "fast"
    assert one["motion in the second half"] == "shrinks"
    assert one["direction in the second half"] is None
    assert [other[f"motion in the {half} half"] for half in ("first", "second")] == ["rotates", "rotates"]
    assert other["direction in the second half"] == "clockwise"
    assert other["digit"] == 7
    assert still["motion in the first half"] == still["motion in the second half"] == "stays"
    assert np.allclose(places[0], [120 / WIDTH, 60 / HEIGHT])  # it has moved, and stays there for the second half
