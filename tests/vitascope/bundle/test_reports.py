"""Parity reports in `vitascope bundle verify` and `inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vitascope.bundle.bundle_command import run_bundle
from tests.vitascope.bundle.modified_bundle import rewrite_manifest


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
    ("content", "problem"),
    [
        (report(), None),
        (report(cosine=0.9), "text: output 'vector' on random inputs at float32 has cosine 0.9; at least 0.99999"),
        (report(max_difference=0.5), "differs by 0.5; at most 0.0001 was expected"),
        (report(cosine=float("nan")), "has cosine nan"),
        (report(disagreeing=3), "3 queries disagree"),
        ("{", "not readable as JSON"),
        ({"outputs": [{"graph": "text"}]}, None),  # by another exporter
    ],
)
def test_violated_bounds_of_the_parity_report_are_problems(
    content: dict[str, Any] | str, problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(content if isinstance(content, str) else json.dumps(content))
    rewrite_manifest(folder)
    result = run_bundle(capsys, "verify", folder, status=0 if problem is None else 1)
    if problem is not None:
        [one] = result["problems"]
        assert one["file"] == "parity.json"
        assert problem in one["problem"]


def variant_report(**changes: object) -> dict[str, Any]:
    """A report of a variant with one output."""
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
    ("content", "problem"),
    [
        (variant_report(), None),
        (variant_report(lost=0.6), "loses 0.6 points compared with big 2 (abababababab); at most 0.5 was expected"),
        (variant_report(report=report(cosine=0.5)), "of big 2 (abababababab): text: output 'vector'"),
        (variant_report(of={"name": "big", "version": "1", "fingerprint": "cd" * 32}), "big 2 of the manifest was"),
    ],
)
def test_a_variant_is_compared_with_its_source(
    content: dict[str, Any], problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(json.dumps(content))
    rewrite_manifest(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    result = run_bundle(capsys, "verify", folder, status=0 if problem is None else 1)
    notes = [one["note"] for one in result["notes"]]
    if problem is None:
        assert "text vector: cosine 0.99800 on average, 0.9000 at least" in notes[1]
        assert "same result for 95.5% (of 9)" in notes[1]
        assert notes == run_bundle(capsys, "inspect", folder)["variant"]
    else:
        [one] = result["problems"]
        assert problem in one["problem"]


def test_a_variant_without_comparison_is_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "parity.json").write_text(json.dumps(report()))
    rewrite_manifest(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    assert "has no comparison with big 2" in run_bundle(capsys, "verify", folder)["notes"][0]["note"]
    [match, answers] = run_bundle(capsys, "inspect", folder)["calibration_summary"]
    assert match == "Probabilities (match and fused) use the calibration of big 2"
    assert "(answers)" in answers
