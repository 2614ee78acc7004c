"""Studies: arms, corpora, queue, runs and the report."""

from __future__ import annotations

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies import corpora
from studies import run as runs
from studies.arms import ARMS, CLAIMS, METRICS, Arm, corpora_of, recipe
from studies.report import HEADINGS, table, write_report
from studies.results import restore, spread
from studies.run import RESULT, folder_of
from tests.chaos import only_by_chaos
from tests.training.drawn_corpora import write_corpora
from tests.training.small_run import write_corpus
from training.data.packed import open_packed
from training.data.scenes.generate import main as generate
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
    ("single", "other", "fields"),
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
        ("sound/without sound", "sound/with sound", {"audio"}),
        ("depth/frames", "depth/frames and depth", {"depth"}),
        ("labels/pre-trained, 10% of the labels", "labels/from scratch, 10% of the labels", set()),
    ],
)
def test_arms_differ_in_what_the_claim_is_about(single: str, other: str, fields: set[str]) -> None:
    first, second = (model_config(recipe(ARMS[key], 0, 1), 5).model_dump() for key in (single, other))
    names = first.keys() | second.keys()
    assert {name for name in names if first.get(name) != second.get(name)} == fields


def test_what_an_arm_goes_on_from_is_an_arm_of_its_claim_with_the_same_model() -> None:
    for arm in ARMS.values():
        if arm.follows:
            before = ARMS[f"{arm.claim}/{arm.follows}"]
            assert before.model == arm.model
            assert before.architecture == arm.architecture


STILLS = ("flickr8k", "daquar", "pictogram_stills")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study corpora of 6 scenes; squares in place of all photographs and pictograms."""
    folder = tmp_path_factory.mktemp("study")
    sizes = {"--train": "6", "--val": "1", "--test": "2", "--seed": "3", "--workers": "1"}
    counts = [word for option in sizes.items() for word in option]
    generate(["--depth", "--out", str(folder / "scenes"), *counts])
    generate(["--sound", "--out", str(folder / "sound_scenes"), *counts])
    write_corpus(folder / "packed", folder)
    squares = folder / "packed" / "squares"
    (squares / "val").rename(squares / "test")
    for corpus in STILLS:
        (folder / "packed" / corpus).symlink_to(squares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "BATCH", 3)
        prepare(folder, CLAIMS)
    return folder / "corpora"


def prepare(folder: Path, claims: Collection[str]) -> None:
    sources = {name: folder / name for name in ("scenes", "sound_scenes")}
    corpora.prepare(folder / "packed", sources, folder / "corpora", corpora_of(claims))


@only_by_chaos
def test_each_geometry_has_frames_of_its_own_size(made: Path) -> None:
    shapes = {
        name: {s: a.shape[1:4] for s, a in open_packed(made / name / "scenes" / "train").arrays.items()}
        for name in corpora.GEOMETRIES
    }
    assert shapes == {
        "hybrid": {"high": (1, 128, 128), "low": (6, 64, 64)},
        "low": {"high": (1, 64, 64), "low": (6, 64, 64)},
        "high": {"high": (1, 128, 128), "low": (6, 128, 128)},
        "depth": {"high": (1, 128, 128), "low": (6, 64, 64), "depth": (1, 64, 64)},
    }


@only_by_chaos
def test_stills_keep_their_colours(made: Path) -> None:
    small = open_packed(made / "hybrid" / "flickr8k" / "train")
    whole = open_packed(made.parent / "packed" / "flickr8k" / "train")
    assert small.arrays["high"].shape[1:] == (1, 128, 128, 3)
    of_small, of_whole = (p.arrays["high"].mean(axis=(1, 2, 3)) for p in (small, whole))
    assert np.allclose(of_small, of_whole, atol=1.0)


@only_by_chaos
def test_a_share_of_the_labels_is_the_first_examples(made: Path) -> None:
    whole = open_packed(made / "hybrid" / "scenes" / "train")
    few = open_packed(made / "hybrid" / "scenes_10" / "train")
    assert [e.key for e in few.examples] == [e.key for e in whole.examples[:3]]
    assert np.array_equal(few.arrays["low"], whole.arrays["low"][:3])


@only_by_chaos
def test_transcripts_are_all_that_a_spoken_corpus_says(made: Path) -> None:
    whole = {e.key: e for e in open_packed(made / "hybrid" / "scenes" / "train").examples}
    spoken = open_packed(made / "hybrid" / "scenes_spoken" / "train").examples
    assert spoken
    for example in spoken:
        assert example.captions == (whole[example.key].spoken,)
        assert not example.questions
        assert not example.negatives
    assert any(e.captions[0] not in whole[e.key].captions for e in spoken)


@only_by_chaos
def test_scenes_with_sound_are_packed_with_it(made: Path) -> None:
    heard = open_packed(made / "hybrid" / "sound_scenes" / "train")
    assert heard.audio is not None
    assert heard.arrays["high"].shape[1:4] == (1, 128, 128)


@only_by_chaos
def test_what_is_there_is_not_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be made")

    monkeypatch.setattr(corpora, "write_packed", fails)
    monkeypatch.setattr(np, "save", fails)
    prepare(made.parent, CLAIMS)


def done(out: Path, arm: Arm, seed: int, scale: float = 1.0) -> dict[str, object]:
    """In place of a run: its result, after that of the arm that it follows."""
    if arm.follows and not (folder_of(out, ARMS[f"{arm.claim}/{arm.follows}"], seed) / RESULT).exists():
        raise AssertionError(f"{arm.key} came before {arm.follows}")
    if (out / "broken").exists() and arm.name == "general":
        raise OSError("no space left")
    folder = folder_of(out, arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).write_text(f'{{"resolution_ratio": {scale}}}')
    return {}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "run", done)
    monkeypatch.setattr(runs, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))


@pytest.mark.usefixtures("quick")
def test_an_arm_waits_for_what_it_goes_on_from(tmp_path: Path) -> None:
    runs.run_all(tmp_path, ["domain", "labels"], [0, 1], jobs=2)
    actual = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob(RESULT)}
    expected = {
        f"{arm.key}/seed-{seed}" for arm in ARMS.values() for seed in (0, 1) if arm.claim in ("domain", "labels")
    }
    assert actual == expected


@pytest.mark.usefixtures("quick")
def test_a_failure_is_named_and_what_does_not_depend_on_it_is_done(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(RuntimeError, match="domain/general seed 0: OSError: no space left"):
        runs.run_all(tmp_path, ["domain", "tokens"], [0], jobs=1)
    actual = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob(RESULT)}
    assert actual == {"tokens/convolution/seed-0", "tokens/self-attention/seed-0"}


SCALE = 0.02


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    write_corpora(folder / "packed", folder / "media")
    for corpus in STILLS:
        (folder / "packed" / corpus / "test").symlink_to(folder / "packed" / corpus / "train")
    prepare(folder, ["dictionary"])
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
    assert not list(out.rglob("model.safetensors"))  # no arm continues from these


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
    actual = spread(RESULTS, "resolution/one high", "scenes t2v R@10")
    assert actual is not None
    assert actual == pytest.approx((53.0, 7.0**0.5, 3))  # deviations -3, 1, 2: (9 + 1 + 4) / 2 = 7
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
        "domain/unadapted": {"runs": [{"seed": 1}], "seconds of a clip": 0.02},
    }
    (tmp_path / "study.json").write_text(json.dumps(known))
    assert restore(tmp_path / "study.json", tmp_path / "out") == 4
    actual = {path.parent.relative_to(tmp_path / "out" / "runs").as_posix() for path in tmp_path.rglob("result.json")}
    assert actual == {
        "domain/adapted/seed-0",  # general, seed 0: unadapted still has to go on from its checkpoint
        "domain/general/seed-1",
        "domain/adapted/seed-1",
        "domain/unadapted/seed-1",
    }
    assert json.loads((tmp_path / "out" / "latency.json").read_text()) == {"domain/unadapted": 0.02}
    assert restore(tmp_path / "study.json", tmp_path / "out") == 0
