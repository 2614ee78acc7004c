"""Reader of ONNX files: operators, tensors and external data, without loading weights.

The runtime must know which external files a graph reads before a library parses it, so the protobuf is parsed here.
Field numbers are from onnx.proto.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitascope.errors import BundleCorrupt

_MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LOCATION = b"location"
"""Key in a tensor's external data; the value is the name of the file with its weights."""
_Buffer = mmap.mmap | bytes

# Message -> field number -> nested message, for the fields that lead to tensors.
_NESTED: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16"},
    **{17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4"},
}
_BITS = {
    **{"bool": 8, "bfloat16": 16, "uint4": 4, "int4": 4, "complex64": 64, "complex128": 128},
    **dict.fromkeys(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"), 8),
}


@dataclass(frozen=True)
class Tensor:
    """An initializer or constant of a graph.

    Attributes:
        name: Name of the tensor; for an unnamed constant, the output of its node.
        dtype: Type, by NumPy's name if it has one.
        shape: Dimensions.
        location: External file with the values, relative to the graph; None: the values are in the graph itself.
        offset: First byte of the values in that file.
        length: Bytes of the values; None: to the end of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str | None
    offset: int = 0
    length: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """Bytes of the raw values; None for types of unknown size, such as strings."""
        bits = _BITS.get(self.dtype) or _bits(self.dtype)
        return None if bits is None else (self.size * bits + 7) // 8

    @property
    def signature(self) -> str:
        """Type and shape as text, such as "float16 (2, 3)"."""
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass
class OnnxGraph:
    """Contents of an ONNX file.

    Attributes:
        path: The file.
        ir_version: Version of the ONNX format.
        producer: Name and version of the exporter.
        opsets: Operator set version by domain; "" is ONNX's own domain.
        operators: Number of nodes by operator, including those in loops, branches and local functions; operators of
            other domains as ``domain.Name``.
        tensors: Initializers and constants.
    """

    path: Path
    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    tensors: list[Tensor] = field(default_factory=list)


def external_files(path: Path) -> set[str]:
    """Return the names of the external files that a graph reads, relative to it.

    Raises:
        BundleCorrupt: Not a readable ONNX graph.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data, 0, len(data), "Model", 0))
    except (ValueError, IndexError) as error:
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error


def read_graph(path: Path) -> OnnxGraph:
    """Read the contents of an ONNX file.

    Raises:
        BundleCorrupt: Not a readable ONNX graph.
    """
    graph = OnnxGraph(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _GraphReader(data, graph).read_model()
    except (ValueError, IndexError) as error:
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error
    return graph


def load_graph(path: Path) -> Any:
    """Load a graph with its external weights; return an onnx.ModelProto.

    ``onnx.load`` rejects weights with several hard links, which Triton's repositories and backups have.
    """
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(path, load_external_data=False)
    for tensor in filter(uses_external_data, model.graph.initializer):
        info = ExternalDataInfo(tensor)
        with (path.parent / info.location).open("rb") as file:
            file.seek(info.offset or 0)
            tensor.raw_data = file.read(-1 if info.length is None else info.length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def count_parameters(graphs: Mapping[Any, OnnxGraph]) -> int:
    """Return the number of elements of all tensors; external data that several graphs share counts once."""
    sizes: dict[object, int] = {}
    for name, graph in graphs.items():
        for index, tensor in enumerate(graph.tensors):
            external = (graph.path.parent / (tensor.location or ""), tensor.offset)
            sizes[(name, index) if tensor.location is None else external] = tensor.size
    return sum(sizes.values())


def _locations(data: _Buffer, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    nested = _NESTED[message]
    for item in _fields(data, start, end):
        kind = nested.get(item.number)
        if kind is None or item.wire_type != _BYTES:
            continue
        if kind == "Node" and data.find(_LOCATION, item.start, item.end) < 0:
            continue  # fast path: most nodes have no external data
        if kind != "Entry":
            yield from _locations(data, item.start, item.end, kind, depth + 1)
        elif (location := _location(data, item)) is not None:
            yield location


def _location(data: _Buffer, entry: _Field) -> str | None:
    items = _fields(data, entry.start, entry.end)
    pair = {item.number: _text(data, item) for item in items if item.wire_type == _BYTES}
    return pair.get(2, "") if pair.get(1) == _LOCATION.decode() else None


class _GraphReader:
    """Walk the messages of one file and collect its contents."""

    def __init__(self, data: _Buffer, graph: OnnxGraph) -> None:
        self.data, self.graph = data, graph

    def read_model(self) -> None:
        for item in _fields(self.data, 0, len(self.data)):
            if item.number == 1:
                self.graph.ir_version = item.value
            elif item.number in (2, 3):
                self.graph.producer = f"{self.graph.producer} {_text(self.data, item)}".strip()
            elif item.number == 7:
                self._graph(item, 0)
            elif item.number == 8:
                opset = {part.number: part for part in self._items(item)}
                domain = _text(self.data, opset[1]) if 1 in opset else ""
                self.graph.opsets[domain] = opset[2].value if 2 in opset else 0
            elif item.number == 25:
                self._function(item)

    def _items(self, message: _Field) -> Iterator[_Field]:
        return _fields(self.data, message.start, message.end)

    def _graph(self, graph: _Field, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        for item in self._items(graph):
            if item.number == 1:
                self._node(item, depth)
            elif item.number == 5:
                self.graph.tensors.append(self._tensor(item))
            elif item.number == 15:
                self._sparse(item)

    def _function(self, function: _Field) -> None:
        for item in self._items(function):
            if item.number == 7:
                self._node(item, 0)
            elif item.number == 11:
                self._attribute(item, "", 0)

    def _node(self, node: _Field, depth: int) -> None:
        items = list(self._items(node))
        texts = {item.number: _text(self.data, item) for item in items if item.number in (2, 4, 7)}
        output, operator, domain = (texts.get(number, "") for number in (2, 4, 7))
        self.graph.operators[f"{domain}.{operator}" if domain else operator] += 1
        for item in items:
            if item.number == 5:
                self._attribute(item, output, depth)

    def _attribute(self, attribute: _Field, output: str, depth: int) -> None:
        """Read an attribute; ``output``: output of its node, the name of an unnamed constant."""
        for item in self._items(attribute):
            if item.number in (5, 10):
                self.graph.tensors.append(self._tensor(item, output))
            elif item.number in (6, 11):
                self._graph(item, depth + 1)
            elif item.number in (22, 23):
                self._sparse(item)

    def _sparse(self, sparse: _Field) -> None:
        self.graph.tensors += [self._tensor(item) for item in self._items(sparse) if item.number in (1, 2)]

    def _tensor(self, tensor: _Field, output: str = "") -> Tensor:
        name, dtype, shape, external = "", 0, list[int](), dict[str, str]()
        for item in self._items(tensor):
            if item.number == 1:
                shape += _numbers(self.data, item)
            elif item.number == 2:
                dtype = item.value
            elif item.number == 8:
                name = _text(self.data, item)
            elif item.number == 13:
                pair = {part.number: _text(self.data, part) for part in self._items(item)}
                external[pair.get(1, "")] = pair.get(2, "")
        return Tensor(
            name or output,
            _DTYPES.get(dtype, f"type {dtype}"),
            tuple(shape),
            external.get("location"),
            int(external.get("offset", 0)),
            int(external["length"]) if "length" in external else None,
        )


def _bits(dtype: str) -> int | None:
    try:
        return None if dtype == "string" else np.dtype(dtype).itemsize * 8
    except TypeError:
        return None


class _Field(NamedTuple):
    """One field of a protobuf message: ``value`` if it is a varint, otherwise its content from ``start`` to ``end``."""

    number: int
    wire_type: int
    value: int
    start: int
    end: int


def _fields(data: _Buffer, start: int, end: int) -> Iterator[_Field]:
    """Iterate over the fields of a message. Raises ValueError or IndexError if it is malformed."""
    offset = start
    while offset < end:
        tag, offset = _varint(data, offset)
        wire_type, value, begin = tag & 7, 0, offset
        if wire_type == _VARINT:
            value, offset = _varint(data, offset)
            begin = offset
        elif wire_type == _FIXED64:
            offset += 8
        elif wire_type == _FIXED32:
            offset += 4
        elif wire_type == _BYTES:
            size, begin = _varint(data, offset)
            offset = begin + size
        else:
            raise ValueError(f"unknown protobuf wire type {wire_type}")
        if offset > end:
            raise ValueError("a field ends beyond its message")
        yield _Field(tag >> 3, wire_type, value, begin, offset)


def _numbers(data: _Buffer, item: _Field) -> list[int]:
    """Return the values of a repeated integer field, packed or not, as unsigned numbers."""
    if item.wire_type == _VARINT:
        return [item.value]
    numbers, offset = [], item.start
    while offset < item.end:
        value, offset = _varint(data, offset)
        numbers.append(value)
    return numbers


def _text(data: _Buffer, item: _Field) -> str:
    return data[item.start : item.end].decode()


def _varint(data: _Buffer, offset: int) -> tuple[int, int]:
    """Decode the variable-length integer at ``offset``; return it and the offset after it."""
    if (byte := data[offset]) < 0x80:  # fast path: most numbers have one byte
        return byte, offset + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError("a number of more than ten bytes")
