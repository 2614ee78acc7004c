"""Accuracy of a model on validation splits, in percent, and the maximum loss of a variant (budget).

Shape letters: N clips, T captions, D embedding dim, V visual tokens, K their width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.example import Example, Needs, Question, canonical_answer
from training.data.packed import Packed
from training.evaluation.encoder import embed_texts, match_logits
from training.evaluation.metrics import pairwise_accuracy, retrieval
from training.evaluation.protocols import EvalTarget
from training.evaluation.retrieval import Gallery, queries_of, spread
from training.evaluation.sound import EmbeddedSounds
from vitascope.errors import InvalidInput
from vitascope.model import Model

SAMPLE_SIZE = 250
"""Maximum caption pairs, and questions, per corpus; spread evenly over its examples."""

Scores = dict[str, float]
"""Percent correct by "CORPUS METRIC"."""
CaptionPairs = Sequence[tuple[int, str, str]]
"""(example, its caption, the most similar caption of another example)."""


@dataclass(frozen=True)
class Budget:
    """Maximum accuracy loss in points: of Recall@1 in either direction, caption choice and answers, on any corpus."""

    recall: float

    def allows(self, points: float) -> bool:
        return points <= self.recall + 1e-9


def parse_budget(text: str) -> Budget:
    """Parse `recall=POINTS`. Raises InvalidInput."""
    key, _, value = text.partition("=")
    try:
        points = float(value)
    except ValueError:
        points = math.nan
    if key != "recall" or not 0.0 <= points <= 100.0:
        raise InvalidInput(f"budget: {text!r}; recall=POINTS was expected, such as recall=0.5")
    return Budget(points)


@dataclass(frozen=True)
class EmbeddedVideos:
    """A corpus encoded by one video graph: a gallery of embeddings, and visual tokens (N, V, K) float16."""

    gallery: Gallery
    tokens: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """A validation split with its captions (T) and the example (T,) that each belongs to."""

    name: str
    packed: Packed
    captions: list[str]
    owners: np.ndarray

    @classmethod
    def from_packed(cls, name: str, packed: Packed) -> Corpus:
        captions = [queries_of(example) for example in packed.examples]
        owners = np.repeat(np.arange(len(captions)), [*map(len, captions)])
        return cls(name, packed, [caption for group in captions for caption in group], owners)


def embed_videos(model: Model, corpus: Corpus) -> EmbeddedVideos:
    """Encode all videos of a corpus. Raises InvalidInput if the model's streams differ from the packed ones."""
    subject = EvalTarget(model, corpus.packed.folder.parent.parent, corpus.packed.folder.name)
    return EmbeddedVideos(*subject.embed(corpus.packed))


def sound_recall_at_1(corpus: Corpus, sounds: EmbeddedSounds, texts: np.ndarray) -> Scores:
    """Return Recall@1 of captions among all sounds, and of sounds with captions among all captions.

    Captions that need only sight, and examples without sound, are left out.
    """
    audible = np.flatnonzero(sounds.vectors.any(axis=1))
    column = {int(example): position for position, example in enumerate(audible)}
    needs = [need for example in corpus.packed.examples for need in caption_needs(example)]
    used = [text for text, owner in enumerate(corpus.owners) if needs[text] != "sight" and int(owner) in column]
    if len(used) < 2:
        return {}
    owners = np.array([column[int(owner)] for owner in corpus.owners[used]])
    similarity = texts[used] @ sounds.vectors[audible].T
    captioned, own = np.unique(owners), [np.flatnonzero(owners == position) for position in range(len(audible))]
    relevant = [np.array([owner]) for owner in owners]
    return {
        f"{corpus.name} t2a R@1": retrieval(similarity, relevant)["R@1"],
        f"{corpus.name} a2t R@1": retrieval(similarity.T[captioned], [own[c] for c in captioned])["R@1"],
    }


def embed_captions(model: Model, corpus: Corpus) -> np.ndarray:
    """Return embeddings (T, D) of all captions."""
    return embed_texts(model, corpus.captions)


def recall_at_1(corpus: Corpus, videos: EmbeddedVideos, texts: np.ndarray) -> Scores:
    """Return Recall@1 of captions among all videos, and of videos with captions among all captions."""
    if len(corpus.captions) < 2:
        return {}
    similarity = videos.gallery.scores(texts)
    own = [np.flatnonzero(corpus.owners == i) for i in range(len(corpus.packed.examples))]
    captioned = [i for i, columns in enumerate(own) if len(columns)]
    return {
        f"{corpus.name} t2v R@1": retrieval(similarity, [np.array([i]) for i in corpus.owners])["R@1"],
        f"{corpus.name} v2t R@1": retrieval(similarity.T[captioned], [own[i] for i in captioned])["R@1"],
    }


def caption_needs(example: Example) -> list[Needs | None]:
    """Return the need of each query of an example; None if it is not stated."""
    needs = dict(zip(example.captions, example.caption_needs, strict=False))
    return [needs.get(caption) for caption in queries_of(example)]


def hard_caption_pairs(corpus: Corpus, videos: EmbeddedVideos, texts: np.ndarray) -> CaptionPairs:
    """Return each sampled example with its caption and the most similar caption of another example."""
    similarity = videos.gallery.scores(texts)
    first = {int(owner): position for position, owner in reversed(list(enumerate(corpus.owners)))}
    pairs = []
    for example in spread(sorted(first), SAMPLE_SIZE):
        caption = corpus.captions[first[example]]
        others = [i for i, text in enumerate(corpus.captions) if corpus.owners[i] != example and text != caption]
        if others:
            negative = others[int(np.argmax(similarity[others, example]))]
            pairs.append((example, caption, corpus.captions[negative]))
    return pairs


def pair_logits(
    model: Model, videos: EmbeddedVideos, pairs: CaptionPairs, audio_tokens: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return match logits (pairs,) of the right captions and of the wrong ones.

    audio_tokens: Audio tokens (N, T, A) of the videos; None: without sound.
    """
    rows = [example for example, _, _ in pairs] * 2
    texts = [right for _, right, _ in pairs] + [wrong for _, _, wrong in pairs]
    logits = match_logits(model, texts, videos.tokens, rows, audio=audio_tokens)
    return logits[: len(pairs)], logits[len(pairs) :]


def caption_accuracy(
    model: Model, corpus: Corpus, videos: EmbeddedVideos, pairs: CaptionPairs, audio_tokens: np.ndarray | None = None
) -> Scores:
    """Return the percentage of pairs in which the right caption has the higher match logit."""
    if not pairs:
        return {}
    return {f"{corpus.name} right caption": pairwise_accuracy(*pair_logits(model, videos, pairs, audio_tokens))}


def sampled_questions(corpus: Corpus) -> list[tuple[int, Question]]:
    """Return (example, question) of the questions that are evaluated."""
    questions = [(row, question) for row, e in enumerate(corpus.packed.examples) for question in e.questions]
    return spread(questions, SAMPLE_SIZE)


def answer_accuracy(model: Model, corpus: Corpus, videos: EmbeddedVideos, audio: np.ndarray | None = None) -> Scores:
    """Return the percentage of sampled questions whose best answer is right."""
    questions = sampled_questions(corpus)
    if not questions:
        return {}
    rows = [row for row, _ in questions]
    tokens, audio = videos.tokens[rows].astype(np.float32), None if audio is None else audio[rows].astype(np.float32)
    best = model.answer([question.question for _, question in questions], tokens, top=1, audio_tokens=audio)
    correct = [
        answer.text == canonical_answer(question) for (_, question), (answer,) in zip(questions, best, strict=True)
    ]
    return {f"{corpus.name} exact": float(100 * np.mean(correct))}


def accuracy_loss(reference: Mapping[str, float], scores: Mapping[str, float]) -> float:
    """Return the largest drop of any score below its reference, in points; negative if all are better."""
    return max((reference[name] - value for name, value in scores.items()), default=0.0)
