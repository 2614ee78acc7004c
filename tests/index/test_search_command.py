"""`vitascope search` in a data folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.media_files import solid, write_picture
from tests.small_bundle import make_small_bundle, write_manifest
from vitascope.cli.main import main
from vitascope.cli.output import print_results


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a bundle and a data folder with indexed images."""
    root = tmp_path_factory.mktemp("command")
    make_small_bundle(root / "bundle")
    (root / "pictures").mkdir()
    colors = {"red": (220, 10, 10), "wine": (140, 10, 10), "green": (10, 220, 10), "blue": (10, 10, 220)}
    for name, color in colors.items():
        write_picture(root / "pictures" / f"{name}.png", solid(color))
    write_picture(root / "leaf.png", solid((40, 190, 30)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITASCOPE_BUNDLE", str(root / "bundle"))
        patch.setenv("VITASCOPE_DATA_DIR", str(root / "data"))
        assert main(["index", str(root / "pictures")]) == 0
    return root


@pytest.fixture(autouse=True)
def environment(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(indexed / "bundle"))
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(indexed / "data"))


def search(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["search", *arguments, "--json"]) == 0
    page: dict[str, Any] = json.loads(capsys.readouterr().out)
    return page


def titles(page: dict[str, Any]) -> list[str]:
    return [result["video"]["title"] for result in page["results"]]


def test_search_by_file_clip_and_text(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaf = str(indexed / "leaf.png")
    by_file = search(capsys, "--like", leaf)
    assert titles(by_file)[0] == "green"
    assert [result["fused"] for result in by_file["results"]] == [None] * 4
    red = search(capsys, "a red thing", "--rerank", "3")["results"][0]
    assert red["fused"] is not None
    assert titles(search(capsys, "--like-clip", red["clip_id"]))[0] == "wine"
    assert set(titles(search(capsys, "red", "--min-similarity", "0.5"))) == {"red", "wine"}
    assert titles(search(capsys, "a blue thing", "--like", leaf, "--weights", "3,1"))[0] == "blue"


@pytest.mark.parametrize(
    "options",
    [
        ["--weights", "-0.5,1"],
        ["--weights", "-5e-1,1", "--min-similarity", "-1e0"],
        ["--weights=-0.5,1", "--min-similarity", "-1"],
    ],
)
def test_negative_numbers_are_accepted_as_values(
    indexed: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    leaf = str(indexed / "leaf.png")
    ranked = titles(search(capsys, "a red thing", "--like", leaf, *options))
    assert ranked[0] == "green"
    assert ranked[-1] == "red"  # the weight of its text is negative
    assert main(["search", "a red thing", "--like", leaf, "--weights", "-0.5,x"]) == 2
    assert "weights: '-0.5,x'; numbers separated by commas were expected" in capsys.readouterr().err


def test_search_matches_words_of_titles(capsys: pytest.CaptureFixture[str]) -> None:
    """The small bundle does not know "wine", the title does."""
    result = search(capsys, "wine and blue")
    assert set(titles(result)[:2]) == {"wine", "blue"}
    assert sorted(r["signals"]["name"]["rank"] for r in result["results"][:2]) == [1, 2]


def test_search_is_paginated_by_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    first = search(capsys, "red", "--limit", "3", "--group", "video")
    second = search(capsys, "red", "--limit", "3", "--group", "video", "--cursor", first["next_cursor"])
    assert titles(first) + titles(second) == titles(search(capsys, "red", "--group", "video"))
    assert (second["next_cursor"], second["changed"]) == (None, False)
    assert [result["clip_count"] for result in first["results"]] == [1, 1, 1]
    assert main(["search", "blue", "--cursor", first["next_cursor"]]) == 2
    assert "cursor: of another search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "query: it is empty"),
        (["a dog", "--not", " "], "query: a text is empty"),
        (["\u200b"], "query: a text is empty"),
        (["a dog", "--collection", "films"], "the collections are videos"),
        (["a dog", "--weights", "1,2"], "has 2; 1 were expected"),
        (["a dog", "--weights", "much"], "weights: 'much'"),
        (["--like", "no-such-file.png"], "no-such-file.png"),
        (["--like-clip", "first"], "like-clip: 'first'"),
        (["--like-clip", "999"], "clip 999"),
        (["--like-clip", "1", "--rerank", "5"], "rerank: 5"),
        (["a dog", "--min-similarity", "7"], "min_similarity: 7"),
        (["--like", "a.png", "--like", "b.png", "--server", "http://127.0.0.1:1"], "like: 2 files"),
    ],
)
def test_errors_name_the_argument(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err


def test_text_output_shows_the_clips_of_a_result_and_its_moment_in_tenths_of_a_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    command = ["search", "red", "--group", "video", "--limit", "1", "--rerank", "3", "--signals", "visual"]
    assert main(command) == 0
    heading, best = capsys.readouterr().out.splitlines()
    assert heading.split() == ["relevance", "match", "similarity", "clip", "video"]
    assert best.rstrip().endswith("red.png")
    [result] = search(capsys, *command[1:])["results"]
    moment = {"start": 59.96, "end": 61.5, "score": 0.75}
    print_results([{**result, "clip_count": 3, "moment": moment}], Console(width=200))
    heading, best = capsys.readouterr().out.splitlines()
    assert heading.split() == ["relevance", "match", "similarity", "clip", "moment", "clips", "video"]
    assert " 1:00.0-1:01.5 (0.750) " in best


def test_results_are_events_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert search(capsys, "red")["results"][0]["clip_count"] == 1
    assert search(capsys, "red", "--group", "clip")["results"][0]["clip_count"] is None


@pytest.fixture
def calibrated(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model with a calibration of similarity, 0.5 at a similarity of 0.5, and its languages."""
    folder = shutil.copytree(indexed / "bundle", tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["calibration"] |= {"similarity_scale": 10.0, "similarity_bias": -5.0}
    manifest["languages"] = ["en"]
    write_manifest(folder, manifest)
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(folder))


@pytest.mark.usefixtures("calibrated")
def test_a_search_that_nothing_fits_says_so_above_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    (warning,) = search(capsys, "a cyan thing")["warnings"]
    assert warning["code"] == "no_good_match"
    assert main(["search", "a cyan thing"]) == 0
    assert capsys.readouterr().out.startswith("No result is likely to fit")
    assert search(capsys, "a cyan thing", "--min-relevance", "0.5")["results"] == []
    assert search(capsys, "red", "--signals", "visual")["warnings"] == []


@pytest.mark.usefixtures("calibrated")
def test_a_warning_of_the_language_follows_the_results_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []

    def detect(*arguments: Any) -> str:
        shown.append(capsys.readouterr().out)
        return "de"

    monkeypatch.setattr("index.search.relevance.unknown_language", detect)
    assert main(["search", "red", "--limit", "1"]) == 0
    assert "red.png" in shown[0], "results are shown before the language is judged, which may take longer"
    detail = "The query seems to be in a language (de) that the model does not know; it knows en"
    assert capsys.readouterr() == ("", f"{detail}\n")
    assert {"code": "language", "detail": detail} in search(capsys, "red")["warnings"]


@pytest.mark.usefixtures("calibrated")
def test_several_conditions_are_met_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    best = search(capsys, "a red thing", "--and", "red", "--not", "blue")["results"][0]
    conditions = [(condition["text"], condition["weight"], condition["met"]) for condition in best["conditions"]]
    assert conditions == [("a red thing", 1.0, True), ("red", 1.0, True), ("blue", -0.5, True)]
    assert main(["search", "a red thing", "--and", "red", "--not", "blue", "--limit", "1"]) == 0
    assert "a red thing, red, not blue" in " ".join(capsys.readouterr().out.split())
