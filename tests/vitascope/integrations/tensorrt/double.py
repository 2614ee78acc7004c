"""Fakes of the TensorRT and CUDA bindings, implemented with ONNX Runtime and ordinary memory.

They follow the documented interfaces (Python API of TensorRT 10.15, runtime of cuda.bindings) and assert the documented
order of calls. Work in a stream is done when the stream is synchronized, so that code that does not wait fails.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from model_export.targets.tensorrt_graphs import unsupported

SECRET = b"\nplan\n"


class MemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Handle(int):
    """cudaStream_t: has an address."""


class Cuda:
    """cuda.bindings.runtime: every function gives a tuple that begins with a status."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = MemcpyKind

    def __init__(self, version: int = 12090) -> None:
        self.version = version
        self.memory: dict[int, bytearray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.failing: dict[str, int] = {}
        """Function -> the status that its next call gives."""
        self.capacity = 2**40
        self._next = 0x7F00_0000_0000

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return 0, self.version

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, {2: b"out of memory", 700: b"an illegal memory access was encountered"}[status]

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        assert size > 0
        if sum(map(len, self.memory.values())) + size > self.capacity:
            return 2, None
        self._next += 2**32
        self.memory[self._next] = bytearray(b"\xcd" * size)
        return 0, self._next

    def cudaFree(self, address: int) -> tuple[int]:
        assert not any(self.streams.values()), "memory is freed while work on it waits"
        del self.memory[address]
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, Handle]:
        assert flags == self.cudaStreamNonBlocking
        self._next += 2**32
        handle = Handle(self._next)
        self.streams[handle] = []
        return 0, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.streams[stream]
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: MemcpyKind, stream: int) -> tuple[int]:
        def copy() -> None:
            if kind == MemcpyKind.cudaMemcpyHostToDevice:
                self.at(target)[:count] = ctypes.string_at(source, count)
            else:
                ctypes.memmove(target, bytes(self.at(source)[:count]), count)

        on_gpu = target if kind == MemcpyKind.cudaMemcpyHostToDevice else source
        assert count <= len(self.at(on_gpu)), f"{count} bytes where {len(self.at(on_gpu))} are"
        self.streams[stream].append(copy)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        queued, self.streams[stream] = self.streams[stream], []
        for work in queued:
            work()
        return (self.failing.pop("cudaStreamSynchronize", 0),)

    def at(self, address: int) -> bytearray:
        assert address in self.memory, f"{address:#x} is no address that was given out"
        return self.memory[address]


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    was_made = False

    def __init__(self) -> None:
        self.was_made = True

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT64 = 8
    UINT8 = 9


_KINDS = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.INT64: DataType.INT64,
    TensorProto.UINT8: DataType.UINT8,
}
_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT64: np.int64,
    DataType.UINT8: np.uint8,
}


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class HostMemory(bytearray):
    """IHostMemory: a buffer."""


@dataclass
class TensorRT:
    """The module `tensorrt` on one machine: ``module`` is what is imported."""

    cuda: Cuda
    version: str = "10.15.1.29"
    card: str = "NVIDIA H100 80GB HBM3"
    builds: list[str] = field(default_factory=list)
    """The graphs that were built, in their order."""
    profile_switches: list[int] = field(default_factory=list)
    runs: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    """Shapes of what was run."""
    cannot: set[str] = field(default_factory=set)
    """"build", "context" or "run": gives None or False, as when memory is short."""
    stamp_of_build: str = ""
    """Requirements on a plan besides version and card, for this machine to accept it."""

    @property
    def module(self) -> Any:
        return SimpleNamespace(
            __version__=self.version,
            ILogger=ILogger,
            Builder=partial(Builder, self),
            OnnxParser=partial(OnnxParser, self),
            Runtime=partial(Runtime, self),
            NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag,
            MemoryPoolType=MemoryPoolType,
            TensorIOMode=TensorIOMode,
            nptype=_NUMPY.__getitem__,
        )

    @property
    def stamp(self) -> dict[str, str]:
        return {"version": self.version, "card": self.card, "build": self.stamp_of_build}


def _check_logger(logger: Any) -> None:
    assert isinstance(logger, ILogger), "a logger must be an ILogger"
    assert logger.was_made, "ILogger.__init__ must be called by subclasses"


class Builder:
    def __init__(self, trt: TensorRT, logger: ILogger) -> None:
        _check_logger(logger)
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int = 0) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED, "strong typing was expected"
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig(self._trt)

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        assert network.model is not None, "a network is parsed before it is built"
        assert config.cache is not None
        assert config.pool > 0
        for value in network.model.graph.input:
            dims = _dims(value)
            if -1 in dims:
                assert config.profiles, "inputs that vary need a profile"
            for profile in config.profiles:
                minimum, optimum, maximum = profile.shapes[value.name]
                assert len(minimum) == len(dims), f"{value.name}: {minimum} for {dims}"
                for size, low, middle, high in zip(dims, minimum, optimum, maximum, strict=True):
                    assert low <= middle <= high
                    assert size in (-1, low), f"{value.name}: {minimum} to {maximum} for {dims}"
                    assert size in (-1, high), f"{value.name}: {minimum} to {maximum} for {dims}"
        if "build" in self._trt.cannot:
            self._logger.log(Severity.ERROR, "out of memory while timing")
            return None
        self._trt.builds.append(network.name)
        config.cache.entries.append(network.name)
        header = {**self._trt.stamp, "profiles": [profile.shapes for profile in config.profiles]}
        return HostMemory(json.dumps(header).encode() + SECRET + network.model.SerializeToString())


class Network:
    def __init__(self) -> None:
        self.model: onnx.ModelProto | None = None
        self.name = ""


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        if not len(min) == len(opt) == len(max):
            raise RuntimeError("Shape provided for opt is inconsistent with other shapes.")
        self.shapes[name] = (tuple(min), tuple(opt), tuple(max))


class TimingCache:
    def __init__(self, stamp: dict[str, str], entries: list[str]) -> None:
        self.stamp, self.entries = stamp, entries

    def serialize(self) -> HostMemory:
        return HostMemory(json.dumps([self.stamp, self.entries]).encode())


class BuilderConfig:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt
        self.profiles: list[OptimizationProfile] = []
        self.cache: TimingCache | None = None
        self.pool = 0

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert pool == MemoryPoolType.WORKSPACE
        self.pool = size

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        if not profile.shapes:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized: bytes) -> TimingCache:
        return TimingCache(*json.loads(serialized)) if serialized else TimingCache(self._trt.stamp, [])

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.stamp != self._trt.stamp and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        assert self.cache is not None
        return self.cache


class OnnxParser:
    def __init__(self, trt: TensorRT, network: Network, logger: ILogger) -> None:
        _check_logger(logger)
        self._network = network
        self._errors: list[str] = []

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str)
        read = onnx.load(model)  # with the weights that lie beside it
        self._errors = unsupported(read)
        if not self._errors:
            self._network.model, self._network.name = read, Path(model).stem
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: self._errors[index])


class Runtime:
    def __init__(self, trt: TensorRT, logger: ILogger) -> None:
        _check_logger(logger)
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        header, _, model = bytes(serialized_engine).partition(SECRET)
        fields = json.loads(header)
        if {name: fields[name] for name in self._trt.stamp} != self._trt.stamp:
            self._logger.log(Severity.ERROR, "the engine plan file is not compatible with this version or device")
            return None
        return Engine(self._trt, fields["profiles"], model)


class Engine:
    def __init__(self, trt: TensorRT, profiles: list[Any], model: bytes) -> None:
        self.trt, self.profiles = trt, profiles
        graph = onnx.ModelProto.FromString(model).graph
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.entries = {value.name: value for value in [*graph.input, *graph.output]}
        self.inputs = [value.name for value in graph.input]

    @property
    def num_io_tensors(self) -> int:
        return len(self.entries)

    def get_tensor_name(self, index: int) -> str:
        return list(self.entries)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _KINDS[self.entries[name].type.tensor_type.elem_type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _dims(self.entries[name])

    def create_execution_context(self) -> Context | None:
        return None if "context" in self.trt.cannot else Context(self)


class Context:
    """IExecutionContext: shapes, then addresses, then a run; a change of profile forgets the shapes."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._trt = engine, engine.trt
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._trt.cuda.streams
        self._profile, self._shapes = profile_index, {}
        self._trt.profile_switches.append(profile_index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        minimum, _, maximum = self._engine.profiles[self._profile][name]
        if len(shape) != len(minimum) or not all(a <= b <= c for a, b, c in zip(minimum, shape, maximum, strict=True)):
            return False
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._trt.cuda.at(memory)
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert not self.infer_shapes(), "shapes of outputs are known once those of all inputs are"
        zeros = {n: np.zeros(self._shapes[n], self._numpy(n)) for n in self._engine.inputs}
        shape: tuple[int, ...] = self._engine.session.run([name], zeros)[0].shape
        return shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert not self.infer_shapes()
        assert set(self._addresses) == set(self._engine.entries), "every tensor needs an address"
        if "run" in self._trt.cannot:
            return False
        self._trt.runs.append(dict(self._shapes))
        self._trt.cuda.streams[stream_handle].append(partial(self._run, dict(self._shapes), dict(self._addresses)))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        cuda = self._trt.cuda
        inputs = {}
        for name, shape in shapes.items():
            kind = np.dtype(self._numpy(name))
            count = int(np.prod(shape))
            inputs[name] = np.frombuffer(bytes(cuda.at(addresses[name])), kind, count).reshape(shape)
        names = [name for name in self._engine.entries if name not in shapes]
        for name, array in zip(names, self._engine.session.run(names, inputs), strict=True):
            buffer = cuda.at(addresses[name])
            assert array.nbytes <= len(buffer), f"{name}: {array.nbytes} bytes into {len(buffer)}"
            buffer[: array.nbytes] = array.tobytes()

    def _numpy(self, name: str) -> Any:
        return _NUMPY[self._engine.get_tensor_dtype(name)]


def _dims(value: Any) -> tuple[int, ...]:
    return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim)
