"""A model whose graphs run when their turn comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotYet
from functools import partial

from service.errors import DeadlineExceeded, RequestAbandoned
from service.inference.call import Asker
from service.inference.scheduler import Scheduler
from service.inference.text_cache import TextCache, embed_texts
from vitascope.engines.graphs import GraphRunner
from vitascope.engines.onnx_runtime import Array, Placement
from vitascope.model import Model
from vitascope.sandbox.decoder import PooledDecoder
from vitascope.sandbox.pool import DecodingPool

BULK_ROWS = 4
"""Clips of one run for an indexing job: whoever searches meanwhile waits for at most one such run."""


MOST_LANES = 4
"""On a CPU where nothing else is said: more would run more weights through the caches at once than they hold."""


REMOTE_LANES = 4
"""Where another server runs the graphs: while it computes one batch the next ones are on their way. More would be
smaller batches, and it puts texts of different lengths into no common one."""


def lanes_for(placements: Iterable[Placement], threads: int) -> int:
    """How many runs at a time suit a model that runs there, with ``threads`` within each (0: one per core)."""
    devices = {placement.device for placement in placements}
    if "cpu" in devices:
        return min(threads or os.cpu_count() or 1, MOST_LANES)
    return REMOTE_LANES if "remote" in devices else 1


class ScheduledGraphs:
    """The graphs of a model as one asker runs them: each run is a call that waits for its turn.

    ``call_name`` tells the scheduler's name of a graph, which must not be that of another model's.
    """

    def __init__(
        self, graphs: GraphRunner, scheduler: Scheduler, asker: Asker, call_name: Callable[[str], str]
    ) -> None:
        self._graphs = graphs
        self._scheduler = scheduler
        self._asker = asker
        self._call_name = call_name

    @property
    def names(self) -> list[str]:
        return self._graphs.names

    @property
    def placements(self) -> dict[str, Placement]:
        return self._graphs.placements

    def require(self, graph: str) -> None:
        self._graphs.require(graph)

    def stated_outputs(self, graph: str) -> dict[str, tuple[int, ...]]:
        return self._graphs.stated_outputs(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Graphs.run``; blocks until then. Raises Overloaded, DeadlineExceeded and RequestAbandoned, too."""
        future = self._scheduler.submit(self._call_name(graph), inputs, self._asker)
        deadline = self._asker.deadline
        try:
            return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except NotYet:
            future.cancel()
            raise DeadlineExceeded("deadline: it passed while the request waited for the model") from None
        except CancelledError:
            raise RequestAbandoned("the client went away") from None


def for_asker(
    model: Model,
    call_name: Callable[[str], str],
    scheduler: Scheduler,
    decoding: DecodingPool,
    asker: Asker,
    texts: TextCache,
) -> Model:
    """``model`` as ``asker`` uses it; vectors of ``texts`` that are there cost no run. ``call_name``: of its graphs.

    Bulk goes without them: it asks for much once, and nobody should wait for what it makes.
    """
    return model.through(
        lambda graphs: ScheduledGraphs(graphs, scheduler, asker, call_name),
        batch_size=BULK_ROWS if asker.bulk else None,
        decoder=PooledDecoder(decoding, asker),
        text_vectors=None if asker.bulk else partial(embed_texts, texts, asker),
    )
