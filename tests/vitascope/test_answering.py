"""A question may be answered among candidates, or not at all."""

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
    found = answer_question(small_model, QUESTION, red, candidates=["Blue", " YELLOW", "wombat"])
    shares = {a.text: a.probability for a in found.answers}
    assert set(shares) == {"Blue", " YELLOW"}
    assert sum(shares.values()) == pytest.approx(1)
    # what is known of their ratio does not change
    ratio = open_ended["blue"] / open_ended["yellow"]
    assert shares["Blue"] / shares[" YELLOW"] == pytest.approx(ratio, rel=1e-6)
    assert found.out_of_vocabulary == ["wombat"]
    assert found.answer == found.answers[0].text


def test_top_is_of_the_candidates(small_model: Model, red: Tokens) -> None:
    found = answer_question(small_model, QUESTION, red, candidates=["blue", "red", "green"], top=2)
    first, _ = found.answers
    assert first.text == "red"


def test_it_abstains_below_the_threshold_and_still_shows_what_it_weighed(small_model: Model, red: Tokens) -> None:
    sure = answer_question(small_model, QUESTION, red, abstain_below=0.9)
    assert (sure.answer, sure.abstained) == ("red", False)
    best = answer_question(small_model, QUESTION, red, candidates=["blue", "green"]).answers[0].probability
    at_it = answer_question(small_model, QUESTION, red, candidates=["blue", "green"], abstain_below=best)
    assert not at_it.abstained
    above = answer_question(small_model, QUESTION, red, candidates=["blue", "green"], abstain_below=best + 0.01)
    assert (above.answer, above.abstained) == (None, True)
    assert len(above.answers) == 2


def test_nothing_is_said_of_candidates_that_are_all_unknown(small_model: Model, red: Tokens) -> None:
    found = answer_question(small_model, QUESTION, red, candidates=["wombat", "emu"])
    assert (found.answer, found.abstained, found.answers, found.out_of_vocabulary) == (
        None,
        True,
        [],
        ["wombat", "emu"],
    )
    with pytest.raises(TextError):
        answer_question(small_model, "", red, candidates=["wombat"])


def test_candidates_are_told_apart_as_the_vocabulary_is() -> None:
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
def weighing(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model without vectors that weighs any answers, and has some of its own."""
    folder = make_small_bundle(
        tmp_path_factory.mktemp("weighing"), tasks=["answering"], answers=["a red ball", "blue"], free_form_answers=True
    )
    model = Model.open(folder, threads=1)
    model.warm_up()
    return model


def test_a_model_with_free_form_answers_scores_any_candidate(weighing: Model) -> None:
    seen = weighing.embed_video(colour_streams("red", "green"))
    assert seen.vectors.shape == (2, 0)
    red, green = seen.visual_tokens[:1], seen.visual_tokens[1:]
    found = answer_question(weighing, QUESTION, red, candidates=["two GREEN things", "wombat", "red"])
    assert (found.answer, found.out_of_vocabulary) == ("red", [])
    assert sum(one.probability for one in found.answers) == pytest.approx(1)
    assert {one.text for one in found.answers} == {"two GREEN things", "wombat", "red"}
    assert answer_question(weighing, QUESTION, red).answer == "a red ball"
    assert [one.text for one in weighing.answer([QUESTION], red, candidate_ids=[1])[0]] == ["blue"]
    questions = ["what is it?", QUESTION, "which colour is it on the left and on the right?"]
    tokens = np.concatenate([green, red, green])
    rows = weighing.answer_logits(questions, tokens, ["green", "red"])
    assert rows.argmax(axis=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ([], "candidates: none"),
        (["red", "Red "], "'Red ' is repeated"),
        (["blue", "a big red ball is on the left"], r"candidates\[1\]: 'a big red ball .* is 10 tokens.* at most 6"),
    ],
)
def test_answers_that_cannot_be_weighed_are_refused(weighing: Model, candidates: list[str], said: str) -> None:
    red = weighing.embed_video(colour_streams("red")).visual_tokens
    with pytest.raises(InvalidInput, match=said):
        answer_question(weighing, QUESTION, red, candidates=candidates)


def test_a_model_without_answers_of_its_own_asks_for_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    told = capsys.readouterr().out
    assert "0, or free-form candidates" in told
    assert "none: no embeddings" in told
    assert main(["bundle", "verify", str(tmp_path)]) == 0
