"""Engine that runs a graph on a server of the Open Inference Protocol (Triton, MLServer, KServe, OpenVINO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import ArraySpec
from vitascope.engines.onnx_runtime import Array, Placement
from vitascope.errors import EngineError, EngineUnavailable
from vitascope.integrations.kserve.address import served_name
from vitascope.integrations.kserve.parity_check import compare_outputs
from vitascope.integrations.kserve.server import InferenceServer
from vitascope.integrations.kserve.wire import parse_spec

FINGERPRINT = "vitascope_fingerprint"
"""Parameter of a model's configuration with the fingerprint of its bundle."""
MAX_REQUEST_BYTES = 32 * 2**20
"""Of tensors in one request: half of Triton's default limit."""
_JSON_BYTES_PER_BYTE = 4
"""Maximum JSON size of one byte of a frame."""


class KServeEngine:
    """One graph on a server; thread-safe."""

    def __init__(
        self,
        server: InferenceServer,
        model: str,
        specs: tuple[Mapping[str, ArraySpec], Mapping[str, ArraySpec]],
        max_batch: int = 0,
    ) -> None:
        """Create an engine.

        Args:
            specs: inputs and outputs, from the manifest.
            max_batch: maximum batch size of the server; 0: unlimited.
        """
        self.server = server
        self.model = model
        self.inputs, self.outputs = specs
        self.placement = Placement(f"kserve {server.url}", "remote")
        self._max_batch = max_batch

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name, splitting large batches. Raises EngineError and EngineUnavailable."""
        rows = len(next(iter(inputs.values())))
        batch_size = self._batch_size(rows, sum(array.nbytes for array in inputs.values()))
        parts = [
            self._run({name: array[start : start + batch_size] for name, array in inputs.items()})
            for start in range(0, max(1, rows), batch_size)
        ]
        return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in self.outputs}

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        results = self.server.infer(self.model, inputs, list(self.outputs))
        return {name: self._squeeze_scalar(name, array) for name, array in results.items()}

    def _squeeze_scalar(self, name: str, array: Array) -> Array:
        """Return (B, 1) as (B,): Triton has no outputs with a batch axis only."""
        return array.reshape(-1) if len(self.outputs[name].shape) == 1 and array.shape[1:] == (1,) else array

    def _batch_size(self, rows: int, size: int) -> int:
        request_bytes = size if self.server.supports_binary else size * _JSON_BYTES_PER_BYTE
        fitting = max(1, rows * MAX_REQUEST_BYTES // max(1, request_bytes))
        return min(fitting, self._max_batch) if self._max_batch else fitting


def open_at_server(
    server: InferenceServer,
    bundle: Bundle,
    graph: str,
    specs: tuple[Mapping[str, ArraySpec], Mapping[str, ArraySpec]],
) -> KServeEngine:
    """Open a graph of `bundle` at a server, after checking its inputs, its outputs and that it is the bundle's.

    The server states the bundle's fingerprint by ``FINGERPRINT`` in the model's configuration or as its version. If it
    states none, the outputs of two rows are compared with those of this process.

    Args:
        specs: inputs and outputs, from the manifest.

    Raises:
        EngineError: the graph does not fit the manifest or belongs to another bundle.
        EngineUnavailable: the server does not respond or does not have the graph.
    """
    model = served_name(bundle.manifest, graph)
    label = f"{server.url}: model {model!r}"
    try:
        metadata = server.metadata(model)
    except EngineUnavailable:
        raise
    except EngineError as error:
        # It may appear later: servers can respond before they have loaded their models.
        raise EngineUnavailable(f"{error}; `vitascope triton` writes it for Triton") from error
    _check_specs(label, "inputs", metadata, specs[0])
    _check_specs(label, "outputs", metadata, specs[1])
    config = server.config(model)
    engine = KServeEngine(server, model, specs, _positive_int(config.get("max_batch_size")))
    fingerprints = _fingerprints(config, metadata)
    if not fingerprints:
        try:
            compare_outputs(bundle, graph, engine)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(
                f"{label}: states no fingerprint, and its outputs differ from this bundle's: {error}"
            ) from error
    elif bundle.fingerprint not in fingerprints:
        raise EngineError(
            f"{label}: belongs to the bundle with fingerprint {fingerprints[0]}; {bundle.fingerprint} "
            f"({bundle.manifest.name} {bundle.manifest.version}) was expected"
        )
    return engine


def _check_specs(label: str, kind: str, metadata: Mapping[str, Any], expected: Mapping[str, ArraySpec]) -> None:
    """Inputs must equal the manifest's; further outputs are allowed. A free size at the server fits any size."""
    try:
        actual = {str(tensor["name"]): parse_spec(tensor) for tensor in metadata.get(kind) or ()}
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{label}: {kind} cannot be read: {error}") from error
    if set(expected) - set(actual) or (kind == "inputs" and len(actual) > len(expected)):
        raise EngineError(f"{label}: {kind} {sorted(actual)}; {sorted(expected)} were expected")
    for name, spec in expected.items():
        if not _fits(actual[name], spec, is_output=kind == "outputs"):
            raise EngineError(f"{label}: {kind[:-1]} {name!r} is {actual[name]}; {spec} was expected from the manifest")


def _fits(actual: ArraySpec, expected: ArraySpec, *, is_output: bool) -> bool:
    shape = actual.shape
    if is_output and len(expected.shape) == 1 and shape[1:] == (1,):
        shape = shape[:1]
    sizes = zip(shape, expected.shape, strict=False)
    # A size that is free in the manifest must be free at the server: batches vary.
    return (
        actual.dtype == expected.dtype
        and len(shape) == len(expected.shape)
        and all(size is None or size == required for size, required in sizes)
    )


def _fingerprints(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Return the fingerprints that a server states: of its configuration, and versions that have their form."""
    parameters = config.get("parameters")
    parameter = parameters.get(FINGERPRINT) if isinstance(parameters, dict) else None
    configured = parameter.get("string_value") if isinstance(parameter, dict) else parameter
    versions = metadata.get("versions")
    candidates = [configured, *(versions if isinstance(versions, list) else [])]
    return [c for c in candidates if isinstance(c, str) and len(c) == 64 and set(c) <= set("0123456789abcdef")]


def _positive_int(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
