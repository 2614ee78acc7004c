"""What differs between two bundles: part by part, in what they compute, and in speed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small_bundle import make_small_bundle
from tests.vitascope.bundle.changed import change_graph, double, restate
from tests.vitascope.bundle.told import ran, ran_into_mistake, shown_to_people


def test_two_bundles_that_are_alike(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = make_small_bundle(tmp_path / "again", external_data=True, version="2")
    told = ran(capsys, "diff", folder, again)
    assert told["same"] is True
    assert told["manifest"] == [{"key": "version", "before": "1", "after": "2"}]
    assert (told["graphs"], told["tokenizer"], told["answers"]) == ({}, {}, {})
    assert told["vectors"]["texts"]["least"] == pytest.approx(1)
    assert told["vectors"]["first"] == [12, 12]
    assert "Vectors are the same" in shown_to_people(told)


def test_what_changed_is_told_part_by_part(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = make_small_bundle(tmp_path / "after", external_data=True, tasks=("retrieval", "answering"))
    change_graph(after, "text", double)
    tokenizer = json.loads((after / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["puppy"], words["cat"] = words.pop("dog"), words["car"]
    (after / "tokenizer.json").write_text(json.dumps(tokenizer))
    (after / "answers.json").write_text(json.dumps(["scarlet", *json.loads((after / "answers.json").read_text())[1:]]))
    (after / "NOTICE.md").write_text("new")
    streams = json.loads((after / "manifest.json").read_text())["streams"]
    streams[1]["placement"] = "middle"
    restate(folder, metrics={"scenes R@1": 50.0, "gone R@1": 1.0})
    restate(after, metrics={"scenes R@1": 52.5, "new R@1": 7.0}, streams=streams)
    told = ran(capsys, "diff", folder, after)
    assert told["same"] is False
    manifest = {one["key"]: (one["before"], one["after"]) for one in told["manifest"]}
    assert manifest["streams.low.placement"] == ("uniform", "middle")
    assert manifest["graphs.match"] == ("match.onnx", None)
    assert list(told["files"]["added"]) == ["NOTICE.md"]
    assert list(told["files"]["removed"]) == ["match.onnx"]
    assert told["graphs"]["match"] == "removed"
    text = told["graphs"]["text"]
    assert text["operators"] == {"Mul": 1}
    assert text["initialisers"]["added"] == {"two": "float32 ()"}
    assert (told["tokenizer"]["added"], told["tokenizer"]["removed"]) == (["puppy"], ["dog"])
    assert told["tokenizer"]["moved"] == 1
    assert (told["answers"]["added"], told["answers"]["removed"]) == (["scarlet"], ["red"])
    assert told["accuracy"] == [
        {"metric": "scenes R@1", "before": 50.0, "after": 52.5, "delta": 2.5},
        {"metric": "gone R@1", "before": 1.0, "after": None, "delta": None},
        {"metric": "new R@1", "before": None, "after": 7.0, "delta": None},
    ]
    shown = shown_to_people(told)
    for words in ("+1 Mul", "+2.5", "graph match  removed", "added: 'puppy'", "uniform", "NOTICE.md"):
        assert words in shown


def test_how_far_weights_and_vectors_are_from_each_other(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled = make_small_bundle(tmp_path / "scaled", external_data=True)
    weights = np.frombuffer((scaled / "weights.bin").read_bytes(), np.float32)
    (scaled / "weights.bin").write_bytes((weights * np.float32(1.5)).tobytes())
    restate(scaled)
    [changed] = ran(capsys, "diff", folder, scaled)["graphs"]["text"]["initialisers"]["changed"]
    assert changed["name"] == "words"
    assert changed["difference"] == pytest.approx(0.5)
    other = make_small_bundle(tmp_path / "other", seed=1)
    (tmp_path / "texts").write_text("a red thing\na blue thing\n")
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(tmp_path / f"{name}.png")
    media = tmp_path / "red.png", tmp_path / "blue.png"
    options = "--texts", tmp_path / "texts", "--media", *media
    vectors = ran(capsys, "diff", folder, other, *options)["vectors"]
    assert vectors["texts"]["count"] == vectors["pictures"]["count"] == 2
    assert vectors["pictures"]["least"] < 0.9
    assert vectors["pictures"]["of"] in ("red.png", "blue.png")
    assert vectors["first"] == [2, 2]  # other vectors, the same answers
    wider = make_small_bundle(tmp_path / "wider", width=24)
    vectors = ran(capsys, "diff", folder, wider, *options)["vectors"]
    assert (vectors["texts"], vectors["first"]) == (None, [2, 2])
    assert ran_into_mistake(capsys, "diff", folder, wider, "--texts", tmp_path / "none").endswith("was expected")


def test_speed_is_measured_on_request_in_turns(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_small_bundle(tmp_path / "plain", tasks=("retrieval",))
    told = ran(capsys, "diff", folder, plain, "--speed", "--threads", 1)
    assert [one["graph"] for one in told["speed"]] == ["text", "video"]
    for one in told["speed"]:
        assert 0 < one["ratio_from"] <= one["ratio"] <= one["ratio_to"]
        assert min(one["before"], one["after"]) > 0
    assert "after / before" in shown_to_people(told)
