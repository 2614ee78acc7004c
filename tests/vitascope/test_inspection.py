"""Bundles looked into: what is inside, whether it holds, and what differs between two."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from rich.console import Console

from tests.small_bundle import make_small_bundle, write_manifest
from vitascope.command import main
from vitascope.commands.bundle import show
from vitascope.errors import BundleCorrupt
from vitascope.inspection.graph_contents import read_graph

DEFAULT = Path(__file__).parents[2] / "bundles" / "hd-vila-tiny"
Model = onnx.ModelProto


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_small_bundle(tmp_path / "bundle", external_data=True)


def ran(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict[str, Any]:
    assert main(["bundle", *map(str, arguments), "--json"]) == status
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def shown_to_people(result: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=240, highlight=False)
    show(result, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def restate(folder: Path, **changes: object) -> None:
    write_manifest(folder, {**json.loads((folder / "manifest.json").read_text()), **changes})


def change_graph(folder: Path, graph: str, change: Callable[[Model], object]) -> None:
    """The graph, its weights outside as they are, after ``change``; hashes are right again."""
    model = onnx.load(folder / f"{graph}.onnx", load_external_data=False)
    change(model)
    (folder / f"{graph}.onnx").write_bytes(model.SerializeToString())
    restate(folder)


def operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from operators(attribute.g)


# What is inside


def test_graphs_are_read_as_onnx_reads_them(folder: Path) -> None:
    for path in (folder / "video.onnx", folder / "text.onnx", folder / "answer.onnx", DEFAULT / "answer.onnx"):
        model, found = onnx.load(path), read_graph(path)
        assert found.operators == Counter(operators(model.graph))
        assert found.opsets == {one.domain: one.version for one in model.opset_import}
        assert found.ir_version == model.ir_version
        initialisers = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        tensors = {one.name: one for one in found.tensors}
        assert set(initialisers) <= set(tensors)
        for name, array in initialisers.items():
            tensor = tensors[name]
            assert (tensor.dtype, tensor.shape, tensor.bytes) == (str(array.dtype), array.shape, array.nbytes)
            if tensor.location is not None:
                assert found.stored(tensor) == array.tobytes()
            elif array.dtype == np.float32:
                floats = found.floats(tensor)
                assert floats is not None
                np.testing.assert_array_equal(floats, array.ravel())


def test_a_branch_and_a_local_function_are_looked_into(tmp_path: Path) -> None:
    constant = onnx.helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((2, 3), np.float16)))
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner)
    function = onnx.helper.make_function("local", "f", [], ["k"], [constant], [])
    call = onnx.helper.make_node("f", [], ["z"], domain="local")
    model = onnx.helper.make_model(onnx.helper.make_graph([branch, call], "outer", [], []), functions=[function])
    (tmp_path / "outer.onnx").write_bytes(model.SerializeToString())
    found = read_graph(tmp_path / "outer.onnx")
    assert found.operators == Counter({"Constant": 2, "If": 1, "local.f": 1})
    assert [(one.name, one.written) for one in found.tensors] == [("k", "float16 (2, 3)")] * 2


@pytest.mark.parametrize("data", [b"", b"not a graph at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b\x0b", b"\x38"])
def test_what_is_no_graph_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(BundleCorrupt, match=r"a\.onnx: not a readable ONNX graph"):
        read_graph(tmp_path / "a.onnx")


def test_weights_that_graphs_share_count_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = ran(capsys, "inspect", folder)
    sizes = {name: one["parameters"] for name, one in info["contents"].items()}
    assert info["parameters"] == sum(sizes.values())  # of its own files here
    shipped = ran(capsys, "inspect", DEFAULT)
    assert shipped["parameters"] < sum(one["parameters"] for one in shipped["contents"].values())
    assert 20e6 < shipped["parameters"] < 60e6
    assert shipped["contents"]["video"]["opsets"] == {"": 20}
    shown = shown_to_people(shipped)
    for words in ("hd-vila-tiny 1.3.0", "int8-weights: cosine at least 0.999", "flickr8k t2v R@1: 20.38", "nobody"):
        assert words in shown
    for column in ("video.onnx", "86 Conv", "int8 "):
        assert column in shown


# Whether it holds


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
    assert "not as it should be, 3 problems" in shown
    assert "graphs were not run" in shown


def test_a_manifest_that_is_damaged_is_the_only_thing_that_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "manifest.json").write_text("{}")
    told = ran(capsys, "verify", folder, status=1)
    assert [(one["part"], one["file"]) for one in told["problems"]] == [("manifest", "manifest.json")]
    assert ran_into_mistake(capsys, "verify", folder / "absent") == "no such folder; a bundle was expected"


def ran_into_mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["bundle", *map(str, arguments)]) == 2
    return capsys.readouterr().err.strip().rpartition(": ")[2]


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


def double(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "two"], ["vector"]))


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


def report(**changes: object) -> dict[str, Any]:
    """A parity report of one output, by default within its bounds."""
    output = {"precision": "float32", "graph": "text", "output": "vector", "inputs": "random"}
    recall = {"precision": "float32", "corpus": "scenes", "direction": "t2v", "torch": 50.0, "runtime": 50.0}
    numbers = {"max_difference": 1e-6, "cosine": 0.9999999, "probability_difference": None, "disagreeing": 0, **changes}
    return {
        "tolerances": {"float32": {"max_difference": 1e-4, "cosine": 0.99999, "recall": 0.0}},
        "outputs": [{**output, **numbers}],
        "recall": [{**recall, **numbers}],
    }


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        (report(), None),
        (report(cosine=0.9), "text: output 'vector' on random inputs at float32 has cosine 0.9; at least 0.99999"),
        (report(max_difference=0.5), "differs by 0.5; at most 0.0001 was expected"),
        (report(cosine=float("nan")), "has cosine nan"),
        (report(disagreeing=3), "3 queries disagree"),
        ("{", "not readable as JSON"),
        ({"outputs": [{"graph": "text"}]}, None),  # another exporter's
    ],
)
def test_a_parity_report_keeps_to_its_own_bounds(
    stated: dict[str, Any] | str, problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(stated if isinstance(stated, str) else json.dumps(stated))
    restate(folder)
    told = ran(capsys, "verify", folder, status=0 if problem is None else 1)
    if problem is not None:
        [one] = told["problems"]
        assert one["file"] == "parity.json"
        assert problem in one["problem"]


def variant_report(**changes: object) -> dict[str, Any]:
    """Of a variant: one output beside the bundle it was made of, which has a report of its own."""
    output = {"graph": "text", "output": "vector", "corpus": "scenes", "rows": 9, "cosine": 0.998, "agreement": 95.5}
    beside = {
        "of": {"name": "big", "version": "2", "fingerprint": "ab" * 32},
        "outputs": [output | {"least_cosine": 0.9, "max_difference": 0.1}],
        "unchanged": ["match", "video", "answer"],
        "lost": 0.4,
        "budget": 0.5,
        "report": report(),
    }
    return {"beside": beside | changes}


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        (variant_report(), None),
        (variant_report(lost=0.6), "loses 0.6 points beside big 2 (abababababab); at most 0.5 was expected"),
        (variant_report(report=report(cosine=0.5)), "of big 2 (abababababab): text: output 'vector'"),
        (variant_report(of={"name": "big", "version": "1", "fingerprint": "cd" * 32}), "big 2 of the manifest was"),
    ],
)
def test_a_variant_is_told_beside_the_bundle_it_was_made_of(
    stated: dict[str, Any], problem: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parity.json").write_text(json.dumps(stated))
    restate(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    told = ran(capsys, "verify", folder, status=0 if problem is None else 1)
    remarks = [one["remark"] for one in told["remarks"]]
    if problem is None:
        assert "text vector: cosine 0.99800 on average, 0.9000 at least" in remarks[1]
        assert "same result for 95.5% (of 9)" in remarks[1]
        assert remarks == ran(capsys, "inspect", folder)["beside"]
    else:
        [one] = told["problems"]
        assert problem in one["problem"]


def test_a_variant_with_a_report_that_is_another_bundles_is_remarked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As variants of earlier versions have it."""
    (folder / "parity.json").write_text(json.dumps(report()))
    restate(folder, extra={"variant_of": {"name": "big", "version": "2", "fingerprint": "ab" * 32}})
    assert "says nothing of big 2" in ran(capsys, "verify", folder)["remarks"][0]["remark"]
    [match, answers] = ran(capsys, "inspect", folder)["calibrated"]
    assert match == "Probabilities (match and fused) are calibrated as those of big 2, whose graphs they were fitted to"
    assert "(answers)" in answers


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


# What differs


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
