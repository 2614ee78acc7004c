"""Answers from the vocabulary or from candidates, and abstention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.small_bundle import make_small_bundle
from tests.vitascope.test_model import colour_streams
from vitascope.answering import answer_question, known_candidates
from vitascope.cli.main import main
from vitascope.errors import InvalidInput, TextError
from vitascope.model import Model

QUESTION = "which colour is it?"
Tokens = NDArray[np.float32]


@pytest.fixture
def red(small_model: Model) -> Tokens:
    return small_model.embed_video(colour_streams("red")).visual_tokens


def test_candidates_share_all_probability_and_keep_their_spelling(small_model: Model, red: Tokens) -> None:
    open_ended = {a.text: a.probability for a in answer_question(small_model, QUESTION, red, top=99).answers}
    result = answer_question(small_model, QUESTION, red, candidates=["Blue", " YELLOW", "wombat"])
    shares = {a.text: a.probability for a in result.answers}
    assert set(shares) == {"Blue", " YELLOW"}
    assert sum(shares.values()) == pytest.approx(1)
    ratio = open_ended["blue"] / open_ended["yellow"]
    assert shares["Blue"] / shares[" YELLOW"] == pytest.approx(ratio, rel=1e-6)
    assert result.out_of_vocabulary == ["wombat"]
    assert result.answer == result.answers[0].text


def test_top_limits_the_candidates_returned(small_model: Model, red: Tokens) -> None:
    result = answer_question(small_model, QUESTION, red, candidates=["blue", "red", "green"], top=2)
    first, _ = result.answers
    assert first.text == "red"


def test_the_model_abstains_below_the_threshold(small_model: Model, red: Tokens) -> None:
    sure = answer_question(small_model, QUESTION, red, abstain_below=0.9)
    assert (sure.answer, sure.abstained) == ("red", False)
    best = answer_question(small_model, QUESTION, red, candidates=["blue", "green"]).answers[0].probability
    at_threshold = answer_question(small_model, QUESTION, red, candidates=["blue", "green"], abstain_below=best)
    assert not at_threshold.abstained
    above = answer_question(small_model, QUESTION, red, candidates=["blue", "green"], abstain_below=best + 0.01)
    assert (above.answer, above.abstained) == (None, True)
    assert len(above.answers) == 2


def test_candidates_out_of_the_vocabulary_are_not_scored(small_model: Model, red: Tokens) -> None:
    result = answer_question(small_model, QUESTION, red, candidates=["wombat", "emu"])
    assert (result.answer, result.abstained, result.answers) == (None, True, [])
    assert result.out_of_vocabulary == ["wombat", "emu"]
    with pytest.raises(TextError):
        answer_question(small_model, "", red, candidates=["wombat"])


def test_candidates_are_looked_up_without_case_and_spacing() -> None:
    vocabulary = ["red", "light  Blue", "RED"]
    assert known_candidates(vocabulary, ["Light blue", "red"]) == ({"Light blue": 1, "red": 0}, [])
    with pytest.raises(InvalidInput, match="'RED' is repeated"):
        known_candidates(vocabulary, ["red", "RED"])
    with pytest.raises(InvalidInput, match="'Emu' is repeated"):
        known_candidates(vocabulary, ["emu", "Emu"])
    with pytest.raises(InvalidInput, match="none"):
        known_candidates(vocabulary, [])


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(small_model: Model, red: Tokens, value: float) -> None:
    with pytest.raises(InvalidInput, match="abstain_below"):
        answer_question(small_model, QUESTION, red, abstain_below=value)


@pytest.mark.parametrize("candidate_ids", [[], [-1], [10]])
def test_indices_outside_the_vocabulary_are_rejected(small_model: Model, red: Tokens, candidate_ids: list[int]) -> None:
    with pytest.raises(InvalidInput, match="candidate_ids"):
        small_model.answer([QUESTION], red, candidate_ids=candidate_ids)


@pytest.fixture(scope="module")
def free_form_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model without embeddings that scores free-form answers and has a vocabulary."""
    folder = make_small_bundle(
        tmp_path_factory.mktemp("free"),
        tasks=["answering"],
        answers=["a red ball", "blue"],
        free_form_answers=True,
    )
    model = Model.open(folder, threads=1)
    model.warm_up()
    return model


def test_a_model_with_free_form_answers_scores_any_candidate(free_form_model: Model) -> None:
    embedding = free_form_model.embed_video(colour_streams("red", "green"))
    assert embedding.vectors.shape == (2, 0)
    red, green = embedding.visual_tokens[:1], embedding.visual_tokens[1:]
    result = answer_question(free_form_model, QUESTION, red, candidates=["two GREEN things", "wombat", "red"])
    assert (result.answer, result.out_of_vocabulary) == ("red", [])
    assert sum(answer.probability for answer in result.answers) == pytest.approx(1)
    assert {answer.text for answer in result.answers} == {"two GREEN things", "wombat", "red"}
    assert answer_question(free_form_model, QUESTION, red).answer == "a red ball"
    assert [answer.text for answer in free_form_model.answer([QUESTION], red, candidate_ids=[1])[0]] == ["blue"]
    questions = ["what is it?", QUESTION, "which colour is it on the left and on the right?"]
    tokens = np.concatenate([green, red, green])
    rows = free_form_model.answer_logits(questions, tokens, ["green", "red"])
    assert rows.argmax(axis=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "candidates: none"),
        (["red", "Red "], "'Red ' is repeated"),
        (["red", " "], "' ' is empty"),
        (["red", "\u200b"], "is empty; an answer was expected"),
        (["blue", "a big red ball is on the left"], r"candidates\[1\]: 'a big red ball .* is 10 tokens.* at most 6"),
    ],
)
def test_invalid_free_form_candidates_are_rejected(free_form_model: Model, candidates: list[str], message: str) -> None:
    red = free_form_model.embed_video(colour_streams("red")).visual_tokens
    with pytest.raises(InvalidInput, match=message):
        answer_question(free_form_model, QUESTION, red, candidates=candidates)


def test_a_model_without_a_vocabulary_requires_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model.open(
        make_small_bundle(tmp_path, tasks=["answering"], answers=None, free_form_answers=True), threads=1
    )
    red = model.embed_video(colour_streams("red")).visual_tokens
    assert answer_question(model, QUESTION, red, candidates=["blue", "red"]).answer == "red"
    with pytest.raises(InvalidInput, match="since the model has no answer vocabulary"):
        answer_question(model, QUESTION, red)
    with pytest.raises(TextError):
        answer_question(model, " ", red, candidates=["red"])
    assert main(["bundle", "inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "0, or free-form candidates" in output
    assert "none: no embeddings" in output
    assert main(["bundle", "verify", str(tmp_path)]) == 0
