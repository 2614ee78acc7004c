"""What a clip contains: objects with attributes and timed events, a background, camera shake."""

from __future__ import annotations

from dataclasses import dataclass

from training.data.scenes.splits import is_held_out


@dataclass(frozen=True)
class Event:
    """Something an object does between ``start`` and ``end`` (seconds).

    ``amount`` is signed pixels for moves, collides and passes (right and down positive), signed degrees for
    rotates (clockwise positive), the final scale for grows and shrinks, else 0. ``direction`` is None where
    the eye could not tell it. ``target`` is the index of the other object of a collision or a pass, and
    ``depth`` ("in front of" or "behind") says on which side of it a passing object goes.
    """

    motion: str
    start: float
    end: float
    amount: float = 0.0
    direction: str | None = None
    speed: str | None = None
    target: int | None = None
    depth: str | None = None


@dataclass(frozen=True)
class Thing:
    """An object: its attributes, diameter and centre at the start (pixels), and its events in order."""

    shape: str
    colour: str
    size: str
    pattern: str
    digit: int | None
    diameter: int
    x: float
    y: float
    events: tuple[Event, ...]

    @property
    def held_out(self) -> bool:
        return is_held_out(self.colour, self.shape, tuple((e.motion, e.direction) for e in self.events))


@dataclass(frozen=True)
class Background:
    """``kind``: flat, gradient, checker, noise or stripes; two muted RGB colours; ``seed`` for noise."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    period: int
    seed: int


@dataclass(frozen=True)
class World:
    """A whole clip. ``drawing_order``: the objects' indices from back to front; ``shake`` is in pixels."""

    kind: str
    things: tuple[Thing, ...]
    background: Background
    drawing_order: tuple[int, ...]
    shake: int
    shake_seed: int

    @property
    def held_out(self) -> bool:
        return any(thing.held_out for thing in self.things)
