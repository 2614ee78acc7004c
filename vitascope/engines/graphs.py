"""A bundle's graphs as engines: loaded when first needed, checked against the manifest, results checked.

Shape letters: B videos, C clips, F frames, H height, W width, V visual tokens, L text tokens, D vector
width, N answers, M tokens of an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_spec import ANSWER_IDS, Specs, graph_of, stated_graph
from vitascope.bundle.manifest import GRAPHS_OF_TASK
from vitascope.engines.factory import open_engine
from vitascope.engines.onnx_runtime import Array, ArraySpec, Device, Engine, Placement
from vitascope.errors import BundleCorrupt, EngineError, TaskMissing

if TYPE_CHECKING:
    from vitascope.integrations.kserve.server import InferenceServer


class GraphRunner(Protocol):
    """What a model runs its graphs with: engines of its own, or a turn in a queue before shared ones."""

    @property
    def names(self) -> list[str]: ...
    @property
    def placements(self) -> dict[str, Placement]:
        """Where the graphs that are loaded run, by name."""

    def require(self, graph: str) -> None:
        """Load the graph if it is not. Raises TaskMissing, BundleCorrupt and EngineError."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    def stated_outputs(self, graph: str) -> dict[str, tuple[int, ...]]: ...


class Graphs:
    """Engines by graph name; safe to share between threads."""

    def __init__(self, bundle: Bundle, threads: int, device: Device, server: InferenceServer | None = None) -> None:
        """``server`` runs them, if they are not run in this process."""
        self.bundle = bundle
        self.threads = threads
        self.device: Device = device
        self.server = server
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The graphs that the bundle has."""
        return sorted(self.bundle.manifest.graphs)

    @property
    def placements(self) -> dict[str, Placement]:
        """Where the graphs that are loaded run, by name."""
        return {graph: engine.placement for graph, engine in sorted(self._engines.items())}

    def engine(self, graph: str) -> Engine:
        """The engine of a graph. Raises TaskMissing, BundleCorrupt and EngineError."""
        if graph in self._engines:
            return self._engines[graph]
        with self._loading:
            if graph not in self._engines:
                self._engines[graph] = self._load(graph)
            return self._engines[graph]

    def require(self, graph: str) -> None:
        """Load the graph if it is not. Raises as ``engine``."""
        self.engine(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All stated outputs of one run, checked: finite and of the stated shape. Raises EngineError."""
        results = self.engine(graph).run(inputs)
        rows = len(next(iter(inputs.values())))
        answers = inputs[ANSWER_IDS].shape[1] if ANSWER_IDS in inputs else len(self.bundle.answers)
        checked = {}
        for name, tail in _tails(stated_graph(self.bundle.manifest, graph, answers)[1]).items():
            array, shape = results[name], (rows, *tail)
            if array.shape != shape:
                raise EngineError(f"{graph}: {name} came out as {array.shape}; {shape} was expected")
            if not np.isfinite(array).all():
                raise EngineError(f"{graph}: {name} has values that are not finite numbers")
            checked[name] = array
        return checked

    def stated_outputs(self, graph: str) -> dict[str, tuple[int, ...]]:
        """The shape of each output without its first axis, B; 0 for answers, where they are given to it."""
        return _tails(graph_of(self.bundle, graph)[1])

    def _load(self, graph: str) -> Engine:
        path = self.bundle.graph_path(graph)
        if path is None:
            tasks = [task for task, graphs in GRAPHS_OF_TASK.items() if graph in graphs]
            raise TaskMissing(
                f"{self.bundle.manifest.name}: no graph {graph!r}, so no {' or '.join(tasks)}; "
                f"the bundle's tasks are {', '.join(self.bundle.manifest.tasks)}"
            )
        inputs, outputs = graph_of(self.bundle, graph)
        if self.server is not None:
            from vitascope.integrations.kserve.engine import open_at_server

            return open_at_server(self.server, self.bundle, graph, (inputs, outputs))
        engine = open_engine(self.bundle, graph, path, self.threads, self.device)
        if set(engine.inputs) != set(inputs):
            raise BundleCorrupt(f"{path.name}: inputs {sorted(engine.inputs)}; {sorted(inputs)} were expected")
        if missing := sorted(set(outputs) - set(engine.outputs)):
            raise BundleCorrupt(f"{path.name}: outputs {sorted(engine.outputs)}; {missing} missing")
        for name, spec in inputs.items():
            _check_spec(f"{path.name}: input {name!r}", engine.inputs[name], spec)
        for name, spec in outputs.items():
            if engine.outputs[name].shape:  # a graph need not state the shapes of its outputs
                _check_spec(f"{path.name}: output {name!r}", engine.outputs[name], spec, is_output=True)
        return engine


def _tails(outputs: Specs) -> dict[str, tuple[int, ...]]:
    return {name: tuple(size or 0 for size in spec.shape[1:]) for name, spec in outputs.items()}


def _check_spec(what: str, found: ArraySpec, expected: ArraySpec, *, is_output: bool = False) -> None:
    """Raise BundleCorrupt unless type, rank and fixed sizes agree; inputs must not fix what varies."""
    agree = found.dtype == expected.dtype and len(found.shape) == len(expected.shape)
    for have, want in zip(found.shape, expected.shape, strict=False):
        if have != want and not (is_output and (have is None or want is None)):
            # An input size that the graph leaves open accepts what the manifest states.
            agree = agree and have is None
    if not agree:
        raise BundleCorrupt(f"{what} is {found}; {expected} was expected from the manifest")
