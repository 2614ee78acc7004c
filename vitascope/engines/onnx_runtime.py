"""Graph engines: named arrays in, named arrays out."""

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
_BROKEN_GRAPH = {"InvalidProtobuf", "InvalidGraph", "NoModel"}


class ArraySpec(NamedTuple):
    """What a graph states of an input or output; a dimension that may vary is None."""

    dtype: str
    """NumPy's name."""
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes})"


class Placement(NamedTuple):
    """Where a graph really runs."""

    engine: str
    """The library and its version, such as "onnxruntime 1.31.1"."""
    device: str
    """One of "cpu", "cuda" and "tensorrt"; "remote" at a server of which no more is known."""
    card: str | None = None
    """The GPU by its name; None on the CPU, or where it is not known."""
    fallback: str | None = None
    """Why it is not what was tried first; None where it is."""


class Engine(Protocol):
    """One graph, ready to run; safe to share between threads."""

    @property
    def inputs(self) -> Mapping[str, ArraySpec]: ...
    @property
    def outputs(self) -> Mapping[str, ArraySpec]: ...
    @property
    def placement(self) -> Placement: ...
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises EngineError."""


class OnnxRuntimeEngine:
    """A graph run by ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        device: Device = "auto",
        *,
        tensorrt_options: Mapping[str, str] | None = None,
    ) -> None:
        """Load the graph at ``path``.

        ``threads``: threads within one operator, 0 for one per core. ``device``: "auto" takes CUDA where
        it works and else the CPU, and ``placement`` says which and why; the others are taken at their word.
        ``tensorrt_options``: of ONNX Runtime's TensorRT provider, where the device is that.
        Raises EngineError when the device is not really used, BundleCorrupt when the graph is not valid.
        """
        if threads < 0:
            raise InvalidInput(f"threads: {threads}; 0 (one per core) or more was expected")
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Waiting threads that spin take the cores from decoding and from other requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights stay out of the pool that all graphs share: those of a model that is gone must not stay there.
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self._session, fallback = _session(path, options, device, dict(tensorrt_options or {}))
        self.providers: list[str] = list(self._session.get_providers())
        """Where the graph really runs, best first."""
        used = _DEVICE_OF[self.providers[0]]
        card = None if used == "cpu" else gpu.name_of_card()
        self.placement = Placement(f"onnxruntime {onnxruntime.__version__}", used, card, fallback)
        self.inputs = {i.name: _spec(i) for i in self._session.get_inputs()}
        self.outputs = {o.name: _spec(o) for o in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = list(self.outputs)
        try:
            results = self._session.run(names, dict(inputs))
        except Exception as error:  # the library's errors share no base but Exception
            shapes = {name: tuple(array.shape) for name, array in inputs.items()}
            raise EngineError(f"{self.path.name}: failed on inputs of shapes {shapes}: {error}") from error
        return {name: np.asarray(array) for name, array in zip(names, results, strict=True)}


def _share_memory() -> None:
    """Make one pool for what all graphs compute with, in place of one each that keeps the most it has ever needed. It
    grows by what is needed, not by doubling.
    """
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


_share_memory()  # once a process, and before any graph is loaded


def _session(
    path: Path, options: onnxruntime.SessionOptions, device: Device, tensorrt_options: dict[str, str]
) -> tuple[onnxruntime.InferenceSession, str | None]:
    """A session, and why it is on the CPU where "auto" has tried a GPU first."""
    if device not in ("auto", *_PROVIDERS):
        raise InvalidInput(f"device: {device!r}; expected one of auto, {', '.join(_PROVIDERS)}")
    built_in = onnxruntime.get_available_providers()
    tried = device
    if device == "auto":
        tried = "cuda" if _PROVIDERS["cuda"][0] in built_in else "cpu"
    wanted = _PROVIDERS[tried]
    if wanted[0] not in built_in:
        raise EngineError(
            f"device: {device!r} is not built into the installed onnxruntime (it has {', '.join(built_in)}); "
            "install the GPU build or use device 'cpu'"
        )
    if device == "auto" and tried != "cpu" and (why := gpu.why_no_card()) is not None:
        # To try all the same would fail, and write its errors to standard error.
        return _opened(path, options, "cpu", _PROVIDERS["cpu"], {}), why
    if tried != "cpu":
        # Finds CUDA and cuDNN where pip has put them; the system's own are found without.
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            onnxruntime.preload_dlls()
    try:
        session = _opened(
            path, options, tried, [provider for provider in wanted if provider in built_in], tensorrt_options
        )
    except EngineError as error:
        if device != "auto" or tried == "cpu":
            raise
        return _opened(path, options, "cpu", _PROVIDERS["cpu"], {}), str(error)
    # ONNX Runtime falls back to the CPU without an error when a GPU library is missing.
    used = session.get_providers()
    if wanted[0] in used:
        return session, None
    why = _why_unused(wanted[0])
    if device != "auto":
        raise EngineError(
            f"device: {device!r} was asked for but {path.name} runs on {', '.join(used)}: {why}; "
            "check the GPU driver and libraries, or use device 'cpu'"
        )
    return session, why


def _opened(
    path: Path,
    options: onnxruntime.SessionOptions,
    device: str,
    providers: list[str],
    tensorrt_options: dict[str, str],
) -> onnxruntime.InferenceSession:
    settings = [tensorrt_options if provider == _PROVIDERS["tensorrt"][0] else {} for provider in providers]
    try:
        # Its own fallback would print to standard output and hide the reason.
        return onnxruntime.InferenceSession(
            str(path), options, providers=providers, provider_options=settings, enable_fallback=0
        )
    except Exception as error:  # the library's errors share no base but Exception
        if type(error).__name__ in _BROKEN_GRAPH:
            raise BundleCorrupt(f"{path.name}: not a valid ONNX graph: {error}") from error
        raise EngineError(f"{path.name}: cannot be loaded on {device}: {error}") from error


def _why_unused(provider: str) -> str:
    """Why a provider that is built in is not used: there is no GPU, or one of its libraries cannot be loaded."""
    if (why := gpu.why_no_card()) is not None:
        return why
    folder = Path(onnxruntime.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return f"a library cannot be loaded: {error}"
    return "ONNX Runtime does not say why; what it has written to standard error may"


def _spec(argument: onnxruntime.NodeArg) -> ArraySpec:
    names = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    dtype = names.get(argument.type, argument.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(size if isinstance(size, int) else None for size in argument.shape or ())
    return ArraySpec(dtype, shape)
