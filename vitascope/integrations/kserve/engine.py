"""A graph that a server of the Open Inference Protocol runs: Triton, MLServer, KServe, OpenVINO Model Server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.engines.onnx_runtime import Array, ArraySpec, Placement
from vitascope.errors import EngineError, EngineUnavailable
from vitascope.integrations.kserve.address import served_name
from vitascope.integrations.kserve.probe import agreements
from vitascope.integrations.kserve.server import InferenceServer
from vitascope.integrations.kserve.wire import spec_of

FINGERPRINT = "vitascope_fingerprint"
"""The parameter of a model's configuration that states the bundle its graph is of."""
MOST_BYTES = 32 * 2**20
"""Of tensors in one request: half of what Triton takes by default."""
_JSON_SIZE = 4
"""How many bytes a byte of a frame may take as JSON."""


class KServeEngine:
    """One graph at a server; safe to share between threads."""

    def __init__(
        self,
        server: InferenceServer,
        model: str,
        stated: tuple[Mapping[str, ArraySpec], Mapping[str, ArraySpec]],
        max_rows: int = 0,
    ) -> None:
        """``stated``: inputs and outputs by the manifest. ``max_rows`` the server takes at once; 0: any number."""
        self.server = server
        self.model = model
        self.inputs, self.outputs = stated
        self.placement = Placement(f"kserve {server.url}", "remote")
        self._max_rows = max_rows

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, in as many requests as their size asks for. Raises EngineError and EngineUnavailable."""
        rows = len(next(iter(inputs.values())))
        at_once = self._rows_at_once(rows, sum(array.nbytes for array in inputs.values()))
        parts = [
            self._run({name: array[first : first + at_once] for name, array in inputs.items()})
            for first in range(0, max(1, rows), at_once)
        ]
        return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in self.outputs}

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        results = self.server.infer(self.model, inputs, list(self.outputs))
        return {name: self._without_ones(name, array) for name, array in results.items()}

    def _without_ones(self, name: str, array: Array) -> Array:
        """(B, 1) as (B,): Triton knows no output without a size besides B."""
        return array.reshape(-1) if len(self.outputs[name].shape) == 1 and array.shape[1:] == (1,) else array

    def _rows_at_once(self, rows: int, size: int) -> int:
        written = size if self.server.takes_bytes else size * _JSON_SIZE
        fitting = max(1, rows * MOST_BYTES // max(1, written))
        return min(fitting, self._max_rows) if self._max_rows else fitting


def open_at_server(
    server: InferenceServer,
    bundle: Bundle,
    graph: str,
    stated: tuple[Mapping[str, ArraySpec], Mapping[str, ArraySpec]],
) -> KServeEngine:
    """The graph of ``bundle`` at ``server``, known to be there, to fit ``stated``, and to be the bundle's.

    It is the bundle's where the server says so, by ``FINGERPRINT`` in its configuration or as its version; where it
    says nothing, two rows are computed there and here. Raises EngineError, and EngineUnavailable also where the server
    does not have it.
    """
    model = served_name(bundle.manifest, graph)
    told = f"{server.url}: model {model!r}"
    try:
        metadata = server.metadata(model)
    except EngineUnavailable:
        raise
    except EngineError as error:
        # Nobody knows whether it will be there in a moment: servers may answer before they have loaded their models.
        raise EngineUnavailable(f"{error}; `vitascope triton` writes what Triton needs to have it") from error
    _check_specs(told, "inputs", metadata, stated[0])
    _check_specs(told, "outputs", metadata, stated[1])
    config = server.config(model)
    engine = KServeEngine(server, model, stated, _count(config.get("max_batch_size")))
    found = _fingerprints(config, metadata)
    if not found:
        try:
            agreements(bundle, graph, engine)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(f"{told}: states no fingerprint, and is not the graph of this bundle: {error}") from error
    elif bundle.fingerprint not in found:
        raise EngineError(
            f"{told}: is of the bundle with fingerprint {found[0]}; {bundle.fingerprint} ({bundle.manifest.name} "
            f"{bundle.manifest.version}) was expected"
        )
    return engine


def _check_specs(told: str, kind: str, metadata: Mapping[str, Any], stated: Mapping[str, ArraySpec]) -> None:
    """Inputs must be those of the manifest; outputs may be more. A size that the server leaves open fits any."""
    try:
        found = {str(tensor["name"]): spec_of(tensor) for tensor in metadata.get(kind) or ()}
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{told}: its {kind} cannot be read: {error}") from error
    if set(stated) - set(found) or (kind == "inputs" and len(found) > len(stated)):
        raise EngineError(f"{told}: {kind} {sorted(found)}; {sorted(stated)} were expected")
    for name, spec in stated.items():
        if not _fits(found[name], spec, is_output=kind == "outputs"):
            raise EngineError(f"{told}: {kind[:-1]} {name!r} is {found[name]}; {spec} was expected from the manifest")


def _fits(found: ArraySpec, stated: ArraySpec, *, is_output: bool) -> bool:
    shape = found.shape
    if is_output and len(stated.shape) == 1 and shape[1:] == (1,):
        shape = shape[:1]
    sizes = zip(shape, stated.shape, strict=False)
    # What varies must not be fixed: a server that takes one row at a time is of no use.
    return (
        found.dtype == stated.dtype
        and len(shape) == len(stated.shape)
        and all(have is None or have == want for have, want in sizes)
    )


def _fingerprints(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """What a server states of the bundle: the parameter of its configuration, and versions that look like one."""
    parameters = config.get("parameters")
    parameter = parameters.get(FINGERPRINT) if isinstance(parameters, dict) else None
    stated = parameter.get("string_value") if isinstance(parameter, dict) else parameter
    versions = metadata.get("versions")
    named = [stated, *(versions if isinstance(versions, list) else [])]
    return [one for one in named if isinstance(one, str) and len(one) == 64 and set(one) <= set("0123456789abcdef")]


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
