"""`vitascope bundle inspect`, and the reader of ONNX files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.vitascope.bundle.bundle_command import DEFAULT, rendered, run_bundle
from vitascope.bundle.onnx_files import read_graph
from vitascope.errors import BundleCorrupt


def operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from operators(attribute.g)


def test_read_graph_agrees_with_onnx(folder: Path) -> None:
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


def test_branches_and_local_functions_are_read(tmp_path: Path) -> None:
    constant = onnx.helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((2, 3), np.float16)))
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner)
    function = onnx.helper.make_function("local", "f", [], ["k"], [constant], [])
    call = onnx.helper.make_node("f", [], ["z"], domain="local")
    model = onnx.helper.make_model(onnx.helper.make_graph([branch, call], "outer", [], []), functions=[function])
    (tmp_path / "outer.onnx").write_bytes(model.SerializeToString())
    found = read_graph(tmp_path / "outer.onnx")
    assert found.operators == Counter({"Constant": 2, "If": 1, "local.f": 1})
    assert [(one.name, one.signature) for one in found.tensors] == [("k", "float16 (2, 3)")] * 2


@pytest.mark.parametrize("data", [b"", b"not a graph at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b\x0b", b"\x38"])
def test_a_file_that_is_not_onnx_is_rejected(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(BundleCorrupt, match=r"a\.onnx: not a readable ONNX graph"):
        read_graph(tmp_path / "a.onnx")


def test_shared_weights_count_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = run_bundle(capsys, "inspect", folder)
    sizes = {name: one["parameters"] for name, one in info["contents"].items()}
    assert info["parameters"] == sum(sizes.values())  # of its own files here
    shipped = run_bundle(capsys, "inspect", DEFAULT)
    assert shipped["parameters"] < sum(one["parameters"] for one in shipped["contents"].values())
    assert 20e6 < shipped["parameters"] < 60e6
    assert shipped["contents"]["video"]["opsets"] == {"": 20}
    shown = rendered(shipped)
    for words in ("hd-vila-tiny 1.3.0", "int8-weights: cosine at least 0.999", "flickr8k t2v R@1: 20.38", "not signed"):
        assert words in shown
    for column in ("video.onnx", "86 Conv", "int8 "):
        assert column in shown
