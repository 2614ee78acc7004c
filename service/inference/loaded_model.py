"""Loaded models, and their graphs as scheduled calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from service.errors import DeadlineExceeded, RequestAbandoned
from service.inference.call import CallContext, Inputs, Outputs
from service.inference.embedding_caches import TextCache, embed_texts
from service.inference.scheduler import Scheduler
from vitascope.bundle.bundle import Bundle
from vitascope.engines.graphs import GraphRunner
from vitascope.engines.onnx_runtime import Array, Placement
from vitascope.errors import EngineError
from vitascope.model import Model
from vitascope.sandbox.pool import DecodingPool, PooledDecoder

BULK_BATCH_SIZE = 4
"""Clips of one run for an upload or job: an interactive request waits for at most one such run."""
MAX_CPU_WORKERS = 4
"""Inference workers on a CPU by default: more would exceed its caches with the weights of concurrent runs."""
REMOTE_WORKERS = 4
"""Inference workers where another server runs the graphs: the next batches are sent while it computes one. More workers
would make smaller batches of mixed text lengths.
"""


@dataclass(eq=False)
class LoadedModel:
    """A model whose engines run graphs at once; requests and jobs use ``ModelRegistry.with_context``."""

    model: Model

    @property
    def bundle(self) -> Bundle:
        return self.model.bundle

    @property
    def fingerprint(self) -> str:
        return self.bundle.fingerprint

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.bundle.manifest.name

    def call_name(self, graph: str) -> str:
        """Return the name of a graph of this model in the scheduler."""
        manifest = self.bundle.manifest
        return f"{manifest.name}@{manifest.version}:{self.fingerprint[:12]}/{graph}"


def split_call_name(call_name: str) -> tuple[str, str]:
    """Return (model, graph); the model is '' for a bare graph name."""
    model, _, graph = call_name.rpartition("/")
    return model, graph


class GraphRouter:
    """Runs calls on the models they name. Safe to use from many threads.

    References are weak: a removed model stays reachable while a request or job uses it, and is freed after that.
    """

    def __init__(self) -> None:
        self._models: WeakValueDictionary[str, LoadedModel] = WeakValueDictionary()

    def add(self, loaded: LoadedModel) -> None:
        """Route the calls of this model to it; it replaces another one of the same fingerprint."""
        self._models[loaded.call_name("")] = loaded

    def run(self, call_name: str, inputs: Inputs) -> Outputs:
        """Run a graph, as ``Model.run_graph``. Raises EngineError, also if the model is gone."""
        model, graph = split_call_name(call_name)
        loaded = self._models.get(f"{model}/")
        if loaded is None:
            raise EngineError(f"{call_name}: the model was removed")
        return loaded.model.run_graph(graph, inputs)


class ScheduledGraphs:
    """The graphs of a model for one request or job: each run is a call in the scheduler."""

    def __init__(
        self, graphs: GraphRunner, scheduler: Scheduler, context: CallContext, call_name: Callable[[str], str]
    ) -> None:
        """``call_name`` returns the name of a graph in the scheduler, unique among all models."""
        self._graphs = graphs
        self._scheduler = scheduler
        self._context = context
        self._call_name = call_name

    @property
    def names(self) -> list[str]:
        return self._graphs.names

    @property
    def placements(self) -> dict[str, Placement]:
        return self._graphs.placements

    def ensure_loaded(self, graph: str) -> None:
        self._graphs.ensure_loaded(graph)

    def output_shapes(self, graph: str) -> dict[str, tuple[int, ...]]:
        return self._graphs.output_shapes(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph; blocks. Raises as ``GraphRunner.run``, Overloaded, DeadlineExceeded and RequestAbandoned."""
        future = self._scheduler.submit(self._call_name(graph), inputs, self._context)
        deadline = self._context.deadline
        try:
            return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            future.cancel()
            raise DeadlineExceeded("deadline: it passed while the request waited for the model") from None
        except CancelledError:
            raise RequestAbandoned("the client disconnected") from None


def with_context(
    loaded: LoadedModel, scheduler: Scheduler, decoding: DecodingPool, context: CallContext, cache: TextCache
) -> Model:
    """Return the model with scheduled graphs, decoding processes, and cached text embeddings.

    Bulk callers do not use the cache, which their many texts would flush.
    """
    return loaded.model.with_overrides(
        # The bound method keeps the model reachable for the router.
        lambda graphs: ScheduledGraphs(graphs, scheduler, context, loaded.call_name),
        batch_size=BULK_BATCH_SIZE if context.bulk else None,
        decoder=PooledDecoder(decoding, context),
        text_embedder=None if context.bulk else partial(embed_texts, cache, context),
    )


def default_workers(placements: Iterable[Placement], threads: int) -> int:
    """Return how many inference workers suit a model. ``threads``: within a run; 0: one per core."""
    devices = {placement.device for placement in placements}
    if "cpu" in devices:
        return min(threads or os.cpu_count() or 1, MAX_CPU_WORKERS)
    return REMOTE_WORKERS if "remote" in devices else 1
