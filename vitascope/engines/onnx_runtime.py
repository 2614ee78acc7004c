"""The engine interface (named arrays in, named arrays out), and its implementation with ONNX Runtime."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import ArraySpec
from vitascope.engines import gpu
from vitascope.errors import BundleCorrupt, EngineError, InvalidInput

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
Array = NDArray[Any]

_PROVIDERS: dict[str, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
_DEVICE_OF = {providers[0]: device for device, providers in _PROVIDERS.items()}
_INVALID_GRAPH_ERRORS = {"InvalidProtobuf", "InvalidGraph", "NoModel"}


class Placement(NamedTuple):
    """The engine and device that run a graph."""

    engine: str
    """Library and version, such as "onnxruntime 1.31.1"."""
    device: str
    """"cpu", "cuda" or "tensorrt"; "remote" for an inference server of unknown device."""
    gpu_name: str | None = None
    """Name of the GPU; None on the CPU, or if unknown."""
    fallback: str | None = None
    """Reason why the preferred engine or device is not used; None if it is used."""


class Engine(Protocol):
    """A loaded graph; thread-safe."""

    @property
    def inputs(self) -> Mapping[str, ArraySpec]: ...
    @property
    def outputs(self) -> Mapping[str, ArraySpec]: ...
    @property
    def placement(self) -> Placement: ...
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph and return all outputs by name. Raises EngineError."""


class OnnxRuntimeEngine:
    """A graph run by ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        device: Device = "auto",
        *,
        optimize: bool = True,
        tensorrt_options: Mapping[str, str] | None = None,
    ) -> None:
        """Load a graph.

        Args:
            path: ONNX file.
            threads: Threads within an operator; 0: one per core.
            device: "auto" prefers CUDA and falls back to the CPU; ``placement`` then has the reason. Other devices are
                required.
            optimize: Optimize the graph. On the CPU this takes as long as about ten runs with a text.
            tensorrt_options: Options of ONNX Runtime's TensorRT provider.

        Raises:
            EngineError: The device cannot be used.
            BundleCorrupt: The graph is not valid.
            InvalidInput: ``threads`` is negative or ``device`` unknown.
        """
        if threads < 0:
            raise InvalidInput(f"threads: {threads}; 0 (one per core) or more was expected")
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Spinning threads take cores from decoding and from other requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights stay out of the shared arena, which would keep them after the model is unloaded.
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self.session, fallback = _open_session(path, options, device, dict(tensorrt_options or {}))
        """The ONNX Runtime session, for libraries that need one."""
        self.providers: list[str] = list(self.session.get_providers())
        """Execution providers in use, in order of preference."""
        used_device = _DEVICE_OF[self.providers[0]]
        gpu_name = None if used_device == "cpu" else gpu.gpu_name()
        self.placement = Placement(f"onnxruntime {onnxruntime.__version__}", used_device, gpu_name, fallback)
        self.inputs = {argument.name: _spec(argument) for argument in self.session.get_inputs()}
        self.outputs = {argument.name: _spec(argument) for argument in self.session.get_outputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = list(self.outputs)
        try:
            results = self.session.run(names, dict(inputs))
        except Exception as error:  # the library's errors share no base but Exception
            shapes = {name: tuple(array.shape) for name, array in inputs.items()}
            raise EngineError(f"{self.path.name}: failed on inputs of shapes {shapes}: {error}") from error
        return {name: np.asarray(array) for name, array in zip(names, results, strict=True)}


def _register_shared_allocator() -> None:
    """Register one growing memory arena for all graphs; by default each graph keeps an arena of its peak size."""
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        ),
        onnxruntime.OrtArenaCfg(
            {
                "max_mem": 0,
                "arena_extend_strategy": 1,
                "initial_chunk_size_bytes": -1,
                "max_dead_bytes_per_chunk": -1,
            }
        ),
    )


_register_shared_allocator()  # once per process, before a graph is loaded


def _open_session(
    path: Path, options: onnxruntime.SessionOptions, device: Device, tensorrt_options: dict[str, str]
) -> tuple[onnxruntime.InferenceSession, str | None]:
    """Return a session, and the reason if "auto" could not use a GPU."""
    if device not in ("auto", *_PROVIDERS):
        raise InvalidInput(f"device: {device!r}; expected one of auto, {', '.join(_PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    preferred = device
    if device == "auto":
        preferred = "cuda" if _PROVIDERS["cuda"][0] in available else "cpu"
    providers = _PROVIDERS[preferred]
    if providers[0] not in available:
        raise EngineError(
            f"device: {device!r} is not built into the installed onnxruntime (it has {', '.join(available)}); "
            "install the GPU build or use device 'cpu'"
        )
    if device == "auto" and preferred != "cpu" and (reason := gpu.gpu_unavailable_reason()) is not None:
        # Loading would fail anyway, and print errors.
        return _create_session(path, options, "cpu", _PROVIDERS["cpu"], {}), reason
    if preferred != "cpu":
        # Loads CUDA and cuDNN from pip packages; installations of the system are found without this call.
        with redirect_stdout(sys.stderr):  # it prints what is missing
            onnxruntime.preload_dlls()
    try:
        usable = [provider for provider in providers if provider in available]
        session = _create_session(path, options, preferred, usable, tensorrt_options)
    except EngineError as error:
        if device != "auto" or preferred == "cpu":
            raise
        return _create_session(path, options, "cpu", _PROVIDERS["cpu"], {}), str(error)
    # ONNX Runtime falls back to the CPU without an error if a GPU library is missing.
    used = session.get_providers()
    if providers[0] in used:
        return session, None
    reason = _provider_failure_reason(providers[0])
    if device != "auto":
        raise EngineError(
            f"device: {device!r} was requested, but {path.name} runs on {', '.join(used)}: {reason}; "
            "check the GPU driver and libraries, or use device 'cpu'"
        )
    return session, reason


def _create_session(
    path: Path,
    options: onnxruntime.SessionOptions,
    device: str,
    providers: list[str],
    tensorrt_options: dict[str, str],
) -> onnxruntime.InferenceSession:
    provider_options = [tensorrt_options if provider == _PROVIDERS["tensorrt"][0] else {} for provider in providers]
    try:
        # The library's own fallback would print to standard output and hide the reason.
        return onnxruntime.InferenceSession(
            str(path), options, providers=providers, provider_options=provider_options, enable_fallback=0
        )
    except Exception as error:  # the library's errors share no base but Exception
        if type(error).__name__ in _INVALID_GRAPH_ERRORS:
            raise BundleCorrupt(f"{path.name}: not a valid ONNX graph: {error}") from error
        raise EngineError(f"{path.name}: cannot be loaded on {device}: {error}") from error


def _provider_failure_reason(provider: str) -> str:
    """Return why an available provider is not used: no GPU, or a library that cannot be loaded."""
    if (reason := gpu.gpu_unavailable_reason()) is not None:
        return reason
    folder = Path(onnxruntime.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return f"a library cannot be loaded: {error}"
    return "ONNX Runtime gives no reason; see standard error"


def _spec(argument: onnxruntime.NodeArg) -> ArraySpec:
    names = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    dtype = names.get(argument.type, argument.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(size if isinstance(size, int) else None for size in argument.shape or ())
    return ArraySpec(dtype, shape)
