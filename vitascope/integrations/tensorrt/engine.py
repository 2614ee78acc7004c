"""Engine that runs a graph with TensorRT, and the function that builds its plan."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import ArraySpec
from vitascope.engines.onnx_runtime import Array, Placement
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.library import CudaStream, DeviceBuffer, Library, load_library
from vitascope.integrations.tensorrt.onnx_rewrites import REVISION, prepare_for_tensorrt
from vitascope.integrations.tensorrt.plan_cache import PlanFile, cache_key, engine_cache, write_file
from vitascope.integrations.tensorrt.profiles import WORKSPACE_BYTES, Profile, profile_for, profiles_of

_log = logging.getLogger("vitascope.tensorrt")

_EXTERNAL_BYTES = 1024
"""During a build, weights of at least this size are stored outside the ONNX file, as protobuf is limited to 2 GiB."""


class TensorRTEngine:
    """One graph on the first GPU. Thread-safe; runs are executed one at a time."""

    def __init__(self, bundle: Bundle, graph: str, path: Path) -> None:
        """Load the engine of a graph. If it is not cached, it is built, which takes minutes.

        Args:
            bundle: bundle of the graph.
            graph: name of the graph.
            path: ONNX file of the graph.

        Raises:
            EngineError: a library, the driver or a version is not supported, or TensorRT cannot build the graph.
            BundleCorrupt: the graph cannot be read.
        """
        library = load_library()
        self.path = path
        self.placement = Placement(f"tensorrt {library.version}", "tensorrt", library.gpu.name)
        self._profiles = profiles_of(bundle.manifest, graph)
        self._engine = _load_engine(library, bundle, graph, path, self._profiles)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{path.name}: TensorRT cannot create a context; check free GPU memory")
        self.inputs, self.outputs = _specs(library.trt, self._engine)
        if unknown := sorted(set(self.inputs) ^ set(self._profiles[0])):
            raise EngineError(f"{path.name}: inputs {sorted(self.inputs)}; {unknown} differ from the manifest")
        self._stream = CudaStream(library.cuda)
        self._buffers = {name: DeviceBuffer(library.cuda) for name in (*self.inputs, *self.outputs)}
        self._active_profile = 0
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph and return all outputs by name. Batches larger than the profiles allow are split.

        Raises EngineError for inputs that the engine does not accept, or if the run fails.
        """
        self._check(inputs)
        rows = len(next(iter(inputs.values())))
        batch_size = self._batch_size(inputs, rows)
        batches = []
        with self._lock:
            for start in range(0, rows, batch_size):
                batch = {name: array[start : start + batch_size] for name, array in inputs.items()}
                batches.append(self._run(batch))
        if len(batches) == 1:
            return batches[0]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.outputs}

    def _check(self, inputs: Mapping[str, Array]) -> None:
        if set(inputs) != set(self.inputs):
            raise EngineError(f"{self.path.name}: inputs {sorted(inputs)}; {sorted(self.inputs)} were expected")
        for name, array in inputs.items():
            if array.dtype != self.inputs[name].dtype:
                raise EngineError(
                    f"{self.path.name}: failed on {name!r} of {array.dtype}; {self.inputs[name].dtype} was expected"
                )
        rows = {array.shape[:1] for array in inputs.values()}
        if len(rows) != 1 or rows <= {(), (0,)}:
            raise EngineError(
                f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}; "
                "at least one row, and equally many of each, were expected"
            )

    def _batch_size(self, inputs: Mapping[str, Array], rows: int) -> int:
        """Return the number of rows per run: at most the largest batch of the profiles that allow the other sizes."""
        tails = {name: array.shape[1:] for name, array in inputs.items()}
        fitting = [
            min(profile[name].max[0] for name in tails)
            for profile in self._profiles
            if profile_for([profile], {name: (1, *tail) for name, tail in tails.items()}) is not None
        ]
        if not fitting:
            limits = {name: [profile[name].max for profile in self._profiles] for name in tails}
            raise EngineError(
                f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}; it was built for at most {limits}"
            )
        return min(rows, max(fitting))

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        profile = profile_for(self._profiles, _shapes(inputs))
        assert profile is not None  # by _batch_size
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            return self._execute(profile, contiguous)
        except Exception as error:  # TensorRT's errors have no common base class
            with suppress(EngineError):  # queued operations may still use the buffers
                self._stream.wait()
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}: {error}") from error

    def _execute(self, profile: int, inputs: dict[str, Array]) -> dict[str, Array]:
        context, stream = self._context, self._stream
        if profile != self._active_profile:
            self._check_done(context.set_optimization_profile_async(profile, stream.handle), "set the profile", inputs)
            stream.wait()
            self._active_profile = profile
        for name, array in inputs.items():
            self._check_done(context.set_input_shape(name, array.shape), f"set the shape of {name!r}", inputs)
        if missing := context.infer_shapes():
            raise EngineError(f"{self.path.name}: its output shapes depend on {sorted(missing)}")
        results = {
            name: np.empty(tuple(context.get_tensor_shape(name)), spec.dtype) for name, spec in self.outputs.items()
        }
        # Reserve everything before any operation, as a buffer that grows is freed first.
        addresses = {name: self._buffers[name].reserve(array.nbytes) for name, array in (inputs | results).items()}
        for name, address in addresses.items():
            self._check_done(context.set_tensor_address(name, address), f"set the address of {name!r}", inputs)
        for name, array in inputs.items():
            stream.to_gpu(addresses[name], array)
        self._check_done(context.execute_async_v3(stream.handle), "run", inputs)
        for name, array in results.items():
            stream.from_gpu(array, addresses[name])
        stream.wait()
        return results

    def _check_done(self, done: bool, operation: str, inputs: Mapping[str, Array]) -> None:
        if not done:
            raise EngineError(
                f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}: TensorRT could not "
                f"{operation}; see the log"
            )


def _load_engine(library: Library, bundle: Bundle, graph: str, path: Path, profiles: list[Profile]) -> Any:
    """Load the engine from a cached plan, or build it if there is none or TensorRT rejects it."""
    folder = engine_cache() / "tensorrt" / cache_key(library.gpu.name, library.gpu.capability, library.version)
    plan_file = PlanFile(
        folder / f"{bundle.fingerprint[:16]}-{graph}.plan",
        {
            "fingerprint": bundle.fingerprint,
            "graph": graph,
            "profiles": [dict(profile) for profile in profiles],
            "revision": REVISION,
            "tensorrt": library.version,
            "card": library.gpu.name,
            "capability": library.gpu.capability,
        },
    )

    def build() -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as temp_folder:
                rewritten = _write_rewritten(path, Path(temp_folder))
                return build_plan(library, rewritten, profiles, folder / "timings.cache")
        except OSError as error:
            raise EngineError(f"{path.name}: cannot be built in {folder}: {error.strerror or error}") from error

    runtime = library.trt.Runtime(library.logger)
    engine = runtime.deserialize_cuda_engine(plan_file.get(build))
    if engine is None:
        _log.warning("%s: rebuilding: TensorRT %s rejects it", plan_file.path.name, library.version)
        plan_file.invalidate()
        engine = runtime.deserialize_cuda_engine(plan_file.get(build))
    if engine is None:
        raise EngineError(f"{path.name}: TensorRT {library.version} rejects its own plan; see the log")
    return engine


def _write_rewritten(path: Path, folder: Path) -> Path:
    """Write the graph rewritten for TensorRT into `folder`, with external weights."""
    import onnx

    target = folder / path.name
    onnx.save_model(
        prepare_for_tensorrt(path),
        target,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.stem}.weights",
        size_threshold=_EXTERNAL_BYTES,
    )
    return target


def _specs(trt: Any, engine: Any) -> tuple[dict[str, ArraySpec], dict[str, ArraySpec]]:
    """Return (inputs, outputs) of an engine."""
    inputs: dict[str, ArraySpec] = {}
    outputs: dict[str, ArraySpec] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        spec = ArraySpec(np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name, shape)
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs)[name] = spec
    return inputs, outputs


def _shapes(inputs: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in inputs.items()}


def build_plan(library: Library, graph: Path, profiles: Sequence[Profile], timing_cache: Path) -> bytes:
    """Build the plan of an ONNX file, with the types of the graph.

    Args:
        library: TensorRT and the GPU.
        graph: ONNX file.
        profiles: ranges of input shapes that the engine must support.
        timing_cache: file of TensorRT's timing cache, which is read and updated.

    Raises EngineError with TensorRT's message.
    """
    trt = library.trt
    started_at = time.monotonic()
    _log.info("%s: building for %s with TensorRT %s", graph.name, library.gpu.name, library.version)
    builder = trt.Builder(library.logger)
    # TensorRT 11 has no builder flags for types.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"{graph.name}: TensorRT {library.version} cannot read it: {errors or 'no reason given'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, min(WORKSPACE_BYTES, library.gpu.memory_bytes // 4))
    for profile in profiles:
        _add_profile(builder, config, profile, graph.name)
    _load_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{graph.name}: TensorRT {library.version} cannot build it; the log says why")
    write_file(timing_cache, bytes(config.get_timing_cache().serialize()))
    _log.info("%s: built in %.0f s", graph.name, time.monotonic() - started_at)
    return bytes(plan)


def _add_profile(builder: Any, config: Any, profile: Profile, name: str) -> None:
    shapes = builder.create_optimization_profile()
    try:
        for entry, shape_range in profile.items():
            shapes.set_shape(entry, *shape_range)
    except RuntimeError as error:
        raise EngineError(f"{name}: TensorRT rejects the profile of {entry!r}, {profile[entry]}: {error}") from error
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"{name}: TensorRT rejects the profile {dict(profile)}")


def _load_timing_cache(config: Any, path: Path) -> None:
    """Load the timing cache; start an empty one if TensorRT rejects it, as for another version or GPU."""
    content = path.read_bytes() if path.is_file() else b""
    if content and config.set_timing_cache(config.create_timing_cache(content), False):
        return
    if content:
        _log.warning("%s: replaced, as it was made for another GPU or version of TensorRT", path.name)
    config.set_timing_cache(config.create_timing_cache(b""), False)
