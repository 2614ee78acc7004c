"""Encoding of tensors in the Open Inference Protocol (version 2, over HTTP): as JSON, or as bytes after JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from vitascope.bundle.manifest import ArraySpec
from vitascope.engines.onnx_runtime import Array

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header of messages with binary tensors: length of the JSON before them, in bytes."""
BINARY = "binary_tensor_data"
"""Name of the extension for binary tensors."""

_DTYPE_OF = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}


def encode_request(
    inputs: Mapping[str, Array], outputs: Sequence[str], *, binary: bool
) -> tuple[dict[str, str], bytes]:
    """Return (headers, body) of an inference request; `binary` needs a server with the extension ``BINARY``."""
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    tensors: list[dict[str, Any]] = [
        {"name": name, "shape": array.shape, "datatype": _NAME_OF[array.dtype.name]} for name, array in arrays.items()
    ]
    if not binary:
        for tensor, array in zip(tensors, arrays.values(), strict=True):
            tensor["data"] = array.reshape(-1)
        message = {"inputs": tensors, "outputs": [{"name": name} for name in outputs]}
        return {"Content-Type": "application/json"}, orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    for tensor, array in zip(tensors, arrays.values(), strict=True):
        tensor["parameters"] = {"binary_data_size": array.nbytes}
    requested = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = orjson.dumps({"inputs": tensors, "outputs": requested})
    little_endian = (array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays.values())
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return headers, b"".join([head, *(array.data.cast("B") for array in little_endian if array.size)])


def decode_response(body: bytes, header_length: str | None) -> dict[str, Array]:
    """Return the tensors of an inference response by name, writable.

    Args:
        header_length: value of the header ``HEADER_LENGTH``.

    Raises ValueError for a malformed response.
    """
    try:
        end = len(body) if header_length is None else int(header_length)
        arrays, offset = {}, end
        for tensor in orjson.loads(body[:end])["outputs"]:
            shape = tuple(int(size) for size in tensor["shape"])
            dtype = np.dtype(_DTYPE_OF[tensor["datatype"]])
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = np.array(tensor["data"], dtype)
            else:
                _check_size(tensor["name"], shape, dtype, size, len(body) - offset)
                array = np.frombuffer(body, dtype.newbyteorder("<"), math.prod(shape), offset).astype(dtype)
                offset += size
            arrays[str(tensor["name"])] = array.reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return arrays


def parse_spec(tensor: Mapping[str, Any]) -> ArraySpec:
    """Parse an input or output of a model's metadata. Raises ValueError."""
    try:
        shape = tuple(None if size < 0 else int(size) for size in tensor["shape"])
        return ArraySpec(_DTYPE_OF.get(tensor["datatype"], str(tensor["datatype"])), shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_size(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], size: int, remaining: int) -> None:
    if not (min(shape, default=0) >= 0 and size == math.prod(shape) * dtype.itemsize <= remaining):
        raise ValueError(f"{name}: {size} of {remaining} bytes are stated for {dtype} of shape {shape}")
