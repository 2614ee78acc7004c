"""A bundle at work, and how calls that wait for their turn find back to it."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

from service.inference.call import Inputs, Outputs
from vitascope.bundle.bundle import Bundle
from vitascope.errors import EngineError
from vitascope.model import Model


@dataclass(eq=False)
class Loaded:
    """``model`` runs its graphs by engines of its own, at once; requests and jobs use ``Models.model_for``."""

    model: Model

    @property
    def bundle(self) -> Bundle:
        return self.model.bundle

    @property
    def fingerprint(self) -> str:
        return self.bundle.fingerprint

    @property
    def name(self) -> str:
        """Of the bundle, as it is told to clients."""
        return self.bundle.manifest.name

    def call_name(self, graph: str) -> str:
        """What the scheduler knows a graph of this model by; ``parts_of`` takes it apart."""
        stated = self.bundle.manifest
        return f"{stated.name}@{stated.version}:{self.fingerprint[:12]}/{graph}"


def parts_of(call_name: str) -> tuple[str, str]:
    """(model, graph) of the name of a call; the model is '' where a graph has no other name."""
    model, _, graph = call_name.rpartition("/")
    return model, graph


class Engines:
    """Runs calls of graphs by their names. Safe to use from many threads.

    Nobody is kept alive here: a model that was removed is found for as long as a request or job works with it, and its
    memory is free when the last of them is over.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Loaded] = WeakValueDictionary()

    def add(self, loaded: Loaded) -> None:
        """Run calls of this model from now on; of two with one fingerprint, which compute the same, the later."""
        self._known[loaded.call_name("")] = loaded

    def run(self, call_name: str, inputs: Inputs) -> Outputs:
        """One run of a graph, as ``Model.run_graph``. Raises EngineError also where the model is gone."""
        model, graph = parts_of(call_name)
        loaded = self._known.get(f"{model}/")
        if loaded is None:
            raise EngineError(f"{call_name}: the model was removed, and nobody waits for this any more")
        return loaded.model.run_graph(graph, inputs)
