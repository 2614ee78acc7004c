"""Parity reports in a bundle: whether they keep to their own bounds, and what they say of a variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vitascope.bundle.changed import restate
from tests.vitascope.bundle.told import ran


def report(**changes: object) -> dict[str, Any]:
    """A parity report of one output, by default within its bounds."""
    output = {"precision": "float32", "graph": "text", "output": "vector", "inputs": "random"}
    recall = {"precision": "float32", "corpus": "scenes", "direction": "t2v", "torch": 50.0, "runtime": 50.0}
    numbers = {"max_difference": 1e-6, "cosine": 0.9999999, "probability_difference": None, "disagreeing": 0, **changes}
    return {
        "tolerances": {"float32": {"max_difference": 1e-4, "cosine": 0.99999, "recall": 0.0}},
        "outputs": [{**output, **numbers}],
        "recall": [{**recall, **numbers}],
    }


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        (report(), None),
        (report(cosine=0.9), "text: output 'vector' on random inputs at float32 has cosine 0.9; at least 0.99999"),
        (report(max_difference=0.5), "differs by 0.5; at most 0.0001 was expected"),
        (report(cosine=float("nan")), "has cosine nan"),
        (report(disagreeing=3), "3 queries disagree"),
        ("{", "not readable as JSON"),
        ({"outputs": [{"graph": "text"}]}, None),  # another exporter's
    ],
)
def test_a_parity_report_keeps_to_its_own_bounds(
    stated: dict[str, Any] | str, problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(stated if isinstance(stated, str) else json.dumps(stated))
    restate(folder)
    told = ran(capsys, "verify", folder, status=0 if problem is None else 1)
    if problem is not None:
        [one] = told["problems"]
        assert one["file"] == "parity.json"
        assert problem in one["problem"]


def variant_report(**changes: object) -> dict[str, Any]:
    """Of a variant: one output beside the bundle it was made of, which has a report of its own."""
    output = {"graph": "text", "output": "vector", "corpus": "scenes", "rows": 9, "cosine": 0.998, "agreement": 95.5}
    beside = {
        "of": {"name": "big", "version": "2", "fingerprint": "ab" * 32},
        "outputs": [output | {"least_cosine": 0.9, "max_difference": 0.1}],
        "unchanged": ["match", "video", "answer"],
        "lost": 0.4,
        "budget": 0.5,
        "report": report(),
    }
    return {"beside": beside | changes}


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        (variant_report(), None),
        (variant_report(lost=0.6), "loses 0.6 points beside big 2 (abababababab); at most 0.5 was expected"),
        (variant_report(report=report(cosine=0.5)), "of big 2 (abababababab): text: output 'vector'"),
        (variant_report(of={"name": "big", "version": "1", "fingerprint": "cd" * 32}), "big 2 of the manifest was"),
    ],
)
def test_a_variant_is_told_beside_the_bundle_it_was_made_of(
    stated: dict[str, Any], problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(json.dumps(stated))
    restate(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    told = ran(capsys, "verify", folder, status=0 if problem is None else 1)
    remarks = [one["remark"] for one in told["remarks"]]
    if problem is None:
        assert "text vector: cosine 0.99800 on average, 0.9000 at least" in remarks[1]
        assert "same result for 95.5% (of 9)" in remarks[1]
        assert remarks == ran(capsys, "inspect", folder)["beside"]
    else:
        [one] = told["problems"]
        assert problem in one["problem"]


def test_a_variant_with_a_report_that_is_another_bundles_is_remarked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As variants of earlier versions have it."""
    (folder / "parity.json").write_text(json.dumps(report()))
    restate(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    assert "says nothing of big 2" in ran(capsys, "verify", folder)["remarks"][0]["remark"]
    [match, answers] = ran(capsys, "inspect", folder)["calibrated"]
    assert match == "Probabilities (match and fused) are calibrated as those of big 2, whose graphs they were fitted to"
    assert "(answers)" in answers
