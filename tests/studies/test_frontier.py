"""Accuracy over latency: which bundles nothing beats, and what is written about them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from model_export.optimize.speed import measure_latency
from studies.frontier.__main__ import main
from studies.frontier.measure import Point, pareto_optimal
from studies.frontier.report import draw, table, update_page
from tests.chaos import is_chaos
from tests.small_bundle import make_small_bundle
from tests.training.data.corpus_files import movie
from tests.training.small_run import COLOURS
from training.data.example import Example, Negative
from training.data.packed import Origin, write_packed
from vitascope.bundle.manifest import FrameStream


@pytest.mark.parametrize(
    ("costs", "gains", "expected"),
    [
        ([10, 20, 30], [50, 60, 70], [True, True, True]),
        ([10, 20, 30], [50, 40, 70], [True, False, True]),
        ([10, 20, 30], [50, 50, 50], [True, False, False]),
        ([10.0, 10.1, 9.9], [50, 60, 50], [False, True, False]),  # times that overlap
    ],
)
def test_what_finds_as_much_in_less_time_beats(costs: list[float], gains: list[float], expected: list[bool]) -> None:
    assert pareto_optimal(costs, gains) == expected


def test_every_round_runs_each_once_in_changing_order() -> None:
    order: list[str] = []
    calls = {name: (lambda number, name=name: order.append(f"{name}{number}")) for name in ("a", "b")}
    actual = measure_latency(calls, 20)
    assert {name: times.shape for name, times in actual.items()} == {"a": (20,), "b": (20,)}
    rounds = [tuple(order[6 + 2 * i : 8 + 2 * i]) for i in range(20)]  # the first six are not measured
    assert all(sorted(pair) == [f"a{i}", f"b{i}"] for i, pair in enumerate(rounds))
    assert len({pair[0][0] for pair in rounds}) == 2


def point(name: str, r1: float, ms: float, *, best: bool, made: str = "as given") -> Point:
    return Point(
        name=name,
        version="1",
        fingerprint="0" * 64,
        made=made,
        precision="float32",
        megabytes=1.0,
        frames="as packed",
        t2v_r1=r1,
        t2v_r10=r1,
        v2t_r1=r1,
        right_caption=None,
        clip_ms=ms,
        clip_ms_p90=ms,
        text_ms=1.0,
        text_ms_p90=1.0,
        best_per_clip=best,
        best_per_text=best,
    )


POINTS = [
    point("fast", 50.0, 10.0, best=True, made="student of slow"),
    point("worse", 45.0, 12.0, best=False, made="variant of slow"),
    point("slow", 90.0, 30.0, best=True),
]
HOW = {"corpus": "c", "split": "test", "clips": 4, "threads": 1, "rounds": 5, "processor": "a processor"}


def test_the_table_marks_what_nothing_beats() -> None:
    rows = table(POINTS).splitlines()
    assert rows[2] == "| fast | student of slow | 50.0 | 50.0 | 50.0 | **10.0** | **1.0** | 1.0 |"
    assert "| 12.0 | 1.0 |" in rows[3]


def test_a_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "frontier.md"
    page.write_text("Before.\n<!-- table: frontier -->\nold\n<!-- end -->\nAfter.\n")
    update_page(POINTS, HOW, page)
    text = page.read_text()
    assert text.startswith("Before.\n<!-- table: frontier -->\n| bundle |")
    assert "old" not in text
    assert text.endswith("<!-- end -->\nAfter.\n")
    assert "4 clips of c/test" in text
    assert json.loads((tmp_path / "frontier.json").read_text())["bundles"][0]["name"] == "fast"
    picture = tmp_path / "images" / "frontier.svg"
    if is_chaos():  # the same numbers give the same picture, byte for byte
        draw(POINTS, tmp_path / "again.svg")
        assert (tmp_path / "again.svg").read_bytes() == picture.read_bytes()
    texts = {str(element.text).strip() for element in ElementTree.parse(picture).iter()}
    assert {"fast", "worse", "slow", "ms per clip", "ms per text", "student", "variant"} <= texts


def write_films(folder: Path) -> None:
    """Films of one colour each, packed as the small bundle sees them."""
    streams = [
        FrameStream(name="high", frames=1, height=64, width=64, placement="middle"),
        FrameStream(name="low", frames=6, height=32, width=32, placement="uniform"),
    ]
    items = []
    for name, colour in COLOURS.items():
        movie(folder / f"{name}.mp4", [colour])
        wrong = (Negative("a cyan square", 0, 1, "colour"),)
        items.append((Example(name, captions=(f"a {name} square",), negatives=wrong), folder / f"{name}.mp4"))
    write_packed(folder / "packed" / "videos" / "test", streams, items, Origin("made here", "CC0-1.0", "all"))


def test_bundles_are_measured_beside_one_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.frontier.report.draw", lambda *_: None)
    write_films(tmp_path)
    good, bad = (make_small_bundle(tmp_path / name, seed=seed) for name, seed in (("good", 0), ("bad", 1)))
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["extra"] = {"variant_of": {"name": "small-colours"}}
    manifest["streams"][1]["frames"] = 6
    (bad / "manifest.json").write_text(json.dumps(manifest))
    options = ["--data", str(tmp_path / "packed"), "--corpus", "videos", "--rounds", "3", "--matching"]
    assert main([str(good), str(bad), *options, "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    by_name = {bundle["name"]: bundle for bundle in result["bundles"]}
    assert set(by_name) == {"good", "bad"}  # both bundles are named alike: their folders tell them apart
    assert by_name["good"]["t2v_r1"] == 100.0
    assert by_name["good"]["right_caption"] == 100.0
    assert by_name["bad"]["made"] == "variant of small-colours"
    assert all(bundle["clip_ms"] > 0 and bundle["text_ms"] > 0 for bundle in result["bundles"])
    assert [b["clip_ms"] for b in result["bundles"]] == sorted(b["clip_ms"] for b in result["bundles"])
    written = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert written["bundles"] == result["bundles"]
    assert "| good | as given | 100.0 |" in (tmp_path / "out" / "frontier.md").read_text()
    assert np.isfinite([b["megabytes"] for b in result["bundles"]]).all()


def test_a_bundle_that_sees_what_is_not_packed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_films(tmp_path)
    folder = make_small_bundle(tmp_path / "other")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["streams"][0]["height"] = 128
    (folder / "manifest.json").write_text(json.dumps(manifest))
    options = ["--data", str(tmp_path / "packed"), "--corpus", "videos", "--out", str(tmp_path / "out")]
    assert main([str(folder), *options]) == 2
    assert "high" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
