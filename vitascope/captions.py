"""How well captions describe a clip: every score by its name, null where the bundle or the request has not what it
needs.

Shape letters: F frames looked at one by one, D vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitascope.function_words import weights_of, words_of
from vitascope.model import Floats, Model, VideoEmbedding
from vitascope.scores import clip_score, em_score, frame_match, ref_clip_score


@dataclass(frozen=True)
class Frames:
    """Frames of the clip, each embedded as if it were a clip of its own: vectors (F, D) of length 1, times in
    seconds.
    """

    times: Sequence[float]
    vectors: Floats


@dataclass(frozen=True)
class WordEvidence:
    """A word of a caption, how much it counts, and the frame (seconds) that shows it best, by cosine."""

    word: str
    weight: float
    similarity: float
    time: float


@dataclass(frozen=True)
class EmScore:
    """EMScore without references (Shi and others, 2022): the mean of a coarse cosine and a fine F1.

    It differs from the paper in three things. A bundle gives one vector per text, so a word is embedded alone, without
    its sentence, where the paper takes CLIP's vectors of tokens in their sentence. Coarse is the cosine with the clip's
    own vector, where the paper takes the mean of its frames' vectors. Weights are those of ``caption_words``.
    """

    score: float
    coarse: float
    precision: float
    recall: float
    f1: float
    words: list[WordEvidence]


@dataclass(frozen=True)
class CaptionScores:
    """Each score for itself. similarity: cosine; clipscore: 2.5 * max(similarity, 0); match, fused: as everywhere.

    ``similarity`` and all that is made of it are None where the bundle has no vectors of texts, ``match`` and ``fused``
    where it cannot match, ``reference_similarity`` and ``refclipscore`` without references, ``emscore`` without frames.
    """

    caption: str
    similarity: float | None
    clipscore: float | None
    reference_similarity: float | None
    refclipscore: float | None
    emscore: EmScore | None
    match: float | None
    fused: float | None


def frame_times(start: float, end: float, count: int) -> list[float]:
    """The centres (s) of ``count`` equal parts of a clip; one, its own, for a picture (start == end)."""
    if end <= start:
        return [start]
    return [start + (number + 0.5) * (end - start) / count for number in range(count)]


def score_captions(
    model: Model,
    clip: VideoEmbedding,
    captions: Sequence[str],
    references: Sequence[str] = (),
    frames: Frames | None = None,
) -> list[CaptionScores]:
    """The scores of each caption for a clip (one row of ``clip``), in their order.

    ``references``: other captions of the same clip, known to be right. ``frames``: what EMScore looks at. Raises
    TextError and EngineError; TaskMissing where the bundle can neither compare nor match.
    """
    similarity = to_references = em_scores = probabilities = fused = None
    if "retrieval" in model.tasks or "matching" not in model.tasks:
        vectors = model.embed_text([*captions, *references])
        own = vectors[: len(captions)]
        similarity = _cosines(own @ clip.vectors[0])
        if references:
            to_references = _cosines(own @ vectors[len(captions) :].T).max(axis=1)
        if frames is not None:
            em_scores = _em_scores(model, similarity, captions, frames)
    if "matching" in model.tasks:
        shape = (len(captions), *clip.visual_tokens.shape[1:])
        match = model.match(captions, np.broadcast_to(clip.visual_tokens[:1], shape))
        probabilities = match.probabilities
        fused = None if similarity is None else model.fused(similarity, match.logits)
    return [
        _scores_of(
            caption,
            similarity=_at(similarity, place),
            to_reference=_at(to_references, place),
            match=_at(probabilities, place),
            fused=_at(fused, place),
            em=None if em_scores is None else em_scores[place],
        )
        for place, caption in enumerate(captions)
    ]


def _scores_of(
    caption: str,
    *,
    similarity: float | None,
    to_reference: float | None,
    match: float | None,
    fused: float | None,
    em: EmScore | None,
) -> CaptionScores:
    return CaptionScores(
        caption=caption,
        similarity=similarity,
        clipscore=None if similarity is None else clip_score(similarity),
        reference_similarity=to_reference,
        refclipscore=None if similarity is None or to_reference is None else ref_clip_score(similarity, to_reference),
        emscore=em,
        match=match,
        fused=fused,
    )


def _em_scores(model: Model, similarity: NDArray[np.float64], captions: Sequence[str], frames: Frames) -> list[EmScore]:
    said = [words_of(caption, model.bundle.manifest.text_length) for caption in captions]
    column = {word: place for place, word in enumerate(dict.fromkeys(word for words in said for word in words))}
    table = _cosines(frames.vectors @ model.embed_text(list(column)).T)  # (F, words)
    return [
        em_score_of(float(coarse), words, table[:, [column[word] for word in words]], frames.times)
        for coarse, words in zip(similarity, said, strict=True)
    ]


def em_score_of(coarse: float, words: Sequence[str], table: NDArray[np.floating], times: Sequence[float]) -> EmScore:
    """EMScore of a caption of ``words``, whose cosine with the clip is ``coarse``; ``table`` (F, words): of each frame,
    at ``times`` (s), with each word alone.
    """
    weights = weights_of(words)
    fine = frame_match(table, np.array(weights))
    evidence = [
        WordEvidence(word, weight, float(best), times[frame])
        for word, weight, best, frame in zip(words, weights, fine.word_similarity, fine.word_frame, strict=True)
    ]
    return EmScore(em_score(coarse, fine.f1), coarse, fine.precision, fine.recall, fine.f1, evidence)


def _cosines(products: Floats) -> NDArray[np.float64]:
    """Rounding can carry a cosine beyond 1 in the seventh digit."""
    return np.clip(products.astype(np.float64), -1.0, 1.0)


def _at(values: NDArray[np.floating] | None, place: int) -> float | None:
    return None if values is None else float(values[place])
