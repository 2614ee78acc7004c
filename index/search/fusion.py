"""Fusion of the rankings of a search by signal: each signal is independent evidence that a clip fits.

Shape letters: C clips, N sampled clips, P texts of positive weight, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.records import SIGNALS, Float32, SearchSignal, Signal
from index.search.candidates import RANK_DEPTH, Candidate, WordMatch, main_signal, stored_cosines
from index.storage.queries import count_embeddings, load_embeddings, sample_embeddings
from vitascope.bundle.manifest import Calibration
from vitascope.scoring import combine_evidence, joint_evidence, similarity_probability, sound_evidence

Float64 = NDArray[np.float64]

UNCALIBRATED_WEIGHT = 0.6
"""Weight of (1 + similarity) / 2 relative to words, if similarity has no calibration: it is high for all clips."""
SAMPLE_SIZE = 100
"""Number of sampled clips by which the spread of a query's similarities is measured."""
MIN_SAMPLE = 10
"""Least number of clips with sound by which their spread is measured."""


class Spread(NamedTuple):
    """Mean and standard deviation of a query's cosines with clips of the collection."""

    mean: float
    deviation: float

    def z_scores(self, cosines: Float64) -> Float64:
        """Return the z-scores of cosines (C,): standard deviations above the mean."""
        return (cosines - self.mean) / self.deviation


def is_calibrated(calibration: Calibration | None) -> bool:
    """Return whether a calibration maps the similarity of pictures to a probability."""
    return calibration is not None and calibration.similarity_scale is not None


class TextEvidence(NamedTuple):
    """One of several texts of a query: its embedding (D,), the exponent of its probability, and its evidence."""

    embedding: Float32
    exponent: float
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Evidence:
    """Parameters by which similarities and words become comparable.

    Args:
        weights: weights of the signals, 0 to 1.
        calibration: calibration of cosines with pictures; None if the query has none.
        spreads: spread of the query's cosines by embedding signal; a signal is missing if its spread is not needed or
            unknown.
        sound_count: number of clips with sound.
        texts: the texts of positive weight, if the query has several; clips should fit all of them.
    """

    weights: Mapping[SearchSignal, float]
    calibration: Calibration | None
    spreads: Mapping[Signal, Spread]
    sound_count: int = 0
    texts: tuple[TextEvidence, ...] = ()

    @property
    def searches_embeddings(self) -> bool:
        """Return whether embeddings are searched, not only words."""
        return not self.weights.keys().isdisjoint(SIGNALS)

    def combine(self, pictures: Float64, sounds: Float64) -> Float64:
        """Combine the evidence (C,) of pictures and sound.

        Without a calibration, the evidence is high for all clips that have the signal, so the maximum is returned.
        """
        if is_calibrated(self.calibration):
            return combine_evidence(pictures, sounds)
        return np.maximum(pictures, sounds)

    def of_pictures(self, cosines: Float64) -> Float64:
        """Return the probabilities (C,) that pictures fit; without a calibration, their scaled cosines."""
        probabilities = None if self.calibration is None else similarity_probability(self.calibration, cosines)
        return UNCALIBRATED_WEIGHT * (1 + cosines) / 2 if probabilities is None else probabilities

    def of_sound(self, cosines: Float64, pictures: Float64) -> Float64:
        """Return the evidence (C,) that sound fits, alone or together with pictures.

        Cosines with sound have another mean and spread than cosines with pictures. If pictures are calibrated, the
        evidence of sound is how unlikely its cosine is by chance; otherwise it is the evidence of pictures with the
        same z-score.

        Args:
            cosines: cosines with sounds, (C,).
            pictures: cosines with the pictures of the same clips, (C,); NaN for clips without pictures.
        """
        if "audio" not in self.spreads:
            return self.of_pictures(cosines)
        audio, visual = self.spreads["audio"], self.spreads.get("visual")
        if not is_calibrated(self.calibration):
            if visual is not None:
                cosines = np.clip(visual.mean + audio.z_scores(cosines) * visual.deviation, -1, 1)
            return self.of_pictures(cosines)
        audio_z = audio.z_scores(cosines)
        alone = sound_evidence(audio_z, self.sound_count)
        if visual is None or "visual" not in self.weights:
            return alone
        together = joint_evidence(visual.z_scores(pictures), audio_z, self.sound_count)
        return combine_evidence(alone, np.nan_to_num(together))


def measure_evidence(
    connection: sqlite3.Connection,
    weights: Mapping[SearchSignal, float],
    calibration: Calibration | None,
    queries: Float32,
    newest_clip: int,
) -> list[Evidence]:
    """Return the evidence of each query with these weights; ``queries``: their embeddings, one row (D,) each."""
    samples: dict[Signal, Float32] = {}
    if "audio" in weights:
        dim = queries.shape[1]
        samples = {each: sample_embeddings(connection, dim, newest_clip, SAMPLE_SIZE, each) for each in SIGNALS}
    sound_count = count_embeddings(connection, "audio") if samples else 0
    return [Evidence(weights, calibration, _measure_spreads(samples, query), sound_count) for query in queries]


def _measure_spreads(samples: Mapping[Signal, Float32], query: Float32) -> dict[Signal, Spread]:
    """Return the spread of a query's cosines with sampled embeddings (N, D) by signal; small samples are left out."""
    spreads: dict[Signal, Spread] = {}
    for signal, sample in samples.items():
        cosines = (sample @ query).astype(np.float64)
        if len(cosines) >= MIN_SAMPLE and float(np.std(cosines)) > 0:
            spreads[signal] = Spread(float(np.mean(cosines)), float(np.std(cosines)))
    return spreads


def fuse(
    connection: sqlite3.Connection,
    query: Float32,
    rankings: Mapping[Signal, Sequence[Candidate]],
    matches: Sequence[WordMatch],
    evidence: Evidence,
    depth: int,
) -> list[Candidate]:
    """Rank the clips of all rankings together by their combined evidence; return the best ``depth``.

    Ties are ordered by whether a clip has the whole phrase, then similarity, then id.

    Args:
        connection: a connection with an open transaction.
        query: query embedding (D,).
        rankings: ranked clips by searched embedding signal.
        matches: clips that contain words of the query.
        evidence: how the signals are compared.
        depth: number of candidates to return.
    """
    if not matches and len(rankings) == 1:
        (candidates,) = rankings.values()
        return with_sound(connection, candidates[:depth], evidence)
    merged = _merge(connection, query, rankings, matches)
    phrases = {match.clip_id for match in matches if match.has_phrase}
    candidates = with_sound(connection, merged, evidence)
    words = np.array([candidate.words for candidate in candidates])
    scores = combine_evidence(words, signal_evidence(candidates, evidence)).tolist()

    def order(index: int) -> tuple[float, bool, float, int]:
        candidate = candidates[index]
        return -scores[index], candidate.clip_id not in phrases, -candidate.similarity, candidate.clip_id

    return [candidates[index] for index in sorted(range(len(candidates)), key=order)[:depth]]


def _merge(
    connection: sqlite3.Connection,
    query: Float32,
    rankings: Mapping[Signal, Sequence[Candidate]],
    matches: Sequence[WordMatch],
) -> list[Candidate]:
    """Merge rankings and matches into one candidate per clip; compute cosines that its rankings do not contain."""
    by_signal = {signal: {c.clip_id: c for c in candidates} for signal, candidates in rankings.items()}
    words = {match.clip_id: match for match in matches}
    ids = list(dict.fromkeys([*words, *(clip_id for known in by_signal.values() for clip_id in known)]))
    cosines: dict[Signal, dict[int, float]] = {}
    for signal, known in by_signal.items():
        cosines[signal] = {clip_id: candidate.cosines[signal] for clip_id, candidate in known.items()}
        cosines[signal] |= stored_cosines(connection, [i for i in ids if i not in known], query, signal)
    main = main_signal(rankings)
    merged = []
    for clip_id in ids:
        own = {signal: values[clip_id] for signal, values in cosines.items() if clip_id in values}
        ranks: dict[SearchSignal, int] = {}
        for signal, known in by_signal.items():
            # Beyond RANK_DEPTH, ranks of an approximate index depend on the search depth, which differs per page.
            if clip_id in known and (clip_id not in words or known[clip_id].ranks[signal] <= RANK_DEPTH):
                ranks[signal] = known[clip_id].ranks[signal]
        match = words.get(clip_id)
        similarity = own.get(main, next(iter(own.values()), match.similarity if match else 0.0))
        pictured = by_signal.get("visual", {}).get(clip_id)
        merged.append(
            Candidate(
                clip_id,
                similarity,
                own,
                ranks if match is None else {**ranks, **match.ranks},
                words=0.0 if match is None else match.score,
                word_scores={} if match is None else match.scores,
                picture_fits=() if pictured is None else pictured.picture_fits,
                contrasted_fits=() if pictured is None else pictured.contrasted_fits,
            )
        )
    return merged


def with_sound(connection: sqlite3.Connection, candidates: Sequence[Candidate], evidence: Evidence) -> list[Candidate]:
    """Return candidates with the evidence of their sound, if sound is searched."""
    if "audio" not in evidence.weights or not candidates:
        return list(candidates)
    if evidence.texts:
        fits = _sound_fits(connection, candidates, evidence.texts).tolist()
        return [candidate._replace(sound_fits=tuple(row)) for candidate, row in zip(candidates, fits, strict=True)]
    cosines = np.array([candidate.cosines.get("audio", -1.0) for candidate in candidates], np.float64)
    pictures = np.array([candidate.cosines.get("visual", np.nan) for candidate in candidates], np.float64)
    values = evidence.weights["audio"] * evidence.of_sound(cosines, pictures)
    return [
        candidate._replace(sound_fit=value if "audio" in candidate.cosines else None)
        for candidate, value in zip(candidates, values.tolist(), strict=True)
    ]


def _sound_fits(
    connection: sqlite3.Connection, candidates: Sequence[Candidate], texts: Sequence[TextEvidence]
) -> Float64:
    """Return the evidence (C, P) that the sound of candidates fits each of P texts; 0 without sound."""
    ids, dim = [candidate.clip_id for candidate in candidates], len(texts[0].embedding)
    missing = np.full(dim, np.nan, np.float32)
    stored = [load_embeddings(connection, ids, dim, signal) for signal in ("audio", "visual")]
    audio, visual = (np.stack([embeddings.get(clip_id, missing) for clip_id in ids]) for embeddings in stored)
    values = [
        # Not matrix products, in which equal rows may have products that differ in the last bit.
        text.evidence.of_sound((audio * text.embedding).sum(axis=1), (visual * text.embedding).sum(axis=1))
        for text in texts
    ]
    return np.nan_to_num(np.stack(values, axis=1))


def signal_evidence(candidates: Sequence[Candidate], evidence: Evidence) -> Float64:
    """Return the combined evidence (C,) that the pictures and sound of candidates fit."""
    if evidence.texts:
        return _fit_of_all_texts(candidates, evidence)
    cosines = np.array([candidate.cosines.get("visual", -1.0) for candidate in candidates], np.float64)
    has_pictures = np.array(["visual" in candidate.cosines for candidate in candidates], bool)
    pictures = evidence.weights.get("visual", 0.0) * np.where(has_pictures, evidence.of_pictures(cosines), 0.0)
    sounds = np.array([candidate.sound_fit or 0.0 for candidate in candidates])
    return evidence.combine(pictures, sounds)


def _fit_of_all_texts(candidates: Sequence[Candidate], evidence: Evidence) -> Float64:
    """Return the evidence (C,) that the pictures or the sound of candidates fit each of several texts."""
    fits = np.zeros((len(SIGNALS), len(candidates), len(evidence.texts)))
    for row, candidate in enumerate(candidates):
        for signal, values in zip(fits, (candidate.contrasted_fits, candidate.sound_fits), strict=True):
            signal[row] = values or 0.0
    weights = [evidence.weights.get(signal, 0.0) for signal in SIGNALS]
    largest = max(weights)
    pictures, sounds = (weight / (largest or 1.0) * values for weight, values in zip(weights, fits, strict=True))
    exponents = [text.exponent for text in evidence.texts]
    product: Float64 = np.prod(combine_evidence(pictures, sounds) ** exponents, axis=1)
    return largest * product
