"""Calibration of probabilities on validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from model_export.calibrate import calibrate, choose_reranking, choose_sound_reranking, keep_reranking
from model_export.parity.checks import Embedded
from training.data.example import Example, Negative, Question
from training.data.packed import Packed
from training.evaluation.calibration import calibration_errors, fit, validation_pairs
from training.evaluation.retrieval import NearestVideos
from vitascope.answering import Answer
from vitascope.bundle.manifest import AudioStream, Calibration, Reranking, RerankingRecall, SoundReranking
from vitascope.embeddings import VideoEmbedding
from vitascope.scoring import Match, fused_score

ANSWERS = ["red", "green", "blue", "yellow"]


class Overconfident:
    """Match logits three times too large, with an offset and many errors; counts right pairs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pairs: list[tuple[str, int]] = []
        """(text, row) of all matched pairs."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        numbers = np.array([int(text.split()[1]) for text in texts])
        return np.stack([np.cos(numbers), np.sin(numbers)], axis=1).astype(np.float32)

    def embed_video(self, streams: object) -> VideoEmbedding:
        raise AssertionError("the corpus is embedded")

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray, audio_tokens: np.ndarray | None = None) -> Match:
        assert audio_tokens is None
        self.pairs += zip(texts, visual_tokens[:, 0, 0].astype(int).tolist(), strict=True)
        same = np.array([int(t.split()[1]) for t in texts]) == visual_tokens[:, 0, 0]
        logits = 3.0 * (self.rng.normal(size=len(texts)) + np.where(same, 1.0, -1.0)) + 4.0
        return Match(logits.astype(np.float32), logits.astype(np.float32))

    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        raise AssertionError("nothing is ranked")

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: np.ndarray,
        top: int = 5,
        *,
        audio_tokens: np.ndarray | None = None,
    ) -> list[list[Answer]]:
        raise AssertionError("answers are calibrated from logits")


def _embedded(count: int = 300) -> Embedded:
    examples = [
        Example(key=str(i), captions=(f"item {i}",), questions=(Question("which ?", (ANSWERS[i % 4],), "what"),))
        for i in range(count)
    ]
    tokens = np.arange(count, dtype=np.float32)[:, None, None]
    vectors = np.stack([np.cos(np.arange(count)), np.sin(np.arange(count))], axis=1).astype(np.float32)
    packed = Packed(Path("made-up"), (), MappingProxyType({}), examples, MappingProxyType({}))
    return Embedded(packed, vectors, tokens, vectors)


def _answer_logits(questions: Sequence[str], tokens: np.ndarray) -> np.ndarray:
    """Return logits that are high, and right in about half of the cases."""
    rng = np.random.default_rng(len(questions))
    truth = tokens[:, 0, 0].astype(int) % 4
    predicted = np.where(rng.random(len(truth)) < 0.5, truth, rng.integers(0, 4, len(truth)))
    return 12.0 * np.eye(4)[predicted] + rng.normal(size=(len(truth), 4))


def test_match_probabilities_are_better_calibrated_on_other_pairs() -> None:
    corpus = _embedded()
    fitted = calibrate(Overconfident(0), {"made-up": corpus}, ANSWERS, None).calibration
    fresh = validation_pairs(Overconfident(1), corpus.packed, corpus.vectors, corpus.tokens, seed=1)
    before, after = calibration_errors(Calibration(), fresh), calibration_errors(fitted, fresh)
    assert before["match"] > 0.2
    assert after["match"] < 0.25 * before["match"]
    assert after["similarity"] < 0.1


def test_overconfident_answers_get_a_higher_temperature() -> None:
    fitted = calibrate(Overconfident(0), {"made-up": _embedded()}, ANSWERS, _answer_logits)
    assert fitted.calibration.answer_temperature > 3.0
    assert fitted.measurements["answer error before"] > 0.3
    assert fitted.measurements["answer error after"] < 0.1
    assert fitted.measurements["answer questions"] == 300


def test_pairs_are_the_hits_of_searches_and_a_shared_caption_is_right_for_both_examples() -> None:
    corpus = _embedded(40)
    # Twenty captions of two examples each.
    shared = [Example(key=e.key, captions=(f"item {i // 2}",)) for i, e in enumerate(corpus.packed.examples)]
    packed = Packed(corpus.packed.folder, (), corpus.packed.arrays, shared, corpus.packed.info)
    encoder = Overconfident(0)
    pairs = validation_pairs(encoder, packed, corpus.vectors[np.arange(40) // 2], corpus.tokens)
    assert pairs.label.tolist() == [float(text == shared[row].captions[0]) for text, row in encoder.pairs]
    assert pairs.label.sum() == 80  # both examples for each of 40 queries
    assert pairs.similarity[pairs.label == 1].min() >= pairs.similarity[pairs.label == 0].max()


def test_a_sentence_that_is_as_close_as_captions_of_one_video_is_right_for_another() -> None:
    corpus = _embedded(40)
    # Each number has two photographs, described in words of their own.
    ends = ("is seen by the door", "stands near a door", "is out in the snow", "was left in snow")
    described = [
        Example(key=e.key, captions=tuple(f"item {i // 2} {end}" for end in ends[i % 2 * 2 :][:2]))
        for i, e in enumerate(corpus.packed.examples)
    ]
    packed = Packed(corpus.packed.folder, (), corpus.packed.arrays, described, corpus.packed.info)
    pairs = validation_pairs(Overconfident(0), packed, corpus.vectors[np.arange(40) // 2], corpus.tokens)
    assert pairs.label.sum() == 80  # both photographs for each of 40 queries
    assert pairs.similarity[pairs.label == 1].min() >= pairs.similarity[pairs.label == 0].max()


def test_queries_about_absent_things_are_wrong_for_their_best_hits() -> None:
    corpus = _embedded(70)
    encoder = Overconfident(0)
    absent = [f"item {i}" for i in range(1000, 1100)]
    pairs = validation_pairs(encoder, corpus.packed, corpus.vectors, corpus.tokens, absent=absent)
    about_absent = np.array([text in absent for text, _ in encoder.pairs])
    assert about_absent.mean() == 0.3
    assert not pairs.label[about_absent].any()


def test_minimal_negatives_do_not_lower_the_relevance_of_results() -> None:
    corpus = _embedded(40)
    examples = [
        replace(e, negatives=(Negative(f"{e.captions[0]} not", of=0, grade=1, kind="number"),))
        for e in corpus.packed.examples
    ]
    packed = replace(corpus.packed, examples=examples)
    pairs = [validation_pairs(Overconfident(0), p, corpus.vectors, corpus.tokens) for p in (corpus.packed, packed)]
    assert pairs[1].is_hit.sum() == len(pairs[0].label) == len(pairs[1].label) - 40
    without, beside = (fit([p], [searches([(8, 0)])]) for p in pairs)
    assert beside.similarity_scale == pytest.approx(without.similarity_scale, rel=1e-3)
    assert beside.similarity_bias == pytest.approx(without.similarity_bias, rel=1e-3)


def test_corpora_with_sound_calibrate_nothing_where_matching_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = _embedded(40)
    sounds: Any = []
    heard = replace(corpus, packed=replace(corpus.packed, audio=sounds))
    stream = AudioStream(sample_rate=16_000, seconds=1.0)
    monkeypatch.setattr("model_export.calibrate.audio_stream", lambda _: stream)
    previous = Calibration(match_scale=3.0, similarity_scale=9.0, similarity_bias=-5.0, answer_temperature=2.0)
    encoder = Overconfident(0)
    assert calibrate(encoder, {"heard": heard}, ANSWERS, _answer_logits, previous=previous).calibration == previous
    assert not encoder.pairs


BY_MATCH = Calibration(fused_similarity=0.0, fused_match=1.0)


def searches(moves: Sequence[tuple[int, int]], queries: int = 60) -> NearestVideos:
    """Return searches with the ranks of the relevant video by similarity (first of a pair) and by match (second)."""
    similarity = np.tile(np.linspace(1.0, 0.0, 60), (queries, 1))
    logits, is_relevant = similarity.copy(), np.zeros(similarity.shape, bool)
    for query in range(queries):
        before, after = moves[query % len(moves)]
        is_relevant[query, before] = True
        logits[query, before] = similarity[query, after] + (0.001 if after <= before else -0.001)
    return NearestVideos(similarity, logits, is_relevant)


@pytest.mark.parametrize(
    ("corpora", "candidates"),
    [
        ({"a": searches([(8, 0), (30, 0)])}, 50),
        ({"a": searches([(8, 0), (30, 0)]), "b": searches([(0, 3)])}, 0),
        ({"a": searches([(8, 0), (30, 0)]), "b": searches([(0, 0), (9, 20)])}, 10),
        ({"a": searches([(8, 0)])}, 10),
        ({"a": searches([(0, 3)])}, 0),
        ({"a": searches([(3, 3)])}, 0),
        ({"a": searches([(8, 0), *[(0, 0)] * 59]), "b": searches([(0, 0)])}, 0),
        ({"a": searches([(8, 0)]), "few": searches([(0, 3)], queries=10)}, 10),
    ],
    ids=[
        "most gain",
        "one corpus loses",
        "one loses with many",
        "equal gain",
        "all lose",
        "no gain",
        "hardly any gain",
        "few queries",
    ],
)
def test_as_many_results_are_reranked_as_gain_most_without_a_loss_on_any_corpus(
    corpora: dict[str, NearestVideos], candidates: int
) -> None:
    chosen = choose_reranking(corpora, BY_MATCH)
    assert chosen is not None
    assert chosen.candidates == candidates
    assert set(chosen.measured) == {f"{name}/val" for name in corpora if name != "few"}
    assert chosen.measured["a/val"].queries == len(corpora["a"].logits)
    assert set(chosen.measured["a/val"].recall) == {0, 10, 20, 50}


def scene_searches(moves: Sequence[tuple[int, float]], queries: int = 60) -> NearestVideos:
    """Return searches of twenty results, whose relevant one has a rank (from 0) and a match logit; others have 0."""
    scores = np.tile(np.linspace(0.9, 0.1, 20), (queries, 1))
    logits, is_relevant = np.zeros(scores.shape), np.zeros(scores.shape, bool)
    for query in range(queries):
        rank, logit = moves[query % len(moves)]
        is_relevant[query, rank], logits[query, rank] = True, logit
    return NearestVideos(scores, logits, is_relevant)


@pytest.mark.parametrize(
    ("searches", "chosen"),
    [
        ({"sight": scene_searches([(1, 1.0)])}, (10, 0.5)),
        ({"sight": scene_searches([(1, 50.0)])}, (10, 0.05)),
        ({"sight": scene_searches([(15, 20.0)]), "both": scene_searches([(0, 1.0)])}, (20, 0.2)),
        ({"sight": scene_searches([(0, -20.0)]), "both": scene_searches([(1, 50.0)])}, (0, 0.0)),
        (
            {"sight": scene_searches([(0, -20.0), *[(0, 0.0)] * 119], 120), "both": scene_searches([(1, 50.0)])},
            (10, 0.05),
        ),
        ({"sight": scene_searches([(1, 50.0), *[(0, 0.0)] * 249], 250)}, (0, 0.0)),
        ({"sight": scene_searches([(1, 1.0)]), "few": scene_searches([(0, -20.0)], 10)}, (10, 0.5)),
    ],
    ids=[
        "high weight",
        "low weight",
        "many results",
        "one need loses",
        "it loses a point",
        "hardly any gain",
        "few queries",
    ],
)
def test_searches_by_sound_are_reranked_where_the_first_results_gain_and_no_need_loses(
    searches: dict[str, NearestVideos], chosen: tuple[int, float]
) -> None:
    sound = choose_sound_reranking(searches)
    assert sound is not None
    assert (sound.candidates, sound.match_weight) == chosen
    assert set(sound.measured) == set(searches) - {"few"}
    assert set(sound.measured["sight"].recall) == ({0, 10, 20} if sound.candidates else {0})
    if chosen == (20, 0.2):
        assert sound.measured["sight"].recall == {0: (0, 0, 0), 10: (0, 0, 0), 20: (100, 100, 100)}


def test_too_few_queries_say_nothing_about_reranking() -> None:
    assert choose_sound_reranking({"few": scene_searches([(1, 1.0)], 10)}) is None
    assert choose_reranking({"few": searches([(8, 0)], queries=10)}, BY_MATCH) is None
    assert calibrate(Overconfident(0), {"few": _embedded(40)}, ANSWERS, None).reranking is None


def test_reranking_that_was_not_measured_is_kept_without_measurements_of_other_weights() -> None:
    measured = {"squares/val": RerankingRecall(queries=50, recall={0: (1, 2, 3), 10: (2, 3, 4)})}
    sound = SoundReranking(candidates=10, match_weight=0.2, measured=measured)
    source = Reranking(candidates=20, measured=measured, sound=sound)
    kept = SoundReranking(candidates=10, match_weight=0.2)
    assert keep_reranking(None, source) == Reranking(candidates=20, sound=kept)
    by_pictures = Reranking(candidates=10, measured=measured)
    assert keep_reranking(by_pictures, source) == by_pictures.model_copy(update={"sound": kept})
    assert keep_reranking(by_pictures, None) == by_pictures
    by_sound = by_pictures.model_copy(update={"sound": SoundReranking(candidates=0, match_weight=0)})
    assert keep_reranking(by_sound, source) == by_sound


def test_the_order_of_results_never_goes_against_similarity_or_match() -> None:
    corpus = _embedded()
    pairs = [validation_pairs(Overconfident(0), corpus.packed, corpus.vectors, corpus.tokens)]
    misleading = searches([(0, 40), (1, 50), (3, 59)])
    fitted = fit(pairs, [misleading])
    assert fitted.fused_match == 0
    scores = fused_score(fitted, misleading.similarity, misleading.logits)
    assert misleading.recall(scores, 50) == misleading.recall()
    reversed_similarity = NearestVideos(-misleading.similarity, misleading.similarity, misleading.is_relevant)
    assert fit(pairs, [reversed_similarity]).fused_similarity == 0


def test_without_captions_and_questions_nothing_is_changed() -> None:
    corpus = _embedded(3)
    examples = [Example(key=e.key) for e in corpus.packed.examples]
    packed = Packed(corpus.packed.folder, (), corpus.packed.arrays, examples, corpus.packed.info)
    fitted = calibrate(
        Overconfident(0), {"bare": Embedded(packed, corpus.vectors, corpus.tokens, None)}, ANSWERS, _answer_logits
    )
    assert fitted.calibration == Calibration()
    assert fitted.measurements == {}
