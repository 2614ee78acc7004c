"""Correctness and speed of a bundle's graphs on this machine's GPU, compared with the CPU.

For each graph, engine and batch size: difference from the CPU's outputs, latency, rows per second, and the fraction
of the roofline. The roofline is the larger of two times: that of the graph's arithmetic at the rate of a large matrix
product of the same type on this GPU, and that of reading its weights and inputs and writing its outputs once at the
memory bandwidth that the driver states.
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

from benchmarks import run_main
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import graph_spec, random_inputs
from vitascope.bundle.manifest import ADDED_GRAPHS
from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table
from vitascope.engines.gpu import first_gpu
from vitascope.engines.onnx_runtime import Array, Device, OnnxRuntimeEngine
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.onnx_rewrites import prepare_for_tensorrt
from vitascope.model import Model

ROWS = (1, 8, 32)
TOKENS = 16
"""Length of a text, if the model supports it."""
SECONDS = 2.0
"""Duration of each measurement."""
_WARM_UP = 10
_EDGE_ON_CPU = 256
MIN_COSINE = 0.999
"""Below it the check fails. GPUs multiply float32 in TF32, with the 10-bit mantissa of float16."""


@dataclass(frozen=True)
class Measurement:
    """One graph on one engine at one batch size."""

    graph: str
    engine: str
    device: str
    fallback: str | None
    rows: int
    cosine: float
    """Minimum cosine of an output row with the CPU's row. An output with one number per row is compared as a whole."""
    max_difference: float
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    roofline_share: float | None
    """None if the driver does not state the memory bandwidth."""


@dataclass(frozen=True)
class Roofline:
    """Peak rates of a device: FLOP/s of a large matrix product, and bytes/s of its memory."""

    flops: float
    bytes: float | None

    def min_seconds(self, flops: int, transferred: int) -> float | None:
        return None if self.bytes is None else max(flops / self.flops, transferred / self.bytes)


def check(
    bundle: Bundle, devices: Sequence[Device], rows: Sequence[int] = ROWS, seconds: float = SECONDS, product: int = 4096
) -> tuple[list[Measurement], list[str]]:
    """Measure all graphs except those of added tasks.

    Args:
        bundle: The bundle.
        devices: GPUs.
        rows: Batch sizes.
        seconds: Duration of each measurement.
        product: Side of the matrices whose product determines the roofline.

    Returns:
        The measurements, and the errors of engines that are not available.
    """
    reference = Model(bundle, device="cpu")
    graphs = [graph for graph in bundle.manifest.graphs if graph not in ADDED_GRAPHS]
    inputs = {graph: [_inputs(bundle, graph, count) for count in rows] for graph in graphs}
    expected = {graph: [reference.run_graph(graph, batch) for batch in batches] for graph, batches in inputs.items()}
    costs = {graph: _cost(bundle, graph, batches[0], rows[0]) for graph, batches in inputs.items()}
    measured: list[Measurement] = []
    missing: list[str] = []
    for device in devices:
        try:
            model = Model(bundle, device=device)
            model.warm_up()
            half = bundle.manifest.precision == "float16"
            if device == "cpu":
                roofline = _roofline("cpu", half, _EDGE_ON_CPU, seconds)
            else:
                roofline = _roofline("cuda", half, product, seconds)
        except EngineError as error:
            missing.append(f"{device}: {error}")
            continue
        for graph, batches in inputs.items():
            for count, batch, outputs in zip(rows, batches, expected[graph], strict=True):
                measured.append(_measure(model, graph, count, batch, outputs, roofline, costs[graph], seconds))
    return measured, missing


def _measure(
    model: Model,
    graph: str,
    rows: int,
    inputs: dict[str, Array],
    expected: dict[str, Array],
    roofline: Roofline,
    cost: tuple[int, int],
    seconds: float,
) -> Measurement:
    outputs = model.run_graph(graph, inputs)
    times = _times(lambda: model.run_graph(graph, inputs), seconds)
    flops_per_row, weight_bytes = cost
    transferred = weight_bytes + sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
    min_seconds = roofline.min_seconds(flops_per_row * rows, transferred)
    p50 = float(np.median(times))
    placement = model.placements[graph]
    return Measurement(
        graph=graph,
        engine=placement.engine,
        device=placement.device,
        fallback=placement.fallback,
        rows=rows,
        cosine=min(_cosine(expected[name], outputs[name]) for name in expected),
        max_difference=max(float(np.abs(expected[name] - outputs[name]).max()) for name in expected),
        p50_ms=1000 * p50,
        p99_ms=1000 * float(np.quantile(times, 0.99)),
        rows_per_second=rows / p50,
        roofline_share=None if min_seconds is None else min_seconds / p50,
    )


def _times(run: Callable[[], Any], seconds: float) -> list[float]:
    """Return the seconds of consecutive synchronous runs."""
    for _ in range(_WARM_UP):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _WARM_UP:
        started_at = time.perf_counter()
        run()
        times.append(time.perf_counter() - started_at)
    return times


def _inputs(bundle: Bundle, graph: str, rows: int) -> dict[str, Array]:
    """Return random inputs, the same for all engines."""
    specs, _ = graph_spec(bundle.manifest, graph, len(bundle.answers))
    length = min(TOKENS, bundle.manifest.text_length)
    rng = np.random.default_rng(0)
    return random_inputs(specs, rng, bundle.tokenizer().vocabulary_size, rows, length=length)


def _cost(bundle: Bundle, graph: str, inputs: dict[str, Array], rows: int) -> tuple[int, int]:
    """Return (FLOPs per row, bytes of weights read per run)."""
    path = bundle.graph_path(graph)
    assert path is not None
    model = prepare_for_tensorrt(path)
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    read = [tensor for tensor in model.graph.initializer if tensor.name not in tables]  # of tables, rows only
    return count_flops(model, inputs) // rows, sum(numpy_helper.to_array(tensor).nbytes for tensor in read)


_FLOP_OPERATORS = ("MatMul", "Gemm", "Conv")
"""All other operators are negligible."""


def count_flops(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> int:
    """Return the multiplications and additions of matrix products and convolutions in one run.

    The graph is run once on the CPU, since shapes that it computes are not known before.
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


def _roofline(device: Device, half: bool, edge: int, seconds: float) -> Roofline:
    """Measure a chain of matrix products, and read the memory bandwidth from the driver."""
    steps = 16
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save_model(_product(edge, steps, half), path)
        engine = OnnxRuntimeEngine(path, device=device)
        inputs = {"x": np.ones(1, np.float32)}
        best = min(_times(lambda: engine.run(inputs), min(seconds, 1.0)))
    return Roofline(steps * 2 * edge**3 / best, None if device == "cpu" else first_gpu().memory_bytes_per_second)


def _product(edge: int, steps: int, half: bool) -> onnx.ModelProto:
    """Return a graph that multiplies a matrix, scaled by its input x (1,), `steps` times, and outputs the maximum."""
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


def _cosine(expected: Array, actual: Array) -> float:
    a, b = (x.reshape(1 if x.ndim == 1 else len(x), -1).astype(np.float64) for x in (expected, actual))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the measurements and, with --out, write them as JSON; returns 1 if an engine is unavailable or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=default_bundle())
    parser.add_argument("--devices", nargs="+", default=["cuda", "tensorrt"], choices=["cpu", "cuda", "tensorrt"])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="JSON output file")
    args = parser.parse_args(argv)
    bundle = Bundle.open(args.bundle)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        gpu = first_gpu()
        console.print(f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}, CUDA {gpu.driver}")
    except EngineError as error:
        console.print(f"no GPU: {error}")
    measured, missing = check(bundle, args.devices, seconds=args.seconds)
    _show(measured, console)
    wrong = [m for m in measured if not m.cosine >= MIN_COSINE]
    for line in missing:
        console.print(f"[red]not measured[/red] {line}", soft_wrap=True)
    for m in wrong:
        console.print(f"[red]wrong[/red] {m.graph} on {m.engine}, {m.rows} rows: cosine {m.cosine:.6f}")
    if args.out is not None:
        document = {"bundle": bundle.fingerprint, "measured": [asdict(m) for m in measured], "missing": missing}
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong or missing else 0


def _show(measured: Sequence[Measurement], console: Console) -> None:
    table = plain_table(
        "graph", "engine", "device", ">rows", ">cosine", ">max diff", ">p50 ms", ">p99 ms", ">rows/s", ">roof"
    )
    for m in measured:
        share = "unknown" if m.roofline_share is None else f"{m.roofline_share:.0%}"
        speed = (f"{m.p50_ms:.2f}", f"{m.p99_ms:.2f}", f"{m.rows_per_second:.0f}", share)
        table.add_row(m.graph, m.engine, m.device, str(m.rows), f"{m.cosine:.6f}", f"{m.max_difference:.1e}", *speed)
    console.print(table)
    for reason in dict.fromkeys(f"{m.device} by {m.engine}: {m.fallback}" for m in measured if m.fallback):
        console.print(reason, soft_wrap=True)


if __name__ == "__main__":
    run_main(main)
