"""Comparison of a variant's outputs with those of its source bundle, for the variant's parity report.

Shape letters: N clips, T captions, P pairs, Q questions, D embedding dim, V visual tokens, K their width, A answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_export.assemble import markdown_table
from model_export.optimize.validation_scores import (
    Corpus,
    EmbeddedVideos,
    hard_caption_pairs,
    pair_logits,
    sampled_questions,
)
from training.evaluation.sound import EmbeddedSounds
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import AUDIO_TOKENS
from vitascope.bundle.manifest import GraphName
from vitascope.bundle.parity_report import OutputComparison, VariantComparison
from vitascope.model import Model
from vitascope.scoring import row_cosines

NEAR_TIE = 1e-5
"""Cosine difference below which the order of two candidates depends on rounding, so that both orders are accepted."""
CHUNK_SIZE = 64
"""Number of clips whose visual tokens are compared at once."""


def read_report(bundle: Bundle) -> Any:
    """Return the bundle's parity report; None if it is empty or not JSON."""
    try:
        return json.loads((bundle.folder / bundle.manifest.parity_report).read_text("utf-8")) or None
    except ValueError:
        return None


@dataclass(frozen=True)
class BundleOutputs:
    """A validation split encoded by one bundle.

    Attributes:
        model: Model of the bundle.
        videos: None for a split that has only sounds.
        texts: (T, D); None for a split without captions.
        sounds: None for a split or a model without sound.
    """

    model: Model
    videos: EmbeddedVideos | None
    texts: np.ndarray | None
    sounds: EmbeddedSounds | None = None


def compare_outputs(corpus: Corpus, source: BundleOutputs, variant: BundleOutputs) -> list[OutputComparison]:
    """Compare, on one validation split, every output that both bundles have."""
    tasks = set(source.model.tasks)
    comparisons: list[OutputComparison] = []
    if source.videos is not None and variant.videos is not None:
        comparisons += _compare_embeddings(corpus, source, variant, source.videos, variant.videos)
        if source.videos.tokens.size and tasks & {"matching", "answering"}:
            tokens = source.videos.tokens, variant.videos.tokens
            comparisons.append(_compare_tokens("video", "visual_tokens", corpus, *tokens))
        if "matching" in tasks and source.texts is not None:
            comparisons += _compare_matches(corpus, source, variant, source.texts)
        if "answering" in tasks:
            comparisons += _compare_answers(corpus, source, variant)
    if source.sounds is not None and variant.sounds is not None:
        comparisons += _compare_sounds(corpus, source, variant, source.sounds, variant.sounds)
    return comparisons


def _compare_embeddings(
    corpus: Corpus, source: BundleOutputs, variant: BundleOutputs, old: EmbeddedVideos, new: EmbeddedVideos
) -> list[OutputComparison]:
    same_caption = same_clip = None
    texts: list[OutputComparison] = []
    if source.texts is not None and variant.texts is not None:
        scores = old.gallery.scores(source.texts), new.gallery.scores(variant.texts)
        same_caption, same_clip = _same_nearest(scores[0].T, scores[1].T), _same_nearest(*scores)
        texts = [_compare_rows("text", "vector", corpus, source.texts, variant.texts, same_clip)]
    clips = old.gallery.vectors, new.gallery.vectors
    return [_compare_rows("video", "vector", corpus, *clips, same_caption), *texts]


def _compare_sounds(
    corpus: Corpus, source: BundleOutputs, variant: BundleOutputs, old: EmbeddedSounds, new: EmbeddedSounds
) -> list[OutputComparison]:
    """Compare audio embeddings of a split; text embeddings too if the split has no videos."""
    has_sound = old.vectors.any(axis=1)
    if not has_sound.any():
        return []
    vectors, same_caption = (old.vectors[has_sound], new.vectors[has_sound]), None
    comparisons: list[OutputComparison] = []
    if source.texts is not None and variant.texts is not None:
        scores = source.texts @ vectors[0].T, variant.texts @ vectors[1].T
        same_caption = _same_nearest(scores[0].T, scores[1].T)
        if source.videos is None:
            same_sound = _same_nearest(*scores)
            comparisons.append(_compare_rows("text", "vector", corpus, source.texts, variant.texts, same_sound))
    comparisons.append(_compare_rows("audio", "vector", corpus, *vectors, same_caption))
    if old.tokens is not None and new.tokens is not None:
        comparisons.append(_compare_tokens("audio", AUDIO_TOKENS, corpus, old.tokens[has_sound], new.tokens[has_sound]))
    return comparisons


def _same_nearest(old: np.ndarray, new: np.ndarray) -> float:
    """Return the percentage of queries whose nearest candidate is the same. old, new: (queries, candidates)."""
    selected = np.take_along_axis(old, new.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float(100 * (selected >= old.max(axis=1) - NEAR_TIE).mean())


def _compare_tokens(
    graph: GraphName, output: str, corpus: Corpus, old: np.ndarray, new: np.ndarray
) -> OutputComparison:
    chunks = [slice(start, start + CHUNK_SIZE) for start in range(0, len(old), CHUNK_SIZE)]
    cosines = np.concatenate([row_cosines(old[chunk], new[chunk]) for chunk in chunks])
    difference = float(np.max([_max_difference(old[chunk], new[chunk]) for chunk in chunks]))
    return _comparison(graph, output, corpus, cosines, difference, None)


def _compare_matches(
    corpus: Corpus, source: BundleOutputs, variant: BundleOutputs, texts: np.ndarray
) -> list[OutputComparison]:
    assert source.videos is not None
    pairs = hard_caption_pairs(corpus, source.videos, texts)
    if not pairs:
        return []
    old, new = (pair_logits(side.model, _videos(side), pairs, _audio_tokens(side)) for side in (source, variant))
    same = float(100 * ((old[0] > old[1]) == (new[0] > new[1])).mean())
    difference = _max_difference(np.concatenate(old), np.concatenate(new))
    return [_comparison("match", "match_logit", corpus, None, difference, same, rows=2 * len(pairs))]


def _compare_answers(corpus: Corpus, source: BundleOutputs, variant: BundleOutputs) -> list[OutputComparison]:
    questions = sampled_questions(corpus)
    if not questions or not source.model.bundle.answers:
        return []
    rows, texts = [row for row, _ in questions], [question.question for _, question in questions]

    def logits(side: BundleOutputs) -> np.ndarray:
        tokens, audio = _videos(side).tokens[rows].astype(np.float32), _audio_tokens(side)
        audio = None if audio is None else audio[rows].astype(np.float32)
        return side.model.answer_logits(texts, tokens, side.model.bundle.answers, audio)

    old, new = logits(source), logits(variant)
    same = float(100 * (old.argmax(1) == new.argmax(1)).mean())
    return [_compare_rows("answer", "answer_logits", corpus, old, new, same)]


def _videos(side: BundleOutputs) -> EmbeddedVideos:
    assert side.videos is not None
    return side.videos


def _audio_tokens(side: BundleOutputs) -> np.ndarray | None:
    """Return audio tokens (N, T, A); None without any."""
    return None if side.sounds is None else side.sounds.tokens


def _compare_rows(
    graph: GraphName, output: str, corpus: Corpus, old: np.ndarray, new: np.ndarray, agreement: float | None
) -> OutputComparison:
    return _comparison(graph, output, corpus, row_cosines(old, new), _max_difference(old, new), agreement)


def _comparison(
    graph: GraphName,
    output: str,
    corpus: Corpus,
    cosines: np.ndarray | None,
    difference: float,
    agreement: float | None,
    rows: int = 0,
) -> OutputComparison:
    return OutputComparison(
        graph=graph,
        output=output,
        corpus=corpus.name,
        rows=rows if cosines is None else len(cosines),
        cosine=None if cosines is None else round(float(cosines.mean()), 6),
        least_cosine=None if cosines is None else round(float(cosines.min()), 6),
        max_difference=float(f"{difference:.4g}"),
        agreement=None if agreement is None else round(agreement, 3),
    )


def _max_difference(old: np.ndarray, new: np.ndarray) -> float:
    return float(np.abs(old.astype(np.float32) - new.astype(np.float32)).max())


def comparison_section(comparison: VariantComparison, scores: Sequence[str]) -> list[str]:
    """Return the model card's section on fidelity, as Markdown lines.

    Args:
        comparison: Comparison with the source bundle.
        scores: Sentences about the variant's probabilities and reranking.
    """
    lines = [
        "## Fidelity and calibration",
        "",
        f"Made from {comparison.of.label()} (fingerprint {comparison.of.fingerprint[:12]}). The difference of that",
        "bundle from the trained model is in its own report, kept in parity.json under `beside.report`. The difference",
        "of this bundle from that one:",
        "",
    ]
    if comparison.outputs:
        header = ["graph", "output", "split", "rows", "mean cosine", "min cosine", "max difference", "same result, %"]
        lines += [
            *markdown_table(header, map(_table_row, comparison.outputs)),
            "",
            "Each bundle runs all of its own graphs. Same result: the nearest caption of a clip, the nearest clip of a",
            "caption, the preferred caption of a right and a hard wrong one, the best answer.",
        ]
    else:
        lines += ["Nothing was measured: no validation clips were available."]
    if comparison.unchanged:
        lines += ["", f"Graphs taken from that bundle unchanged: {', '.join(comparison.unchanged)}."]
    return [*lines, "", *(f"{sentence}." for sentence in scores)]


def _table_row(check: OutputComparison) -> list[str]:
    numbers = [_format(check.cosine, ".5f"), _format(check.least_cosine, ".4f"), f"{check.max_difference:.2g}"]
    return [
        check.graph,
        check.output,
        f"{check.corpus}/val",
        f"{check.rows}",
        *numbers,
        _format(check.agreement, ".1f"),
    ]


def _format(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
