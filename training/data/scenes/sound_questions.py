"""Questions about scenes with sound; each is marked as needing sight, sound or both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

from training.data.scenes.description import with_article
from training.data.scenes.questions import unique_name
from training.data.scenes.sound_captions import UNITS
from training.data.scenes.sounds import (
    EFFECTS,
    INSTRUMENTS,
    SUSTAINED,
    VOICES,
    Sound,
    Soundtrack,
    is_at_once,
    is_silent_at,
    moment,
    relation,
)
from training.data.scenes.world import Event, World

LIMITS = {"sight": 4, "sound": 5, "both": 3}
"""Maximum number of questions about a scene, by what they need."""
YES_KEPT = 0.25
"""Probability of a question "is it heard while ...?" with the answer "yes". It is below 1, since sounds during an event
are more frequent than sounds before or after it."""
Questions = list[tuple[str, str, str]]
"""(question, answer, kind)"""


def questions_of(
    world: World, soundtrack: Soundtrack, sight: Sequence[dict[str, Any]], rng: Random
) -> list[dict[str, Any]]:
    """Return questions {"question", "answers", "kind", "needs"} about a scene.

    Args:
        world: The scene.
        soundtrack: Its soundtrack.
        sight: Questions {"question", "answers", "kind"} about the picture only.
        rng: Source of randomness.
    """
    chosen = [question | {"needs": "sight"} for question in sight[: LIMITS["sight"]]]
    pools = {"sound": sound_questions(soundtrack, rng), "both": joint_questions(world, soundtrack, rng)}
    for needs, pool in pools.items():
        rng.shuffle(pool)
        kinds: list[str] = []
        for question, answer, kind in pool:
            if len(kinds) < LIMITS[needs] and kinds.count(kind) < 2:
                kinds.append(kind)
                chosen.append({"question": question, "answers": [answer], "kind": kind, "needs": needs})
    return chosen


def sound_questions(soundtrack: Soundtrack, rng: Random) -> Questions:
    """Return questions about the sounds."""
    sounds = soundtrack.sounds
    voices = [sound.voice for sound in sounds]
    how_many = rng.choice(("how many different sounds are heard?", "how many kinds of sound are there?"))
    questions: Questions = [(how_many, str(len(sounds)), "count")]
    if not sounds or rng.random() < 0.06:
        any_sound = rng.choice(("is any sound heard?", "can anything be heard?"))
        questions.append((any_sound, "yes" if sounds else "no", "yesno"))
    voice = rng.choice(voices if sounds and rng.random() < 0.5 else VOICES)
    questions.append((f"is {with_article(voice)} heard?", "yes" if voice in voices else "no", "yesno"))
    for sound in sounds:
        questions += _questions_about(sound, rng)
    instruments = [voice for voice in voices if voice in INSTRUMENTS]
    if len(instruments) == 1:
        which = rng.choice(("which instrument is heard?", "what instrument is playing?"))
        questions.append((which, instruments[0], "voice"))
    if len(sounds) > 1:
        last = rng.choice(("which sound comes last?", "what is heard at the end?"))
        before, after = rng.choice(list(pairwise(voices)))
        questions += [("which sound comes first?", voices[0], "voice"), (last, voices[-1], "voice")]
        questions.append((f"what is heard after the {before}?", after, "voice"))
    return questions


def _questions_about(sound: Sound, rng: Random) -> Questions:
    questions: Questions = []
    if sound.voice in INSTRUMENTS:
        form = rng.choice(("how many {} are heard?", "how many {} can you hear?", "how many {} are there?"))
        questions.append((form.format(UNITS[sound.voice][0][1]), str(sound.count), "notes"))
    if sound.voice in SUSTAINED or (sound.count > 1 and sound.voice != "drum"):
        way = {"rising": "rises", "falling": "falls", None: "stays"}[sound.contour]
        questions.append((f"does the pitch of the {sound.voice} rise, fall or stay the same?", way, "contour"))
    if sound.level:
        questions.append((f"is the {sound.voice} loud or quiet?", sound.level, "level"))
    if sound.height:
        questions.append((f"is the {sound.voice} high or low?", sound.height, "height"))
    return questions


def joint_questions(world: World, soundtrack: Soundtrack, rng: Random) -> Questions:
    """Return questions whose answers need sight and sound."""
    questions: Questions = []
    pairs = [(thing, event) for thing in world.things for event in thing.events]
    for thing, event in pairs:
        name = unique_name(world, thing, rng)
        if name is None or len(thing.events) > 1:
            continue
        seen = f"{name} {'moves' if event.target is not None else event.motion}"
        effect = _effect_at(event, soundtrack)
        if effect and event.motion in EFFECTS and event.target is None:
            with_sound = "no" if effect == "nothing" else "yes"
            questions.append((f"what is heard when {seen}?", effect, "effect"))
            questions.append((f"does {name} {event.motion.removesuffix('s')} with a sound?", with_sound, "effect"))
        for sound in soundtrack.sounds:
            questions += _questions_about_order(sound, event, seen, rng)
    for sound in soundtrack.sounds:
        links = [(thing, relation(sound, event)) for thing, event in pairs]
        acting = [thing for thing, link in links if link == "during"]
        if len(acting) == 1 and all(link for _, link in links) and len(world.things) > 1:
            verb = rng.choice(("while", "when"))
            questions.append((f"which shape acts {verb} the {sound.voice} is heard?", acting[0].shape, "order"))
            questions.append((f"what color acts {verb} the {sound.voice} is heard?", acting[0].colour, "order"))
    if world.kind == "collision" and (effect := _effect_at(world.things[0].events[0], soundtrack)):
        what = rng.choice(("what is heard when they collide?", "what sound does the collision make?"))
        questions.append((what, effect, "effect"))
    return questions


def _effect_at(event: Event, soundtrack: Soundtrack) -> str | None:
    """Return the voice that is heard at the moment of an event, or "nothing"; None if another sound is close to it."""
    at_once = [sound.voice for sound in soundtrack.sounds if is_at_once(sound, event)]
    if at_once:
        return at_once[0]
    return "nothing" if is_silent_at(moment(event), soundtrack) else None


def _questions_about_order(sound: Sound, event: Event, seen: str, rng: Random) -> Questions:
    link = relation(sound, event)
    if link is None:
        return []
    during = link == "during"
    questions: Questions = []
    if not during:
        questions.append((f"is the {sound.voice} heard before or after {seen}?", link, "order"))
    if not during or rng.random() < YES_KEPT:
        questions.append((f"is the {sound.voice} heard while {seen}?", "yes" if during else "no", "order"))
    if sound.voice in INSTRUMENTS:
        count = str(sound.count) if during else "0"
        questions.append((f"how many {UNITS[sound.voice][0][1]} are heard while {seen}?", count, "notes"))
    return questions
