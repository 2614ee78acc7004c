"""A question may be answered among candidates, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vitascope.test_model import colour_streams
from vitascope.answering import answer_question, known_candidates
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
    assert found.unknown == ["wombat"]
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
    assert (found.answer, found.abstained, found.answers, found.unknown) == (None, True, [], ["wombat", "emu"])
    with pytest.raises(TextError):
        answer_question(small_model, "", red, candidates=["wombat"])


def test_candidates_are_told_apart_as_the_vocabulary_is() -> None:
    vocabulary = ["red", "light  Blue", "RED"]
    assert known_candidates(vocabulary, ["Light blue", "red"]) == ({"Light blue": 1, "red": 0}, [])
    with pytest.raises(InvalidInput, match="'RED' comes twice"):
        known_candidates(vocabulary, ["red", "RED"])
    with pytest.raises(InvalidInput, match="'Emu' comes twice"):
        known_candidates(vocabulary, ["emu", "Emu"])
    with pytest.raises(InvalidInput, match="none"):
        known_candidates(vocabulary, [])


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(small_model: Model, red: Tokens, value: float) -> None:
    with pytest.raises(InvalidInput, match="abstain_below"):
        answer_question(small_model, QUESTION, red, abstain_below=value)


@pytest.mark.parametrize("among", [[], [-1], [10]])
def test_numbers_outside_the_vocabulary_are_refused(small_model: Model, red: Tokens, among: list[int]) -> None:
    with pytest.raises(InvalidInput, match="among"):
        small_model.answer([QUESTION], red, among=among)
