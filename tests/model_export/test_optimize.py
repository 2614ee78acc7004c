"""`vitascope optimize` and `export --budget`: a faster bundle that is measured, or an error that says why not."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export import calibrate
from model_export.optimize import quantize, search
from model_export.optimize.report import read_variant
from model_export.optimize.speed import Effort
from tests.small_bundle import make_small_bundle
from training.data.packed import open_packed
from training.evaluation.encoder import embed_corpus
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.model import Model


def _quick(patch: pytest.MonkeyPatch) -> None:
    """Timing takes as long as it is told to."""
    patch.setattr(search, "QUICK", Effort((2,), 1, 0.0))
    patch.setattr(search, "THOROUGH", Effort((1, 4), 3, 0.0))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    _quick(monkeypatch)


@pytest.fixture(scope="module")
def optimized(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """(bundle, its variant, what the command printed); calibrated on the few examples that there are.

    What is fastest is said here: graphs as small as these take as long as the machine likes.
    """
    source, out = bundles["int8-weights"], tmp_path_factory.mktemp("optimized") / "mine-int8"
    faster = {"as stored": 1.0, "fused": 1.5, "float16": 2.0, "int8": 3.0}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        _quick(patch)
        patch.setattr(search._Search, "speedup", lambda _, option, stored=None: faster[option.kind])
        patch.setattr(calibrate, "MIN_CAPTIONED", 4)
        assert _optimize(source, out, folders[1]) == 0
    return source, out, json.loads(printed.getvalue())


def _optimize(source: Path, out: Path, data: Path, budget: str = "recall=20") -> int:
    arguments = ["optimize", str(source), "--out", str(out), "--data", str(data), "--budget", budget, "--json"]
    return main(arguments)


def test_variant_is_a_new_bundle_with_measurements(optimized: tuple[Path, Path, dict[str, Any]]) -> None:
    source, out, printed = optimized
    before, after = Bundle.open(source), Bundle.open(out)
    assert printed["fingerprint"] == after.fingerprint != before.fingerprint
    assert after.manifest.name == "mine-int8"
    assert after.manifest.metrics == {}, "those of the other bundle do not hold"
    variant = read_variant(after.manifest)
    assert variant is not None
    assert variant.fingerprint == before.fingerprint
    assert {way.graph for way in variant.ways if way.chosen} == set(before.manifest.graphs)
    assert {"as stored", "fused", "int8", "float16"} <= {way.way for way in variant.ways}
    assert all(way.lost is not None for way in variant.ways if way.chosen)
    assert max(a - b for a, b in variant.shares.values()) == pytest.approx(variant.lost, abs=1e-3)
    assert variant.lost <= 20
    card = (out / after.manifest.model_card).read_text("utf-8")
    assert card.startswith("# mine-int8 1.0.0\n")
    assert "## Variant" in card
    assert "lose at most\n20 points" in card
    texts = ["a red square", "a blue square"]
    old, new = (Model(bundle, threads=1).embed_text(texts) for bundle in (before, after))
    assert (old * new).sum(axis=1).min() > 0.99


def test_variant_has_its_own_parity_and_calibration(
    optimized: tuple[Path, Path, dict[str, Any]], folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, _ = optimized
    before, after = Model.open(source, threads=1), Model.open(out, threads=1)
    report = json.loads((out / "parity.json").read_text())
    beside = report["beside"]
    assert (report["model"], report["outputs"]) == ("mine-int8", []), "nothing of it was compared with torch"
    assert beside["report"] == json.loads((source / "parity.json").read_text())
    assert beside["of"]["fingerprint"] == before.bundle.fingerprint
    assert {one["graph"] for one in beside["outputs"]} == set(before.bundle.manifest.graphs)
    packed = open_packed(folders[1] / "squares" / "val")
    old, new = (embed_corpus(model, packed) for model in (before, after))
    [video] = [one for one in beside["outputs"] if (one["graph"], one["output"]) == ("video", "vector")]
    cosines = (old[0] * new[0]).sum(axis=1)
    assert (video["cosine"], video["least_cosine"]) == pytest.approx((cosines.mean(), cosines.min()), abs=1e-5)
    stated, changed = before.bundle.manifest.calibration, after.bundle.manifest.calibration
    assert changed.match_scale != stated.match_scale
    assert changed.answer_temperature != stated.answer_temperature
    facts = after.bundle.manifest.extra["calibration"]
    assert (facts["match pairs"], facts["fitted_on"]) == (3 * len(packed), ["squares/val"])
    assert main(["bundle", "verify", str(out), "--json"]) == 0
    told = [entry["note"] for entry in json.loads(capsys.readouterr().out)["notes"]]
    assert f"compared with int8-weights 1.0.0 ({before.bundle.fingerprint[:12]}) on validation clips" in told[0]
    assert any(line.startswith("source compared with its trained model: float32 cosine") for line in told)
    assert main(["bundle", "inspect", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of squares/val; expected error" in shown
    card = (out / "MODEL_CARD.md").read_text()
    assert f"| match | match_logit | squares/val | {2 * len(packed)} |" in card
    assert "Each graph was compared with the trained model" not in card


def test_metrics_update_the_card_of_a_variant(optimized: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(optimized[1], tmp_path / "mine")
    (tmp_path / "metrics.json").write_text(json.dumps({"squares": {"t2v R@1": 12.5}}))
    assert main(["export", str(tmp_path / "mine"), "--metrics", str(tmp_path / "metrics.json")]) == 0
    bundle = Bundle.open(tmp_path / "mine")
    assert bundle.manifest.metrics == {"squares t2v R@1": 12.5}
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    assert "| t2v R@1 | 12.5 |" in card
    assert "| match | match_logit | squares/val |" in card
    assert "$ vitascope optimize BUNDLE --budget recall=20" in card


def test_nodes_that_int8_breaks_stay_in_float32(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in int8 comes out as noise here, and fast: it must not be taken all the same."""
    exact = quantize.quantize_weight

    def spoilt(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        values, scale = exact(weight, axis)
        return np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape), scale

    monkeypatch.setattr(quantize, "quantize_weight", spoilt)
    monkeypatch.setattr(
        search._Search,
        "speedup",
        lambda _, candidate, stored=None: 2.0 if candidate.kind == "int8" and not candidate.float_nodes else 1.0,
    )
    out = tmp_path / "variant"
    assert _optimize(make_small_bundle(tmp_path / "small"), out, folders[1], "recall=0") == 0
    variant = read_variant(Bundle.open(out).manifest)
    assert variant is not None
    assert variant.lost <= 0
    tried = [way for way in variant.ways if (way.graph, way.way) == ("video", "int8")]
    assert tried[0].lost is not None
    assert tried[0].lost > 0
    assert not any(way.chosen for way in tried)


@pytest.mark.usefixtures("exported_before")
def test_export_within_a_budget_is_one_command(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    arguments = ["export", str(folders[0]), "--out", str(out), "--data", str(folders[1]), "--budget", "recall=20"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "as stored" in shown
    assert "points, 20 allowed" in shown
    variant = read_variant(Bundle.open(out).manifest)
    assert variant is not None
    assert variant.name == "fast 1.0.0"
    assert [path.name for path in tmp_path.iterdir()] == ["fast"]


def test_bundle_without_provenance_is_optimized(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Its nodes have no names, it has no provenance, and there is little to gain."""
    source, out = make_small_bundle(tmp_path / "small"), tmp_path / "out"
    assert _optimize(source, out, folders[1], "recall=0") == 0
    card = (out / "MODEL_CARD.md").read_text()
    assert "## The card of small-colours 1" in card
    texts = ["a red square", "a blue square"]
    old, new = (Model.open(folder, threads=1).embed_text(texts) for folder in (source, out))
    assert (old * new).sum(axis=1).min() > 0.999


def test_variant_of_a_variant_is_rejected(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses would add up unseen."""
    source = make_small_bundle(tmp_path / "small")
    assert _optimize(source, tmp_path / "once", folders[1]) == 0
    assert _optimize(tmp_path / "once", tmp_path / "twice", folders[1]) == 2
    assert "is a variant itself" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("budget", "message"),
    [("recall=much", "recall=POINTS was expected"), ("speed=2", "recall=POINTS"), ("recall=-1", "recall=POINTS")],
)
def test_invalid_budget_is_rejected_first(
    budget: str, message: str, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _optimize(bundles["float32"], tmp_path / "out", tmp_path / "no-data", budget) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
