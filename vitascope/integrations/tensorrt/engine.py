"""A graph run by TensorRT itself."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.engines.onnx_runtime import Array, ArraySpec, Placement
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.build import build_plan
from vitascope.integrations.tensorrt.cuda_memory import Room, Stream
from vitascope.integrations.tensorrt.library import Library, load_library
from vitascope.integrations.tensorrt.onnx_rewrites import REVISION, readable
from vitascope.integrations.tensorrt.plan_cache import PlanFile, engine_cache, place_of
from vitascope.integrations.tensorrt.profiles import Profile, profile_for, profiles_of

_log = logging.getLogger("vitascope.tensorrt")

_INSIDE_BYTES = 1024
"""Weights smaller than this stay in the graph's own file while it is built; protobuf holds no more than 2 GiB."""


class TensorRTEngine:
    """A graph on the first GPU; one run at a time, and safe to share between threads."""

    def __init__(self, bundle: Bundle, graph: str, path: Path, cache: Path | None = None) -> None:
        """Load the engine of ``graph``, whose file is ``path``, or build it first, which takes minutes.

        ``cache``: where built engines are kept, ``engine_cache()`` by default. Raises EngineError where a library, the
        driver or a version does not fit, or TensorRT cannot build the graph; BundleCorrupt.
        """
        library = load_library()
        self.path = path
        self.placement = Placement(f"tensorrt {library.version}", "tensorrt", library.card.name)
        self._profiles = profiles_of(bundle.manifest, graph)
        self._engine = _engine(library, bundle, graph, path, self._profiles, cache or engine_cache())
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{path.name}: TensorRT cannot make a context; is there enough memory on the GPU?")
        self.inputs, self.outputs = _specs(library.trt, self._engine)
        if unknown := sorted(set(self.inputs) ^ set(self._profiles[0])):
            raise EngineError(
                f"{path.name}: inputs {sorted(self.inputs)}; {unknown} differ from what the bundle states"
            )
        self._stream = Stream(library.cuda)
        self._rooms = {name: Room(library.cuda) for name in (*self.inputs, *self.outputs)}
        self._active = 0
        self._turn = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Rows beyond what a profile allows are run in pieces."""
        self._check(inputs)
        rows = len(next(iter(inputs.values())))
        most = self._most_rows(inputs, rows)
        pieces = []
        with self._turn:
            for first in range(0, rows, most):
                pieces.append(self._run({name: array[first : first + most] for name, array in inputs.items()}))
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self.outputs}

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
                "at least one row, and as many of each, were expected"
            )

    def _most_rows(self, inputs: Mapping[str, Array], rows: int) -> int:
        """How many rows run together: all, or as many as the roomiest profile for the other sizes allows."""
        tails = {name: array.shape[1:] for name, array in inputs.items()}
        fitting = [
            min(profile[name].most[0] for name in tails)
            for profile in self._profiles
            if profile_for([profile], {name: (1, *tail) for name, tail in tails.items()}) is not None
        ]
        if not fitting:
            limits = {name: [profile[name].most for profile in self._profiles] for name in tails}
            raise EngineError(
                f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}; it was built for at most {limits}"
            )
        return min(rows, max(fitting))

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        number = profile_for(self._profiles, _shapes(inputs))
        assert number is not None  # _most_rows has seen to it
        entered = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            return self._queued(number, entered)
        except Exception as error:  # the library's errors share no base but Exception
            with suppress(EngineError):  # what was queued may still read what is about to be given back
                self._stream.wait()
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}: {error}") from error

    def _queued(self, number: int, inputs: dict[str, Array]) -> dict[str, Array]:
        context, stream = self._context, self._stream
        if number != self._active:
            self._must(context.set_optimization_profile_async(number, stream.handle), "choose its profile", inputs)
            stream.wait()
            self._active = number
        for name, array in inputs.items():
            self._must(context.set_input_shape(name, array.shape), f"take {name!r}", inputs)
        if missing := context.infer_shapes():
            raise EngineError(f"{self.path.name}: the shapes of its outputs wait for {sorted(missing)}")
        results = {
            name: np.empty(tuple(context.get_tensor_shape(name)), spec.dtype) for name, spec in self.outputs.items()
        }
        # All room before any work: memory that has to grow is given back first.
        addresses = {name: self._rooms[name].of(array.nbytes) for name, array in (inputs | results).items()}
        for name, address in addresses.items():
            self._must(context.set_tensor_address(name, address), f"use memory for {name!r}", inputs)
        for name, array in inputs.items():
            stream.to_gpu(addresses[name], array)
        self._must(context.execute_async_v3(stream.handle), "run", inputs)
        for name, array in results.items():
            stream.from_gpu(array, addresses[name])
        stream.wait()
        return results

    def _must(self, done: bool, what: str, inputs: Mapping[str, Array]) -> None:
        if not done:
            raise EngineError(
                f"{self.path.name}: failed on inputs of shapes {_shapes(inputs)}: TensorRT could not {what}; "
                "the log says why"
            )


def _engine(library: Library, bundle: Bundle, graph: str, path: Path, profiles: list[Profile], cache: Path) -> Any:
    """The engine of a kept plan, or of one that is built now: also where the library refuses the one that was kept."""
    folder = cache / "tensorrt" / place_of(library.card.name, library.card.capability, library.version)
    plan_file = PlanFile(
        folder / f"{bundle.fingerprint[:16]}-{graph}.plan",
        {
            "fingerprint": bundle.fingerprint,
            "graph": graph,
            "profiles": [dict(profile) for profile in profiles],
            "revision": REVISION,
            "tensorrt": library.version,
            "card": library.card.name,
            "capability": library.card.capability,
        },
    )

    def build() -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as beside:
                written = _written(path, Path(beside))
                return build_plan(library, written, profiles, folder / "timings.cache")
        except OSError as error:
            raise EngineError(f"{path.name}: cannot be built in {folder}: {error.strerror or error}") from error

    runtime = library.trt.Runtime(library.logger)
    engine = runtime.deserialize_cuda_engine(plan_file.get(build))
    if engine is None:
        _log.warning("%s: is built anew: TensorRT %s does not take it", plan_file.path.name, library.version)
        plan_file.forget()
        engine = runtime.deserialize_cuda_engine(plan_file.get(build))
    if engine is None:
        raise EngineError(f"{path.name}: TensorRT {library.version} does not take what it has built; the log says why")
    return engine


def _written(path: Path, folder: Path) -> Path:
    """The graph as TensorRT reads it, as a file in ``folder``, its weights beside it."""
    import onnx

    target = folder / path.name
    onnx.save_model(
        readable(path),
        target,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.stem}.weights",
        size_threshold=_INSIDE_BYTES,
    )
    return target


def _specs(trt: Any, engine: Any) -> tuple[dict[str, ArraySpec], dict[str, ArraySpec]]:
    """(inputs, outputs) of an engine."""
    inputs: dict[str, ArraySpec] = {}
    outputs: dict[str, ArraySpec] = {}
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        spec = ArraySpec(np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name, shape)
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs)[name] = spec
    return inputs, outputs


def _shapes(inputs: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in inputs.items()}
