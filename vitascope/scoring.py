"""Scores: calibrated probabilities, CLIPScore, RefCLIPScore and EMScore, for runtime, service and evaluation.

Shape letters: B text-video pairs, F frames, N words or answers, D embedding dim.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from vitascope.embeddings import VideoEmbedding
    from vitascope.model import Model

Scores = NDArray[np.floating]
_Float64 = NDArray[np.float64]

CLIP_WEIGHT = 2.5
"""Scale of CLIPScore, since cosines of CLIP are seldom above 0.4 (Hessel et al., 2021)."""

SOUND_SLOPE = 1.6
"""Slope of the logistic function that maps standard deviations to evidence of sound; chosen by `make bench-signals`."""
JOINT_MARGIN = 1.0
"""Additional standard deviations that the joint evidence of pictures and sounds needs, compared with sounds alone.
Chosen on the validation split of scenes with sound: with lower values, fewer scenes are found by sentences about
pictures or sounds alone."""

Float = TypeVar("Float", np.float32, np.float64)
MIN_EVIDENCE = 1e-9
"""Evidence is clamped to at least this, and at most 1 minus this, before its logit is computed."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_FUNCTION_WORDS_TEXT = (
    "a an the this that these those some any each and or but nor so yet as than of in on at to by for from with "
    "without into onto over under about around near beside between off out through across along against is are "
    "was were be been being am do does did has have had having will would can could may might must shall should "
    "it its he him his she her hers they them their theirs i me my we us our you your who whom whose which what "
    "when where while there here if then"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())


def truncate(embeddings: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Truncate embeddings (B, D) to ``dimensions``; if dimensions were removed, normalize the rest."""
    if embeddings.shape[1] == dimensions:
        return embeddings
    return normalize_rows(embeddings[:, :dimensions].astype(np.float64)).astype(np.float32)


def normalize_rows(rows: NDArray[Float]) -> NDArray[Float]:
    """Normalize rows (B, D) to length 1; rows of zeros stay zero."""
    normalized: NDArray[Float] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return normalized


def row_cosines(a: Scores, b: Scores) -> _Float64:
    """Return the cosine (B,) of each pair of rows; further axes are flattened. Rows of zeros have cosine 0."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: _Float64 = (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
    return cosines


@dataclass(frozen=True)
class Match:
    """Match logits and calibrated probabilities, each (B,) float32."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def match_probability(calibration: Calibration, match_logits: Scores) -> _Float64:
    """Return the calibrated probabilities (B,) that text and video match, from match logits (B,)."""
    return _sigmoid(calibration.match_scale * np.asarray(match_logits, np.float64) + calibration.match_bias)


def similarity_probability(calibration: Calibration, similarity: Scores) -> _Float64 | None:
    """Return the calibrated probabilities (B,) that clips fit a query, from cosines (B,) of query and pictures.

    Returns None if the bundle has no calibration of similarity.
    """
    scale, bias = calibration.similarity_scale, calibration.similarity_bias
    if scale is None or bias is None:
        return None
    return _sigmoid(scale * np.asarray(similarity, np.float64) + bias)


def sound_evidence(audio_z: Scores, sound_count: int) -> _Float64:
    """Return the evidence (B,), 0 to 1, that sounds fit; 0.5 for the highest cosine that chance is expected to give.

    Args:
        audio_z: z-scores (B,) of the query's cosines with sounds.
        sound_count: Number of clips with sound.
    """
    chance = math.sqrt(2 * math.log(max(2, sound_count)))
    return _sigmoid(SOUND_SLOPE * (np.asarray(audio_z, np.float64) - chance))


def joint_evidence(visual_z: Scores, audio_z: Scores, sound_count: int) -> _Float64:
    """Return the evidence (B,), 0 to 1, that pictures and sounds fit together: a sentence may need both.

    Pictures alone or sounds alone may fit many clips. The evidence is 0.5 if the sum of both z-scores, divided by the
    root of 2, is `JOINT_MARGIN` above the highest value that chance is expected to give.

    Args:
        visual_z: z-scores (B,) of the query's cosines with pictures.
        audio_z: z-scores (B,) of the query's cosines with sounds.
        sound_count: Number of clips with sound.
    """
    return sound_evidence((np.asarray(visual_z) + np.asarray(audio_z)) / math.sqrt(2) - JOINT_MARGIN, sound_count)


def combine_evidence(*evidence: Scores) -> _Float64:
    """Combine independent evidence (B,), each 0 to 1, that clips fit: 1 - (1 - a)(1 - b), computed precisely."""
    combined: _Float64 = np.zeros(np.shape(evidence[0]))
    for values in evidence:
        combined = combined + (1 - combined) * values
    return combined


def fused_score(calibration: Calibration, similarity: Scores, match_logits: Scores) -> _Float64:
    """Return the scores (B,), 0 to 1, by which reranked results are ordered, from cosines (B,) and match logits (B,).

    Raises InvalidInput if shapes differ.
    """
    if np.shape(similarity) != np.shape(match_logits):
        raise InvalidInput(
            f"similarity {np.shape(similarity)} and match_logits {np.shape(match_logits)}: equal shapes were expected"
        )
    return _sigmoid(
        calibration.fused_similarity * np.asarray(similarity, np.float64)
        + calibration.fused_match * np.asarray(match_logits, np.float64)
        + calibration.fused_bias
    )


def reranked_score(search_scores: Scores, match_logits: Scores, match_weight: float) -> _Float64:
    """Return the scores (B,), 0 to 1, by which reranked results of a search by pictures and sound are ordered.

    Args:
        search_scores: Combined evidence (B,) of pictures and sound, 0 to 1.
        match_logits: Match logits (B,) computed from pictures and sound.
        match_weight: ``match_weight`` of the manifest.
    """
    evidence = np.clip(np.asarray(search_scores, np.float64), MIN_EVIDENCE, 1 - MIN_EVIDENCE)
    return _sigmoid(np.log(evidence / (1 - evidence)) + match_weight * np.asarray(match_logits, np.float64))


def answer_probabilities(calibration: Calibration, logits: Scores) -> _Float64:
    """Return the calibrated probabilities (B, N) of answer logits (B, N); each row sums to 1."""
    scaled = np.asarray(logits, np.float64) / calibration.answer_temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: _Float64 = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def clip_score(similarity: float) -> float:
    """Return CLIPScore = 2.5 * max(cosine, 0) (Hessel et al., 2021)."""
    return CLIP_WEIGHT * max(similarity, 0.0)


def ref_clip_score(similarity: float, reference_similarity: float) -> float:
    """Return RefCLIPScore: the harmonic mean of CLIPScore and max(reference_similarity, 0) (Hessel et al., 2021).

    Args:
        similarity: Cosine of caption and video.
        reference_similarity: Highest cosine of the caption with any reference.
    """
    return harmonic_mean(clip_score(similarity), max(reference_similarity, 0.0))


def em_score(coarse: float, f1: float) -> float:
    """Return EMScore without references: the mean of coarse cosine and fine-grained F1 (Shi et al., 2022)."""
    return (coarse + f1) / 2


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b), or 0 if either is not positive."""
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


@dataclass(frozen=True)
class FineGrainedMatch:
    """Fine-grained part of EMScore.

    Attributes:
        precision: Weighted mean, over words, of the cosine with the best frame.
        recall: Mean, over frames, of the cosine with the best word.
        f1: Harmonic mean of precision and recall.
        word_similarity: (N,) cosine of each word with its best frame.
        word_frame: (N,) index of that frame.
    """

    precision: float
    recall: float
    f1: float
    word_similarity: _Float64
    word_frame: NDArray[np.int64]


def fine_grained_match(similarities: Scores, weights: Scores) -> FineGrainedMatch:
    """Match the words of a caption with the frames of a video (EMScore, Shi et al., 2022).

    Args:
        similarities: (F, N) cosine of every frame with every word.
        weights: (N,) weight of each word, not all 0; words of weight 0 do not count for recall either.

    Raises:
        InvalidInput: Shapes do not match, or weights are negative or all 0.
    """
    table, counts = np.asarray(similarities, np.float64), np.asarray(weights, np.float64)
    if table.ndim != 2 or 0 in table.shape or counts.shape != table.shape[1:]:
        raise InvalidInput(
            f"similarities {table.shape} and weights {counts.shape}: (F, N) and (N,), neither 0, were expected"
        )
    if not (counts >= 0).all() or not counts.any():
        raise InvalidInput(f"weights: {counts.tolist()}; numbers from 0 on, not all 0, were expected")
    best = table.max(axis=0)
    precision = float(best @ counts / counts.sum())
    recall = float(table[:, counts > 0].max(axis=1).mean())
    return FineGrainedMatch(precision, recall, harmonic_mean(precision, recall), best, table.argmax(axis=0))


def caption_words(caption: str, max_words: int) -> list[str]:
    """Split a caption into at most ``max_words`` lower-case words; the caption itself if it has none (``"!?"``).

    Text of scripts without spaces is one word.
    """
    return [word.lower() for word in _WORD.findall(caption)[:max_words]] or [caption.strip()]


def word_weights(words: Sequence[str]) -> list[float]:
    """Return 0 for English function words and 1 for other words; if all are function words, 1 for all.

    This approximates the weights of EMScore: inverse document frequencies over a corpus. A service has no corpus, and
    if the captions of a request were the corpus, the score of a caption would depend on the others.
    """
    weights = [0.0 if word in _FUNCTION_WORDS else 1.0 for word in words]
    return weights if any(weights) else [1.0] * len(words)


@dataclass(frozen=True)
class FrameEmbeddings:
    """Frames of a clip, each embedded as a clip of its own: times (s) and normalized embeddings (F, D)."""

    times: Sequence[float]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class WordEvidence:
    """A word of a caption, its weight, and the frame (time in s) with the highest cosine."""

    word: str
    weight: float
    similarity: float
    time: float


@dataclass(frozen=True)
class EmScore:
    """EMScore without references (Shi et al., 2022): the mean of a coarse cosine and a fine-grained F1.

    It differs from the paper in three points: words are embedded alone, since a bundle gives one embedding per text;
    ``coarse`` uses the clip's own embedding instead of the mean of its frames; weights are those of ``word_weights``.
    """

    score: float
    coarse: float
    precision: float
    recall: float
    f1: float
    words: list[WordEvidence]


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one caption.

    ``similarity`` (cosine) and scores derived from it are None if the bundle has no text embeddings; ``match`` and
    ``fused`` if it cannot match; ``reference_similarity`` and ``refclipscore`` without references; ``emscore`` without
    frames.
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
    """Return the centres (s) of ``count`` equal parts of a clip; ``[start]`` for an image (start == end)."""
    if end <= start:
        return [start]
    return [start + (index + 0.5) * (end - start) / count for index in range(count)]


def score_captions(
    model: Model,
    clip: VideoEmbedding,
    captions: Sequence[str],
    references: Sequence[str] = (),
    frames: FrameEmbeddings | None = None,
    audio_tokens: NDArray[np.floating] | None = None,
) -> list[CaptionScores]:
    """Score captions of a clip.

    Args:
        model: Model with text embeddings, the task "matching", or both.
        clip: Embedding of the clip (one row).
        captions: Captions to score.
        references: Correct captions of the clip, for RefCLIPScore.
        frames: Frames of the clip, for EMScore.
        audio_tokens: Audio tokens of the clip, (1, T, A), for ``match``; None: no sound, or the model does not fuse it.

    Returns:
        One result per caption, in order.

    Raises:
        TextError: A text is empty or too long.
        TaskMissing: The bundle has neither text embeddings nor the task "matching".
        EngineError: A graph failed.
    """
    similarity = compared = reference_similarity = em_scores = probabilities = fused = None
    if "retrieval" in model.tasks or "matching" not in model.tasks:
        embeddings = model.embed_text([*captions, *references])
        caption_embeddings = embeddings[: len(captions)]
        similarity = _cosines(caption_embeddings @ clip.vectors[0])
        compared = _cosines(clipscore_embeddings(caption_embeddings, model.caption_matrix) @ clip.vectors[0])
        if references:
            reference_similarity = _cosines(caption_embeddings @ embeddings[len(captions) :].T).max(axis=1)
        if frames is not None:
            em_scores = _em_scores(model, similarity, captions, frames)
    if "matching" in model.tasks:
        sound = None if audio_tokens is None else _repeat(audio_tokens, len(captions))
        match = model.match(captions, _repeat(clip.visual_tokens, len(captions)), sound)
        probabilities = match.probabilities
        fused = None if similarity is None else model.fused_score(similarity, match.logits)
    return [
        CaptionScores(
            caption=caption,
            similarity=_value_or_none(similarity, index),
            clipscore=None if compared is None else clip_score(float(compared[index])),
            reference_similarity=_value_or_none(reference_similarity, index),
            refclipscore=(
                None
                if compared is None or reference_similarity is None
                else ref_clip_score(float(compared[index]), float(reference_similarity[index]))
            ),
            emscore=None if em_scores is None else em_scores[index],
            match=_value_or_none(probabilities, index),
            fused=_value_or_none(fused, index),
        )
        for index, caption in enumerate(captions)
    ]


def clipscore_embeddings(embeddings: NDArray[np.float32], matrix: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return text embeddings (B, D) as CLIPScore uses them: multiplied by the bundle's caption matrix and normalized.

    matrix: ``caption_matrix`` of the bundle; None: the embeddings are returned unchanged.
    """
    return embeddings if matrix is None else normalize_rows(embeddings @ matrix)


def _em_scores(model: Model, similarity: _Float64, captions: Sequence[str], frames: FrameEmbeddings) -> list[EmScore]:
    words_of_captions = [caption_words(caption, model.bundle.manifest.text_length) for caption in captions]
    unique_words = dict.fromkeys(word for words in words_of_captions for word in words)
    column = {word: index for index, word in enumerate(unique_words)}
    table = _cosines(frames.vectors @ model.embed_text(list(column)).T)  # (F, words)
    return [
        caption_em_score(float(coarse), words, table[:, [column[word] for word in words]], frames.times)
        for coarse, words in zip(similarity, words_of_captions, strict=True)
    ]


def caption_em_score(coarse: float, words: Sequence[str], similarities: Scores, times: Sequence[float]) -> EmScore:
    """Compute the EMScore of a caption.

    Args:
        coarse: Cosine of caption and clip.
        words: The N words of the caption.
        similarities: (F, N) cosine of every frame with every word.
        times: Time (s) of each frame.
    """
    weights = word_weights(words)
    fine = fine_grained_match(similarities, np.array(weights))
    evidence = [
        WordEvidence(word, weight, float(best), times[frame])
        for word, weight, best, frame in zip(words, weights, fine.word_similarity, fine.word_frame, strict=True)
    ]
    return EmScore(em_score(coarse, fine.f1), coarse, fine.precision, fine.recall, fine.f1, evidence)


def _cosines(products: NDArray[np.float32]) -> _Float64:
    """Clip cosines to -1 to 1, which rounding can exceed in the seventh digit."""
    return np.clip(products.astype(np.float64), -1.0, 1.0)


def _repeat(tokens: NDArray[np.floating], count: int) -> NDArray[np.floating]:
    """Repeat the tokens (1, ...) of a clip for ``count`` captions: (count, ...)."""
    return np.broadcast_to(tokens[:1], (count, *tokens.shape[1:]))


def _value_or_none(values: NDArray[np.floating] | None, index: int) -> float | None:
    return None if values is None else float(values[index])


def _sigmoid(x: _Float64) -> _Float64:
    """Sigmoid without overflow for large negative values."""
    half: _Float64 = 0.5 * (1.0 + np.tanh(0.5 * x))
    return half
