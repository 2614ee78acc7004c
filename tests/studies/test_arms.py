"""What the study compares: arms of a claim differ in what the claim is about and in nothing else."""

from __future__ import annotations

import pytest

from studies.arms import ARMS, CLAIMS, METRICS, recipe
from studies.report import HEADINGS
from training.initialization import model_config


def test_every_claim_has_arms_to_compare_and_headings_for_what_is_measured() -> None:
    for claim in CLAIMS:
        assert set(METRICS[claim]) <= set(HEADINGS)
        assert sum(arm.measured for arm in ARMS.values() if arm.claim == claim) >= 2


@pytest.mark.parametrize("key", sorted(ARMS))
def test_every_arm_is_a_recipe_of_a_model_that_can_be_configured(key: str) -> None:
    made = recipe(ARMS[key], seed=2, steps=7)
    assert (made.seed, made.total_steps, made.threads) == (2, 7, 1)
    assert model_config(made, answers=5).answers == 5


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [
        ("end-to-end/end to end", "end-to-end/frozen", {"frozen_stages"}),
        ("dictionary/none", "dictionary/dictionary", {"entries"}),
        ("resolution/one high", "resolution/all low", {"high_height", "high_width"}),
        (
            "resolution/one high",
            "resolution/all high",
            {"low_height", "low_width", "grid_height", "grid_width"},
        ),
        ("domain/unadapted", "domain/adapted", set()),
        ("labels/pre-trained, 10% of the labels", "labels/from scratch, 10% of the labels", set()),
    ],
)
def test_arms_differ_in_what_the_claim_is_about(one: str, other: str, fields: set[str]) -> None:
    first, second = (model_config(recipe(ARMS[key], 0, 1), 5).model_dump() for key in (one, other))
    assert {name for name in first if first[name] != second[name]} == fields


def test_what_an_arm_goes_on_from_is_an_arm_of_its_claim_with_the_same_model() -> None:
    for arm in ARMS.values():
        if arm.follows:
            before = ARMS[f"{arm.claim}/{arm.follows}"]
            assert before.model == arm.model
            assert before.architecture == arm.architecture
