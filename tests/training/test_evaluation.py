"""Evaluation: metrics by hand, retrieval, captions, answers, objects and the report."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.training.data.corpus_files import tone, wav
from tests.training.small_run import STREAMS, recipe, write_clips, write_corpus, write_tokenizer
from tests.vitascope.test_model import colour_streams
from training import checkpoint
from training.data.corpus import CorpusError
from training.data.example import CHOICE_ONLY, Example, Negative, Question
from training.data.packed import EncodedMedia, Media, Origin, Packed, open_packed, write_packed
from training.data.scenes.objects import ATTRIBUTES, object_targets
from training.data.scenes.sampling import sample_world
from training.evaluation import retrieval
from training.evaluation.answers import STILL, object_accuracy
from training.evaluation.calibration import Pairs, calibration_errors
from training.evaluation.captions import refclipscores, still_emscores
from training.evaluation.encoder import check_streams
from training.evaluation.metrics import (
    calibration_error,
    mean_average_precision,
)
from training.evaluation.metrics import (
    retrieval as retrieval_metrics,
)
from training.evaluation.protocols import PROTOCOLS, EvalTarget, measure_corpus
from training.evaluation.report import open_encoder
from training.evaluation.retrieval import Gallery, compare_counts, name_retrieval, sentence_retrieval
from training.models.fusion import FusedModel
from training.objectives.class_names import class_names, classify
from training.objectives.losses import object_tokens
from training.trainer import train
from vitascope.answering import Answer
from vitascope.bundle.manifest import Calibration, FrameStream, Task
from vitascope.cli.main import main
from vitascope.embeddings import VideoEmbedding
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.scoring import FrameEmbeddings, Match, fused_score, score_captions


def test_equal_scores_give_chance_not_perfection() -> None:
    n = 40
    out = retrieval_metrics(np.zeros((n, n)), [np.array([i]) for i in range(n)])
    assert out["R@1"] == pytest.approx(100 / n)
    assert out["R@10"] == pytest.approx(1000 / n)
    assert out["MdR"] == pytest.approx((n + 1) / 2)


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.3, 0.1]])
    out = retrieval_metrics(scores, [np.array([0]), np.array([1]), np.array([2])], at=(1, 2))
    assert out["R@1"] == pytest.approx(100 / 3)  # ranks 1, 2, 3
    assert out["R@2"] == pytest.approx(200 / 3)
    assert out["MnR"] == pytest.approx(2.0)


def test_one_tie_counts_half_at_the_border() -> None:
    out = retrieval_metrics(np.array([[0.5, 0.5, 0.1]]), [np.array([0])], at=(1, 2))
    assert out["R@1"] == pytest.approx(50.0)
    assert out["R@2"] == pytest.approx(100.0)


def test_the_best_rank_of_several_right_items_counts() -> None:
    out = retrieval_metrics(np.array([[0.9, 0.1, 0.8]]), [np.array([1, 2])], at=(1, 2))
    assert out["R@1"] == 0.0
    assert out["R@2"] == 100.0


def test_several_right_items_among_tied_ones_count_as_chance() -> None:
    out = retrieval_metrics(np.zeros((20, 100)), np.arange(100).reshape(20, 5))
    assert out == pytest.approx({"R@1": 5.0, "R@5": 23.04, "R@10": 41.62, "MdR": 16.83, "MnR": 16.83}, abs=0.01)
    out = retrieval_metrics(np.array([[0.9, 0.9, 0.9, 0.9, 0.1]]), [np.array([0, 1, 2])], at=(1, 2))
    assert out == pytest.approx({"R@1": 75.0, "R@2": 100.0, "MdR": 1.25, "MnR": 1.25})


def test_map_of_ties_is_the_mean_over_their_orders() -> None:
    scores, relevant = np.array([[0.5, 0.9, 0.5, 0.5, 0.1]]), np.array([[True, True, False, True, False]])
    # The wrong item is second, third or fourth.
    expected = np.mean([1 + 2 / 3 + 3 / 4, 1 + 1 + 3 / 4, 1 + 1 + 1]) * 100 / 3
    for order in itertools.permutations(range(5)):
        assert mean_average_precision(scores[:, order], relevant[:, order]) == pytest.approx(expected)


def test_calibration_error_of_honest_and_overconfident_probabilities() -> None:
    correct = np.array([1, 1, 1, 0] * 25)
    assert calibration_error(np.full(100, 0.75), correct) == pytest.approx(0.0)
    assert calibration_error(np.full(100, 1.0), correct) == pytest.approx(0.25)


ANGLES = {"one": 0, "two": 30, "three": 60, "four": 90, "Two": 30, "lost": 180}
"""Degrees of the angle_vectors of texts."""


class Turning:
    """Encoder that embeds every sentence as an angle."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return angle_vectors([ANGLES[text] for text in texts])


def angle_vectors(degrees: Sequence[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def counts(captions: Sequence[str], degrees: Sequence[float]) -> dict[str, float]:
    """Return the counts for clips at these angles, one per caption."""
    examples = [Example(key=str(n), captions=(caption,)) for n, caption in enumerate(captions)]
    packed = Packed(Path("made-up"), (), MappingProxyType({}), examples, MappingProxyType({}))
    original = retrieval.embed_corpus
    retrieval.embed_corpus = lambda encoder, packed: (angle_vectors(degrees), np.empty(0))  # type: ignore[assignment]
    try:
        return sentence_retrieval(Turning(), packed)  # type: ignore[arg-type]
    finally:
        retrieval.embed_corpus = original


def test_ranks_are_counted() -> None:
    # Seen at 1, 29, 85 and 62 degrees: "three" (60) finds the fourth clip first, "four" (90) the third.
    assert counts(["one", "two", "three", "four"], [1, 29, 85, 62]) == {
        "sentences": 4.0,
        "first": 2.0,
        "median rank": 1.5,
        "mean rank": 1.5,
    }


def test_clips_with_equal_captions_are_right_for_each_other() -> None:
    # "two" finds the clip of "Two" first, which is as right as its own.
    made = counts(["one", "two", "three", "Two"], [0, 140, 60, 30])
    assert made["first"] == 4.0
    assert counts(["one", "two", "three", "lost"], [0, 140, 60, 30])["first"] == 2.0


def test_equal_scores_count_as_chance() -> None:
    made = counts(["one", "two", "three", "four"], [10, 10, 10, 10])
    assert made["first"] == 1.0
    assert made["mean rank"] == 2.5


def test_results_are_compared_by_hits_at_rank_one_and_then_by_mean_rank() -> None:
    assert compare_counts({"first": 3, "mean rank": 9.0}, {"first": 4, "mean rank": 12.0}) == 1
    assert compare_counts({"first": 3, "mean rank": 9.0}, {"first": 3, "mean rank": 12.0}) == -1
    assert compare_counts({"first": 3, "mean rank": 9.0}, {"first": 3, "mean rank": 9.0}) == 0


class Naming:
    """Encoder that embeds every class name in its own direction."""

    def __init__(self) -> None:
        self.places = {name: i for i, name in enumerate(class_names())}

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(1000, dtype=np.float32)[[self.places[text] for text in texts]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    items: list[tuple[Example, Media]] = []
    for i in range(12):
        pixels = rng.integers(0, 256, (i % 6 + 1, i % 5 + 1, 3), dtype=np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(path)
        items.append((Example(key=str(i), captions=("a picture",), still=True), path))
    stream = FrameStream(name="high", frames=1, height=96, width=96, placement="middle")
    write_packed(folder / "packed", [stream], items, Origin("made in the test", "CC0-1.0", "all"))
    return open_packed(folder / "packed")


def test_a_model_that_agrees_with_the_classifier_finds_every_picture(pictures: Packed) -> None:
    teacher = classify(pictures).astype(np.float32)
    assert np.allclose(teacher.sum(axis=1), 1.0, atol=0.01)
    agreeing = np.eye(teacher.shape[1], dtype=np.float32)[teacher.argmax(axis=1)]
    actual = name_retrieval(Naming(), pictures, Gallery(agreeing))  # type: ignore[arg-type]
    assert actual["name R@1"] == 100.0
    assert 1 < actual["name queries"] == len(set(teacher.argmax(axis=1).tolist()))
    contrary = name_retrieval(Naming(), pictures, Gallery(-agreeing))  # type: ignore[arg-type]
    assert contrary["name R@1"] == 0.0


def test_the_classifier_runs_on_each_of_several_clips(pictures: Packed) -> None:
    alone = classify(pictures).astype(np.float32)
    pairs = pictures.arrays["high"].reshape(6, 2, 1, 96, 96, 3)  # neighbours as two clips of one video
    together = classify(replace(pictures, arrays={"high": pairs}, info={**pictures.info, "clips": 2}))
    np.testing.assert_allclose(together.astype(np.float32), alone.reshape(6, 2, -1).mean(axis=1), atol=2e-3)


TEXTS = ["a red ball", "a blue thing", "the dog"]
REFERENCES = [["red", "a cat"], ["a green ball", "blue"], ["a dog"]]


def test_scores_over_a_corpus_are_those_of_single_captions(small_model: Model) -> None:
    seen = small_model.embed_video(colour_streams("red", "blue", "red"))
    similarity = (small_model.embed_text(TEXTS) * seen.vectors).sum(axis=1)
    by_references = refclipscores(small_model, TEXTS, similarity, REFERENCES)
    by_words = still_emscores(small_model, TEXTS, similarity, seen.vectors)
    for i, (text, references) in enumerate(zip(TEXTS, REFERENCES, strict=True)):
        clip = VideoEmbedding(seen.vectors[i : i + 1], seen.visual_tokens[i : i + 1])
        frames = FrameEmbeddings([0.0], seen.vectors[i : i + 1])
        alone = score_captions(small_model, clip, [text], references, frames)[0]
        assert by_references[i] == pytest.approx(alone.refclipscore, abs=1e-6)
        assert alone.emscore is not None
        assert by_words[i] == pytest.approx(alone.emscore.score, abs=1e-6)


SCENES = [asdict(sample_world(5, "test", i)) for i in range(20)]
GRID = (4, 6)
SIZES = [len(values) for values in ATTRIBUTES.values()]


def packed() -> Packed:
    examples = [Example(key=str(n), attributes={"scene": scene}) for n, scene in enumerate(SCENES)]
    return Packed(Path("nowhere"), (), {}, examples, {})


def model_that_tells(wrong: str | None) -> FusedModel:
    """Return a model whose head predicts every object correctly, except one attribute, which is always wrong."""
    positions, classes = (torch.from_numpy(array) for array in object_targets(SCENES))
    token, _ = object_tokens(positions, classes, GRID)
    logits = torch.zeros(len(SCENES), GRID[0] * GRID[1], 1 + sum(SIZES))
    for n, k in np.argwhere(classes[..., 0].numpy() >= 0)[::-1]:  # the first of a token last, so that it counts
        parts = [torch.zeros(size) for size in SIZES]
        for i, name in enumerate(ATTRIBUTES):
            parts[i][(classes[n, k, i] + (name == wrong)) % SIZES[i]] = 1.0
        logits[n, token[n, k]] = torch.cat([torch.ones(1), *parts])
    described = SimpleNamespace(
        parameters=lambda: iter([torch.zeros(1)]),
        object_logits=lambda visual: logits,
        cfg=SimpleNamespace(object_classes=SIZES, grid_of=lambda tokens: GRID),
    )
    return cast(FusedModel, described)


def described(wrong: str | None) -> dict[str, Any]:
    return object_accuracy(model_that_tells(wrong), packed(), np.zeros((len(SCENES), GRID[0] * GRID[1], 8), np.float16))


def test_a_perfect_head_has_perfect_accuracy() -> None:
    assert set(described(None).values()) == {100.0}


@pytest.mark.parametrize("wrong", STILL)
def test_errors_of_one_attribute_lower_the_mean_by_its_share(wrong: str) -> None:
    actual = described(wrong)
    assert actual.pop(f"objects ({wrong})") == 0.0
    assert actual.pop("objects") == pytest.approx(100 * (len(STILL) - 1) / len(STILL))
    assert set(actual.values()) == {100.0}


def test_attributes_of_motion_are_not_part_of_the_mean() -> None:
    assert described("speed")["objects"] == 100.0


ORIGIN = Origin("made in the test", "CC0-1.0", "all")
HIGH = FrameStream(name="high", frames=1, height=32, width=32, placement="middle")


@dataclass
class FakeEncoder:
    """Vectors of texts are stated; video number i has vector and tokens of the i-th axis; it always answers red.

    Match logits are the opposite of similarities, so that the two scores differ.
    """

    vectors: dict[str, Sequence[float]]
    tasks: Sequence[Task] = ("retrieval", "matching", "answering")
    streams: Sequence[FrameStream] = (HIGH,)
    calibration: Calibration = field(default_factory=Calibration)
    caption_matrix: np.ndarray | None = None

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    def embed_video(self, streams: dict[str, np.ndarray]) -> VideoEmbedding:
        number = streams["high"][:, 0, 0, 0, 0, 0] // 50
        axes = np.eye(3, dtype=np.float32)[number]
        return VideoEmbedding(vectors=axes, visual_tokens=axes[:, None])

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray, audio_tokens: np.ndarray | None = None) -> Match:
        assert audio_tokens is None
        logits = -(self.embed_text(texts) * visual_tokens[:, 0]).sum(axis=1)
        return Match(logits=logits, probabilities=logits)

    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        return fused_score(self.calibration, similarity, match_logits)

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: np.ndarray,
        top: int = 5,
        *,
        audio_tokens: np.ndarray | None = None,
    ) -> list[list[Answer]]:
        assert audio_tokens is None
        return [[Answer("red", 0.5)] for _ in questions]


def pack(folder: Path, examples: Sequence[Example], streams: Sequence[FrameStream] = (HIGH,)) -> None:
    """Example number i shows the grey 50 * i."""
    items: list[tuple[Example, Media]] = []
    pictures = folder.parent / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for i, example in enumerate(examples):
        path = pictures / f"{i}.png"
        Image.new("RGB", (32, 32), (50 * i,) * 3).save(path)
        items.append((replace(example, still=True), path))
    write_packed(folder, streams, items, ORIGIN)


def measured(tmp_path: Path, examples: Sequence[Example], encoder: FakeEncoder) -> dict[str, float]:
    pack(tmp_path / "data" / "own" / "test", examples)
    subject = EvalTarget(encoder, tmp_path / "data", "test")  # type: ignore[arg-type]
    return measure_corpus(subject, subject.packed("own"))


THREE = [Example("0", ("a", "b")), Example("1", ("c",)), Example("2")]
VECTORS = {"a": (0.9, 0.1, 0), "b": (0.2, 0.1, 0.7), "c": (0.6, 0.5, 0.3)}


@pytest.mark.parametrize("entries", [1, 2**27])
def test_all_captions_search_among_all_videos_and_videos_with_captions_among_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    monkeypatch.setattr(retrieval, "MAX_SIMILARITIES", entries)  # one query at a time, or all at once
    actual = measured(tmp_path, THREE, FakeEncoder(VECTORS))
    # Of a, b, c the own video is first, second (the third video, of no caption, is before it) and second.
    assert {k: actual[k] for k in ("videos", "captions", "t2v MdR")} == {"videos": 3, "captions": 3, "t2v MdR": 2}
    assert actual["t2v R@1"] == pytest.approx(100 / 3)
    assert actual["t2v MnR"] == pytest.approx(5 / 3)
    # Of the first video a is the best of all three, of the second c: both are first.
    assert (actual["v2t R@1"], actual["v2t MnR"]) == (100, 1)
    assert not any(name.startswith(("right caption", "choice", "exact", "questions")) for name in actual)


def test_categories_and_their_photographs_find_one_another_by_name(tmp_path: Path) -> None:
    names = ("a red", "a red", "b")
    pack(tmp_path / "imagenet200" / "test", [Example(str(i), (name,)) for i, name in enumerate(names)])
    vectors = defaultdict(lambda: (0, 0, 0.9), {"a red": (0.9, 0.5, 0), "b": (0.1, 0.8, 0.7)})
    encoder = FakeEncoder(vectors, calibration=Calibration(similarity_scale=100.0, similarity_bias=-70.0))
    actual = PROTOCOLS["imagenet200"](EvalTarget(encoder, tmp_path, "test"))  # type: ignore[arg-type]
    # The first name finds both of its photographs first, b finds its own second. The second photograph is nearer to b.
    expected = {"precision@1": 50, "mAP": 75, "name top-1": pytest.approx(200 / 3), "name top-5": 100}
    expected["name answered"] = pytest.approx(200 / 3)  # all questions are answered "red"
    assert {name: actual[name] for name in expected} == expected
    # With a name that no photograph has there are nine hits: of five with a probability of 0 one is right, of three
    # with 1 also one, and that with 0.5 is right.
    assert actual["ECE hits"] == 9
    assert actual["similarity ECE"] == pytest.approx((5 * 0.2 + 3 * 2 / 3 + 0.5) / 9, abs=1e-5)
    assert {"match ECE", "fused ECE"} < actual.keys()


def test_the_calibration_error_of_each_probability() -> None:
    log_odds, is_hit = np.full(5, np.log(3.0)), np.array([True, True, True, True, False])
    pairs = Pairs(log_odds, log_odds, np.array([1.0, 1.0, 1.0, 0.0, 0.0]), is_hit)
    calibration = Calibration(
        similarity_scale=1.0,
        similarity_bias=0.0,
        match_scale=2.0,
        match_bias=0.0,
        fused_similarity=0.0,
        fused_match=0.0,
    )
    # Three of four hits are right, and three of all five; the probabilities are 3/4, 9/10 and 1/2.
    assert calibration_errors(calibration, pairs) == pytest.approx({"similarity": 0.0, "match": 0.3, "fused": 0.1})
    assert calibration_errors(Calibration(), pairs).keys() == {"match", "fused"}


def test_captions_that_are_reranked_are_spread_over_the_whole_corpus() -> None:
    examples = [Example(f"{i}", (f"{i // 2}",)) for i in range(20)] + [Example("none")]
    packed = Packed(Path("made-up"), (), {}, examples, {})
    assert retrieval.spread_captions(packed, 6) == ["0", "1", "3", "5", "6", "8"]
    assert retrieval.spread_captions(packed, 0) == retrieval.spread_captions(packed, 30) == [f"{i}" for i in range(10)]


def test_reordered_hits_are_counted_beside_those_of_similarity(tmp_path: Path) -> None:
    pack(tmp_path / "own" / "test", THREE)
    encoder = FakeEncoder(VECTORS)
    target = EvalTarget(encoder, tmp_path, "test")  # type: ignore[arg-type]
    packed = target.packed("own")
    actual = retrieval.reranked_retrieval(target.encoder, packed, *target.embed(packed), candidates=2)
    # By similarity a finds its video first and c second; the matching head puts the less similar of two hits first.
    assert (actual["similarity R@1 (top 2)"], actual["match R@1 (top 2)"]) == (50, 50)
    assert (actual["similarity R@5 (top 2)"], actual["match R@5 (top 2)"]) == (100, 100)
    few = retrieval.reranked_retrieval(target.encoder, packed, *target.embed(packed), queries=1, candidates=2)
    assert (few["similarity R@1 (top 2)"], few["match R@1 (top 2)"]) == (100, 0)


def test_sentences_only_for_choices_are_no_queries(tmp_path: Path) -> None:
    chosen = [Example("0", ("a", "b"), attributes={CHOICE_ONLY: 1}), *THREE[1:]]
    actual = measured(tmp_path, chosen, FakeEncoder(VECTORS))
    assert (actual["captions"], actual["t2v R@1"], actual["t2v MnR"]) == (2, 50, 1.5)


def test_right_captions_against_their_wrong_ones_in_pairs_and_in_choices(tmp_path: Path) -> None:
    vectors = {"a": (0.5, 0, 0), "c": (0, 0.5, 0), "low": (0.1, 0.1, 0), "high": (0.9, 0.9, 0), "same": (0.5, 0.5, 0)}

    def wrong(*texts: str, of: int = 0, grade: int = 3) -> tuple[Negative, ...]:
        return tuple(Negative(text, of, grade, "colour") for text in texts)

    examples = [
        Example("0", ("a",), negatives=wrong("low", "low", "same", "low")),
        Example("1", ("a", "c"), negatives=wrong("low", "low", "high", "low", of=1) + wrong("low", grade=1)),
    ]
    actual = measured(tmp_path, examples, FakeEncoder(vectors))
    assert actual["choices of 5"] == 2
    # Of the first choice the right one shares the best place, of the second it has a better one above it.
    assert actual["choice of 5 similarity"] == 25
    assert actual["choice of 5 match"] == 0  # contrary: some wrong one is always better
    # Similarity: three and a tie of four, three of four.
    assert actual["right caption similarity (grade 3)"] == pytest.approx(100 * 6.5 / 8)
    assert actual["right caption match (grade 3)"] == pytest.approx(100 * 1.5 / 8)
    # "a" says nothing of the second video (0), "low" a little (0.1).
    assert (actual["right caption similarity"], actual["right caption similarity (colour)"]) == (0, 0)
    assert actual["right caption match"] == 100
    assert {"choice of 5 fused", "right caption fused", "right caption fused (grade 3)"} <= actual.keys()
    assert "choices of 2" not in actual
    assert "choice of 5 clipscore" not in actual
    exchanged = FakeEncoder(vectors, caption_matrix=np.eye(3, dtype=np.float32)[[1, 0, 2]])  # the first two axes
    graded = measured(tmp_path / "graded", examples, exchanged)
    assert graded["right caption similarity (grade 3)"] == actual["right caption similarity (grade 3)"]
    assert graded["right caption clipscore (grade 3)"] == 0  # "a" and "c" now seem to describe the other video


def test_a_negative_of_a_missing_caption_is_named(tmp_path: Path) -> None:
    examples = [Example("first", ("a",), negatives=(Negative("b", 1, 1, "colour"),))]
    with pytest.raises(CorpusError, match="first: negatives: of: 1; the index of one of 1 captions was expected"):
        measured(tmp_path, examples, FakeEncoder(VECTORS))


def test_questions_are_evaluated_if_the_model_answers(tmp_path: Path) -> None:
    requested = [
        Question("which?", (answer,), kind) for answer, kind in (("Red", "other"), ("blue", ""), ("a b", "other"))
    ]
    examples = [Example("0", questions=tuple(requested))]
    actual = measured(tmp_path, examples, FakeEncoder({}))
    assert actual["exact"] == pytest.approx(100 / 3)
    assert (actual["exact (single word)"], actual["exact (other)"], actual["questions"]) == (50, 50, 3)
    assert "exact ()" not in actual
    several = [Example("0", questions=(Question("which?", ("red", "blue"), "other"),))]
    assert "exact (single word)" not in measured(tmp_path / "several", several, FakeEncoder({}))
    silent = FakeEncoder({"a": (1, 0, 0)}, tasks=("retrieval", "matching"))
    assert "exact" not in measured(tmp_path / "silent", [replace(examples[0], captions=("a",))], silent)


def small_packed(tmp_path: Path, low_frames: int, side: int, *, still: bool) -> Packed:
    streams = (HIGH.model_copy(update={"height": 2 * side, "width": 2 * side}), low(low_frames, side))
    return Packed(tmp_path, streams, {}, [Example("0", still=still)], {})


def low(frames: int, side: int) -> FrameStream:
    return FrameStream(name="low", frames=frames, height=side, width=side, placement="uniform")


def test_only_corpora_of_pictures_may_have_one_frame_per_stream(tmp_path: Path) -> None:
    encoder: Any = FakeEncoder({}, streams=(HIGH, low(2, 16)))
    check_streams(encoder, small_packed(tmp_path, 1, 16, still=True))
    check_streams(encoder, small_packed(tmp_path, 2, 16, still=False))
    with pytest.raises(InvalidInput, match=r"low: 1 frame of 16x16 .* packed, 2 frames of 16x16 .* expected"):
        check_streams(encoder, small_packed(tmp_path, 1, 16, still=False))
    with pytest.raises(InvalidInput, match=r"high: 1 frame of 64x64 .* packed, 1 frame of 32x32 .* expected"):
        check_streams(encoder, small_packed(tmp_path, 2, 32, still=False))
    with pytest.raises(InvalidInput, match=r"streams: .*: low: nothing packed, 2 frames"):
        check_streams(encoder, replace(small_packed(tmp_path, 1, 16, still=True), streams=(HIGH,)))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained `checkpoint`, and `data` with captions, videos of clips, and a corpus without words."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("corpora")
    write_corpus(root / "data", root)
    write_clips(root / "data", root, 4, ("val",), name="talks")
    pack(root / "data" / "wordless" / "val", [Example("0"), Example("1")], STREAMS)
    pack(root / "data" / "questions" / "val", [Example("0", questions=(Question("is it ?", ("red",), ""),))], STREAMS)
    sounds = [(Example("0", ("a tone",)), EncodedMedia("0.wav", wav(tone())))]
    write_packed(root / "data" / "sounds" / "val", (), sounds, Origin("a test", "none needed", "all"), audio=True)
    train(recipe(write_tokenizer(root / "tokenizer.json"), steps=1), root / "data", root / "run")
    return root


def evaluate(corpora: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any], str]:
    """Return the exit status, the metrics and the messages."""
    model = corpora / "run" / "checkpoint"
    capsys.readouterr()
    status = main(["evaluate", str(model), "--data", str(corpora / "data"), "--split", "val", "--json", *options])
    output = capsys.readouterr()
    return status, json.loads(output.out or "{}"), output.err


def test_a_model_whose_embeddings_are_no_numbers_is_not_measured(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scores would be ranked as if they were the best."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(corpora / "run" / "checkpoint", folder)
    weights = load_file(folder / "model.safetensors")
    weights["text_project.weight"] *= math.nan
    save_file(weights, folder / "model.safetensors")
    assert main(["evaluate", str(folder), "--data", str(corpora / "data"), "--split", "val"]) == 2
    assert "embeddings of texts: infinite or not a number" in capsys.readouterr().err


def test_all_packed_corpora_are_measured_and_omissions_are_reported(
    corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, actual, output = evaluate(corpora, capsys)
    assert (status, list(actual)) == (0, ["questions", "squares", "talks"])
    assert [line for line in output.splitlines() if line] == [
        f"sounds: left out: sounds without frames in {corpora / 'data' / 'sounds' / 'val'}, and the model has no sound",
        f"wordless: left out: neither captions nor questions in {corpora / 'data' / 'wordless' / 'val'}",
    ]
    squares, talks = actual["squares"], actual["talks"]
    assert (squares["videos"], squares["captions"], squares["questions"]) == (16, 16, 16)
    assert {"t2v R@1", "v2t R@1", "right caption fused (colour)", "exact (colour)"} <= squares.keys()
    assert (talks["videos"], talks["clips"]) == (8, 4)
    assert "t2v R@1" not in actual["questions"]


def test_the_folder_of_a_run_gives_the_metrics_of_its_checkpoint(
    corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected, _ = evaluate(corpora, capsys, "--corpus", "questions")
    options = ["--data", str(corpora / "data"), "--split", "val", "--corpus", "questions", "--json"]
    assert main(["evaluate", str(corpora / "run"), *options]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_a_corpus_of_answers_that_has_no_question_has_no_metric_of_answers(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(tmp_path / "pictogram_stills" / "val", [Example(c, (c,)) for c in ("a red square", "a blue square")], STREAMS)
    status, actual, _ = evaluate(corpora, capsys, "--data", str(tmp_path))
    assert status == 0
    assert "t2v R@1" in actual["pictogram_stills"]
    assert not {"exact", "questions", "ECE"} & actual["pictogram_stills"].keys()


def test_clips_can_be_chosen_for_any_corpus(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, actual, _ = evaluate(corpora, capsys, "--corpus", "talks", "--clips", "2")
    assert (status, list(actual), actual["talks"]["clips"]) == (0, ["talks"], 2)
    status, _, output = evaluate(corpora, capsys, "--clips", "5")
    assert status == 2
    assert "where 4 of each video are packed" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "msvd"], "corpus: 'msvd': no split 'val' in"),
        (["--corpus", "msvd"], "of ['questions', 'sounds', 'squares', 'talks', 'wordless'] there is one"),
        (["--corpus", "squares", "--split", "test"], "no corpus in"),
        (["--corpus", "wordless"], "corpus: 'wordless': neither captions nor questions"),
    ],
)
def test_corpora_that_cannot_be_measured_are_named(
    corpora: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    status, _, output = evaluate(corpora, capsys, *options)
    assert status == 2
    assert message in output


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"checkpoint: nothing at {tmp_path}; a folder with state"):
        open_encoder(tmp_path)


def test_an_error_about_a_missing_split_names_the_others(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    pack(data / "there" / "val", [Example("0", ("a",))], STREAMS)
    pack(data / "own" / "train", [Example("0", ("a",))], STREAMS)
    status, _, output = evaluate(corpora, capsys, "--data", str(data), "--corpus", "own")
    assert status == 2
    assert f"corpus: 'own': no split 'val' in {data} (only train)" in output


def test_a_corpus_of_questions_is_refused_for_a_model_without_answers(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = checkpoint.load(corpora / "run" / "checkpoint")
    checkpoint.save(tmp_path / "silent", replace(held, answers=[]))
    arguments = ["evaluate", str(tmp_path / "silent"), "--data", str(corpora / "data"), "--split", "val"]
    assert main([*arguments, "--corpus", "questions"]) == 2
    assert "questions alone in" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "questions: left out: questions alone" in capsys.readouterr().err


def test_other_frames_are_interpolated_with_a_note_or_refused(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def packed(name: str, side: int) -> list[str]:
        streams = [HIGH.model_copy(update={"height": 2 * side, "width": 2 * side}), low(1, side)]
        pack(tmp_path / name / "own" / "val", [Example("0", ("a red square",))], streams)
        return ["--data", str(tmp_path / name)]

    status, actual, output = evaluate(corpora, capsys, *packed("larger", 48))
    assert (status, list(actual)) == (0, ["own"])
    assert "own: measured at other frames than the model is made for: high: 1 frame of 96x96 pixels" in output
    status, _, output = evaluate(corpora, capsys, *packed("uneven", 40))  # no multiple of 16
    assert status == 2
    assert "low: 1 frame of 40x40 pixels (uniform, stretch) packed, 2 frames of 32x32" in output
