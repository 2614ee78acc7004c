"""Captions and negative captions of scenes with sound; each is marked as needing sight, sound or both.

As in `description`, each word is chosen by its slot and a style number. A caption and its negatives have the same
style, so that they differ only in content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from training.data.scenes.captions import CHANGES, mentions_held_out
from training.data.scenes.description import (
    NUMBERS,
    Clause,
    Description,
    Mention,
    choose,
    holds,
    noun_phrase,
    verb_phrase,
    with_article,
)
from training.data.scenes.description import matches as names_thing
from training.data.scenes.sounds import (
    CONTOURS,
    EFFECTS,
    HEIGHTS,
    INSTRUMENTS,
    LEVELS,
    MAX_COUNT,
    SUSTAINED,
    Claim,
    Sound,
    Soundtrack,
    claim_of,
    hears,
    is_at_once,
    is_silent_at,
    matches,
    moment,
    relation,
)
from training.data.scenes.world import Event, Thing, World

NEGATIVES = 4
"""Maximum number of negatives of a caption about sound, and of grade 1 negatives of all captions about sight."""
LIMITS = (NEGATIVES, NEGATIVES // 2)
"""Maximum number of negatives of the first and of the second caption that needs sound; the same for captions that need
sight and sound."""

UNITS: dict[str, tuple[tuple[str, str], ...]] = {
    "bell": (("bell note", "bell notes"), ("chime of a bell", "chimes of a bell")),
    "flute": (("flute note", "flute notes"), ("note of a flute", "notes of a flute")),
    "drum": (("drum beat", "drum beats"), ("beat of a drum", "beats of a drum")),
    "organ": (("organ note", "organ notes"), ("note of an organ", "notes of an organ")),
    "guitar": (("guitar note", "guitar notes"), ("note of a guitar", "notes of a guitar")),
    "trumpet": (("trumpet note", "trumpet notes"), ("note of a trumpet", "notes of a trumpet")),
    "buzzer": (("buzzer tone", "buzzer tones"), ("buzz of a buzzer", "buzzes of a buzzer")),
    "xylophone": (("xylophone note", "xylophone notes"), ("note of a xylophone", "notes of a xylophone")),
    "beep": (("beep", "beeps"), ("beep", "beeps")),
    "knock": (("knock", "knocks"), ("knocking sound", "knocking sounds")),
    "pop": (("pop", "pops"), ("popping sound", "popping sounds")),
    "whoosh": (("whoosh", "whooshes"), ("whooshing sound", "whooshing sounds")),
}
"""Names of one sound of each voice, singular and plural: two synonyms."""
ADJECTIVES = {
    "loud": ("loud", "loud", "noisy"),
    "quiet": ("quiet", "quiet", "soft", "faint"),
    "high": ("high", "high", "high-pitched"),
    "low": ("low", "low", "deep"),
}
RISING = {"rising": ("rising", "going up", "getting higher"), "falling": ("falling", "going down", "getting lower")}
PHRASES = ("{}", "{}", "you hear {}", "the sound of {}", "a recording of {}", "we can hear {}")
SEQUENCES = {
    1: ("{0}",),
    2: ("{0}, then {1}", "first {0}, then {1}", "{0}, followed by {1}", "{1} after {0}", "{0} before {1}"),
    3: ("{0}, then {1}, then {2}", "first {0}, then {1} and finally {2}", "{0}, followed by {1} and {2}"),
}
LINKS = {
    "before": ("{h} before {s}", "before {s}, you hear {n}", "{h}, and then {s}", "{s} after {n}"),
    "after": ("{h} after {s}", "after {s}, you hear {n}", "{s}, and then {h}", "{s} before {n}"),
    "during": ("{h} while {s}", "while {s}, you hear {n}", "as {s}, {h}", "{s} to the sound of {n}"),
    "with": ("{s} with {n}", "{s}, which makes {n}", "{n} is heard as {s}"),
    "without": ("{s} without a sound", "{s} silently", "no sound is heard as {s}"),
    "nothing": ("{n} is heard, but nothing {v}", "nothing {v}, but you hear {n}"),
    "": ("{s}, and {h}", "{s}; you hear {n}", "{h} in a video in which {s}"),
}
"""Sentence templates by link. {s}: clause about what is seen, {n}: noun phrase of the sound, {h}: clause about what is
heard ("you hear a beep"), {v}: the motion that does not occur."""
HEARD = ("you hear {}", "you hear {}", "we hear {}", "there is the sound of {}")


def sound_phrase(claim: Claim, style: int) -> str:
    """Return a phrase such as "three loud bell notes going up".

    A style determines the form and one synonym per value, so that swapped sounds keep their wording.
    """
    many = claim.count is not None and claim.count > 1
    unit = UNITS[claim.voice][int(choose("001", style, "unit"))][many]
    words = [choose(ADJECTIVES[v], style, name) for name in ("level", "height") if (v := getattr(claim, name))]
    if claim.contour:
        index = int(choose("012", style, "contour"))
        word = RISING[claim.contour][index]
        phrase = " ".join([*words, unit, word] if index else [*words, word, unit])
    else:
        phrase = " ".join([*words, unit])
    if many:
        return f"{NUMBERS[claim.count or 0]} {phrase}"
    if claim.count == 1 and choose(("yes", "no", "no"), style, "single") == "yes":
        return f"a single {phrase}"
    return with_article(phrase)


def sequence_phrase(claims: Sequence[Claim], style: int) -> str:
    """Return a phrase that lists the claims in order, such as "first a beep, then two drum beats"."""
    phrases = [sound_phrase(claim, style) for claim in claims]
    return choose(SEQUENCES[len(claims)], style, "sequence").format(*phrases)


def sound_caption(claims: Sequence[Claim], style: int) -> str:
    """Return a sentence that lists sounds in order."""
    return _written(choose(PHRASES, style, "phrase").format(sequence_phrase(claims, style)), style)


def _written(text: str, style: int) -> str:
    """Capitalize the text and add a full stop, in a third of the styles."""
    return text[0].upper() + text[1:] + "." if choose(("yes", "no", "no"), style, "written") == "yes" else text


@dataclass(frozen=True)
class Joint:
    """Content of a sentence about sight and sound.

    Attributes:
        seen: One clause, and its mentions.
        heard: The sound that is linked to the clause; None if `link` is "without".
        link: "before", "after" or "during": when the sound is heard. "with": the event makes the sound. "without": the
            event is silent. "nothing": the sound is heard, but not the motion that makes it seen. "": not linked.
        others: Further sounds.
    """

    seen: Description
    heard: Claim | None
    link: str
    others: tuple[Claim, ...] = ()


def joint_caption(joint: Joint, style: int) -> str:
    """Return the sentence of a joint description."""
    clause = joint.seen.clauses[0]
    subject = noun_phrase(joint.seen.mentions[clause.subject], style, "name")
    seen = f"{subject} {verb_phrase(clause, joint.seen, style, 'verb')}"
    heard = sound_phrase(joint.heard, style) if joint.heard else ""
    motion = {effect: motion for motion, effect in EFFECTS.items()}.get(joint.heard.voice if joint.heard else "", "")
    full = choose(HEARD, style, "heard").format(heard)
    text = choose(LINKS[joint.link], style, f"link {joint.link}").format(s=seen, n=heard, h=full, v=motion)
    if joint.others:
        others = " and ".join(sound_phrase(claim, style) for claim in joint.others)
        text += choose(("; you also hear {}", ", with {} as well", ", and besides {}"), style, "others").format(others)
    return _written(text, style)


def is_true(joint: Joint, world: World, soundtrack: Soundtrack) -> bool:
    """Return whether a joint description holds for some event and sound of a scene."""
    if not all(any(matches(claim, sound) for sound in soundtrack.sounds) for claim in joint.others):
        return False
    heard = [s for s in soundtrack.sounds if joint.heard and matches(joint.heard, s)]
    if joint.link == "nothing":
        motions = {e.motion for t in world.things for e in t.events}
        return any({v: m for m, v in EFFECTS.items()}.get(s.voice) not in motions for s in heard)
    if joint.link == "":
        return bool(heard) and holds(joint.seen, world)
    return any(
        is_silent_at(moment(event), soundtrack)
        if joint.link == "without"
        else any(_linked(joint.link, sound, event) for sound in heard)
        for event in _events_of(joint.seen, world)
    )


def _linked(link: str, sound: Sound, event: Event) -> bool:
    return is_at_once(sound, event) if link == "with" else relation(sound, event) == link


def _events_of(seen: Description, world: World) -> Iterator[Event]:
    """Yield the events for which the only clause of a description is true."""
    clause = seen.clauses[0]
    for thing in world.things:
        if not names_thing(seen.mentions[clause.subject], thing):
            continue
        for event in thing.events:
            other = None if event.target is None else world.things[event.target]
            if clause.target is not None and (other is None or not names_thing(seen.mentions[clause.target], other)):
                continue
            claimed = ((clause.motion, event.motion), (clause.direction, event.direction), (clause.depth, event.depth))
            if all(claim is None or claim == fact for claim, fact in claimed):
                yield event


def sound_captions(soundtrack: Soundtrack, rng: Random) -> list[tuple[tuple[Claim, ...], int, str]]:
    """Return two captions (claims, style, text) of a scene that is not silent.

    The first states everything about all sounds. The second omits some levels and heights, and sometimes a sound.
    """
    everything = tuple(claim_of(sound) for sound in soundtrack.sounds)
    part = tuple(
        replace(c, level=c.level if rng.random() < 0.4 else None, height=c.height if rng.random() < 0.4 else None)
        for c in everything
    )
    if len(part) > 1 and rng.random() < 0.5:
        dropped = rng.randrange(len(part))
        part = tuple(c for i, c in enumerate(part) if i != dropped)
    return [(claims, style := rng.randrange(2**31), sound_caption(claims, style)) for claims in (everything, part)]


def joint_captions(world: World, soundtrack: Soundtrack, rng: Random) -> list[tuple[Joint, int, str]]:
    """Return two captions (content, style, text) of a scene that is not silent. Both need sight and sound."""
    captions = []
    for joint in (_main_joint(world, soundtrack, rng), _brief_joint(world, soundtrack, rng)):
        style = rng.randrange(2**31)
        captions.append((joint, style, joint_caption(joint, style)))
    return captions


def _main_joint(world: World, soundtrack: Soundtrack, rng: Random) -> Joint:
    """Link a random event to a sound, and name another sound if there is one."""
    seen, event = _seen(world, rng, ("both",) if len(soundtrack.sounds) == 1 else ("both", "colour", "shape"))
    sounds = list(soundtrack.sounds)
    rng.shuffle(sounds)
    linked = [s for s in sounds if event and relation(s, event)]
    first = linked[0] if linked else sounds[0]
    link = relation(first, event) if linked and event else None
    others = [s for s in sounds if s is not first][:1]
    heard, *more = (replace(claim_of(s), level=None, height=None) for s in (first, *others))
    return Joint(seen, heard, link or "", tuple(more))


def _brief_joint(world: World, soundtrack: Soundtrack, rng: Random) -> Joint:
    """Describe the sound that an event makes, a silent event, or a sound without its event; else link an event to a
    sound."""
    motions = {e.motion for t in world.things for e in t.events}
    options = []
    for i, thing in enumerate(world.things):
        for event in thing.events:
            seen = _described(world, i, event, rng, ("both", "colour", "shape"))
            at_once = [s for s in soundtrack.sounds if is_at_once(s, event) and s.cause]
            if at_once:
                options.append(Joint(seen, Claim(at_once[0].voice), "with"))
            elif event.motion in EFFECTS and is_silent_at(moment(event), soundtrack):
                options.append(Joint(seen, None, "without"))
    for sound in soundtrack.sounds:
        motion = {v: m for m, v in EFFECTS.items()}.get(sound.voice)
        if motion and motion not in motions:
            options.append(Joint(_seen(world, rng, ("both",))[0], Claim(sound.voice), "nothing"))
    if options:
        return rng.choice(options)
    seen, linked = _seen(world, rng, ("both", "colour", "shape"))
    sound = rng.choice(soundtrack.sounds)
    link = relation(sound, linked) if linked else None
    claim = Claim(sound.voice, claim_of(sound).count if rng.random() < 0.6 else None)
    return Joint(seen, claim, link or "")


def _seen(world: World, rng: Random, names: Sequence[str]) -> tuple[Description, Event | None]:
    """Describe a random event, or an object that stays if the scene has no events."""
    pairs = [(i, e) for i, t in enumerate(world.things) for e in t.events]
    if not pairs:
        return Description((_mention(world.things[0], rng, names),), (Clause(0, "stays"),)), None
    i, event = rng.choice(pairs)
    return _described(world, i, event, rng, names), event


def _described(world: World, index: int, event: Event, rng: Random, names: Sequence[str]) -> Description:
    mentions = [_mention(world.things[index], rng, names)]
    target = None
    if event.target is not None:
        mentions.append(_mention(world.things[event.target], rng, names))
        target = 1
    return Description(tuple(mentions), (Clause(0, event.motion, event.direction, None, target, event.depth),))


def _mention(thing: Thing, rng: Random, names: Sequence[str]) -> Mention:
    name = rng.choice(names)
    return Mention(thing.colour if name != "shape" else None, thing.shape if name != "colour" else None)


def _other(rng: Random, values: Sequence[Any], value: Any) -> Any:
    return rng.choice([v for v in values if v != value])


def _change_voice(rng: Random, claim: Claim) -> Claim:
    """Replace an instrument by another that can play the same notes, or an effect by another effect."""
    if claim.voice in EFFECTS.values():
        return replace(claim, voice=_other(rng, tuple(EFFECTS.values()), claim.voice))
    glides = claim.contour is not None and claim.count in (1, None)
    voices = SUSTAINED if glides else [v for v in INSTRUMENTS if v != "drum" or claim.contour is None]
    return replace(claim, voice=_other(rng, voices, claim.voice))


def _change_count(rng: Random, claim: Claim) -> Claim | None:
    if claim.count is None:
        return None
    lowest = 2 if claim.contour and claim.voice not in SUSTAINED else 1
    return replace(claim, count=_other(rng, range(lowest, MAX_COUNT + 1), claim.count))


def _change(name: str, values: Sequence[str]) -> Callable[[Random, Claim], Claim | None]:
    def change(rng: Random, claim: Claim) -> Claim | None:
        value = getattr(claim, name)
        return replace(claim, **{name: _other(rng, values, value)}) if value else None

    return change


CLAIM_CHANGES: dict[str, Callable[[Random, Claim], Claim | None]] = {
    "voice": _change_voice,
    "notes": _change_count,
    "contour": _change("contour", CONTOURS),
    "level": _change("level", LEVELS),
    "height": _change("height", HEIGHTS),
}


def sound_negatives(
    soundtrack: Soundtrack, claims: tuple[Claim, ...], style: int, of: int, rng: Random
) -> list[dict[str, Any]]:
    """Return captions with one change that makes them wrong about the sounds.

    Args:
        soundtrack: Soundtrack of the scene.
        claims: Content of the right caption.
        style: Style of the right caption.
        of: Index of the right caption in the scene's list of captions.
        rng: Source of randomness.

    Returns:
        At most `NEGATIVES` dictionaries {"caption", "of", "grade", "kind"}; `kind` is the kind of the change.
    """
    negatives: dict[str, str] = {}
    for kind in rng.sample([*CLAIM_CHANGES, "voice", "sequence"], len(CLAIM_CHANGES) + 2):
        changed = list(claims)
        if kind == "sequence":
            rng.shuffle(changed)
        else:
            index = rng.randrange(len(claims))
            claim = CLAIM_CHANGES[kind](rng, claims[index])
            if claim is None or claim.voice in [c.voice for i, c in enumerate(claims) if i != index]:
                continue
            changed[index] = claim
        if not hears(changed, soundtrack) and len(negatives) < NEGATIVES:
            negatives.setdefault(sound_caption(changed, style), kind)
    return [{"caption": text, "of": of, "grade": 1, "kind": kind} for text, kind in negatives.items()]


def joint_negatives(
    world: World, soundtrack: Soundtrack, joint: Joint, style: int, of: int, held_out: bool, rng: Random
) -> list[dict[str, Any]]:
    """Return captions with one change that makes them wrong: of what is seen, of what is heard, or of their link.

    Args:
        world: The scene.
        soundtrack: Soundtrack of the scene.
        joint: Content of the right caption.
        style: Style of the right caption.
        of: Index of the right caption in the scene's list of captions.
        held_out: Whether combinations that are held out for the test split are allowed.
        rng: Source of randomness.

    Returns:
        At most `NEGATIVES` dictionaries {"caption", "of", "grade", "kind"}; `kind` is the kind of the change.
    """
    negatives: dict[str, str] = {}
    kinds = ["link", *CLAIM_CHANGES, "colour", "shape", "motion", "direction"]
    if joint.link == "nothing":
        kinds = ["voice"]
    for kind in rng.sample(kinds, len(kinds)):
        changed = _changed_joint(joint, kind, rng)
        if changed is None or is_true(changed, world, soundtrack) or len(negatives) == NEGATIVES:
            continue
        if held_out or not mentions_held_out(changed.seen):
            negatives.setdefault(joint_caption(changed, style), kind)
    return [{"caption": text, "of": of, "grade": 1, "kind": kind} for text, kind in negatives.items()]


def _changed_joint(joint: Joint, kind: str, rng: Random) -> Joint | None:
    if kind == "link":
        if joint.link in ("before", "after", "during"):
            return replace(joint, link=_other(rng, ("before", "after", "during"), joint.link))
        return replace(joint, link="without", heard=None) if joint.link == "with" else None
    if kind in CLAIM_CHANGES:
        claim = CLAIM_CHANGES[kind](rng, joint.heard) if joint.heard else None
        return None if claim is None or claim.voice in [c.voice for c in joint.others] else replace(joint, heard=claim)
    seen = CHANGES[kind](rng, joint.seen)
    if seen is None or (joint.link in ("with", "without") and seen.clauses[0].motion == "stays"):
        return None
    return replace(joint, seen=replace(seen, relation=None))


def texts_of(
    world: World, soundtrack: Soundtrack, record: dict[str, Any], held_out: bool, rng: Random
) -> dict[str, Any]:
    """Return the captions of a scene, what each needs ("sight", "sound" or "both"), and negatives.

    The first caption needs sight, the second sound and the third both. All captions of a silent scene need only sight.

    Args:
        world: The scene.
        soundtrack: Its soundtrack.
        record: {"captions", "negatives"} about the picture only.
        held_out: Whether negatives may contain combinations that are held out for the test split.
        rng: Source of randomness.

    Returns:
        {"captions", "caption_needs", "negatives"}.
    """
    seen = list(record["captions"])
    if not soundtrack.sounds:
        return {"captions": seen, "caption_needs": ["sight"] * len(seen), "negatives": record["negatives"]}
    heard, both = sound_captions(soundtrack, rng), joint_captions(world, soundtrack, rng)
    places = {0: 0, 1: 3, 2: 4}  # new index of each caption about sight that has negatives
    of_sight = [negative | {"of": places[negative["of"]]} for negative in record["negatives"]]
    negatives = [n for n in of_sight if n["grade"] == 1][:NEGATIVES] + [n for n in of_sight if n["grade"] > 1]
    for of, limit, (claims, style, _) in zip((1, 5), LIMITS, heard, strict=True):
        negatives += sound_negatives(soundtrack, claims, style, of, rng)[:limit]
    for of, limit, (joint, style, _) in zip((2, 6), LIMITS, both, strict=True):
        negatives += joint_negatives(world, soundtrack, joint, style, of, held_out, rng)[:limit]
    return {
        "captions": [seen[0], heard[0][2], both[0][2], seen[1], seen[2], heard[1][2], both[1][2]],
        "caption_needs": ["sight", "sound", "both", "sight", "sight", "sound", "both"],
        "negatives": negatives,
    }
