"""Metrics of any packed corpus, by the contents of its examples.

Captions: retrieval in both directions, with all captions of the split (one per video for MSR-VTT 1k-A). Negative
captions: pairwise accuracy and multiple choice (MSRVTT-MC). Questions: exact match.
"""

from __future__ import annotations

from training.data.packed import Packed
from training.evaluation.retrieval import caption_retrieval, queries_of
from training.evaluation.target import Numbers, Subject
from training.evaluation.wrong_captions import against_wrong_captions


def not_measured(subject: Subject, packed: Packed) -> str | None:
    """Return why a corpus has nothing to measure, or None."""
    if any(e.captions for e in packed.examples):
        return None
    if not any(e.questions for e in packed.examples):
        return f"neither captions nor questions in {packed.folder}"
    return None if subject.answers else f"questions alone in {packed.folder}, and the model does not answer"


def measure(subject: Subject, packed: Packed) -> Numbers:
    """Return all metrics of a corpus for which `not_measured` is None."""
    videos, tokens = subject.embed(packed)
    out: Numbers = {"videos": float(len(packed))} | subject.seen(packed)
    captions = sum(len(queries_of(e)) for e in packed.examples)
    if captions:
        out |= {"captions": float(captions)} | caption_retrieval(subject.encoder, packed, videos)
    if any(e.negatives for e in packed.examples):
        out |= against_wrong_captions(subject.encoder, packed, videos, tokens)
    if any(e.questions for e in packed.examples):
        out |= subject.answered(packed, tokens)
    return out
