"""Captions of a clip get every score by its name, and EMScore says which word was seen when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_animation
from tests.small_bundle import make_small_bundle
from vitascope.model import Model, VideoEmbedding
from vitascope.scoring import FrameEmbeddings, caption_words, frame_times, score_captions, word_weights


@pytest.fixture(scope="module")
def red_then_blue(
    small_model: Model, tmp_path_factory: pytest.TempPathFactory
) -> tuple[VideoEmbedding, FrameEmbeddings]:
    path = tmp_path_factory.mktemp("clip") / "two.webp"
    write_animation(path, [solid((220, 10, 10)), solid((10, 10, 220))], [4000, 4000])
    times = frame_times(0.0, 8.0, 4)
    seen = small_model.embed_file(path, [(0.0, 8.0), *((time, time) for time in times)])
    return VideoEmbedding(seen.vectors[:1], seen.visual_tokens[:1]), FrameEmbeddings(times, seen.vectors[1:])


def test_frames_are_the_centres_of_equal_parts_and_a_picture_has_one() -> None:
    assert frame_times(2.0, 10.0, 4) == [3.0, 5.0, 7.0, 9.0]
    assert frame_times(0.0, 0.0, 4) == [0.0]


def test_words_are_found_and_those_that_say_nothing_count_nothing() -> None:
    words = caption_words("The dog's ball — isn't it RED?", 64)
    assert words == ["the", "dog's", "ball", "isn't", "it", "red"]
    assert word_weights(words) == [0, 1, 1, 1, 0, 1]
    assert caption_words("a b c d", 2) == ["a", "b"]
    assert caption_words(" !? ", 64) == ["!?"]
    assert caption_words("чёрный кот", 64) == ["чёрный", "кот"]
    assert word_weights(["it", "is"]) == [1, 1]


def test_each_word_is_found_in_the_frame_that_shows_it(
    small_model: Model, red_then_blue: tuple[VideoEmbedding, FrameEmbeddings]
) -> None:
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
    telling = [evidence[word].similarity for word in ("red", "blue", "ball")]
    assert both.emscore.precision == pytest.approx(np.mean(telling))
    assert both.emscore.recall > 0.9  # every frame has its colour in the caption
    assert wrong.emscore.score < both.emscore.score


def test_half_of_what_is_seen_is_half_of_the_recall(
    small_model: Model, red_then_blue: tuple[VideoEmbedding, FrameEmbeddings]
) -> None:
    clip, frames = red_then_blue
    half, both = score_captions(small_model, clip, ["red", "red blue"], frames=frames)
    assert half.emscore is not None
    assert both.emscore is not None
    assert half.emscore.precision > 0.9
    assert both.emscore.recall - half.emscore.recall > 0.3


def test_references_are_compared_with_and_the_best_one_counts(
    small_model: Model, red_then_blue: tuple[VideoEmbedding, FrameEmbeddings]
) -> None:
    clip, _ = red_then_blue
    captions = ["a red ball", "a green ball"]
    references = ["a yellow thing", "a red thing"]
    vectors = small_model.embed_text([*captions, *references])
    cosines = vectors[:2] @ vectors[2:].T
    for place, found in enumerate(score_captions(small_model, clip, captions, references)):
        assert found.similarity == pytest.approx(float(vectors[place] @ clip.vectors[0]), abs=1e-6)
        assert found.reference_similarity == pytest.approx(float(cosines[place].max()), abs=1e-6)
        a, b = max(2.5 * (found.similarity or 0), 0), max(found.reference_similarity or 0, 0)
        assert found.refclipscore == pytest.approx(2 * a * b / (a + b) if a and b else 0)
    without = score_captions(small_model, clip, captions)[0]
    assert (without.reference_similarity, without.refclipscore, without.emscore) == (None, None, None)


def test_a_score_does_not_depend_on_its_company(
    small_model: Model, red_then_blue: tuple[VideoEmbedding, FrameEmbeddings]
) -> None:
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


def test_what_the_bundle_cannot_tell_is_null(
    tmp_path: Path, red_then_blue: tuple[VideoEmbedding, FrameEmbeddings]
) -> None:
    clip, frames = red_then_blue
    matching = Model.open(make_small_bundle(tmp_path / "m", tasks=["matching"]), threads=1, device="cpu")
    found = score_captions(matching, clip, ["a red ball"], ["red"], frames)[0]
    assert found.match is not None
    others = (found.similarity, found.clipscore, found.refclipscore, found.reference_similarity, found.emscore)
    assert (*others, found.fused) == (None,) * 6
    retrieving = Model.open(make_small_bundle(tmp_path / "r", tasks=["retrieval"]), threads=1, device="cpu")
    found = score_captions(retrieving, clip, ["a red ball"], ["red"], frames)[0]
    assert (found.match, found.fused) == (None, None)
    assert found.refclipscore is not None
    assert found.emscore is not None
