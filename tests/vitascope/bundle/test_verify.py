"""Whether a bundle holds: its files, its graphs when they run, and its own reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.vitascope.bundle.changed import Model, change_graph, double
from tests.vitascope.bundle.told import DEFAULT, ran, ran_into_mistake, shown_to_people


def test_an_intact_bundle_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, "verify", folder)
    assert told["verified"] is True
    assert told["problems"] == []
    assert told["held"] == {
        **{"manifest": 1, "file": 9, "graph": 4, "weights": 4, "parity": 1, "answers": 1, "tokenizer": 1, "run": 4}
    }
    [remark] = told["remarks"]
    assert remark == {
        "file": "parity.json",
        "remark": "states no comparison of answer, match, text, video with the trained model",
    }


def test_everything_that_is_wrong_is_told_and_nothing_damaged_is_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "answers.json").write_text("[]")
    (folder / "MODEL_CARD.md").unlink()
    whole = (folder / "video.onnx").read_bytes()
    (folder / "video.onnx").write_bytes(whole[:-1] + b"\0")
    told = ran(capsys, "verify", folder, status=1)
    problems = {one["file"]: one["problem"] for one in told["problems"]}
    assert set(problems) == {"answers.json", "MODEL_CARD.md", "video.onnx"}
    assert problems["answers.json"].startswith("2 bytes; the manifest states ")
    assert problems["MODEL_CARD.md"].startswith("missing; the manifest lists it with ")
    assert problems["video.onnx"].startswith("its SHA-256 is ")
    assert "run" not in told["held"]
    shown = shown_to_people(told)
    assert "not verified, 3 problems" in shown
    assert "graphs were not run" in shown


def test_a_manifest_that_is_damaged_is_the_only_thing_that_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "manifest.json").write_text("{}")
    told = ran(capsys, "verify", folder, status=1)
    assert [(one["part"], one["file"]) for one in told["problems"]] == [("manifest", "manifest.json")]
    assert ran_into_mistake(capsys, "verify", folder / "absent") == "no such folder; a bundle was expected"


def rename_input(model: Model) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def widen(model: Model) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["input_ids"], ["wide"], to=onnx.TensorProto.INT64))
    model.graph.node[1].input[1] = "wide"


def divide_by_nothing(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Div", ["before", "nothing"], ["vector"]))


def shorten_vocabulary(model: Model) -> None:
    [words] = [one for one in model.graph.initializer if one.name == "words"]
    [length] = [one for one in words.external_data if one.key == "length"]
    words.dims[0] -= 1
    length.value = str(int(length.value) - 4 * words.dims[1])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (rename_input, r"inputs ['attention_mask', 'tokens']; ['attention_mask', 'input_ids'] were expected"),
        (widen, "input 'input_ids' is int32 (any, any); int64 (any, any) was expected from the manifest"),
        (divide_by_nothing, "text: vector has values that are not finite numbers"),
        (double, "text: a vector came out of length 2; length 1 was expected"),
        (shorten_vocabulary, "text.onnx: failed on inputs"),  # a token of the tokenizer that the graph does not know
    ],
)
def test_a_graph_that_does_not_do_what_the_manifest_says(
    change: Callable[[Model], object], problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_graph(folder, "text", change)
    told = ran(capsys, "verify", folder, status=1)
    [one] = told["problems"]
    assert (one["part"], one["file"]) == ("run", "text.onnx")
    assert problem in f"text.onnx: {one['problem']}"
    assert told["held"]["run"] == 3  # the others are run all the same


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("length", "1000000", "the file has"),
        ("length", "8", "has 8 bytes; 512 were expected of float32 (8, 16)"),
        ("offset", "-4", "lies at bytes -4"),
        ("location", "../weights.bin", "reads weights from '../weights.bin'; a listed file was expected"),
    ],
)
def test_weights_that_are_not_where_the_graph_says(
    key: str, value: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def misplace(model: Model) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if tensor.name == "directions" and entry.key == key:
                    entry.value = value

    change_graph(folder, "video", misplace)
    [one] = ran(capsys, "verify", folder, status=1)["problems"]
    assert problem in one["problem"]
    assert one["part"] == ("graph" if key == "location" else "weights")


def test_what_the_manifest_does_not_list_is_remarked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "Weights.bin").write_bytes(b"")
    (folder / "elsewhere").symlink_to("/etc")
    told = ran(capsys, "verify", folder)
    unlisted = [one["file"] for one in told["remarks"] if "nothing vouches for it" in one["remark"]]
    assert unlisted == ["elsewhere", "more/Weights.bin"]


def test_the_shipped_bundle_holds(capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, "verify", DEFAULT, "--threads", 1)
    assert (told["verified"], told["remarks"]) == (True, [])
    assert told["held"]["run"] == 4
