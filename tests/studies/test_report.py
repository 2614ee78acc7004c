"""Tables from results that were worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies.arms import CLAIMS
from studies.report import table, write_report
from studies.results import restore, spread

PAGE = "A sentence of ours.\n" + "".join(
    f"<!-- table: {name} -->\nold\n<!-- end -->\nBetween {name}.\n" for name in (*CLAIMS, "flow", "cost")
)


def run(arm: str, seed: int, steps: int, **metrics: float) -> dict[str, Any]:
    named = {"scenes t2v R@10": metrics["ten"], "scenes t2v R@1": metrics.get("first", 0.0)}
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "seconds": 1800.0,
        "gigaflop of a clip": 0.5,
        "metrics": named,
        "flow": [
            {"text_reads_video": 0.25, "video_reads_text": 0.5},
            {"text_reads_video": 0.1, "video_reads_text": 0.2},
        ],
    }


RESULTS: dict[str, dict[str, Any]] = {
    "resolution/one high": {
        "runs": [run("resolution/one high", seed, 120, ten=ten) for seed, ten in enumerate((50.0, 54.0, 55.0))],
        "seconds of a clip": 0.0123,
    },
    "resolution/all high": {"runs": [run("resolution/all high", 0, 40, ten=61.0)]},
    "tokens/convolution": {"runs": [run("tokens/convolution", 0, 120, ten=30.0)]},
}


def test_a_spread_is_the_mean_and_the_sample_deviation_over_seeds() -> None:
    found = spread(RESULTS, "resolution/one high", "scenes t2v R@10")
    assert found is not None
    assert found == pytest.approx((53.0, 7.0**0.5, 3))  # deviations -3, 1, 2: (9 + 1 + 4) / 2 = 7
    assert spread(RESULTS, "resolution/all high", "daquar exact") is None


def test_a_table_has_a_row_for_every_arm_that_was_run() -> None:
    lines = table(RESULTS, "resolution").splitlines()
    assert lines[0] == (
        "| arm | seeds | steps | GFLOP a clip | ms a clip | scenes R@1 | scenes R@10 | scenes right caption |"
    )
    assert lines[2:] == [
        "| one high | 3 | 120 | 0.50 | 12 | 0.0 ± 0.0 | 53.0 ± 2.6 |  |",
        "| all high | 1 | 40 | 0.50 |  | 0.0 ± 0.0 | 61.0 ± 0.0 |  |",
    ]


def test_the_page_keeps_its_sentences_and_gets_its_numbers(tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text(PAGE)
    write_report(RESULTS, page, tmp_path / "images")
    text = page.read_text()
    assert "A sentence of ours." in text
    assert "Between flow." in text
    assert "old" not in text
    assert "| one high | 3 | 120 |" in text
    assert "| 1 | 25.0 | 50.0 |" in text  # flow of the first fused layer
    assert "| One high-resolution frame among low-resolution ones, against all low and all high | 4 | 2.00 |" in text
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        "study-labels.png",
        "study-resolution.png",
        "study-flow.png",
    }
    write_report(RESULTS, page, tmp_path / "images")
    assert page.read_text() == text  # a second time changes nothing


def test_a_page_without_a_place_for_a_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text(PAGE.replace("table: domain", "tables: domain"))
    with pytest.raises(ValueError, match="table: domain"):
        write_report(RESULTS, page, tmp_path / "images")
    assert "tables: domain" in page.read_text()


def test_known_results_are_restored_but_not_a_beginning_that_some_arm_still_needs(tmp_path: Path) -> None:
    known = {
        "domain/general": {"runs": [{"seed": 0}, {"seed": 1}]},
        "domain/adapted": {"runs": [{"seed": 0}, {"seed": 1}]},
        "domain/unadapted": {"runs": [{"seed": 1}]},
    }
    (tmp_path / "study.json").write_text(json.dumps(known))
    assert restore(tmp_path / "study.json", tmp_path / "out") == 4
    found = {path.parent.relative_to(tmp_path / "out" / "runs").as_posix() for path in tmp_path.rglob("result.json")}
    assert found == {
        "domain/adapted/seed-0",  # general, seed 0: unadapted still has to go on from its checkpoint
        "domain/general/seed-1",
        "domain/adapted/seed-1",
        "domain/unadapted/seed-1",
    }
    assert restore(tmp_path / "study.json", tmp_path / "out") == 0
