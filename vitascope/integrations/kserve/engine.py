"""Engine that runs a graph on a server with the Open Inference Protocol (Triton, MLServer, KServe, OpenVINO).

The server's model must be the bundle's graph: its fingerprint is compared or, if the server provides none, its outputs
for two fixed rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import ArraySpec, random_inputs
from vitascope.bundle.manifest import CAPTION_GRAPHS
from vitascope.engines.onnx_runtime import Array, Engine, OnnxRuntimeEngine, Placement
from vitascope.errors import EngineError, EngineUnavailable, InvalidInput, TaskMissing
from vitascope.integrations.kserve import served_name, server_url
from vitascope.integrations.kserve.server import InferenceServer, parse_spec
from vitascope.scoring import row_cosines

FINGERPRINT = "vitascope_fingerprint"
"""Parameter of a model's configuration with the fingerprint of its bundle."""
MAX_REQUEST_BYTES = 32 * 2**20
"""Bytes of tensors in one request: half of Triton's default limit."""
_JSON_BYTES_PER_BYTE = 4
"""Maximum bytes of JSON for one byte of a frame, such as `255,`."""

MIN_COSINE = 0.999
"""Minimum cosine of each row of an output with the local one; the same bound as for reduced precision at export."""
MAX_LOGIT_ERROR = 0.05
"""Maximum error of an output of one number per row: absolute, but relative for values above 1."""
_LENGTH = 24
"""Length of the inputs, in text tokens or windows of a video, with which outputs are compared."""


class KServeEngine:
    """One graph that runs on a server. Thread-safe."""

    def __init__(
        self,
        server: InferenceServer,
        model: str,
        specs: tuple[Mapping[str, ArraySpec], Mapping[str, ArraySpec]],
        max_batch: int = 0,
        columns: Collection[str] = (),
    ) -> None:
        """Create an engine.

        Args:
            server: client of the server.
            model: name of the model on the server.
            specs: types and shapes of (inputs, outputs), from the manifest.
            max_batch: maximum batch size of the server; 0: unlimited.
            columns: inputs of shape (B,) that the server expects as (B, 1).
        """
        self.server = server
        self.model = model
        self.inputs, self.outputs = specs
        self.placement = Placement(f"kserve {server.url}", "remote")
        self._max_batch = max_batch
        self._columns = columns

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph and return all outputs by name. Large batches are split.

        Raises EngineError, and EngineUnavailable if the server does not respond.
        """
        rows = len(next(iter(inputs.values())))
        batch_size = self._batch_size(rows, sum(array.nbytes for array in inputs.values()))
        parts = [
            self._run({name: array[start : start + batch_size] for name, array in inputs.items()})
            for start in range(0, max(1, rows), batch_size)
        ]
        return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in self.outputs}

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        shaped = {name: array[:, None] if name in self._columns else array for name, array in inputs.items()}
        results = self.server.infer(self.model, shaped, list(self.outputs))
        return {name: self._squeeze_scalar(name, array) for name, array in results.items()}

    def _squeeze_scalar(self, name: str, array: Array) -> Array:
        """Reshape (B, 1) to (B,) if the graph has such an output: Triton has no tensors with only a batch axis."""
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
    """Open a graph of ``bundle`` on a server, after checking that the server's model is this graph.

    The bundle's fingerprint is the parameter ``FINGERPRINT`` of the model's configuration, or the model's version. If
    the server provides none, the outputs for two rows are compared with those of this process.

    Args:
        server: client of the server.
        bundle: bundle of the graph.
        graph: name of the graph.
        specs: types and shapes of (inputs, outputs), from the manifest.

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
        # Unavailable, as the model may appear later: servers can respond before they have loaded their models.
        raise EngineUnavailable(f"{error}; `vitascope triton` writes it for Triton") from error
    inputs = _check_specs(label, "inputs", metadata, specs[0])
    _check_specs(label, "outputs", metadata, specs[1])
    config = server.config(model)
    columns = [name for name, spec in specs[0].items() if len(inputs[name].shape) > len(spec.shape)]
    engine = KServeEngine(server, model, specs, _positive_int(config.get("max_batch_size")), columns)
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


def _check_specs(
    label: str, kind: str, metadata: Mapping[str, Any], expected: Mapping[str, ArraySpec]
) -> dict[str, ArraySpec]:
    """Compare the server's inputs or outputs with the manifest's, and return the server's.

    Inputs must be the same; further outputs are allowed. A dynamic size on the server matches any size.
    """
    try:
        actual = {str(tensor["name"]): parse_spec(tensor) for tensor in metadata.get(kind) or ()}
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{label}: {kind} cannot be read: {error}") from error
    if set(expected) - set(actual) or (kind == "inputs" and len(actual) > len(expected)):
        raise EngineError(f"{label}: {kind} {sorted(actual)}; {sorted(expected)} were expected")
    for name, spec in expected.items():
        if not _fits(actual[name], spec):
            raise EngineError(f"{label}: {kind[:-1]} {name!r} is {actual[name]}; {spec} was expected from the manifest")
    return actual


def _fits(actual: ArraySpec, expected: ArraySpec) -> bool:
    shape = actual.shape
    if len(expected.shape) == 1 and shape[1:] == (1,):
        shape = shape[:1]
    sizes = zip(shape, expected.shape, strict=False)
    # A dynamic size of the manifest must be dynamic on the server, too: batches vary.
    return (
        actual.dtype == expected.dtype
        and len(shape) == len(expected.shape)
        and all(size is None or size == required for size, required in sizes)
    )


def _fingerprints(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Return the fingerprints in a model's configuration and among its versions."""
    parameters = config.get("parameters")
    parameter = parameters.get(FINGERPRINT) if isinstance(parameters, dict) else None
    configured = parameter.get("string_value") if isinstance(parameter, dict) else parameter
    versions = metadata.get("versions")
    candidates = [configured, *(versions if isinstance(versions, list) else [])]
    return [c for c in candidates if isinstance(c, str) and len(c) == 64 and set(c) <= set("0123456789abcdef")]


def _positive_int(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


class OutputDifference(NamedTuple):
    """Difference of one output of one graph. ``cosine``: minimum over rows; for logits, of the whole batch."""

    graph: str
    output: str
    cosine: float
    max_difference: float


def check_server(bundle: Bundle, engine: str) -> list[OutputDifference]:
    """Compare all outputs of all graphs on a server, except caption graphs, with ONNX Runtime in this process.

    Args:
        bundle: bundle of the graphs.
        engine: address of the server, such as ``kserve:http://triton:8000``.

    Raises:
        InvalidInput: ``engine`` is not the address of a server.
        EngineUnavailable: the server does not respond, or a graph is missing.
        EngineError: a graph does not match the manifest, belongs to another bundle, or differs too much.
    """
    url = server_url(engine)
    if url is None:
        raise InvalidInput(f"engine: {engine!r} is not a server; kserve:http://HOST:PORT was expected")
    server = InferenceServer(url)
    differences: list[OutputDifference] = []
    for graph in sorted({*bundle.manifest.graphs} - {*CAPTION_GRAPHS}):
        remote = open_at_server(server, bundle, graph, bundle.graph_spec(graph))
        try:
            differences += compare_outputs(bundle, graph, remote)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(f"{url}: model {remote.model!r}: {error}") from error
    return differences


def compare_outputs(bundle: Bundle, graph: str, engine: Engine) -> list[OutputDifference]:
    """Compare the outputs of ``engine`` for random inputs with those of the bundle's graph in this process.

    Raises TaskMissing, BundleCorrupt, and EngineError if an output differs too much.
    """
    path = bundle.graph_path(graph)
    if path is None:
        raise TaskMissing(
            f"{bundle.manifest.name}: no graph {graph!r}; one of {sorted(bundle.manifest.graphs)} was expected"
        )
    vocabulary, length = bundle.tokenizer().vocabulary_size, min(_LENGTH, bundle.manifest.text_length)
    inputs = random_inputs(bundle.graph_spec(graph)[0], np.random.default_rng(0), vocabulary, rows=2, length=length)
    local, remote = OnnxRuntimeEngine(path, device="cpu").run(inputs), engine.run(inputs)
    return [_compare(graph, name, local[name], remote[name]) for name in engine.outputs]


def _compare(graph: str, output: str, local: Array, remote: Array) -> OutputDifference:
    where = f"{graph}: {output}"
    if local.shape != remote.shape:
        raise EngineError(f"{where} has the shape {remote.shape}; {local.shape}, as in this process, was expected")
    is_logit = local.ndim == 1
    a, b = (x.astype(np.float64).reshape(1 if is_logit else len(x), -1) for x in (local, remote))
    cosine = float(np.where((a == b).all(axis=1), 1.0, row_cosines(a, b)).min())  # equal rows of zeros have no cosine
    difference = OutputDifference(graph, output, cosine, float(np.abs(a - b).max()))
    # `not all(... <= ...)` instead of `any(... > ...)`, so that NaN fails.
    if is_logit and not np.all(np.abs(a - b) <= MAX_LOGIT_ERROR * np.maximum(1.0, np.abs(a))):
        raise EngineError(
            f"{where} differs by {difference.max_difference:.3g}; at most {MAX_LOGIT_ERROR:g} was expected"
        )
    if not is_logit and not cosine >= MIN_COSINE:
        raise EngineError(
            f"{where} has cosine {cosine:.6f} with this process's output (max difference "
            f"{difference.max_difference:.3g}); at least {MIN_COSINE:g} was expected"
        )
    return difference
