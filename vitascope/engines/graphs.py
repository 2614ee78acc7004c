"""A bundle's graphs as engines: loaded on first use and checked against the manifest.

Shape letters: B videos or texts, N answers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import (
    ANSWER_IDS,
    AUDIO_TOKENS,
    PAST_KEYS,
    WINDOW_MASK,
    ArraySpec,
    ArraySpecs,
    graph_spec,
)
from vitascope.bundle.manifest import CAPTION_GRAPHS, GRAPHS_OF_TASK
from vitascope.engines.onnx_runtime import Array, Device, Engine, OnnxRuntimeEngine, Placement
from vitascope.errors import BundleCorrupt, EngineError, TaskMissing

if TYPE_CHECKING:
    from vitascope.integrations.kserve.server import InferenceServer


class GraphRunner(Protocol):
    """Runs the graphs of a model: on its own engines, or through a scheduler."""

    @property
    def names(self) -> list[str]:
        """Graphs of the bundle."""

    @property
    def placements(self) -> dict[str, Placement]:
        """Placement of each loaded graph by name."""

    def ensure_loaded(self, graph: str) -> None:
        """Load a graph unless it is loaded. Raises TaskMissing, BundleCorrupt or EngineError."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph and return all outputs by name. Raises EngineError."""

    def output_shapes(self, graph: str) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output without the batch axis; 0 for free-form candidates, windows and tokens."""


class Graphs:
    """Engines by graph name; thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        threads: int,
        device: Device,
        server: InferenceServer | None = None,
        *,
        optimize: bool = True,
    ) -> None:
        """Create the object without loading a graph.

        Args:
            bundle: Bundle of the graphs.
            threads: Threads within an operator; 0: one per core.
            device: Device of engines in this process.
            server: Inference server that runs the graphs instead.
            optimize: Whether engines of this process optimize their graphs; see ``OnnxRuntimeEngine``.
        """
        self.bundle = bundle
        self.threads = threads
        self.device: Device = device
        self.server = server
        self.optimize = optimize
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Graphs of the bundle."""
        return sorted(self.bundle.manifest.graphs)

    @property
    def placements(self) -> dict[str, Placement]:
        """Placement of each loaded graph by name."""
        return {graph: engine.placement for graph, engine in sorted(self._engines.items())}

    def engine(self, graph: str) -> Engine:
        """Return the engine of a graph, loaded if necessary.

        Raises:
            TaskMissing: The bundle has no such graph.
            BundleCorrupt: The graph is not valid or differs from the manifest.
            EngineError: It cannot be loaded.
        """
        if graph in self._engines:
            return self._engines[graph]
        with self._loading:
            if graph not in self._engines:
                self._engines[graph] = self._load(graph)
            return self._engines[graph]

    def ensure_loaded(self, graph: str) -> None:
        """Load a graph unless it is loaded. Raises the errors of ``engine``."""
        self.engine(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph and return its outputs by name, checked to be finite and of the manifest's shapes.

        Raises:
            EngineError: The run failed, or an output has a wrong shape or values that are not finite.
        """
        results = self.engine(graph).run(inputs)
        rows = len(next(iter(inputs.values())))
        answers = inputs[ANSWER_IDS].shape[1] if ANSWER_IDS in inputs else len(self.bundle.answers)
        length = inputs[WINDOW_MASK].shape[1] if WINDOW_MASK in inputs else None
        if graph == "caption_prefill" and AUDIO_TOKENS in inputs:
            length = inputs[AUDIO_TOKENS].shape[1]
        if PAST_KEYS in inputs:
            length = inputs[PAST_KEYS].shape[3] + inputs["input_ids"].shape[1]
        _, specs = graph_spec(self.bundle.manifest, graph, answers, length)
        outputs = {}
        for name, shape in _shapes_without_batch(specs).items():
            array, expected = results[name], (rows, *shape)
            if array.shape != expected:
                raise EngineError(f"{graph}: {name} has shape {array.shape}; {expected} was expected")
            if not np.isfinite(array).all():
                raise EngineError(f"{graph}: {name} has values that are not finite numbers")
            outputs[name] = array
        return outputs

    def output_shapes(self, graph: str) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output without the batch axis; 0 for free-form candidates, windows and tokens."""
        return _shapes_without_batch(self.bundle.graph_spec(graph)[1])

    def _load(self, graph: str) -> Engine:
        path = self.bundle.graph_path(graph)
        if path is None:
            tasks = [task for task, graphs in GRAPHS_OF_TASK.items() if graph in graphs]
            raise TaskMissing(
                f"{self.bundle.manifest.name}: no graph {graph!r}, so no {' or '.join(tasks)}; "
                f"the bundle's tasks are {', '.join(self.bundle.manifest.tasks)}"
            )
        inputs, outputs = self.bundle.graph_spec(graph)
        if self.server is not None and graph not in CAPTION_GRAPHS:  # the server would need their cache at every token
            from vitascope.integrations.kserve.engine import open_at_server

            return open_at_server(self.server, self.bundle, graph, (inputs, outputs))
        self.bundle.check_unreplaced(graph)
        engine = open_engine(self.bundle, graph, path, self.threads, self.device, optimize=self.optimize)
        self.bundle.check_unreplaced(graph)  # the files must not have changed while they were read, either
        if set(engine.inputs) != set(inputs):
            raise BundleCorrupt(f"{path.name}: inputs {sorted(engine.inputs)}; {sorted(inputs)} were expected")
        if missing := sorted(set(outputs) - set(engine.outputs)):
            raise BundleCorrupt(f"{path.name}: outputs {sorted(engine.outputs)}; {missing} missing")
        for name, spec in inputs.items():
            _check_spec(f"{path.name}: input {name!r}", engine.inputs[name], spec)
        for name, spec in outputs.items():
            if engine.outputs[name].shape:  # shapes of outputs are optional in ONNX
                _check_spec(f"{path.name}: output {name!r}", engine.outputs[name], spec, is_output=True)
        return engine


def open_engine(
    bundle: Bundle, graph: str, path: Path, threads: int, device: Device, *, optimize: bool = True
) -> Engine:
    """Load a graph on a device in this process.

    "tensorrt" prefers the TensorRT library and falls back to ONNX Runtime's TensorRT provider; ``placement`` then has
    the reason. Caption graphs run on ONNX Runtime without TensorRT, whose profiles do not support a cache that starts
    empty.

    Args:
        bundle: Bundle of the graph.
        graph: Name of the graph.
        path: ONNX file of the graph.
        threads: Threads within an operator; 0: one per core.
        device: Device to use.
        optimize: See ``OnnxRuntimeEngine``; TensorRT always optimizes.

    Raises:
        EngineError: The device cannot be used.
        BundleCorrupt: The graph is not valid.
    """
    if device != "tensorrt":
        return OnnxRuntimeEngine(path, threads, device, optimize=optimize)
    if graph in CAPTION_GRAPHS:
        engine = OnnxRuntimeEngine(path, threads, "auto", optimize=optimize)
        reasons = [
            "TensorRT: not used for captions",
            *([engine.placement.fallback] if engine.placement.fallback else []),
        ]
        engine.placement = engine.placement._replace(fallback="; ".join(reasons))
        return engine
    from vitascope.integrations.tensorrt.engine import TensorRTEngine
    from vitascope.integrations.tensorrt.profiles import provider_options

    try:
        return TensorRTEngine(bundle, graph, path)
    except EngineError as error:
        tensorrt_error = error
    try:
        options = provider_options(bundle.manifest, graph)
        engine = OnnxRuntimeEngine(path, threads, "tensorrt", tensorrt_options=options)
    except (EngineError, OSError) as error:
        raise EngineError(
            f"device: 'tensorrt' cannot be used: {tensorrt_error}; nor by ONNX Runtime: {error}"
        ) from error
    engine.placement = engine.placement._replace(fallback=f"TensorRT itself: {tensorrt_error}")
    return engine


def _shapes_without_batch(specs: ArraySpecs) -> dict[str, tuple[int, ...]]:
    return {name: tuple(size or 0 for size in spec.shape[1:]) for name, spec in specs.items()}


def _check_spec(label: str, actual: ArraySpec, expected: ArraySpec, *, is_output: bool = False) -> None:
    """Raise BundleCorrupt unless type, rank and fixed sizes agree; inputs must not fix dynamic dimensions."""
    agree = actual.dtype == expected.dtype and len(actual.shape) == len(expected.shape)
    for actual_size, expected_size in zip(actual.shape, expected.shape, strict=False):
        if actual_size != expected_size and not (is_output and (actual_size is None or expected_size is None)):
            agree = agree and actual_size is None  # a dynamic input accepts every size
    if not agree:
        raise BundleCorrupt(f"{label} is {actual}; {expected} was expected from the manifest")
