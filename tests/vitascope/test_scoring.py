"""Scores: calibration, CLIPScore, RefCLIPScore and EMScore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_animation
from tests.small_bundle import make_small_bundle
from vitascope.bundle.manifest import Calibration
from vitascope.embeddings import VideoEmbedding
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.scoring import (
    FrameEmbeddings,
    answer_probabilities,
    caption_words,
    clip_score,
    em_score,
    fine_grained_match,
    frame_times,
    fused_score,
    joint_evidence,
    match_probability,
    ref_clip_score,
    score_captions,
    similarity_probability,
    sound_evidence,
    word_weights,
)

ClipAndFrames = tuple[VideoEmbedding, FrameEmbeddings]


def test_clip_score_is_never_negative() -> None:
    assert [clip_score(-0.2), clip_score(0.3)] == pytest.approx([0.0, 0.75])


def test_calibrated_probabilities_follow_the_formulas_without_overflow() -> None:
    calibration = Calibration(match_scale=2.0, match_bias=-1.0, fused_similarity=4.0, fused_match=0.5, fused_bias=-1.0)
    assert match_probability(calibration, np.array([0.5, -1e6, 1e6])).tolist() == pytest.approx([0.5, 0.0, 1.0])
    # 4 * 0.5 + 0.5 * 0 - 1 = 1
    assert fused_score(calibration, np.array([0.5]), np.array([0.0])).tolist() == pytest.approx([1 / (1 + np.exp(-1))])
    assert similarity_probability(calibration, np.array([0.5])) is None
    calibration = Calibration(similarity_scale=8.0, similarity_bias=-4.0)
    assert similarity_probability(calibration, np.array([0.5, 1.0])) == pytest.approx([0.5, 1 / (1 + np.exp(-4))])


def test_sound_is_evidence_where_its_similarity_is_unlikely_by_chance() -> None:
    """The highest of a hundred normal values is about three deviations above their mean, that of ten thousand four."""
    deviations = np.array([0.0, 3.03, 5.0])
    usual, unsure, likely = sound_evidence(deviations, sound_count=100)
    assert usual < 0.01
    assert unsure == pytest.approx(0.5, abs=0.01)
    assert likely > 0.95
    assert (sound_evidence(deviations, sound_count=10_000) < sound_evidence(deviations, sound_count=100)).all()


def test_pictures_and_sound_are_evidence_together_if_neither_is_alone() -> None:
    """By chance the best of a hundred clips is three deviations high, alone or as a sum divided by the root of two."""
    seen, heard = np.array([3.0, 0.0, 3.0, 4.0]), np.array([0.0, 3.0, 3.0, 4.0])
    only_seen, only_heard, unsure, likely = joint_evidence(seen, heard, sound_count=100)
    assert max(only_seen, only_heard) < 0.1
    assert unsure == pytest.approx(0.5, abs=0.1)
    assert likely > 0.9


def test_ref_clip_score_is_the_harmonic_mean_with_the_best_reference() -> None:
    # CLIPScore 2.5 * 0.3 = 0.75, reference 0.5: 2 * 0.75 * 0.5 / 1.25
    assert ref_clip_score(0.3, 0.5) == pytest.approx(0.6)
    assert ref_clip_score(-0.1, 0.5) == 0.0
    assert ref_clip_score(0.3, -0.5) == 0.0


def test_fine_grained_match_follows_the_paper() -> None:
    # Two frames, three words, by hand. Best frames of the words: 0.8, 0.5, 0.2; best words of the frames: 0.8, 0.5.
    table = np.array([[0.8, 0.1, 0.2], [0.4, 0.5, 0.0]])
    plain = fine_grained_match(table, np.ones(3))
    assert plain.precision == pytest.approx(1.5 / 3)
    assert plain.recall == pytest.approx((0.8 + 0.5) / 2)
    assert plain.f1 == pytest.approx(2 * 0.5 * 0.65 / 1.15)
    assert plain.word_similarity.tolist() == [0.8, 0.5, 0.2]
    assert plain.word_frame.tolist() == [0, 1, 0]
    assert em_score(0.3, plain.f1) == pytest.approx((0.3 + 2 * 0.5 * 0.65 / 1.15) / 2)


def test_words_are_weighted() -> None:
    table = np.array([[0.8, 0.1, 0.2], [0.4, 0.5, 0.0]])
    # (2 * 0.8 + 1 * 0.5) / 3; the last word has no weight
    weighted = fine_grained_match(table, np.array([2.0, 1.0, 0.0]))
    assert weighted.precision == pytest.approx(2.1 / 3)
    assert weighted.recall == pytest.approx(0.65)
    # Only the middle word has weight: 0.1 and 0.5.
    assert fine_grained_match(table, np.array([0.0, 1.0, 0.0])).recall == pytest.approx(0.3)


def test_the_harmonic_mean_of_cosines_of_both_signs_is_0() -> None:
    assert fine_grained_match(np.array([[-0.2]]), np.ones(1)).f1 == 0.0
    assert fine_grained_match(np.array([[0.4, 0.2], [-0.6, -0.5]]), np.ones(2)).f1 == 0.0  # recall (0.4 - 0.5) / 2


@pytest.mark.parametrize(
    ("shape", "weights"), [((0, 2), [1, 1]), ((2, 0), []), ((2, 2), [1]), ((1, 2), [0, 0]), ((1, 2), [1, -1])]
)
def test_tables_without_frames_words_or_weights_are_rejected(shape: tuple[int, int], weights: list[float]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        fine_grained_match(np.zeros(shape), np.array(weights))


def test_answer_probabilities_are_a_softmax_at_the_temperature() -> None:
    # softmax of (ln 4, 0) is (0.8, 0.2); at temperature 2 of (ln 2, 0) it is (2/3, 1/3)
    logits = np.log(np.array([[4.0, 1.0]]))
    assert answer_probabilities(Calibration(), logits)[0].tolist() == pytest.approx([0.8, 0.2])
    assert answer_probabilities(Calibration(answer_temperature=2.0), logits)[0].tolist() == pytest.approx(
        [2 / 3, 1 / 3]
    )
    assert answer_probabilities(Calibration(), np.array([[1e6, -1e6]]))[0].tolist() == [1.0, 0.0]


@pytest.fixture(scope="module")
def red_then_blue(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> ClipAndFrames:
    path = tmp_path_factory.mktemp("clip") / "two.webp"
    write_animation(path, [solid((220, 10, 10)), solid((10, 10, 220))], [4000, 4000])
    times = frame_times(0.0, 8.0, 4)
    embeddings = small_model.embed_video_file(path, [(0.0, 8.0), *((time, time) for time in times)])
    return VideoEmbedding(embeddings.vectors[:1], embeddings.visual_tokens[:1]), FrameEmbeddings(
        times, embeddings.vectors[1:]
    )


def test_frame_times_are_centres_of_equal_parts_and_an_image_has_one() -> None:
    assert frame_times(2.0, 10.0, 4) == [3.0, 5.0, 7.0, 9.0]
    assert frame_times(0.0, 0.0, 4) == [0.0]


def test_function_words_have_no_weight() -> None:
    words = caption_words("The dog's ball — isn't it RED?", 64)
    assert words == ["the", "dog's", "ball", "isn't", "it", "red"]
    assert word_weights(words) == [0, 1, 1, 1, 0, 1]
    assert caption_words("a b c d", 2) == ["a", "b"]
    assert caption_words(" !? ", 64) == ["!?"]
    assert caption_words("чёрный кот", 64) == ["чёрный", "кот"]
    assert word_weights(["it", "is"]) == [1, 1]


def test_em_score_locates_each_word_in_its_frame(small_model: Model, red_then_blue: ClipAndFrames) -> None:
    clip, frames = red_then_blue
    both, wrong = score_captions(small_model, clip, ["a red and blue ball", "a green and yellow ball"], frames=frames)
    assert both.emscore is not None
    assert wrong.emscore is not None
    evidence = {word.word: word for word in both.emscore.words}
    assert evidence["red"].time < 4 < evidence["blue"].time
    assert evidence["red"].similarity > 0.9
    assert [word.weight for word in both.emscore.words] == [0, 1, 0, 1, 1]
    assert both.emscore.coarse == both.similarity
    assert both.emscore.score == pytest.approx((both.emscore.coarse + both.emscore.f1) / 2)
    content_words = [evidence[word].similarity for word in ("red", "blue", "ball")]
    assert both.emscore.precision == pytest.approx(np.mean(content_words))
    assert both.emscore.recall > 0.9  # every frame has its colour in the caption
    assert wrong.emscore.score < both.emscore.score


def test_a_caption_of_half_the_frames_has_lower_recall(small_model: Model, red_then_blue: ClipAndFrames) -> None:
    clip, frames = red_then_blue
    half, both = score_captions(small_model, clip, ["red", "red blue"], frames=frames)
    assert half.emscore is not None
    assert both.emscore is not None
    assert half.emscore.precision > 0.9
    assert both.emscore.recall - half.emscore.recall > 0.3


def test_refclipscore_uses_the_best_reference(small_model: Model, red_then_blue: ClipAndFrames) -> None:
    clip, _ = red_then_blue
    captions = ["a red ball", "a green ball"]
    references = ["a yellow thing", "a red thing"]
    vectors = small_model.embed_text([*captions, *references])
    cosines = vectors[:2] @ vectors[2:].T
    for index, scores in enumerate(score_captions(small_model, clip, captions, references)):
        assert scores.similarity == pytest.approx(float(vectors[index] @ clip.vectors[0]), abs=1e-6)
        assert scores.reference_similarity == pytest.approx(float(cosines[index].max()), abs=1e-6)
        a, b = max(2.5 * (scores.similarity or 0), 0), max(scores.reference_similarity or 0, 0)
        assert scores.refclipscore == pytest.approx(2 * a * b / (a + b) if a and b else 0)
    without = score_captions(small_model, clip, captions)[0]
    assert (without.reference_similarity, without.refclipscore, without.emscore) == (None, None, None)


def test_scores_do_not_depend_on_other_captions(small_model: Model, red_then_blue: ClipAndFrames) -> None:
    clip, frames = red_then_blue
    alone = score_captions(small_model, clip, ["a red ball"], ["red"], frames)[0]
    last = score_captions(small_model, clip, ["blue", "a very very long text of words", "a red ball"], ["red"], frames)[
        2
    ]
    assert last.emscore is not None
    assert alone.emscore is not None
    assert last.emscore.score == pytest.approx(alone.emscore.score, abs=1e-6)
    assert last.refclipscore == pytest.approx(alone.refclipscore, abs=1e-6)
    assert last.fused == pytest.approx(alone.fused, abs=1e-6)


def test_scores_that_the_bundle_cannot_compute_are_none(tmp_path: Path, red_then_blue: ClipAndFrames) -> None:
    clip, frames = red_then_blue
    matching = Model.open(make_small_bundle(tmp_path / "m", tasks=["matching"]), threads=1, device="cpu")
    scores = score_captions(matching, clip, ["a red ball"], ["red"], frames)[0]
    assert scores.match is not None
    others = (scores.similarity, scores.clipscore, scores.refclipscore, scores.reference_similarity, scores.emscore)
    assert (*others, scores.fused) == (None,) * 6
    retrieving = Model.open(make_small_bundle(tmp_path / "r", tasks=["retrieval"]), threads=1, device="cpu")
    scores = score_captions(retrieving, clip, ["a red ball"], ["red"], frames)[0]
    assert (scores.match, scores.fused) == (None, None)
    assert scores.refclipscore is not None
    assert scores.emscore is not None
