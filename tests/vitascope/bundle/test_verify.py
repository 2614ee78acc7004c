"""`vitascope bundle verify`: files, weights and graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.vitascope.bundle.bundle_command import DEFAULT, rendered, run_bundle, run_with_error
from tests.vitascope.bundle.modified_bundle import Model, change_graph, double


def test_an_intact_bundle_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_bundle(capsys, "verify", folder)
    assert result["verified"] is True
    assert result["problems"] == []
    assert result["passed"] == {
        **{"manifest": 1, "file": 9, "graph": 4, "weights": 4, "parity": 1, "answers": 1, "tokenizer": 1, "run": 4}
    }
    [note] = result["notes"]
    assert note == {
        "file": "parity.json",
        "note": "has no comparison of answer, match, text, video with the trained model",
    }


def test_all_problems_are_reported_and_damaged_graphs_do_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "answers.json").write_text("[]")
    (folder / "MODEL_CARD.md").unlink()
    whole = (folder / "video.onnx").read_bytes()
    (folder / "video.onnx").write_bytes(whole[:-1] + b"\0")
    result = run_bundle(capsys, "verify", folder, status=1)
    problems = {one["file"]: one["problem"] for one in result["problems"]}
    assert set(problems) == {"answers.json", "MODEL_CARD.md", "video.onnx"}
    assert problems["answers.json"].startswith("2 bytes; the manifest lists ")
    assert problems["MODEL_CARD.md"].startswith("missing; the manifest lists it with ")
    assert problems["video.onnx"].startswith("its SHA-256 is ")
    assert "run" not in result["passed"]
    shown = rendered(result)
    assert "not verified, 3 problems" in shown
    assert "graphs were not run" in shown


def test_a_damaged_manifest_is_the_only_problem_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").write_text("{}")
    result = run_bundle(capsys, "verify", folder, status=1)
    assert [(one["part"], one["file"]) for one in result["problems"]] == [("manifest", "manifest.json")]
    assert run_with_error(capsys, "verify", folder / "absent") == "no such folder; a bundle was expected"


def rename_input(model: Model) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def widen(model: Model) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["input_ids"], ["wide"], to=onnx.TensorProto.INT64))
    model.graph.node[1].input[1] = "wide"


def divide_by_zero(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Div", ["before", "zero"], ["vector"]))


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
        (divide_by_zero, "text: vector has values that are not finite numbers"),
        (double, "text: an embedding has norm 2; 1 was expected"),
        (shorten_vocabulary, "text.onnx: failed on inputs"),  # a token of the tokenizer that the graph does not know
    ],
)
def test_a_graph_that_differs_from_the_manifest_fails_its_run(
    change: Callable[[Model], object], problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_graph(folder, "text", change)
    result = run_bundle(capsys, "verify", folder, status=1)
    [one] = result["problems"]
    assert (one["part"], one["file"]) == ("run", "text.onnx")
    assert problem in f"text.onnx: {one['problem']}"
    assert result["passed"]["run"] == 3  # the other graphs


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("length", "1000000", "the file has"),
        ("length", "8", "has 8 bytes; 512 were expected of float32 (8, 16)"),
        ("offset", "-4", "lies at bytes -4"),
        ("location", "../weights.bin", "reads weights from '../weights.bin'; a listed file was expected"),
    ],
)
def test_misplaced_external_weights_are_reported(
    key: str, value: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def misplace(model: Model) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if tensor.name == "directions" and entry.key == key:
                    entry.value = value

    change_graph(folder, "video", misplace)
    [one] = run_bundle(capsys, "verify", folder, status=1)["problems"]
    assert problem in one["problem"]
    assert one["part"] == ("graph" if key == "location" else "weights")


def test_unlisted_files_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "Weights.bin").write_bytes(b"")
    (folder / "elsewhere").symlink_to("/etc")
    result = run_bundle(capsys, "verify", folder)
    unlisted = [one["file"] for one in result["notes"] if "not verified" in one["note"]]
    assert unlisted == ["elsewhere", "more/Weights.bin"]


def test_the_default_bundle_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_bundle(capsys, "verify", DEFAULT, "--threads", 1)
    assert (result["verified"], result["notes"]) == (True, [])
    assert result["passed"]["run"] == 4
