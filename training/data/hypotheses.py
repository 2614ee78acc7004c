"""Sentences for the objective `entailment`: stored ones, or ones made from synthetic scenes and photographs
(`training.data.caption_hypotheses`).

For scenes, the class follows from the colours and shapes of objects and the voices of sounds that a sentence names:
- entailed: the captions of the scene.
- contradicted: its captions with one change that makes them false, if they still name something in the scene.
- neutral: captions of other scenes that name nothing in the scene. Captions that count objects are excluded, because
  a number is always right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from training.data.caption_hypotheses import caption_hypotheses, is_photograph
from training.data.example import EntailmentKind, EntailmentLabel, Example, Hypothesis
from training.data.scenes.parsing import COLOUR, SHAPE, counts_objects
from training.data.scenes.sounds import VOICES
from vitascope.entailment import LABELS

CLASSES: Mapping[EntailmentKind, tuple[EntailmentLabel, ...]] = {"video": LABELS, "pair": ("true", "false")}
"""Classes by kind, in the order of the logits."""
NEUTRAL = 8
"""Maximum number of neutral sentences of a scene."""
_DRAWS = 400
"""Number of captions of other scenes that are tried as neutral sentences."""
_VALUES = COLOUR | SHAPE | {voice: voice for voice in VOICES}
_NAMED = re.compile(rf"\b({'|'.join(sorted(map(re.escape, _VALUES), key=len, reverse=True))})")


def hypotheses_of(examples: Sequence[Example]) -> list[tuple[Hypothesis, ...]]:
    """Return the sentences of each example of a split; empty unless `has_hypotheses`. The result is deterministic."""
    if not any(example.hypotheses for example in examples):
        if _are_scenes(examples):
            return [_of_scene(example, examples) for example in examples]
        if _are_photographs(examples):
            return [caption_hypotheses(example, examples) for example in examples]
    return [example.hypotheses for example in examples]


def has_hypotheses(examples: Sequence[Example]) -> bool:
    """Return whether examples have stored sentences, or all of them are scenes, or all of them are photographs."""
    return any(example.hypotheses for example in examples) or _are_scenes(examples) or _are_photographs(examples)


def _are_scenes(examples: Sequence[Example]) -> bool:
    return all("scene" in example.attributes for example in examples)


def _are_photographs(examples: Sequence[Example]) -> bool:
    return all(is_photograph(example) for example in examples)


def class_of(hypothesis: Hypothesis) -> int:
    """Return the index of a sentence's class in the order of the logits."""
    return next(labels.index(hypothesis.label) for labels in CLASSES.values() if hypothesis.label in labels)


def sample_hypotheses(hypotheses: Sequence[Hypothesis], count: int, rng: Random) -> list[Hypothesis]:
    """Sample `count` sentences, equally many of each class that exists; they repeat only if a class has too few."""
    by_label: dict[EntailmentLabel, list[Hypothesis]] = {}
    for hypothesis in rng.sample(hypotheses, len(hypotheses)):
        by_label.setdefault(hypothesis.label, []).append(hypothesis)
    classes = rng.sample(list(by_label.values()), len(by_label))
    turns = (divmod(i, len(classes)) for i in range(count))
    return [classes[label][turn % len(classes[label])] for turn, label in turns]


def _of_scene(example: Example, others: Sequence[Example]) -> tuple[Hypothesis, ...]:
    contents = _contents(example)
    out = [Hypothesis(caption, "entailed") for caption in example.captions]
    for negative in example.negatives:
        if negative.grade == 1 and contents & _named(negative.caption):
            out.append(Hypothesis(negative.caption, "contradicted"))
    rng, neutral = Random(example.key), set[str]()
    for _ in range(_DRAWS):
        caption = rng.choice(rng.choice(others).captions)
        named = _named(caption)
        if named and not contents & named and not counts_objects(caption):
            neutral.add(caption)
        if len(neutral) == NEUTRAL:
            break
    return (*out, *(Hypothesis(caption, "neutral") for caption in sorted(neutral)))


def _contents(example: Example) -> set[str]:
    """Return the colours, shapes and voices of a scene."""
    scene, sound = example.attributes["scene"], example.attributes.get("sound")
    values = {thing[name] for thing in scene["things"] for name in ("colour", "shape")}
    return values | {s["voice"] for s in (sound or {}).get("sounds", ())}


@cache
def _named(text: str) -> frozenset[str]:
    """Return the colours, shapes and voices that a sentence about a scene names."""
    return frozenset(_VALUES[word] for word in _NAMED.findall(text.lower()))
