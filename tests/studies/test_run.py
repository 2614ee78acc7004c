"""One arm from its share of compute to what was measured, on a few drawn pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies import corpora
from studies import run as runs
from studies.arms import ARMS, METRICS
from tests.chaos import only_by_chaos
from tests.training.drawn_corpora import write_corpora

SCALE = 0.02


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    write_corpora(folder / "packed", folder / "media")
    for corpus in corpora.STILLS:
        (folder / "packed" / corpus / "test").symlink_to(folder / "packed" / corpus / "train")
    # The corpora that stills alone give; scenes have tests of their own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "GEOMETRIES", {"hybrid": corpora.GEOMETRIES["hybrid"]})
        patch.setattr(corpora, "SHARES", {})
        patch.setattr(corpora, "_spoken", lambda whole: corpora.open_packed(whole))
        (folder / "corpora" / "hybrid" / "scenes").mkdir(parents=True)
        for split in ("train", "test"):
            (folder / "corpora" / "hybrid" / "scenes" / split).symlink_to(folder / "packed" / "scenes" / "train")
        corpora.prepare(folder / "packed", folder / "scenes", folder / "corpora")
    return folder


@only_by_chaos
def test_arms_of_a_claim_cost_the_same_and_are_measured_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none, dictionary = (runs.run(out, ARMS[f"dictionary/{name}"], 0, SCALE) for name in ("none", "dictionary"))
    assert none["steps"] == round(SCALE * ARMS["dictionary/none"].steps)
    one_step = dictionary["teraflop"] / dictionary["steps"]
    assert abs(none["teraflop"] - dictionary["teraflop"]) <= 0.5 * one_step + 0.02
    assert one_step > none["teraflop"] / none["steps"]  # the dictionary and its objective cost something
    assert set(dictionary["metrics"]) == set(METRICS["dictionary"])
    assert all(0.0 <= value <= 100.0 for value in dictionary["metrics"].values())

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(runs, "train", fails)
    assert runs.run(out, ARMS["dictionary/none"], 0, SCALE) == none
    with pytest.raises(ValueError, match=r"scale: 1.0; .* was run at 0.02"):
        runs.run(out, ARMS["dictionary/none"], 0)
    assert not list(out.rglob("model.safetensors"))  # nobody goes on from these arms
