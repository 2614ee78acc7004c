"""Measuring corpora that nobody has told the evaluation of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_run import STREAMS, recipe, write_clips, write_corpus, write_tokenizer
from training import checkpoint
from training.data.errors import CorpusError
from training.data.example import CHOICE_ONLY, Example, Negative, Question
from training.data.packed import Media, Origin, Packed, write_packed
from training.evaluation import retrieval
from training.evaluation.any_corpus import measure
from training.evaluation.encoder import check_streams
from training.evaluation.target import Subject
from training.trainer import train
from vitascope.bundle.manifest import Calibration, FrameStream, Task
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.model import Answer, Match, VideoEmbedding
from vitascope.scoring import fused_score

ORIGIN = Origin("made in the test", "CC0-1.0", "all")
HIGH = FrameStream(name="high", frames=1, height=32, width=32, placement="middle")


@dataclass
class Telling:
    """Vectors of texts are stated; video number i has vector and tokens of the i-th axis; it always answers red.

    Match logits are the opposite of similarities, so that scores can be told apart.
    """

    vectors: dict[str, Sequence[float]]
    tasks: Sequence[Task] = ("retrieval", "matching", "answering")
    streams: Sequence[FrameStream] = (HIGH,)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    def embed_video(self, streams: dict[str, np.ndarray]) -> VideoEmbedding:
        number = streams["high"][:, 0, 0, 0, 0, 0] // 50
        axes = np.eye(3, dtype=np.float32)[number]
        return VideoEmbedding(vectors=axes, visual_tokens=axes[:, None])

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray) -> Match:
        logits = -(self.embed_text(texts) * visual_tokens[:, 0]).sum(axis=1)
        return Match(logits=logits, probabilities=logits)

    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        return fused_score(Calibration(), similarity, match_logits)

    def answer(self, questions: Sequence[str], visual_tokens: np.ndarray, top: int = 5) -> list[list[Answer]]:
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


def measured(tmp_path: Path, examples: Sequence[Example], encoder: Telling) -> dict[str, float]:
    pack(tmp_path / "data" / "mine" / "test", examples)
    subject = Subject(encoder, tmp_path / "data", "test")  # type: ignore[arg-type]
    return measure(subject, subject.packed("mine"))


THREE = [Example("0", ("a", "b")), Example("1", ("c",)), Example("2")]
VECTORS = {"a": (0.9, 0.1, 0), "b": (0.2, 0.1, 0.7), "c": (0.6, 0.5, 0.3)}


@pytest.mark.parametrize("entries", [1, 2**27])
def test_all_captions_search_among_all_videos_and_videos_with_captions_among_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    monkeypatch.setattr(retrieval, "ENTRIES", entries)  # one query at a time, or all at once
    found = measured(tmp_path, THREE, Telling(VECTORS))
    # Of a, b, c the own video is first, second (the third video, of no caption, is before it) and second.
    assert {k: found[k] for k in ("videos", "captions", "t2v MdR")} == {"videos": 3, "captions": 3, "t2v MdR": 2}
    assert found["t2v R@1"] == pytest.approx(100 / 3)
    assert found["t2v MnR"] == pytest.approx(5 / 3)
    # Of the first video a is the best of all three, of the second c: both are first.
    assert (found["v2t R@1"], found["v2t MnR"]) == (100, 1)
    assert not any(name.startswith(("right caption", "choice", "exact", "questions")) for name in found)


def test_a_sentence_that_is_there_for_a_choice_alone_is_not_searched_with(tmp_path: Path) -> None:
    chosen = [Example("0", ("a", "b"), attributes={CHOICE_ONLY: 1}), *THREE[1:]]
    found = measured(tmp_path, chosen, Telling(VECTORS))
    assert (found["captions"], found["t2v R@1"], found["t2v MnR"]) == (2, 50, 1.5)


def test_right_captions_against_their_wrong_ones_in_pairs_and_in_choices(tmp_path: Path) -> None:
    vectors = {"a": (0.5, 0, 0), "c": (0, 0.5, 0), "low": (0.1, 0.1, 0), "high": (0.9, 0.9, 0), "same": (0.5, 0.5, 0)}

    def wrong(*texts: str, of: int = 0, grade: int = 3) -> tuple[Negative, ...]:
        return tuple(Negative(text, of, grade, "colour") for text in texts)

    examples = [
        Example("0", ("a",), negatives=wrong("low", "low", "same", "low")),
        Example("1", ("a", "c"), negatives=wrong("low", "low", "high", "low", of=1) + wrong("low", grade=1)),
    ]
    found = measured(tmp_path, examples, Telling(vectors))
    assert found["choices of 5"] == 2
    # Of the first choice the right one shares the best place, of the second it has a better one above it.
    assert found["choice of 5 similarity"] == 25
    assert found["choice of 5 match"] == 0  # contrary: some wrong one is always better
    # Similarity: three and a tie of four, three of four.
    assert found["right caption similarity (grade 3)"] == pytest.approx(100 * 6.5 / 8)
    assert found["right caption match (grade 3)"] == pytest.approx(100 * 1.5 / 8)
    # "a" says nothing of the second video (0), "low" a little (0.1).
    assert (found["right caption similarity"], found["right caption similarity (colour)"]) == (0, 0)
    assert found["right caption match"] == 100
    assert {"choice of 5 fused", "right caption fused", "right caption fused (grade 3)"} <= found.keys()
    assert "choices of 2" not in found


def test_a_wrong_caption_of_no_caption_is_named(tmp_path: Path) -> None:
    examples = [Example("first", ("a",), negatives=(Negative("b", 1, 1, "colour"),))]
    with pytest.raises(CorpusError, match="first: negatives: of: 1; the index of one of 1 captions was expected"):
        measured(tmp_path, examples, Telling(VECTORS))


def test_questions_are_answered_where_the_model_answers(tmp_path: Path) -> None:
    asked = [Question("which?", (answer,), kind) for answer, kind in (("Red", "other"), ("blue", ""), ("a b", "other"))]
    examples = [Example("0", questions=tuple(asked))]
    found = measured(tmp_path, examples, Telling({}))
    assert found["exact"] == pytest.approx(100 / 3)
    assert (found["exact (single word)"], found["exact (other)"], found["questions"]) == (50, 50, 3)
    assert "exact ()" not in found
    several = [Example("0", questions=(Question("which?", ("red", "blue"), "other"),))]
    assert "exact (single word)" not in measured(tmp_path / "several", several, Telling({}))
    silent = Telling({"a": (1, 0, 0)}, tasks=("retrieval", "matching"))
    assert "exact" not in measured(tmp_path / "silent", [replace(examples[0], captions=("a",))], silent)


def small_packed(tmp_path: Path, low_frames: int, side: int, *, still: bool) -> Packed:
    streams = (HIGH.model_copy(update={"height": 2 * side, "width": 2 * side}), low(low_frames, side))
    return Packed(tmp_path, streams, {}, [Example("0", still=still)], {})


def low(frames: int, side: int) -> FrameStream:
    return FrameStream(name="low", frames=frames, height=side, width=side, placement="uniform")


def test_only_pictures_may_have_one_frame_for_all(tmp_path: Path) -> None:
    encoder: Any = Telling({}, streams=(HIGH, low(2, 16)))
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
    pack(root / "data" / "asked" / "val", [Example("0", questions=(Question("is it ?", ("red",), ""),))], STREAMS)
    train(recipe(write_tokenizer(root / "tokenizer.json"), steps=1), root / "data", root / "run")
    return root


def evaluate(corpora: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, numbers, and what was said."""
    model = corpora / "run" / "checkpoint"
    capsys.readouterr()
    status = main(["evaluate", str(model), "--data", str(corpora / "data"), "--split", "val", "--json", *options])
    said = capsys.readouterr()
    return status, json.loads(said.out or "{}"), said.err


def test_all_that_is_packed_is_measured_and_what_is_left_out_is_said(
    corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found, said = evaluate(corpora, capsys)
    assert (status, list(found)) == (0, ["asked", "squares", "talks"])
    assert [line for line in said.splitlines() if line] == [
        f"wordless: left out: neither captions nor questions in {corpora / 'data' / 'wordless' / 'val'}"
    ]
    squares, talks = found["squares"], found["talks"]
    assert (squares["videos"], squares["captions"], squares["questions"]) == (16, 16, 16)
    assert {"t2v R@1", "v2t R@1", "right caption fused (colour)", "exact (colour)"} <= squares.keys()
    assert (talks["videos"], talks["clips"]) == (8, 4)
    assert "t2v R@1" not in found["asked"]


def test_clips_of_any_corpus_can_be_chosen(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, _ = evaluate(corpora, capsys, "--corpus", "talks", "--clips", "2")
    assert (status, list(found), found["talks"]["clips"]) == (0, ["talks"], 2)
    status, _, said = evaluate(corpora, capsys, "--clips", "5")
    assert status == 2
    assert "where 4 of each video are packed" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "msvd"], "corpus: 'msvd': no split 'val' in"),
        (["--corpus", "msvd"], "of ['asked', 'squares', 'talks', 'wordless'] there is one"),
        (["--corpus", "squares", "--split", "test"], "no corpus in"),
        (["--corpus", "wordless"], "corpus: 'wordless': neither captions nor questions"),
    ],
)
def test_what_cannot_be_measured_is_named(
    corpora: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    status, _, said = evaluate(corpora, capsys, *options)
    assert status == 2
    assert message in said


def test_another_split_of_a_corpus_is_pointed_at(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    pack(data / "there" / "val", [Example("0", ("a",))], STREAMS)
    pack(data / "own" / "train", [Example("0", ("a",))], STREAMS)
    status, _, said = evaluate(corpora, capsys, "--data", str(data), "--corpus", "own")
    assert status == 2
    assert f"corpus: 'own': no split 'val' in {data} (only train)" in said


def test_questions_alone_are_nothing_to_a_model_without_answers(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = checkpoint.load(corpora / "run" / "checkpoint")
    checkpoint.save(tmp_path / "silent", replace(held, answers=[]))
    arguments = ["evaluate", str(tmp_path / "silent"), "--data", str(corpora / "data"), "--split", "val"]
    assert main([*arguments, "--corpus", "asked"]) == 2
    assert "questions alone in" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "asked: left out: questions alone" in capsys.readouterr().err


def test_other_frames_are_interpolated_with_a_word_or_refused(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def packed(name: str, side: int) -> list[str]:
        streams = [HIGH.model_copy(update={"height": 2 * side, "width": 2 * side}), low(1, side)]
        pack(tmp_path / name / "own" / "val", [Example("0", ("a red square",))], streams)
        return ["--data", str(tmp_path / name)]

    status, found, said = evaluate(corpora, capsys, *packed("larger", 48))
    assert (status, list(found)) == (0, ["own"])
    assert "own: measured at other frames than the model is made for: high: 1 frame of 96x96 pixels" in said
    status, _, said = evaluate(corpora, capsys, *packed("uneven", 40))  # no multiple of 16
    assert status == 2
    assert "low: 1 frame of 40x40 pixels (uniform, stretch) packed, 2 frames of 32x32" in said
