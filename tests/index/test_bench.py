"""`make bench-index` measures, and says which bars were kept."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks import index
from tests.index.clustered import use_kinds_when_small

SIZE = ["--sizes", "1500", "--width", "16", "--queries", "64", "--kind", "hnsw"]


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kinds_when_small(monkeypatch)
    monkeypatch.setattr(index, "ROUNDS", 1)
    monkeypatch.setitem(sys.modules, "usearch.index", None)  # as if not installed


def test_it_prints_what_was_measured_and_whether_the_bars_were_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert index.main(SIZE) == 0
    printed = capsys.readouterr().out
    assert "## 1,500 x 16, hnsw" in printed
    assert "usearch is not installed" in printed
    rows = {row[0]: row[1:] for row in re.findall(r"\| (\w+) \| ([\d.]+) \| ([\d,]+) \| ([\d,]+) \|", printed)}
    assert set(rows) == {"ours", "faiss"}
    assert rows["ours"][0] == rows["faiss"][0]
    assert float(rows["ours"][0]) >= 0.99
    assert [line.split(":")[0] for line in printed.splitlines() if "recall@10 " in line and ">=" in line] == [
        "pass"
    ] * 4


def test_a_missed_bar_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LEAST_RECALL", 1.01)
    monkeypatch.setattr(index, "TIMED_FROM", 0)
    monkeypatch.setattr(index, "MOST_TIMES", 0.0)
    assert index.main(SIZE) == 1
    missed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISS")]
    assert len(missed) == 3
    assert "1.01" in missed[0]
    assert "64 at a time" in missed[2]
