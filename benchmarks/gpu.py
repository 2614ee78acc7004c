"""The bundle's graphs on this machine's GPU, beside the same graphs on the CPU: are they right, and how fast are they?

For each graph, engine and number of rows: how far outputs are from the CPU's; latency; rows a second; and the share of
the roofline. The roofline is the least time that the card could need: the larger of what the graph computes at the rate
that this card reaches in a large matrix product of the same types, and its weights, inputs and outputs once through the
card's memory at the rate that its driver states.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from vitascope.bundle.bundle import Bundle
from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table
from vitascope.engines.gpu import first_gpu
from vitascope.engines.onnx_runtime import Array, Device, OnnxRuntimeEngine
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.onnx_rewrites import prepare_for_tensorrt
from vitascope.model import Model

ROWS = (1, 8, 32)
TOKENS = 16
"""Of a text, where the model takes so many."""
SECONDS = 2.0
"""That each measurement goes on."""
_WARM_UP = 10
_EDGE_ON_CPU = 256
LEAST_COSINE = 0.999
"""Below it the check fails. GPUs multiply float32 in TF32, whose 10 bits are those of float16."""


@dataclass(frozen=True)
class Measured:
    """One graph on one engine at one number of rows."""

    graph: str
    engine: str
    device: str
    fallback: str | None
    rows: int
    cosine: float
    """The least of any output's row with the CPU's; of one number a row, of all together."""
    max_difference: float
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    roofline_share: float | None
    """None where the driver does not state the memory's rate."""


@dataclass(frozen=True)
class Roof:
    """What the device could do at most."""

    flops: float
    """A second, as a large matrix product reaches it."""
    bytes: float | None
    """A second, of its memory."""

    def least_seconds(self, work: int, moved: int) -> float | None:
        return None if self.bytes is None else max(work / self.flops, moved / self.bytes)


def check(
    bundle: Bundle, devices: Sequence[Device], rows: Sequence[int] = ROWS, seconds: float = SECONDS, product: int = 4096
) -> tuple[list[Measured], list[str]]:
    """What was measured, and what could not be, in words. product: edge of the matrices by which the roof is found."""
    reference = Model(bundle, device="cpu")
    inputs = {graph: [_inputs(bundle, graph, count) for count in rows] for graph in bundle.manifest.graphs}
    wanted = {graph: [reference.run_graph(graph, one) for one in many] for graph, many in inputs.items()}
    work = {graph: _work(bundle, graph, many[0], rows[0]) for graph, many in inputs.items()}
    found: list[Measured] = []
    missing: list[str] = []
    for device in devices:
        try:
            model = Model(bundle, device=device)
            model.warm_up()
            half = bundle.manifest.precision == "float16"
            roof = (
                _roof("cpu", half, _EDGE_ON_CPU, seconds) if device == "cpu" else _roof("cuda", half, product, seconds)
            )
        except EngineError as error:
            missing.append(f"{device}: {error}")
            continue
        for graph, many in inputs.items():
            for count, one, right in zip(rows, many, wanted[graph], strict=True):
                found.append(_measured(model, graph, count, one, right, roof, work[graph], seconds))
    return found, missing


def _measured(
    model: Model,
    graph: str,
    rows: int,
    inputs: dict[str, Array],
    right: dict[str, Array],
    roof: Roof,
    work: tuple[int, int],
    seconds: float,
) -> Measured:
    outputs = model.run_graph(graph, inputs)
    times = _times(lambda: model.run_graph(graph, inputs), seconds)
    per_row, weights = work
    moved = weights + sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
    least = roof.least_seconds(per_row * rows, moved)
    p50 = float(np.median(times))
    placement = model.placements[graph]
    return Measured(
        graph=graph,
        engine=placement.engine,
        device=placement.device,
        fallback=placement.fallback,
        rows=rows,
        cosine=min(_cosine(right[name], outputs[name]) for name in right),
        max_difference=max(float(np.abs(right[name] - outputs[name]).max()) for name in right),
        p50_ms=1000 * p50,
        p99_ms=1000 * float(np.quantile(times, 0.99)),
        rows_per_second=rows / p50,
        roofline_share=None if least is None else least / p50,
    )


def _times(run: Callable[[], Any], seconds: float) -> list[float]:
    """Of runs one after the other, each waited for, in seconds."""
    for _ in range(_WARM_UP):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _WARM_UP:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times


def _inputs(bundle: Bundle, graph: str, rows: int) -> dict[str, Array]:
    """Made-up inputs, the same for all engines."""
    stated = bundle.manifest
    rng = np.random.default_rng(0)
    if graph == "video":
        return {
            s.name: rng.integers(0, 256, (rows, 1, s.frames, s.height, s.width, 3), dtype=np.uint8)
            for s in stated.streams
        }
    length = min(TOKENS, stated.text_length)
    ids = rng.integers(0, bundle.tokenizer().vocabulary_size, (rows, length))
    inputs: dict[str, Array] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if graph != "text":
        tokens = rng.normal(size=(rows, stated.visual_tokens, stated.visual_width))
        inputs["visual_tokens"] = tokens.astype(np.float32)
    return inputs


def _work(bundle: Bundle, graph: str, inputs: dict[str, Array], rows: int) -> tuple[int, int]:
    """(floating-point operations of a row, bytes of weights that a run reads)."""
    path = bundle.graph_path(graph)
    assert path is not None
    model = prepare_for_tensorrt(path)
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    read = [tensor for tensor in model.graph.initializer if tensor.name not in tables]  # of tables, a few rows
    return count_flops(model, inputs) // rows, sum(numpy_helper.to_array(tensor).nbytes for tensor in read)


_FLOP_OPERATORS = ("MatMul", "Gemm", "Conv")
"""All other operators are negligible."""


def count_flops(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> int:
    """Return the multiplications and additions of matrix products and convolutions in one run.

    The graph is run once on the CPU, as sizes that it computes itself are only known then.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = [node for node in copy.graph.node if node.op_type in _FLOP_OPERATORS]
    constants = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    outputs = {value.name for value in copy.graph.output}
    tensors = {name for node in nodes for name in (*node.input[:2], node.output[0])} - set(constants)
    input_shapes = {name: array.shape for name, array in inputs.items()}
    for name in sorted(tensors - outputs - set(input_shapes)):
        copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = sorted(tensors - set(input_shapes))
    results = session.run(names, dict(inputs)) if names else []  # an empty list means all outputs
    shapes = {name: array.shape for name, array in zip(names, results, strict=True)}
    return sum(_node_flops(node, {**constants, **input_shapes, **shapes}) for node in nodes)


def _node_flops(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    size = int(np.prod(shapes[node.output[0]], dtype=np.int64))
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        # The weight is (output channels, input channels of a group, *kernel).
        return 2 * size * int(np.prod(shapes[node.input[1]][1:], dtype=np.int64))
    left = shapes[node.input[0]]
    return 2 * size * left[-2 if node.op_type == "Gemm" and attributes.get("transA") else -1]


def _roof(device: Device, half: bool, edge: int, seconds: float) -> Roof:
    """By a chain of matrix products on ``device``, and the driver's word for its memory."""
    steps = 16
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save_model(_product(edge, steps, half), path)
        engine = OnnxRuntimeEngine(path, device=device)
        one = {"x": np.ones(1, np.float32)}
        best = min(_times(lambda: engine.run(one), min(seconds, 1.0)))
    return Roof(steps * 2 * edge**3 / best, None if device == "cpu" else first_gpu().memory_bytes_per_second)


def _product(edge: int, steps: int, half: bool) -> onnx.ModelProto:
    """x (1,) scales a matrix, which is multiplied ``steps`` times; only a sum leaves the device."""
    kind = np.float16 if half else np.float32
    matrix = np.random.default_rng(0).normal(0, edge**-0.5, (edge, edge)).astype(kind)
    nodes = [
        helper.make_node("Cast", ["x"], ["scale"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT),
        helper.make_node("Mul", ["matrix", "scale"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{step}", "matrix"], [f"m{step + 1}"]) for step in range(steps)),
        helper.make_node("ReduceMax", [f"m{steps}"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _cosine(right: Array, found: Array) -> float:
    a, b = (x.reshape(1 if x.ndim == 1 else len(x), -1).astype(np.float64) for x in (right, found))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and, with --out, write it as JSON; 1 where an engine is missing or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=default_bundle())
    parser.add_argument("--devices", nargs="+", default=["cuda", "tensorrt"], choices=["cpu", "cuda", "tensorrt"])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args(argv)
    bundle = Bundle.open(args.bundle)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        card = first_gpu()
        console.print(f"{card.name}, compute capability {card.capability[0]}.{card.capability[1]}, CUDA {card.driver}")
    except EngineError as error:
        console.print(f"no GPU: {error}")
    found, missing = check(bundle, args.devices, seconds=args.seconds)
    _show(found, console)
    wrong = [one for one in found if not one.cosine >= LEAST_COSINE]
    for line in missing:
        console.print(f"[red]not measured[/red] {line}", soft_wrap=True)
    for one in wrong:
        console.print(f"[red]wrong[/red] {one.graph} by {one.engine}, {one.rows} rows: cosine {one.cosine:.6f}")
    if args.out is not None:
        document = {"bundle": bundle.fingerprint, "measured": [asdict(one) for one in found], "missing": missing}
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong or missing else 0


def _show(found: Sequence[Measured], console: Console) -> None:
    table = plain_table(
        "graph", "engine", "device", ">rows", ">cosine", ">max diff", ">p50 ms", ">p99 ms", ">rows/s", ">roof"
    )
    for one in found:
        share = "unknown" if one.roofline_share is None else f"{one.roofline_share:.0%}"
        numbers = (f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.rows_per_second:.0f}", share)
        table.add_row(
            one.graph, one.engine, one.device, str(one.rows), f"{one.cosine:.6f}", f"{one.max_difference:.1e}", *numbers
        )
    console.print(table)
    for why in dict.fromkeys(f"{one.device} by {one.engine}: {one.fallback}" for one in found if one.fallback):
        console.print(why, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
