"""Accuracy of bundles on a packed split, and their latency per clip and per text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_export.optimize.speed import clip_call, measure_latency, text_call
from training.data.other_streams import StreamAdapter, stream_adapter
from training.data.packed import Packed
from training.evaluation.captions import wrong_caption_accuracy
from training.evaluation.encoder import streams_of
from training.evaluation.retrieval import caption_retrieval, embed_gallery
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.parts import StrictModel
from vitascope.errors import InvalidInput
from vitascope.model import Model

LATENCY_SAMPLES = 16
"""Clips and texts that latency is measured on."""
TOLERANCE = 0.05
"""Relative difference below which two latencies count as equal."""
MATCH_METRIC = "right caption match"
"""Metric of `vitascope evaluate` for the match graph."""


class Point(StrictModel):
    """One bundle. Recalls in percent, latencies in milliseconds."""

    name: str
    version: str
    fingerprint: str
    made: str
    """`as given`, `student of …` or `variant of …`."""
    precision: str
    megabytes: float
    frames: str
    """Derivation of its frames from the packed ones."""
    t2v_r1: float
    t2v_r10: float
    v2t_r1: float
    right_caption: float | None
    """Percent of minimally wrong captions scored below the right one by the match graph; None: not measured."""
    clip_ms: float
    """Median."""
    clip_ms_p90: float
    text_ms: float
    text_ms_p90: float
    best_per_clip: bool
    """Whether no other bundle has the same accuracy in clearly less time, or a higher one in the same."""
    best_per_text: bool


@dataclass(frozen=True)
class _OpenBundle:
    model: Model
    adapter: StreamAdapter


def measure(
    bundles: Sequence[Path],
    packed: Packed,
    *,
    threads: int = 1,
    rounds: int = 60,
    matching: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """Measure bundles on one packed split with captions, on the CPU.

    Args:
        bundles: Bundle folders.
        packed: The split.
        threads: Number of threads of an operator; 0: one per core.
        rounds: Number of timed clips and texts.
        matching: Whether to measure the match graph on negative captions with one change, if the corpus has any. Takes
            minutes.
        log: Receives progress messages.

    Returns:
        The measurements, ordered by latency per clip.

    Raises:
        InvalidInput: A bundle's frames cannot be derived from the packed frames, captions are missing, or bundles have
            equal names.
    """
    if not all(example.captions for example in packed.examples):
        raise InvalidInput(f"{packed.folder}: examples without captions; one of each was expected")
    opened = {name: _OpenBundle(m, stream_adapter(packed, m.streams)) for name, m in _models(bundles, threads).items()}
    accuracy = {name: _accuracy(bundle, packed, matching, name, log) for name, bundle in opened.items()}
    log(f"timing {len(opened)} bundles in turns, {rounds} clips and {rounds} texts each")
    clip, text = _latencies(opened, packed, rounds)
    points: list[dict[str, Any]] = [
        _facts(bundle.model.bundle, bundle.adapter)
        | {"name": name}
        | accuracy[name]
        | {
            "clip_ms": float(np.median(clip[name])),
            "clip_ms_p90": float(np.percentile(clip[name], 90)),
            "text_ms": float(np.median(text[name])),
            "text_ms_p90": float(np.percentile(text[name], 90)),
        }
        for name, bundle in opened.items()
    ]
    recalls = [point["t2v_r1"] for point in points]
    best = {key: pareto_optimal([point[key] for point in points], recalls) for key in ("clip_ms", "text_ms")}
    measured = [
        Point.model_validate(point | {"best_per_clip": clip_best, "best_per_text": text_best})
        for point, clip_best, text_best in zip(points, best["clip_ms"], best["text_ms"], strict=True)
    ]
    return sorted(measured, key=lambda point: point.clip_ms)


def pareto_optimal(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Return for each item whether it is Pareto-optimal.

    That is: no other item has the same gain at a clearly lower cost, or a higher gain at a cost that is not clearly
    higher. Costs that differ by less than `TOLERANCE`, such as those of the same text graph, count as equal.
    """
    return [
        not any(
            (c < cost * (1 - TOLERANCE) and g >= gain) or (c <= cost * (1 + TOLERANCE) and g > gain)
            for c, g in zip(costs, gains, strict=True)
        )
        for cost, gain in zip(costs, gains, strict=True)
    ]


def _models(bundles: Sequence[Path], threads: int) -> dict[str, Model]:
    """Open models by bundle name, or by folder name if several bundles have the same name."""
    opened = [Bundle.open(path) for path in bundles]
    names = [bundle.manifest.name for bundle in opened]
    unique = [n if names.count(n) == 1 else path.resolve().name for n, path in zip(names, bundles, strict=True)]
    if len(set(unique)) < len(unique):
        raise InvalidInput(f"bundles: {sorted(unique)}; different names, or folders of different names, were expected")
    return {name: Model(bundle, threads, "cpu") for name, bundle in zip(unique, opened, strict=True)}


def _accuracy(
    bundle: _OpenBundle, packed: Packed, matching: bool, name: str, log: Callable[[str], None]
) -> dict[str, float | None]:
    log(f"{name}: embedding {len(packed)} clips of {packed.folder.parent.name}/{packed.folder.name}")
    videos, tokens = embed_gallery(bundle.model, packed, None, alter=bundle.adapter)
    metrics = caption_retrieval(bundle.model, packed, videos, captions=1)
    right = None
    if matching and "matching" in bundle.model.tasks and any(e.negatives for e in packed.examples):
        log(f"{name}: matching minimally wrong captions")
        right = round(wrong_caption_accuracy(bundle.model, packed, videos, tokens)[MATCH_METRIC], 2)
    recalls = {"t2v_r1": "t2v R@1", "t2v_r10": "t2v R@10", "v2t_r1": "v2t R@1"}
    return {**{key: round(metrics[metric], 2) for key, metric in recalls.items()}, "right_caption": right}


def _latencies(
    opened: Mapping[str, _OpenBundle], packed: Packed, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rows = np.linspace(0, len(packed) - 1, min(LATENCY_SAMPLES, len(packed))).astype(int)
    texts = [packed.examples[row].captions[0] for row in rows]
    clips = {
        name: [
            bundle.adapter(streams_of(packed, rows[i : i + 1], bundle.model.streams, np.array([0])))
            for i in range(len(rows))
        ]
        for name, bundle in opened.items()
    }
    by_clip = measure_latency({name: clip_call(bundle.model, clips[name]) for name, bundle in opened.items()}, rounds)
    by_text = measure_latency({name: text_call(bundle.model, texts) for name, bundle in opened.items()}, rounds)
    return by_clip, by_text


def _facts(bundle: Bundle, adapter: StreamAdapter) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "version": manifest.version,
        "fingerprint": bundle.fingerprint,
        "made": _describe_origin(manifest.extra),
        "precision": manifest.precision,
        "megabytes": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 1),
        "frames": adapter.words(),
    }


def _describe_origin(extra: Mapping[str, Any]) -> str:
    """Return how `optimize`, `reduce` or `distil` made a bundle, from the manifest's `extra`."""
    for key, label in (("variant", "variant of"), ("variant_of", "variant of"), ("distilled_from", "student of")):
        if key in extra:
            return f"{label} {extra[key]['name']}"
    return "as given"
