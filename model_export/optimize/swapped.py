"""A model that runs other graphs than its bundle has."""

from __future__ import annotations

from collections.abc import Mapping

from vitascope.engines.graphs import GraphRunner
from vitascope.engines.onnx_runtime import Array, Engine, Placement
from vitascope.model import Model


class _Swapped:
    def __init__(self, runner: GraphRunner, engines: Mapping[str, Engine]) -> None:
        self.runner, self.engines = runner, engines

    @property
    def names(self) -> list[str]:
        return self.runner.names

    @property
    def placements(self) -> dict[str, Placement]:
        return self.runner.placements | {graph: engine.placement for graph, engine in self.engines.items()}

    def require(self, graph: str) -> None:
        self.runner.require(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.engines[graph].run(inputs) if graph in self.engines else self.runner.run(graph, inputs)

    def stated_outputs(self, graph: str) -> dict[str, tuple[int, ...]]:
        return self.runner.stated_outputs(graph)


def with_graphs(model: Model, engines: Mapping[str, Engine]) -> Model:
    """`model` with its graphs of these names run by these engines."""
    return model.through(lambda runner: _Swapped(runner, engines))
