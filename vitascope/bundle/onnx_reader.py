"""What an ONNX graph is made of: operators and tensors, read from its file without the onnx package and without loading
weights. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitascope.bundle.protobuf_reader import Data, Field, fields, numbers, text
from vitascope.errors import BundleCorrupt

_MAX_DEPTH = 64
_DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16"},
    **{17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4"},
}
_BITS = {
    **{"bool": 8, "bfloat16": 16, "uint4": 4, "int4": 4, "complex64": 64, "complex128": 128},
    **dict.fromkeys(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"), 8),
}
_CONTENT = {4, 5, 6, 7, 9, 10, 11}
"""Fields of a tensor that hold its values: raw ones (9), or those of one kind of number."""
_COMPARED = ("float32", "float64", "float16")


@dataclass(frozen=True)
class Tensor:
    """A constant of a graph. ``location``: the file beside the graph that holds its values from ``offset`` on, in
    ``length`` bytes (None: to its end); None where they are in the graph itself, at ``pieces`` (start, end).
    """

    name: str
    dtype: str
    """NumPy's name, where it has one."""
    shape: tuple[int, ...]
    location: str | None
    offset: int = 0
    length: int | None = None
    pieces: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """That the values take as they are stored raw; None for a type that is not known, such as strings."""
        bits = _BITS.get(self.dtype) or _bits(self.dtype)
        return None if bits is None else (self.size * bits + 7) // 8

    @property
    def written(self) -> str:
        """Type and shape, for people."""
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass
class GraphContents:
    """``opsets``: version by domain, '' being ONNX's own. ``operators``: how often each is there, bodies of loops,
    branches and local functions included; those of other domains as ``domain.Name``. ``tensors``: initialisers and
    constants.
    """

    path: Path
    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    tensors: list[Tensor] = field(default_factory=list)

    def stored(self, tensor: Tensor) -> bytes:
        """The values of one of its tensors, as they are stored. Raises OSError."""
        if tensor.location is None:
            with self.path.open("rb") as file:
                return b"".join(_read(file, start, end - start) for start, end in tensor.pieces)
        with (self.path.parent / tensor.location).open("rb") as file:
            size = file.seek(0, 2) - tensor.offset if tensor.length is None else tensor.length
            return _read(file, tensor.offset, size)

    def floats(self, tensor: Tensor) -> np.ndarray | None:
        """The values as float64, flat; None for tensors of other types. Raises OSError."""
        stored = self.stored(tensor)
        if tensor.dtype not in _COMPARED or len(stored) != tensor.bytes:
            return None
        return np.frombuffer(stored, np.dtype(tensor.dtype).newbyteorder("<")).astype(np.float64)


def read_graph(path: Path) -> GraphContents:
    """Of the ONNX file at ``path``. Raises BundleCorrupt when it is not readable."""
    found = GraphContents(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Reader(data, found).model()
    except (ValueError, IndexError) as error:
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error
    return found


def parameters(graphs: Mapping[str, GraphContents]) -> int:
    """Numbers in all tensors of a bundle's graphs; what several graphs read from one place counts once."""
    sizes: dict[object, int] = {}
    for graph, contents in graphs.items():
        for number, tensor in enumerate(contents.tensors):
            outside = (contents.path.parent / (tensor.location or ""), tensor.offset)
            sizes[(graph, number) if tensor.location is None else outside] = tensor.size
    return sum(sizes.values())


class _Reader:
    """Goes through one file and notes what it finds."""

    def __init__(self, data: Data, found: GraphContents) -> None:
        self.data, self.found = data, found

    def model(self) -> None:
        for one in fields(self.data, 0, len(self.data)):
            if one.number == 1:
                self.found.ir_version = one.value
            elif one.number in (2, 3):
                self.found.producer = f"{self.found.producer} {text(self.data, one)}".strip()
            elif one.number == 7:
                self._graph(one, 0)
            elif one.number == 8:
                stated = {part.number: part for part in self._parts(one)}
                domain = text(self.data, stated[1]) if 1 in stated else ""
                self.found.opsets[domain] = stated[2].value if 2 in stated else 0
            elif one.number == 25:
                self._function(one)

    def _parts(self, message: Field) -> Iterator[Field]:
        return fields(self.data, message.start, message.end)

    def _graph(self, graph: Field, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        for one in self._parts(graph):
            if one.number == 1:
                self._node(one, depth)
            elif one.number == 5:
                self.found.tensors.append(self._tensor(one))
            elif one.number == 15:
                self._sparse(one)

    def _function(self, function: Field) -> None:
        for one in self._parts(function):
            if one.number == 7:
                self._node(one, 0)
            elif one.number == 11:
                self._attribute(one, "", 0)

    def _node(self, node: Field, depth: int) -> None:
        parts = list(self._parts(node))
        stated = {one.number: text(self.data, one) for one in parts if one.number in (2, 4, 7)}
        domain, operator = stated.get(7, ""), stated.get(4, "")
        self.found.operators[f"{domain}.{operator}" if domain else operator] += 1
        for one in parts:
            if one.number == 5:
                self._attribute(one, stated.get(2, ""), depth)

    def _attribute(self, attribute: Field, output: str, depth: int) -> None:
        """``output``: of the node, the name that a constant without one of its own goes by."""
        for one in self._parts(attribute):
            if one.number in (5, 10):
                self.found.tensors.append(self._tensor(one, output))
            elif one.number in (6, 11):
                self._graph(one, depth + 1)
            elif one.number in (22, 23):
                self._sparse(one)

    def _sparse(self, sparse: Field) -> None:
        self.found.tensors += [self._tensor(one) for one in self._parts(sparse) if one.number in (1, 2)]

    def _tensor(self, tensor: Field, output: str = "") -> Tensor:
        name, dtype, shape, outside = "", 0, list[int](), dict[str, str]()
        pieces = []
        for one in self._parts(tensor):
            if one.number == 1:
                shape += numbers(self.data, one)
            elif one.number == 2:
                dtype = one.value
            elif one.number == 8:
                name = text(self.data, one)
            elif one.number == 13:
                stated = {part.number: text(self.data, part) for part in self._parts(one)}
                outside[stated.get(1, "")] = stated.get(2, "")
            elif one.number in _CONTENT:
                pieces.append((one.start, one.end))
        return Tensor(
            name or output,
            _DTYPES.get(dtype, f"type {dtype}"),
            tuple(shape),
            outside.get("location"),
            int(outside.get("offset", 0)),
            int(outside["length"]) if "length" in outside else None,
            tuple(pieces),
        )


def _bits(dtype: str) -> int | None:
    try:
        return None if dtype == "string" else np.dtype(dtype).itemsize * 8
    except TypeError:
        return None


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
