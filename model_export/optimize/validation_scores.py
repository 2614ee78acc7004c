"""What a model finds, judges and answers on validation splits, as percentages whose differences are points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.answers import whole_answer
from training.data.example import Question
from training.data.packed import Packed
from training.evaluation.embedding import embed_texts, match_logits
from training.evaluation.gallery import Gallery
from training.evaluation.metrics import pairwise_accuracy, retrieval
from training.evaluation.retrieval import queries_of
from training.evaluation.target import Subject
from vitascope.model import Model

PAIRS = 250
"""Examples of a corpus whose captions are judged, and questions that are asked, at most; spread evenly."""

Shares = dict[str, float]
"""Percent right, by "corpus what"."""
Pairs = Sequence[tuple[int, str, str]]
"""(example, its caption, the likest caption of another example)."""


@dataclass(frozen=True)
class Seen:
    """A corpus through one video graph: vectors as texts meet them, visual tokens (N, V, W) float16."""

    gallery: Gallery
    tokens: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """A validation split, and what is asked of it."""

    name: str
    packed: Packed
    captions: list[str]
    owners: np.ndarray
    """The example that each caption is of."""

    @classmethod
    def of(cls, name: str, packed: Packed) -> Corpus:
        own = [queries_of(example) for example in packed.examples]
        return cls(name, packed, [c for some in own for c in some], np.repeat(np.arange(len(own)), [*map(len, own)]))


def seen(model: Model, corpus: Corpus) -> Seen:
    """All videos of a corpus. Raises InvalidInput where the model sees other frames than are packed."""
    subject = Subject(model, corpus.packed.folder.parent.parent, corpus.packed.folder.name)
    return Seen(*subject.embed(corpus.packed))


def read(model: Model, corpus: Corpus) -> np.ndarray:
    """Vectors (captions, D) of all captions of a corpus."""
    return embed_texts(model, corpus.captions)


def retrieved(corpus: Corpus, videos: Seen, texts: np.ndarray) -> Shares:
    """Recall@1 in both directions: every caption among all videos, every video with captions among all captions."""
    if len(corpus.captions) < 2:
        return {}
    scores = videos.gallery.scores(texts)
    own = [np.flatnonzero(corpus.owners == i) for i in range(len(corpus.packed.examples))]
    told = [i for i, columns in enumerate(own) if len(columns)]
    return {
        f"{corpus.name} t2v R@1": retrieval(scores, [np.array([i]) for i in corpus.owners])["R@1"],
        f"{corpus.name} v2t R@1": retrieval(scores.T[told], [own[i] for i in told])["R@1"],
    }


def hard_captions(corpus: Corpus, videos: Seen, texts: np.ndarray) -> Pairs:
    """What match graphs must tell apart."""
    scores = videos.gallery.scores(texts)
    first = {int(owner): place for place, owner in reversed(list(enumerate(corpus.owners)))}
    chosen = sorted(first)[:: max(1, len(first) // PAIRS)][:PAIRS]
    pairs = []
    for example in chosen:
        right = corpus.captions[first[example]]
        foreign = [i for i, text in enumerate(corpus.captions) if corpus.owners[i] != example and text != right]
        if foreign:
            wrong = foreign[int(np.argmax(scores[foreign, example]))]
            pairs.append((example, right, corpus.captions[wrong]))
    return pairs


def judged(model: Model, corpus: Corpus, videos: Seen, pairs: Pairs) -> Shares:
    """How often the right caption has the higher match logit."""
    if not pairs:
        return {}
    rows = [example for example, _, _ in pairs] * 2
    texts = [right for _, right, _ in pairs] + [wrong for _, _, wrong in pairs]
    logits = match_logits(model, texts, videos.tokens, rows)
    return {f"{corpus.name} right caption": pairwise_accuracy(logits[: len(pairs)], logits[len(pairs) :])}


def asked(corpus: Corpus) -> list[tuple[int, Question]]:
    """(example, question) of the questions that are asked."""
    every = [(row, question) for row, e in enumerate(corpus.packed.examples) for question in e.questions]
    return every[:: max(1, len(every) // PAIRS)][:PAIRS]


def answered(model: Model, corpus: Corpus, videos: Seen) -> Shares:
    """How often the best answer is the right one."""
    questions = asked(corpus)
    if not questions:
        return {}
    tokens = videos.tokens[[row for row, _ in questions]].astype(np.float32)
    best = model.answer([question.question for _, question in questions], tokens, top=1)
    right = [answer.text == whole_answer(question) for (_, question), (answer,) in zip(questions, best, strict=True)]
    return {f"{corpus.name} exact": float(100 * np.mean(right))}


def lost(reference: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The most points that any of `shares` is below its reference; below 0 where all are better."""
    return max((reference[name] - value for name, value in shares.items()), default=0.0)
