"""What is measured of any packed corpus: it follows from what its examples hold.

Captions: retrieval, both directions, all captions of the split (of MSR-VTT 1k-A one per video). Wrong captions: the
right one against each of them, and chosen among all of them (MSRVTT-MC). Questions: exact answers.
"""

from __future__ import annotations

from training.data.packed import Packed
from training.evaluation.retrieval import caption_retrieval, queries_of
from training.evaluation.target import Numbers, Subject
from training.evaluation.wrong_captions import against_wrong_captions


def not_measured(subject: Subject, packed: Packed) -> str | None:
    """Why there is nothing to measure; None where there is."""
    if any(e.captions for e in packed.examples):
        return None
    if not any(e.questions for e in packed.examples):
        return f"neither captions nor questions in {packed.folder}"
    return None if subject.answers else f"questions alone in {packed.folder}, and the model does not answer"


def measure(subject: Subject, packed: Packed) -> Numbers:
    """All numbers of a corpus of which `not_measured` gives no reason."""
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
