"""The soundtrack of a scene: instruments and sound effects with their times, and the truth of claims about them.

Instruments are not seen. Sound effects belong to visible events, but some events are silent, some have the effect of
another kind of event, and some effects occur without an event. Sounds of a scene do not overlap, and no two have the
same voice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from training.data.scenes.world import Event, World

INSTRUMENTS = ("bell", "flute", "drum", "organ", "guitar", "trumpet", "buzzer", "xylophone", "beep")
SUSTAINED = ("flute", "organ", "trumpet", "buzzer", "beep")
"""Instruments that can change the pitch of a single note."""
EFFECTS = {"collides": "knock", "appears": "pop", "disappears": "whoosh"}
"""Sound effect by motion."""
VOICES = (*INSTRUMENTS, *EFFECTS.values())
LEVELS = ("quiet", "loud")
HEIGHTS = ("low", "high")
CONTOURS = ("rising", "falling")
MAX_COUNT = 4

KINDS = {"silent": 0.06, "one": 0.06, "two": 0.55, "three": 0.33}
"""Probabilities of a silent soundtrack, and of at most one, two or three instruments."""
_WINDOWS = {
    "one": ((0.1, 2.9),),
    "two": ((0.1, 1.4), (1.6, 2.9)),
    "three": ((0.1, 0.97), (1.05, 1.92), (2.0, 2.9)),
}
"""Start and end (seconds) of the time in which each instrument plays."""
GAP = 0.1  # minimum seconds between two sounds
_EFFECT_SECONDS = {"knock": 0.12, "pop": 0.12, "whoosh": 0.4}
_MARGIN = 0.3  # minimum seconds between a sound and an event before or after it, as frames are 0.5 s apart


@dataclass(frozen=True)
class Sound:
    """A sound of one voice.

    Attributes:
        voice: An instrument or a sound effect.
        start: Seconds.
        end: Seconds.
        count: Number of notes.
        contour: "rising" or "falling" pitch; None: steady.
        level: "quiet" or "loud"; None: medium.
        height: "low" or "high" pitch; None: medium, rising or falling.
        cause: Index of an object and of its event, which makes the sound; None: no event.
        seed: Determines exact pitch and timbre.
    """

    voice: str
    start: float
    end: float
    count: int = 1
    contour: str | None = None
    level: str | None = None
    height: str | None = None
    cause: tuple[int, int] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Soundtrack:
    """Sounds, ordered by start, and the level of a background noise in dB relative to full scale; None: no noise."""

    sounds: tuple[Sound, ...]
    noise: float | None
    seed: int


def moment(event: Event) -> float:
    """Return the time (s) at which an event makes its sound: its start, or the contact of a collision."""
    return (event.start + event.end) / 2 if event.motion == "collides" else event.start


def effect_events(world: World) -> list[tuple[int, int]]:
    """Return the indices (object, event) of the events that can make a sound; a collision counts only once."""
    pairs = [(i, j) for i, t in enumerate(world.things) for j, e in enumerate(t.events) if e.motion in EFFECTS]
    return pairs[:1] if world.kind == "collision" else pairs


def sample_soundtrack(world: World, rng: Random) -> Soundtrack:
    """Return a random soundtrack for a scene."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    noise = rng.uniform(-72, -50) if rng.random() < 0.6 else None
    if kind == "silent":
        return Soundtrack((), None, rng.randrange(2**31))
    sounds = _effects(world, rng)
    windows = _WINDOWS[kind]
    voices = rng.sample(INSTRUMENTS, len(windows))
    if sounds:  # few enough for one sentence
        voices = voices[: max(1, 3 - len(sounds))]
        windows = tuple(sorted(rng.sample(windows, len(voices))))
    for voice, window in zip(voices, windows, strict=True):
        for _ in range(20):
            sound = _notes(voice, window, rng)
            if all(_apart(sound, other) for other in sounds):
                sounds.append(sound)
                break
    return Soundtrack(tuple(sorted(sounds, key=lambda s: s.start)), noise, rng.randrange(2**31))


def _effects(world: World, rng: Random) -> list[Sound]:
    sounds: list[Sound] = []
    pairs = effect_events(world)
    for i, j in pairs:
        event = world.things[i].events[j]
        right = EFFECTS[event.motion]
        voice = rng.choices((right, None, rng.choice([v for v in EFFECTS.values() if v != right])), (0.6, 0.2, 0.2))[0]
        if voice is not None:
            sounds.append(_effect(voice, moment(event), rng, (i, j)))
    if not pairs and rng.random() < 0.2:
        sounds.append(_effect(rng.choice(list(EFFECTS.values())), rng.uniform(0.2, 2.4), rng))
    disjoint = all(_apart(a, b) for a, b in combinations(sounds, 2)) and len({s.voice for s in sounds}) == len(sounds)
    return sounds if disjoint else sounds[:1]


def _effect(voice: str, start: float, rng: Random, cause: tuple[int, int] | None = None) -> Sound:
    start = round(start, 3)
    level = rng.choice((None, None, *LEVELS))
    end = round(start + _EFFECT_SECONDS[voice], 3)
    return Sound(voice, start, end, level=level, cause=cause, seed=rng.randrange(2**31))


def _notes(voice: str, window: tuple[float, float], rng: Random) -> Sound:
    first, last = window
    interval = rng.uniform(0.2, 0.3)
    count = rng.randint(1, min(MAX_COUNT, int((last - first) / interval)))
    length = interval * 0.85 if count > 1 else rng.uniform(0.3, min(0.9, last - first))
    duration = (count - 1) * interval + length
    start = rng.uniform(first, max(first, last - duration))
    may_move = voice in SUSTAINED if count == 1 else voice != "drum"
    contour = rng.choice((None, *CONTOURS)) if may_move else None
    height = None if contour else rng.choice((None, *HEIGHTS))
    level = rng.choice((None, *LEVELS))
    times = round(start, 3), round(start + duration, 3)
    return Sound(voice, *times, count, contour, level, height, seed=rng.randrange(2**31))


def _apart(first: Sound, second: Sound) -> bool:
    return first.end + GAP <= second.start or second.end + GAP <= first.start


@dataclass(frozen=True)
class Claim:
    """A sound as a sentence describes it; None for attributes that it does not name."""

    voice: str
    count: int | None = None
    contour: str | None = None
    level: str | None = None
    height: str | None = None


def claim_of(sound: Sound) -> Claim:
    """Return all attributes of a sound; the count is None for sound effects."""
    count = None if sound.voice in EFFECTS.values() else sound.count
    return Claim(sound.voice, count, sound.contour, sound.level, sound.height)


def matches(claim: Claim, sound: Sound) -> bool:
    """Return whether a claim is true of a sound."""
    names = ("count", "contour", "level", "height")
    pairs = [(getattr(claim, name), getattr(sound, name)) for name in names]
    return claim.voice == sound.voice and all(claimed is None or claimed == actual for claimed, actual in pairs)


def hears(claims: Sequence[Claim], soundtrack: Soundtrack) -> bool:
    """Return whether the claims are true of sounds of the soundtrack, in this order. Further sounds may occur."""
    remaining = iter(soundtrack.sounds)
    return all(any(matches(claim, sound) for sound in remaining) for claim in claims)


def relation(sound: Sound, event: Event) -> str | None:
    """Return "before", "after" or "during": when a sound is heard relative to an event; None if it is ambiguous."""
    if sound.end + _MARGIN <= event.start:
        return "before"
    if event.end + _MARGIN <= sound.start:
        return "after"
    if event.start <= sound.start + _MARGIN and sound.end <= event.end + _MARGIN:
        return "during"
    return None


def is_at_once(sound: Sound, event: Event) -> bool:
    """Return whether a sound starts at the moment of an event."""
    return abs(sound.start - moment(event)) < GAP


def is_silent_at(time: float, soundtrack: Soundtrack) -> bool:
    """Return whether no sound is heard shortly before or after a time (s)."""
    return all(s.end + GAP < time - _MARGIN or time + _MARGIN < s.start for s in soundtrack.sounds)
