"""Calibration of probabilities and choice of reranking on validation splits, through the bundle's own graphs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from model_export.parity.checks import Embedded, has_captions
from training.data.example import Needs
from training.evaluation import calibration
from training.evaluation.answers import answerable_questions
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import calibration_error
from training.evaluation.retrieval import RERANK_QUERIES, Gallery, NearestVideos, nearest_videos, spread_captions
from training.evaluation.sound import audio_stream, embed_sounds, first_captions, nearest_scenes
from vitascope.bundle.manifest import Calibration, Reranking, RerankingRecall, SoundReranking
from vitascope.bundle.parity_report import SourceBundle
from vitascope.model import Model
from vitascope.scoring import fused_score, reranked_score

MAX_QUESTIONS = 1000
"""Maximum number of questions per corpus, spread evenly over its examples."""
MIN_CAPTIONED = 50
"""Minimum number of captioned examples for fitting a variant's match and fused probabilities. There are three
parameters; ten to twenty positive pairs per parameter are the usual minimum against overfitting."""
RERANK_COUNTS = (10, 20, 50)
"""Numbers of reranked results that are measured."""
MIN_RERANK_QUERIES = 50
"""Minimum number of queries of a corpus for measuring reranking."""
MIN_RERANK_GAIN = 1.0
"""Minimum gain of mean recall in points for which results are reranked. With a few hundred searches a smaller gain may
be chance, and each reranked result takes time."""
SOUND_COUNTS = (10, 20)
MATCH_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Numbers of reranked results, and weights of their match, that are measured for searches by pictures and sound."""
MAX_SOUND_LOSS = 1.0
"""Maximum loss, in points, of R@1, R@5 and R@10 of any need (sight, sound or both) for a gain of the mean R@1."""
MIN_WORDS = 5
"""Minimum words of a caption that serves as a query without a relevant video in another corpus."""

AnswerLogits = Callable[[Sequence[str], np.ndarray], np.ndarray]
"""(questions (n), visual tokens (n, V, K)) -> (n, answers)."""


@dataclass(frozen=True)
class FittedCalibration:
    """A calibration, its errors on the data to which it was fitted, the corpora used, and the choice of reranking.

    `measurements` has expected calibration errors (0..1): "before" of plain sigmoids and softmax, "kept" of the
    previous calibration, "after" of this calibration. `reranking` is None if it was not measured.
    """

    calibration: Calibration = field(default_factory=Calibration)
    measurements: dict[str, float] = field(default_factory=dict)
    corpora: Sequence[str] = ()
    reranking: Reranking | None = None


def calibrate(
    encoder: Encoder,
    corpora: Mapping[str, Embedded],
    answers: Sequence[str],
    answer_logits: AnswerLogits | None,
    *,
    previous: Calibration | None = None,
    min_captioned: int = 2,
    absent: Mapping[str, Sequence[str]] | None = None,
) -> FittedCalibration:
    """Fit match, fused and answer probabilities, and measure whether reranking by the fused score improves searches.

    If the model does not use sound in match and answers, corpora with sound are not used, since their captions and
    questions may be about sound.

    Args:
        encoder: The model.
        corpora: Embedded validation splits by corpus.
        answers: Answer vocabulary.
        answer_logits: Computes answer logits; None: answers are not calibrated.
        previous: Calibration to keep for probabilities without data; None: the defaults.
        min_captioned: Corpora with fewer captioned examples are not used for match and fused probabilities.
        absent: Queries without a relevant video, by corpus; None: long captions of the other corpora.
    """
    start = previous or Calibration()
    stream = audio_stream(encoder)
    if stream is not None and not stream.fused:
        corpora = {n: e for n, e in corpora.items() if e.packed.audio is None}
    by_answers = (
        FittedCalibration(start) if answer_logits is None else _fit_answers(corpora, answers, answer_logits, previous)
    )
    captioned = {n: e for n, e in corpora.items() if len(e.packed.examples) >= min_captioned and _has_negatives(e)}
    if not captioned:
        return by_answers
    pairs = [
        calibration.validation_pairs(
            encoder, e.packed, e.vectors, e.tokens, absent=(absent or {}).get(n) or _captions_elsewhere(n, captioned)
        )
        for n, e in captioned.items()
    ]
    nearest = {
        n: nearest_videos(
            encoder,
            e.packed,
            Gallery(e.vectors),
            e.tokens,
            queries=spread_captions(e.packed, RERANK_QUERIES),
            count=max(RERANK_COUNTS),
        )
        for n, e in captioned.items()
    }
    fitted = calibration.fit(pairs, list(nearest.values()), by_answers.calibration.answer_temperature)
    measurements = {"match pairs": float(sum(len(p.label) for p in pairs))}
    for label, candidate in (("before", Calibration()), ("kept", previous), ("after", fitted)):
        if candidate is not None:
            errors = calibration.calibration_errors(candidate, calibration.join_pairs(pairs))
            measurements |= {f"{name} error {label}": error for name, error in errors.items()}
    names = list(dict.fromkeys([*captioned, *by_answers.corpora]))
    reranking = choose_reranking(nearest, fitted)
    if reranking is not None and stream is not None and stream.fused:
        sound = choose_sound_reranking(_scene_searches(encoder, captioned, fitted))
        reranking = reranking.model_copy(update={"sound": sound})
    return FittedCalibration(fitted, by_answers.measurements | measurements, names, reranking)


def keep_reranking(fitted: Reranking | None, source: Reranking | None) -> Reranking | None:
    """Return the choice of reranking of a new bundle; choices that were not measured are taken from its source.

    Args:
        fitted: Choice that was measured with the new bundle; None: not measured.
        source: Choice of the source bundle. Its measurements are not copied, because they are of other weights.
    """
    if source is None:
        return fitted
    sound = source.sound and source.sound.model_copy(update={"measured": {}})
    if fitted is None:
        return source.model_copy(update={"measured": {}, "sound": sound})
    return fitted if fitted.sound is not None else fitted.model_copy(update={"sound": sound})


def choose_reranking(nearest: Mapping[str, NearestVideos], fitted: Calibration) -> Reranking | None:
    """Choose the number of results to rerank from validation searches by corpus.

    Of the numbers with which no corpus loses in R@1, R@5 or R@10, the one with the largest mean gain over ranking by
    similarity is chosen; 0 if there is none, or the gain is less than `MIN_RERANK_GAIN`. Returns None if no corpus has
    enough queries.
    """
    recall = {
        name: {
            count: pairs.recall(fused_score(fitted, pairs.similarity, pairs.logits), count)
            for count in (0, *RERANK_COUNTS)
        }
        for name, pairs in nearest.items()
        if len(pairs.logits) >= MIN_RERANK_QUERIES
    }
    if not recall:
        return None
    gains = {
        count: np.array([np.subtract(by_count[count], by_count[0]) for by_count in recall.values()])
        for count in (0, *RERANK_COUNTS)
    }
    useful = [count for count, gain in gains.items() if (gain >= 0).all() and gain.mean() >= MIN_RERANK_GAIN]
    measured = {f"{name}/val": _measured(len(nearest[name].logits), by_count) for name, by_count in recall.items()}
    best = max(useful, key=lambda count: float(gains[count].mean()), default=0)
    return Reranking(candidates=best, measured=measured)


def choose_sound_reranking(searches: Mapping[str, NearestVideos]) -> SoundReranking | None:
    """Choose the reranking of searches by picture and sound, from validation searches by corpus and need.

    Of the numbers of results and weights of the match with which no R@1, R@5 or R@10 falls by more than
    `MAX_SOUND_LOSS`, those with the largest mean R@1 are chosen; 0 if there are none, or the mean gain is less than
    `MIN_RERANK_GAIN`. Ties: fewest results, then lowest weight. Returns None without enough queries.
    """
    searches = {name: pairs for name, pairs in searches.items() if len(pairs.logits) >= MIN_RERANK_QUERIES}
    if not searches:
        return None
    before = {name: pairs.recall() for name, pairs in searches.items()}
    useful: dict[tuple[int, float], float] = {}
    for count, weight in itertools.product(SOUND_COUNTS, MATCH_WEIGHTS):
        gains = np.array([np.subtract(_recall(p, count, weight), before[n]) for n, p in searches.items()])
        gain = float(gains[:, 0].mean())
        if (gains >= -MAX_SOUND_LOSS).all() and gain >= MIN_RERANK_GAIN:
            useful[count, weight] = gain
    best, match_weight = max(useful, key=useful.__getitem__, default=(0, 0.0))
    counts = SOUND_COUNTS if best else ()
    measured = {
        name: _measured(len(p.logits), {0: before[name], **{n: _recall(p, n, match_weight) for n in counts}})
        for name, p in searches.items()
    }
    return SoundReranking(candidates=best, match_weight=match_weight, measured=measured)


def _recall(pairs: NearestVideos, count: int, match_weight: float) -> list[float]:
    return pairs.recall(reranked_score(pairs.similarity, pairs.logits, match_weight), count)


def _measured(queries: int, recall: Mapping[int, Sequence[float]]) -> RerankingRecall:
    rounded = {count: (round(r1, 2), round(r5, 2), round(r10, 2)) for count, (r1, r5, r10) in recall.items()}
    return RerankingRecall(queries=queries, recall=rounded)


def _scene_searches(encoder: Encoder, corpora: Mapping[str, Embedded], fitted: Calibration) -> dict[str, NearestVideos]:
    """Return searches by picture and sound, by validation split and need of their captions."""
    searches = {}
    for name, e in corpora.items():
        needs = [need for need in get_args(Needs) if first_captions(e.packed, need)]
        if e.packed.audio is None or fitted.similarity_scale is None or not needs:
            continue
        sounds = embed_sounds(encoder, e.packed)
        for need in needs:
            searches[f"{name}/val ({need})"] = nearest_scenes(
                encoder, fitted, e.packed, need, e.vectors, e.tokens, sounds, count=max(SOUND_COUNTS)
            )
    return searches


def recalibrate(variant: Model, corpora: Mapping[str, Embedded], previous: Calibration) -> FittedCalibration:
    """Calibrate a variant with its own graphs. previous: Calibration that is kept for probabilities without data."""
    if "matching" not in variant.tasks or not corpora:
        return FittedCalibration(previous)
    logits = variant.answer_logits if "answering" in variant.tasks and not variant.scores_free_form_answers else None
    return calibrate(variant, corpora, variant.bundle.answers, logits, previous=previous, min_captioned=MIN_CAPTIONED)


def calibration_record(fitted: FittedCalibration, source: SourceBundle, tasks: Sequence[str]) -> dict[str, Any]:
    """Return `extra.calibration` of a variant's manifest: measurements, and the splits used (`fitted_on`).

    `kept` lists the probabilities that were not fitted ("match and fused", "answers"); `kept_of` is the bundle from
    which their calibration comes.
    """
    groups = (("matching", "match pairs", "match and fused"), ("answering", "answer questions", "answers"))
    kept = [label for task, count, label in groups if task in tasks and count not in fitted.measurements]
    measurements = {name: round(value, 6) for name, value in fitted.measurements.items()}
    return {
        **measurements,
        **({"fitted_on": [f"{name}/val" for name in fitted.corpora]} if fitted.corpora else {}),
        **({"kept": kept, "kept_of": source.model_dump()} if kept else {}),
    }


def _captions_elsewhere(name: str, corpora: Mapping[str, Embedded]) -> list[str]:
    """Return captions of other corpora with at least `MIN_WORDS` words; shorter ones may fit videos of this corpus."""
    captions = [e.captions[0] for other, c in corpora.items() if other != name for e in c.packed.examples]
    return [caption for caption in captions if len(caption.split()) >= MIN_WORDS]


def _has_negatives(embedded: Embedded) -> bool:
    """Return whether every example has a caption, and there are different captions."""
    return has_captions(embedded.packed) and len({e.captions[0] for e in embedded.packed.examples}) > 1


def _fit_answers(
    corpora: Mapping[str, Embedded], answers: Sequence[str], logits_of: AnswerLogits, previous: Calibration | None
) -> FittedCalibration:
    """Fit the answer temperature; `previous` is kept if no corpus has questions."""
    start = previous or Calibration()
    logits, targets, names = [], [], []
    for name, embedded in corpora.items():
        if questions := answerable_questions(embedded.packed, answers, MAX_QUESTIONS):
            rows, texts, indices = zip(*questions, strict=True)
            logits.append(logits_of(texts, embedded.tokens[list(rows)].astype(np.float32)))
            targets.append(np.array(indices))
            names.append(name)
    if not logits:
        return FittedCalibration(start)
    all_logits, correct = np.concatenate(logits), np.concatenate(targets)
    temperature = calibration.answer_temperature(all_logits.astype(np.float64), correct)
    measurements = {"answer questions": float(len(correct))}
    kept = None if previous is None else previous.answer_temperature
    for label, candidate in (("before", 1.0), ("kept", kept), ("after", temperature)):
        if candidate is not None:
            measurements[f"answer error {label}"] = _answer_error(all_logits, correct, candidate)
    return FittedCalibration(start.model_copy(update={"answer_temperature": temperature}), measurements, names)


def _answer_error(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """Return the expected calibration error (0..1) of the best answer's probability."""
    z = logits.astype(np.float64) / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    best = (z / z.sum(axis=1, keepdims=True)).max(axis=1)
    return calibration_error(best, logits.argmax(axis=1) == targets)
