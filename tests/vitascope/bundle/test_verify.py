"""`vitascope bundle verify` and `inspect`: files, weights, graphs and parity reports; the reader of ONNX files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.small_bundle import make_small_bundle
from tests.vitascope.bundle.bundles import (
    DEFAULT,
    Model,
    change_graph,
    double,
    rendered,
    rewrite_manifest,
    run_bundle,
    run_with_error,
)
from vitascope.bundle.onnx_files import read_graph
from vitascope.errors import BundleCorrupt
from vitascope.model import Model as OpenedModel


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


def test_a_bundle_of_sound_is_verified_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_small_bundle(tmp_path, tasks=["audio_retrieval"])
    result = run_bundle(capsys, "verify", folder)
    assert (result["verified"], result["graphs"], result["passed"]["run"]) == (True, ["audio", "text"], 2)
    shown = rendered(run_bundle(capsys, "inspect", folder))
    assert "windows of 0.5 s at 8,000 Hz, filled with silence, 2 tokens of 16 values" in shown
    change_graph(folder, "audio", double)
    [violation] = run_bundle(capsys, "verify", folder, status=1)["problems"]
    assert "audio: an embedding has norm 2; 1 was expected" in violation["problem"]


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"calibration": {"match pairs": "many"}}},
        {"extra": {"calibration": {"match pairs": 5.0, "fitted_on": 3}}},
        {"extra": {"variant_of": {"x": 1}}},
        {"reranking": {"candidates": 10, "measured": {"x/val": {"queries": 5, "recall": {}}}}},
    ],
)
def test_a_manifest_with_unusual_records_is_described(
    changes: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_manifest(folder, **changes)
    assert "small-colours" in rendered(run_bundle(capsys, "inspect", folder))


def test_sizes_of_a_manifest_are_compared_before_inputs_are_allocated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_manifest(folder, visual_tokens=10**12)
    assert run_bundle(capsys, "verify", folder, status=1)["problems"]
    with pytest.raises(BundleCorrupt, match="was expected from the manifest"):
        OpenedModel.open(folder).warm_up()


def test_all_problems_are_reported_and_damaged_graphs_do_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "answers.json").write_text("[]")
    (folder / "MODEL_CARD.md").unlink()
    whole = (folder / "video.onnx").read_bytes()
    (folder / "video.onnx").write_bytes(whole[:-1] + b"\0")
    result = run_bundle(capsys, "verify", folder, status=1)
    problems = {each["file"]: each["problem"] for each in result["problems"]}
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
    assert [(each["part"], each["file"]) for each in result["problems"]] == [("manifest", "manifest.json")]
    assert run_with_error(capsys, "verify", folder / "absent") == "no such folder; a bundle was expected"


def rename_input(model: Model) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def narrow_ids(model: Model) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["input_ids"], ["wide"], to=onnx.TensorProto.INT64))
    model.graph.node[1].input[1] = "wide"


def divide_by_zero(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Div", ["before", "zero"], ["vector"]))


def shorten_vocabulary(model: Model) -> None:
    [words] = [tensor for tensor in model.graph.initializer if tensor.name == "words"]
    [length] = [entry for entry in words.external_data if entry.key == "length"]
    words.dims[0] -= 1
    length.value = str(int(length.value) - 4 * words.dims[1])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (rename_input, r"inputs ['attention_mask', 'tokens']; ['attention_mask', 'input_ids'] were expected"),
        (narrow_ids, "input 'input_ids' is int32 (any, any); int64 (any, any) was expected from the manifest"),
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
    [violation] = result["problems"]
    assert (violation["part"], violation["file"]) == ("run", "text.onnx")
    assert problem in f"text.onnx: {violation['problem']}"
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
    [violation] = run_bundle(capsys, "verify", folder, status=1)["problems"]
    assert problem in violation["problem"]
    assert violation["part"] == ("graph" if key == "location" else "weights")


def test_unlisted_files_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "Weights.bin").write_bytes(b"")
    (folder / "elsewhere").symlink_to("/etc")
    result = run_bundle(capsys, "verify", folder)
    unlisted = [note["file"] for note in result["notes"] if "not verified" in note["note"]]
    assert unlisted == ["elsewhere", "more/Weights.bin"]


def test_the_default_bundle_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_bundle(capsys, "verify", DEFAULT, "--threads", 1)
    assert (result["verified"], result["notes"]) == (True, [])
    assert result["passed"]["run"] == 10


def operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from operators(attribute.g)


def test_read_graph_agrees_with_onnx(folder: Path) -> None:
    for path in (folder / "video.onnx", folder / "text.onnx", folder / "answer.onnx", DEFAULT / "answer.onnx"):
        model, graph = onnx.load(path), read_graph(path)
        assert graph.operators == Counter(operators(model.graph))
        assert graph.opsets == {opset.domain: opset.version for opset in model.opset_import}
        assert graph.ir_version == model.ir_version
        initialisers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        tensors = {tensor.name: tensor for tensor in graph.tensors}
        assert set(initialisers) <= set(tensors)
        for name, array in initialisers.items():
            tensor = tensors[name]
            assert (tensor.dtype, tensor.shape, tensor.bytes) == (str(array.dtype), array.shape, array.nbytes)


def test_branches_and_local_functions_are_read(tmp_path: Path) -> None:
    constant = onnx.helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((2, 3), np.float16)))
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner)
    function = onnx.helper.make_function("local", "f", [], ["k"], [constant], [])
    call = onnx.helper.make_node("f", [], ["z"], domain="local")
    model = onnx.helper.make_model(onnx.helper.make_graph([branch, call], "outer", [], []), functions=[function])
    (tmp_path / "outer.onnx").write_bytes(model.SerializeToString())
    graph = read_graph(tmp_path / "outer.onnx")
    assert graph.operators == Counter({"Constant": 2, "If": 1, "local.f": 1})
    assert [(tensor.name, tensor.signature) for tensor in graph.tensors] == [("k", "float16 (2, 3)")] * 2


def test_shared_weights_count_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = run_bundle(capsys, "inspect", folder)
    sizes = {name: content["parameters"] for name, content in info["contents"].items()}
    assert info["parameters"] == sum(sizes.values())  # of its own files here
    shipped = run_bundle(capsys, "inspect", DEFAULT)
    assert shipped["parameters"] < sum(content["parameters"] for content in shipped["contents"].values())
    assert 20e6 < shipped["parameters"] < 80e6
    assert shipped["contents"]["video"]["opsets"] == {"": 20}
    shown = rendered(shipped)
    recall = shipped["metrics"]["flickr8k t2v R@1"]
    name = f"hd-vila-tiny {shipped['version']}"
    for words in (name, "int8-weights: cosine at least 0.999", f"flickr8k t2v R@1: {recall:g}", "not signed"):
        assert words in shown
    for column in ("video.onnx", "120 Conv", "int8 "):
        assert column in shown


def report(**changes: object) -> dict[str, Any]:
    """A parity report of one output, by default within its bounds."""
    output = {"precision": "float32", "graph": "text", "output": "vector", "inputs": "random"}
    recall = {"precision": "float32", "corpus": "scenes", "direction": "t2v", "torch": 50.0, "runtime": 50.0}
    numbers = {"max_difference": 1e-6, "cosine": 0.9999999, "probability_difference": None, "disagreeing": 0, **changes}
    return {
        "tolerances": {
            "float32": {"max_difference": 1e-4, "cosine": 0.99999, "recall": 0.0}
            | {"probability_difference": 0.01, "class_difference": 0.05}
        },
        "outputs": [{**output, **numbers}],
        "recall": [{**recall, **numbers}],
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (report(), None),
        (report(cosine=0.9), "text: output 'vector' on random inputs at float32 has cosine 0.9; at least 0.99999"),
        (report(max_difference=0.5), "differs by 0.5; at most 0.0001 was expected"),
        (report(cosine=float("nan")), "has cosine nan"),
        (report(probability_difference=0.04), "differs by a probability of 0.04"),
        (report(output="entailment_logits", probability_difference=0.04), None),
        (report(output="entailment_logits", probability_difference=0.06), "at most 0.05 was expected"),
        (report(disagreeing=3), "3 queries disagree"),
        ("{", "not readable as JSON"),
        ({"outputs": [{"graph": "text"}]}, None),  # by another exporter
    ],
)
def test_violated_bounds_of_the_parity_report_are_problems(
    content: dict[str, Any] | str, problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(content if isinstance(content, str) else json.dumps(content))
    rewrite_manifest(folder)
    result = run_bundle(capsys, "verify", folder, status=0 if problem is None else 1)
    if problem is not None:
        [violation] = result["problems"]
        assert violation["file"] == "parity.json"
        assert problem in violation["problem"]


def variant_report(**changes: object) -> dict[str, Any]:
    """A report of a variant with one output."""
    output = {"graph": "text", "output": "vector", "corpus": "scenes", "rows": 9, "cosine": 0.998, "agreement": 95.5}
    comparison = {
        "of": {"name": "big", "version": "2", "fingerprint": "ab" * 32},
        "outputs": [output | {"least_cosine": 0.9, "max_difference": 0.1}],
        "unchanged": ["match", "video", "answer"],
        "lost": 0.4,
        "budget": 0.5,
        "report": report(),
    }
    return {"beside": comparison | changes}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (variant_report(), None),
        (variant_report(lost=0.6), "loses 0.6 points compared with big 2 (abababababab); at most 0.5 was expected"),
        (variant_report(report=report(cosine=0.5)), "of big 2 (abababababab): text: output 'vector'"),
        (variant_report(of={"name": "big", "version": "1", "fingerprint": "cd" * 32}), "big 2 of the manifest was"),
    ],
)
def test_a_variant_is_compared_with_its_source(
    content: dict[str, Any], problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(json.dumps(content))
    rewrite_manifest(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    result = run_bundle(capsys, "verify", folder, status=0 if problem is None else 1)
    notes = [note["note"] for note in result["notes"]]
    if problem is None:
        assert "text vector: cosine 0.99800 on average, 0.9000 at least" in notes[1]
        assert "same result for 95.5% (of 9)" in notes[1]
        assert notes == run_bundle(capsys, "inspect", folder)["variant"]
    else:
        [violation] = result["problems"]
        assert problem in violation["problem"]


def test_a_variant_without_comparison_is_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "parity.json").write_text(json.dumps(report()))
    rewrite_manifest(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    assert "has no comparison with big 2" in run_bundle(capsys, "verify", folder)["notes"][0]["note"]
    [match, answers] = run_bundle(capsys, "inspect", folder)["calibration_summary"]
    assert match == "Probabilities (match and fused) use the calibration of big 2"
    assert "(answers)" in answers
