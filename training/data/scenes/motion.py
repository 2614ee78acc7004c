"""Where an object is, how large, how turned and how visible at a time."""

from __future__ import annotations

from typing import NamedTuple

from training.data.scenes.vocabulary import FPS, FRAMES
from training.data.scenes.world import Event, Thing

FADE = 0.17  # seconds an object takes to appear or disappear: two frames


class State(NamedTuple):
    """Centre (pixels), scale (1 at the start), angle (degrees, clockwise) and opacity (0 to 1)."""

    x: float
    y: float
    scale: float
    angle: float
    opacity: float


def progress(event: Event, time: float) -> float:
    """How much of the event is over at ``time`` (seconds), from 0 to 1."""
    return min(1.0, max(0.0, (time - event.start) / (event.end - event.start)))


def state_at(thing: Thing, time: float) -> State:
    """The state of the object at ``time`` (seconds)."""
    x, y, scale, angle, opacity = thing.x, thing.y, 1.0, 0.0, 1.0
    for event in thing.events:
        done = progress(event, time)
        if event.motion == "moves" and event.direction in ("up", "down"):
            y += event.amount * done
        elif event.motion in ("moves", "passes"):
            x += event.amount * done
        elif event.motion == "collides":  # there, and back the same way
            x += event.amount * (1.0 - abs(2.0 * done - 1.0))
        elif event.motion == "rotates":
            angle += event.amount * done
        elif event.motion in ("grows", "shrinks"):
            scale *= 1.0 + (event.amount - 1.0) * done
        elif event.motion == "appears":
            opacity *= done
        elif event.motion == "disappears":
            opacity *= 1.0 - done
    return State(x, y, scale, angle, opacity)


def frame_times() -> list[float]:
    """The time of each frame in seconds."""
    return [frame / FPS for frame in range(FRAMES)]
