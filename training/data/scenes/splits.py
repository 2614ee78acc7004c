"""The compositional split: pairs that are seen in the test split only.

About 12% of the (colour, shape) pairs and of the (shape, motion) pairs are held out: one pair of each kind
for every shape, each of another colour or motion, so each word is still seen in training with nearly
everything else. A train or val clip holds none of these pairs, nor does any of its wrong captions or
questions (else "a purple square" would always be wrong there).
About half of the test clips hold at least one.

Colliding and passing are motions of their own and are never held out.
"""

from __future__ import annotations

from typing import Any

SPLITS = ("train", "val", "test")

HELD_OUT_COLOUR_SHAPE = frozenset(
    {
        ("red", "diamond"),
        ("green", "star"),
        ("blue", "heart"),
        ("yellow", "ring"),
        ("purple", "square"),
        ("orange", "circle"),
        ("white", "triangle"),
        ("black", "cross"),
    }
)
HELD_OUT_SHAPE_MOTION = frozenset(
    {
        ("circle", "moves up"),
        ("square", "moves left"),
        ("triangle", "grows"),
        ("star", "moves down"),
        ("cross", "moves right"),
        ("diamond", "shrinks"),
        ("ring", "disappears"),
        ("heart", "rotates"),
    }
)


def motion_key(motion: str, direction: str | None) -> str:
    """The motion as the split names it: "moves left" with its direction, every other motion by itself."""
    return f"moves {direction}" if motion == "moves" and direction else motion


def is_held_out(colour: str | None, shape: str | None, motions: tuple[tuple[str, str | None], ...]) -> bool:
    """Whether an object of this colour and shape doing these (motion, direction) pairs is for test only."""
    if (colour, shape) in HELD_OUT_COLOUR_SHAPE:
        return True
    return any((shape, motion_key(motion, direction)) in HELD_OUT_SHAPE_MOTION for motion, direction in motions)


def as_json() -> dict[str, Any]:
    """The split as written to ``split.json``."""
    return {
        "held_out_colour_shape": sorted(list(pair) for pair in HELD_OUT_COLOUR_SHAPE),
        "held_out_shape_motion": sorted(list(pair) for pair in HELD_OUT_SHAPE_MOTION),
        "rule": "train and val hold none of these pairs; about half of the test clips hold at least one",
    }
