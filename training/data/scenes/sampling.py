"""Random scenes: objects, their events, and positions at which objects do not touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from training.data.scenes.world import (
    COLOURS,
    DIRECTIONS,
    FADE,
    GROWTH,
    HEIGHT,
    HORIZONTAL_SPEED,
    MOTION_WEIGHTS,
    PATTERNS,
    RANDOM,
    SHAPES,
    SHRINKAGE,
    SIZES,
    TURN_SENSE,
    TURN_SPEED,
    VERTICAL_SPEED,
    WIDTH,
    Background,
    Event,
    Thing,
    World,
    can_turn,
    frame_times,
    is_held_out,
    is_random,
    state_at,
)

WHOLE, FIRST, SECOND = (0.1, 2.9), (0.1, 1.3), (1.7, 2.9)  # start and end of windows for events, in seconds
KINDS = {
    "single": 0.12,
    "sequence": 0.1,
    "together": 0.18,
    "ordered": 0.22,
    "trio": 0.22,
    "collision": 0.08,
    "occlusion": 0.08,
}
REACH = 0.57  # half the extent of the widest shape, relative to its diameter
BORDER = 5  # pixels at each edge of the frame that stay free of objects; more than the camera shake
MUTED = (
    (122, 132, 140),
    (140, 128, 118),
    (120, 136, 122),
    (134, 122, 138),
    (150, 148, 138),
    (112, 118, 128),
    (146, 136, 120),
)
Window = tuple[float, float]


def sample_world(seed: int, split: str, index: int, *, varied: bool = False) -> World:
    """Return the scene of clip `index` of a split. Equal arguments give equal scenes.

    About half of the scenes of the split "test" have a combination that is held out; those of other splits have none.
    With `varied`, half of the objects have a random outline, and two fifths a random colour. A random colour of a
    shape with a name is nearest to a colour that the shape may have.
    """
    rng = Random(f"{'varied scenes' if varied else 'scenes'}/{seed}/{split}/{index}")
    wants_held_out = split == "test" and rng.random() < 0.5
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    while True:
        world = _attempt(rng, kind, varied)
        if world is not None and world.held_out == wants_held_out:
            return world


def _attempt(rng: Random, kind: str, varied: bool) -> World | None:
    number = {"single": 1, "sequence": 1, "trio": 3}.get(kind, 2)
    things = _attributes(rng, number)
    if varied:
        things = [_varied(rng, thing) for thing in things]
    drawing_order = list(range(number))
    if kind == "collision":
        things = _collision(rng, things)
    elif kind == "occlusion":
        things = _occlusion(rng, things)
        if things[0].events[0].depth == "in front of":
            drawing_order.reverse()
    else:
        placed = _place(rng, [replace(t, events=e) for t, e in zip(things, _events(rng, kind, things), strict=True)])
        if placed is None:
            return None
        things = placed
    things = [_with_digit(rng, thing, things) for thing in things]
    shake = rng.choice((1, 2, 3)) if rng.random() < 0.3 else 0
    return World(kind, tuple(things), sample_background(rng), tuple(drawing_order), shake, rng.randrange(2**31))


def _attributes(rng: Random, number: int) -> list[Thing]:
    """Sample objects, any two of which differ in colour or shape, usually in both."""
    things: list[Thing] = []
    while len(things) < number:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        same_colour = [t for t in things if t.colour == colour]
        same_shape = [t for t in things if t.shape == shape]
        if things and rng.random() < 0.2:
            colour = rng.choice(things).colour
        elif things and rng.random() < 0.15:
            shape = rng.choice(things).shape
        elif same_colour or same_shape:
            continue
        if any(t.colour == colour and t.shape == shape for t in things):
            continue
        size = rng.choice(("small", "large", "large"))
        pattern = rng.choices(PATTERNS, (0.46, 0.27, 0.27))[0]
        things.append(Thing(shape, colour, size, pattern, None, rng.randint(*SIZES[size]), 0.0, 0.0, ()))
    return things


def _varied(rng: Random, thing: Thing) -> Thing:
    """Give an object, at random, another outline and another colour, which differs from backgrounds."""
    shape, colour = thing.shape, thing.colour
    if rng.random() < 0.5:
        shape = f"{RANDOM}{rng.randrange(2**31)}"
    if rng.random() < 0.4:
        while True:
            rgb = [rng.randrange(256) for _ in range(3)]
            if max(abs(level - 130) for level in rgb) >= 70 and not is_held_out(_nearest_colour(rgb), shape, ()):
                break
        colour = "#" + "".join(f"{level:02x}" for level in rgb)
    return replace(thing, shape=shape, colour=colour)


def _nearest_colour(rgb: Sequence[int]) -> str:
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], rgb, strict=True)))


def _events(rng: Random, kind: str, things: list[Thing]) -> list[tuple[Event, ...]]:
    if kind == "single":
        return [() if rng.random() < 0.15 else (_event(rng, things[0], WHOLE),)]
    if kind == "sequence":
        return [_sequence(rng, things[0])]
    if kind == "ordered":
        return [(_event(rng, things[0], FIRST),), (_event(rng, things[1], SECOND),)]
    if kind == "together":
        second = () if rng.random() < 0.25 else (_event(rng, things[1], WHOLE),)
        return [(_event(rng, things[0], WHOLE),), second]
    movers = rng.choice(("single", "together", "ordered"))
    if movers == "single":
        return [(_event(rng, things[0], WHOLE),), (), ()]
    first, second_window = (WHOLE, WHOLE) if movers == "together" else (FIRST, SECOND)
    return [(_event(rng, things[0], first),), (_event(rng, things[1], second_window),), ()]


def _sequence(rng: Random, thing: Thing) -> tuple[Event, ...]:
    """Sample two different consecutive events of one object."""
    while True:
        first, second = _event(rng, thing, FIRST), _event(rng, thing, SECOND)
        same = (first.motion, first.direction) == (second.motion, second.direction)
        turns = first.motion == second.motion == "rotates"
        if not same and not turns and first.motion != "disappears" and second.motion != "appears":
            return (first, second)


def _event(rng: Random, thing: Thing, window: Window) -> Event:
    motion = rng.choices(list(MOTION_WEIGHTS), list(MOTION_WEIGHTS.values()))[0]
    if motion == "rotates" and not can_turn(thing.shape):
        motion = "moves"
    if motion == "moves":
        return _move(rng, thing, window)
    start, end = window
    if motion == "rotates":
        sign = rng.choice((1, -1))
        sense = (
            ("clockwise" if sign > 0 else "counterclockwise")
            if thing.shape in TURN_SENSE or is_random(thing.shape)
            else None
        )
        return Event(motion, start, end, sign * TURN_SPEED * (end - start), sense)
    if motion in ("grows", "shrinks"):
        return Event(motion, start, end, GROWTH[thing.size] if motion == "grows" else SHRINKAGE)
    moment = round((start + end) / 2 + rng.uniform(-0.3, 0.3), 3)
    return Event(motion, moment, moment + FADE)


def _move(rng: Random, thing: Thing, window: Window) -> Event:
    direction = rng.choice(DIRECTIONS)
    speed = rng.choice((None, "slow", "fast"))
    across = direction in ("left", "right")
    rate = (HORIZONTAL_SPEED if across else VERTICAL_SPEED)[speed]
    room = (WIDTH if across else HEIGHT) - 2 * BORDER - 2 * REACH * thing.diameter
    distance = min(rate * (window[1] - window[0]), room * rng.uniform(0.85, 0.98))
    duration = distance / rate
    start = round(window[0] + (window[1] - window[0] - duration) / 2, 3)
    sign = 1 if direction in ("right", "down") else -1
    return Event("moves", start, round(start + duration, 3), round(sign * distance, 2), direction, speed)


def _place(rng: Random, things: list[Thing]) -> list[Thing] | None:
    """Place the objects so that none touches another or the edge in any frame; None if no attempt succeeds."""
    for _ in range(40):
        placed: list[Thing] = []
        paths: list[list[tuple[float, float, float]]] = []
        for thing in things:
            moved = replace(thing, x=float(rng.randint(20, WIDTH - 20)), y=float(rng.randint(20, HEIGHT - 20)))
            path = [(s.x, s.y, REACH * thing.diameter * s.scale) for s in (state_at(moved, t) for t in frame_times())]
            if not _inside(path) or any(_touch(path, second) for second in paths):
                break
            placed.append(moved)
            paths.append(path)
        if len(placed) == len(things):
            return placed
    return None


def _inside(path: list[tuple[float, float, float]]) -> bool:
    return all(r + BORDER <= x <= WIDTH - r - BORDER and r + BORDER <= y <= HEIGHT - r - BORDER for x, y, r in path)


def _touch(first: list[tuple[float, float, float]], second: list[tuple[float, float, float]]) -> bool:
    return any(
        (a - x) ** 2 + (b - y) ** 2 < (r + s + 3) ** 2 for (a, b, r), (x, y, s) in zip(first, second, strict=True)
    )


def _collision(rng: Random, things: list[Thing]) -> list[Thing]:
    """Return two objects that approach from the left and the right, touch and go back, with their events."""
    left, right = things if rng.random() < 0.5 else things[::-1]
    meeting, row = rng.randint(140, 180), rng.randint(45, 135)
    travel = rng.randint(55, 85)
    start, end = 0.2, 2.8
    moved = {}
    for thing, sign in ((left, 1), (right, -1)):
        x = meeting - sign * (0.47 * thing.diameter + travel)
        target = 1 - things.index(thing)
        event = Event("collides", start, end, float(sign * travel), "right" if sign > 0 else "left", None, target)
        moved[things.index(thing)] = replace(thing, x=float(x), y=float(row), events=(event,))
    return [moved[0], moved[1]]


def _occlusion(rng: Random, things: list[Thing]) -> list[Thing]:
    """Return both objects: the first passes in front of or behind the second, which stays still."""
    mover, still = things
    row, column = rng.randint(50, 130), rng.randint(145, 175)
    sign = rng.choice((1, -1))
    distance = rng.randint(170, 200)
    depth = rng.choice(("in front of", "behind"))
    event = Event("passes", 0.1, 2.9, float(sign * distance), "right" if sign > 0 else "left", None, 1, depth)
    mover = replace(mover, x=column - sign * distance / 2, y=float(row + rng.randint(-8, 8)), events=(event,))
    return [mover, replace(still, x=float(column), y=float(row))]


def _with_digit(rng: Random, thing: Thing, things: list[Thing]) -> Thing:
    """Add a random digit to some large objects, only if it is visible in the middle of the clip."""
    if thing.size != "large" or rng.random() < 0.35:
        return thing
    if any(event.motion in ("shrinks", "appears", "disappears") for event in thing.events):
        return thing
    depths = [event.depth for second in things for event in second.events if event.depth]
    hidden = bool(depths) and (depths[0] == "behind") == bool(thing.events)
    return thing if hidden else replace(thing, digit=rng.randrange(10))


def sample_background(rng: Random) -> Background:
    """Sample a background with two similar, muted colours."""
    first = rng.choice(MUTED)
    shift = rng.choice((-1, 1)) * rng.randint(7, 14)
    kind = rng.choice(("flat", "gradient", "checker", "noise", "stripes"))
    if kind == "gradient":
        shift *= 2
    second = (first[0] + shift, first[1] + shift, first[2] + shift)
    return Background(kind, first, second, rng.randint(12, 40), rng.randrange(2**31))
