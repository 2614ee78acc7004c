"""What is known of every object of a scene, as class numbers, and where it is in the middle of the clip.

The targets of the `objects` objective. Shape letters: N scenes, K objects at most, A attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.scenes.motion import state_at
from training.data.scenes.vocabulary import (
    COLOURS,
    DIRECTIONS,
    DURATION,
    HEIGHT,
    MOTION_WEIGHTS,
    PATTERNS,
    SHAPES,
    SIZES,
    SPEEDS,
    TURNS,
    WIDTH,
)
from training.data.scenes.world import Event, Thing

MOST = 3
"""Objects of a scene, at most."""
UNKNOWN = -100
"""In place of a class: no such object."""

_MOTIONS = ("stays", *MOTION_WEIGHTS, "collides", "passes")
_WAYS = (None, *DIRECTIONS, *TURNS)
ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "pattern": PATTERNS,
    "digit": (None, *range(10)),
    "motion in the first half": _MOTIONS,
    "direction in the first half": _WAYS,
    "motion in the second half": _MOTIONS,
    "direction in the second half": _WAYS,
    "speed": (None, *SPEEDS),
    "depth": (None, "in front of", "behind"),
}
"""Name of each attribute and its values, in the order of their class numbers."""

WEIGHTS = tuple(3.0 if name == "digit" else 1.0 for name in ATTRIBUTES)
"""How much each attribute counts in the objective. Digits are the smallest thing to be seen and are learned last."""


def object_targets(scenes: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Places (N, K, 2), x and y as shares of width and height, and classes (N, K, A), `UNKNOWN` where there is none.

    scenes: the attribute `scene` of each example, a `World` as a dictionary.
    """
    places = np.zeros((len(scenes), MOST, 2), dtype=np.float32)
    classes = np.full((len(scenes), MOST, len(ATTRIBUTES)), UNKNOWN, dtype=np.int64)
    for n, scene in enumerate(scenes):
        for k, record in enumerate(scene["things"]):
            thing = Thing(**{**record, "events": tuple(Event(**event) for event in record["events"])})
            state = state_at(thing, DURATION / 2)
            places[n, k] = state.x / WIDTH, state.y / HEIGHT
            classes[n, k] = [values.index(v) for values, v in zip(ATTRIBUTES.values(), _values(thing), strict=True)]
    return places, classes


def _values(thing: Thing) -> tuple[Any, ...]:
    first, second = (_event_in(thing, half) for half in (0, 1))
    described = [e for e in thing.events if e.speed or e.depth]
    return (
        thing.shape,
        thing.colour,
        thing.size,
        thing.pattern,
        thing.digit,
        first.motion if first else "stays",
        first.direction if first else None,
        second.motion if second else "stays",
        second.direction if second else None,
        described[0].speed if described else None,
        described[0].depth if described else None,
    )


def _event_in(thing: Thing, half: int) -> Event | None:
    """What the object does in the first (0) or second (1) half; what lies around the middle belongs to both."""
    for event in thing.events:
        centre = (event.start + event.end) / DURATION
        if abs(centre - 1.0) < 0.27 or (centre > 1.0) == bool(half):
            return event
    return None
