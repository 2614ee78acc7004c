"""Weak transcripts, as found with videos: partial, shifted in time, and often about something else."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from training.data.scenes.description import Clause, Description, Mention, describe
from training.data.scenes.vocabulary import DURATION
from training.data.scenes.wording import noun_phrase, phrase, verb_phrase
from training.data.scenes.world import World

OFF_TOPIC = (
    "don't forget to subscribe to the channel",
    "it has been raining here all week",
    "so yeah, thanks for joining me again",
    "let me know in the comments what you think",
    "my neighbor bought a new car yesterday",
    "okay, is the microphone on",
    "we will get back to that in a minute",
    "I had pasta for lunch and it was great",
    "this video is brought to you by nobody",
    "as I said in the last episode",
    "um, let's see, where were we",
    "music playing",
)
OPENINGS = ("", "", "so ", "and now ", "look, ", "okay, ", "you can see that ", "as you see ", "um, ")


def transcript_of(world: World, rng: Random) -> list[dict[str, Any]]:
    """One to four sentences {"start", "end" (seconds, within the clip), "text"}, ordered by their starts."""
    sentences = [_about(world, rng) for _ in range(rng.choice((1, 1, 2)))]
    sentences += [(rng.uniform(0, DURATION - 0.5), text) for text in rng.sample(OFF_TOPIC, rng.choice((0, 1, 1, 2)))]
    segments = []
    for time, text in sentences:
        start = min(max(0.0, time + rng.uniform(-1.0, 1.0)), DURATION - 0.5)
        end = min(DURATION, start + rng.uniform(0.5, 2.0))
        segments.append({"start": round(start, 2), "end": round(end, 2), "text": text})
    return sorted(segments, key=lambda segment: float(str(segment["start"])))


def _about(world: World, rng: Random) -> tuple[float, str]:
    """When it happens (seconds) and a sentence about a part of it."""
    everything = describe(world)
    clause = rng.choice(everything.clauses)
    events = world.things[clause.subject].events
    time = events[0].start if events else 0.5
    style = rng.randrange(2**31)
    mention = everything.mentions[clause.subject]
    mention = rng.choice(
        (
            Mention(mention.colour, mention.shape),
            Mention(mention.colour),
            Mention(None, mention.shape),
            mention,
        )
    )
    opening = rng.choice(OPENINGS)
    if rng.random() < 0.25:
        return time, f"{opening}there is {noun_phrase(mention, style, 'name')}"
    mentions = list(everything.mentions)
    mentions[clause.subject] = mention
    partial: Clause = replace(clause, speed=None)
    description = Description(tuple(mentions), (partial,))
    if rng.random() < 0.3 and clause.target is None:
        return time, f"{opening}it {verb_phrase(partial, description, style, 'deed')}"
    return time, opening + phrase(description, style).rstrip(".").lower()
