"""A bundle as a point: how much it finds on a packed split, and what a clip and a text cost it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from model_export.optimize.speed import clip_call, measure_latency, text_call
from training.data.other_streams import Sight, sight
from training.data.packed import Packed
from training.evaluation.captions import wrong_caption_accuracy
from training.evaluation.embedding import streams_of
from training.evaluation.gallery import embed_gallery
from training.evaluation.retrieval import caption_retrieval
from vitascope.bundle.bundle import Bundle
from vitascope.errors import InvalidInput
from vitascope.model import Model

Say = Callable[[str], None]
SHOWN = 16
"""Clips and texts that latencies are measured on, in turns."""
NOISE = 0.05
"""Share by which two times must differ to be told apart."""
MATCHED = "right caption match"
"""The metric of `vitascope evaluate` by which the match graph is measured."""


class Point(BaseModel):
    """One bundle. Recalls are percent, times milliseconds of one at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: str
    fingerprint: str
    made: str
    """How it came about: `as given`, `student of …`, `variant of …`."""
    precision: str
    megabytes: float
    frames: str
    """How its frames are made of what is packed."""
    t2v_r1: float
    t2v_r10: float
    v2t_r1: float
    right_caption: float | None
    """Percent of minimally wrong captions that the match graph scores below the right one; None: not measured."""
    clip_ms: float
    """Median."""
    clip_ms_p90: float
    text_ms: float
    text_ms_p90: float
    best_per_clip: bool
    """No other bundle finds as much in clearly less time, or more in the same."""
    best_per_text: bool


@dataclass(frozen=True)
class _Opened:
    model: Model
    seen: Sight


def measure(
    bundles: Sequence[Path],
    packed: Packed,
    *,
    threads: int = 1,
    rounds: int = 60,
    matching: bool = False,
    say: Say = lambda _: None,
) -> list[Point]:
    """All bundles on one packed split with captions, fastest clip first. Everything runs on the CPU.

    threads: of one operator. rounds: clips, and texts, by which each is timed. matching: also measure what the match
    graph tells from minimally wrong captions, where the corpus has such; takes minutes.
    Raises InvalidInput for one whose frames cannot be made of what is packed.
    """
    if not all(example.captions for example in packed.examples):
        raise InvalidInput(f"{packed.folder}: examples without captions; one sentence of each was expected")
    opened = {name: _Opened(m, sight(packed, m.streams)) for name, m in _models(bundles, threads).items()}
    found = {name: _found(one, packed, matching, name, say) for name, one in opened.items()}
    say(f"timing {len(opened)} bundles in turns, {rounds} clips and {rounds} texts each")
    clip, text = _times(opened, packed, rounds)
    points: list[dict[str, Any]] = [
        _facts(one.model.bundle, one.seen)
        | {"name": name}
        | found[name]
        | {
            "clip_ms": float(np.median(clip[name])),
            "clip_ms_p90": float(np.percentile(clip[name], 90)),
            "text_ms": float(np.median(text[name])),
            "text_ms_p90": float(np.percentile(text[name], 90)),
        }
        for name, one in opened.items()
    ]
    recalls = [point["t2v_r1"] for point in points]
    best = {key: undominated([point[key] for point in points], recalls) for key in ("clip_ms", "text_ms")}
    made = [
        Point.model_validate(point | {"best_per_clip": clip_best, "best_per_text": text_best})
        for point, clip_best, text_best in zip(points, best["clip_ms"], best["text_ms"], strict=True)
    ]
    return sorted(made, key=lambda point: point.clip_ms)


def undominated(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Of each, whether nothing else gains as much at clearly less cost, or more at no clearly higher cost.

    Costs that differ by less than `NOISE` count as equal: a student's texts go through its teacher's graph.
    """
    return [
        not any(
            (c < cost * (1 - NOISE) and g >= gain) or (c <= cost * (1 + NOISE) and g > gain)
            for c, g in zip(costs, gains, strict=True)
        )
        for cost, gain in zip(costs, gains, strict=True)
    ]


def _models(bundles: Sequence[Path], threads: int) -> dict[str, Model]:
    """By the name of the bundle, or of its folder where several have one name."""
    opened = [Bundle.open(path) for path in bundles]
    names = [bundle.manifest.name for bundle in opened]
    chosen = [n if names.count(n) == 1 else path.resolve().name for n, path in zip(names, bundles, strict=True)]
    if len(set(chosen)) < len(chosen):
        raise InvalidInput(f"bundles: {sorted(chosen)}; different names, or folders of different names, were expected")
    return {name: Model(bundle, threads, "cpu") for name, bundle in zip(chosen, opened, strict=True)}


def _found(one: _Opened, packed: Packed, matching: bool, name: str, say: Say) -> dict[str, float | None]:
    say(f"{name}: embedding {len(packed)} clips of {packed.folder.parent.name}/{packed.folder.name}")
    videos, tokens = embed_gallery(one.model, packed, None, alter=one.seen)
    found = caption_retrieval(one.model, packed, videos, captions=1)
    right = None
    if matching and "matching" in one.model.tasks and any(e.negatives for e in packed.examples):
        say(f"{name}: matching minimally wrong captions")
        right = round(wrong_caption_accuracy(one.model, packed, videos, tokens)[MATCHED], 2)
    recalls = {"t2v_r1": "t2v R@1", "t2v_r10": "t2v R@10", "v2t_r1": "v2t R@1"}
    return {**{key: round(found[metric], 2) for key, metric in recalls.items()}, "right_caption": right}


def _times(
    opened: Mapping[str, _Opened], packed: Packed, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rows = np.linspace(0, len(packed) - 1, min(SHOWN, len(packed))).astype(int)
    texts = [packed.examples[row].captions[0] for row in rows]
    clips = {
        name: [
            one.seen(streams_of(packed, rows[i : i + 1], one.model.streams, np.array([0]))) for i in range(len(rows))
        ]
        for name, one in opened.items()
    }
    by_clip = measure_latency({name: clip_call(one.model, clips[name]) for name, one in opened.items()}, rounds)
    by_text = measure_latency({name: text_call(one.model, texts) for name, one in opened.items()}, rounds)
    return by_clip, by_text


def _facts(bundle: Bundle, seen: Sight) -> dict[str, Any]:
    stated = bundle.manifest
    return {
        "version": stated.version,
        "fingerprint": bundle.fingerprint,
        "made": _made(stated.extra),
        "precision": stated.precision,
        "megabytes": round(sum(entry.bytes for entry in stated.files.values()) / 1e6, 1),
        "frames": seen.words(),
    }


def _made(extra: Mapping[str, Any]) -> str:
    """By what the commands that make bundles of bundles write: `optimize`, `reduce`, `distil`."""
    for key, words in (("variant", "variant of"), ("variant_of", "variant of"), ("distilled_from", "student of")):
        if key in extra:
            return f"{words} {extra[key]['name']}"
    return "as given"
